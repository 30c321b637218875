"""Question -> answer: retrieval strategies, the vote, attribution to the text."""
