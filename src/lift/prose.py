"""Whether a question is answered by a few words or by sentences: the wording decides, before anything is read.

A request ("Summarise ...", "Explain ...") wants sentences, and so does a question for what somebody said or thought,
whose answer is a clause. Whatever is tuned to answer briefly is wrong for both. English; other languages are taken for
questions of a few words.
"""

from __future__ import annotations

import re

from lift.prompts import MAX_ANSWER_TOKENS

PROSE_TOKENS = 160
_REQUEST = re.compile(
    r"(?:please[, ]+|(?:can|could|would|will) you (?:please )?)?"
    r"(?:summari[sz]e|describe|explain|discuss|outline|recap|elaborate|paraphrase|sum up|"
    r"give (?:me |us )?(?:an? |the )?(?:\w+ )?(?:summary|overview|outline|account|description|explanation)|"
    r"write (?:me |us )?(?:an? |the )?(?:\w+ )?(?:summary|overview|outline|account|description|explanation))\b",
    re.IGNORECASE,
)
_TELLING = (
    "think|say|feel|believe|argue|suggest|propose|discuss|mention|explain|recommend|conclude|decide|agree|complain|"
    "emphasi[sz]e"
)
# "What do they believe is the oldest?" and "What did they decide to build?" ask for a thing all the same
_TOLD = re.compile(
    rf"(?:what|how)(?: else)? (?:did|does|do)\b.*\b(?:{_TELLING})\b"
    r"(?! (?:is|are|was|were|has|have|had|will|would|can|could|should|to)\b)",
    re.IGNORECASE,
)


def asks_for_prose(question: str) -> bool:
    """Whether sentences are asked for: a request, or what somebody said or thought."""
    asked = question.strip()
    return bool(_REQUEST.match(asked) or _TOLD.match(asked))


def answer_tokens(question: str) -> int:
    """The most tokens of an answer to the question, where nobody says how many."""
    return PROSE_TOKENS if asks_for_prose(question) else MAX_ANSWER_TOKENS
