"""Whether a question is answered by a few words or by sentences, and whether sentences that were written can stand.

The wording decides, before anything is read. A request ("Summarise ...", "Explain ...") wants sentences, and so does a
question for what somebody said or thought, whose answer is a clause. Whatever is tuned to answer briefly is wrong for
both. English; other languages are taken for questions of a few words. A small model that is to write at length soon
repeats itself.
"""

from __future__ import annotations

import re

from lift.packing.prompts import MAX_ANSWER_TOKENS

PROSE_TOKENS = 160
_RUN_WORDS = 3
_LEAST_NEW_RUNS = 0.7
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


def repeats_itself(text: str) -> bool:
    """Whether more than three in ten runs of three words have come before."""
    words = re.findall(r"\w+", text.lower())
    runs = list(zip(*(words[start:] for start in range(_RUN_WORDS)), strict=False))
    return len(set(runs)) < _LEAST_NEW_RUNS * len(runs)
