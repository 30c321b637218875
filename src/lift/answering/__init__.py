"""Question -> answer: retrieval strategies, reranking, attribution to the text."""
