"""Last check of a question: its form, its length, and whether the answer is worth asking for."""

from __future__ import annotations

import re

from lift.tasks.rules.lexicon import PLACE_PREPOSITIONS, TIME_PREPOSITIONS, words
from lift.tasks.rules.phrases import tidy

MAX_QUESTION_WORDS = 30
MAX_ANSWER_TOKENS = 14
# Signs that a phrase was cut in the wrong place, and marks that no question should hold.
_TORN = re.compile(
    r" [-–—/] |- -|\bwh\w+ ?[-/]|(?:^|\s)[-–/]\w| (?:a|an|the|and|or)$|\bwhat of\b|\bwh(?:at|o|om) of\b|\bwhat what\b|"
    r"\b(?:what|who) that\b|\b(?:Mr|Mrs|Ms|Dr)\.? wh|\b(?:for|over|under|above|below) when\b|"
    r"\b\d{1,2} (?:what|which)\b|^(?:what|who) \w+er than\b|\b[a-z]+s's\b|"
    r"\b(?:the|a|an|no|its|his|her|their) (?:how many|how much|what|which|who)\b|\bwh\w+['’]s\b"
)
_FOREIGN = re.compile(r"[\"“”;?!\[\]|]|:\s|\.\.\.|['‘’] ['‘’]|\b(?:i\.e|e\.g|etc)\b")
# "How many is no interest due on amounts below": the number was asked for without its noun.
_BARE_NUMBER = re.compile(
    r"(?i)(?:^|, )how many (?:is|are|was|were|do|does|did|has|have|had|may|must|can|shall|will)\b"
)
_LOOSE_END = re.compile(r" (?:hardly|barely|scarcely|never|only|not|no|as|than|if|when|every|very|so|as long)$")
# A list with a hole in it: "every room has a safe, what".
_HOLE = re.compile(r", (?:what|who|which)$|\b(?:what|who), and |^wh(?:at|o) (?:for|to|from|by|on|about|against) ")
# "No water flows" does not say what no water does.
_NOBODY_DOES = re.compile(r"(?i)\bwh(?:at|om?|en|ere|y)\b.* do(?:es)? (?:no|neither|nobody|nothing|none)\b.* do\b")
_OF_THE_FORM = re.compile(r"\bmentioned in connection with\b|^Which sentence of\b|^How does the passage\b")
_ASKING_WORD = re.compile(r"(?i)\b(?:what|who|whom|whose|which|when|where|why|how)\b")
_OPENING = re.compile(
    r"(?i)(?:(?:if|unless|when|while|until|once|should|according to|as long as|besides)\b[^,]*, )*"
    rf"(?:(?:{'|'.join(sorted(TIME_PREPOSITIONS | PLACE_PREPOSITIONS))}|to|of|with|into|onto|without|as|against|via|"
    r"through) )?(?:what|who|whom|whose|which|when|where|why|how)\b"
)
_FUNCTION_WORDS = words(
    """
    what who whom whose which when where why how many much often long old is are was were be been being am do
    does did has have had will would can could may might must shall should not a an the of in on at to for with
    by from as and or but one ones this that there it he she they into about over under
    """
)
_EMPTY_ANSWERS = words(
    """
    it this that these those they them he she him her his its their i you we us one some any all many most more
    less both each other others another same such which who what there here so thing things way ways fact time
    times part something anything nothing everything someone order case example instance addition respect turn
    kind type much lot number lots few several none either the a an and or
    """
)


def polished(text: str) -> str | None:
    """Capital, question mark; None for what cannot be a good question."""
    text = tidy(text).rstrip(".")
    length_words = len(text.split())
    core = text.split(", ", 1)[-1] if text.startswith("besides ") else text
    content = [word for word in re.findall(r"[\w'’-]+", core) if word.lower() not in _FUNCTION_WORDS]
    if len(content) < 2 and not any(word[:1].isupper() or word[:1].isdigit() for word in content):
        return None
    if any(sign.search(text) for sign in (_TORN, _FOREIGN, _BARE_NUMBER, _LOOSE_END, _HOLE, _NOBODY_DOES)):
        return None
    if not 3 <= length_words <= MAX_QUESTION_WORDS:
        return None
    if re.search(r"\b(\w+) \1\b|\b(\w+ \w+) or \2\b", text.lower()):
        return None
    return f"{text[:1].upper()}{text[1:]}?"


def is_plain_question(question: str) -> bool:
    """Whether a reader would ask `question` so: whole, and in the usual order of words.

    Questions that recite, that hold marks of a form ("Complete: ..."), and that put the question word in the middle
    ("Guests sign what?") are not. Of other languages than English only the marks and the length are judged.
    """
    text = question.strip().removesuffix("?")
    if text == question.strip() or not 3 <= len(text.split()) <= MAX_QUESTION_WORDS or "…" in text:
        return False
    if polished(text) != f"{text}?" or _OF_THE_FORM.search(text):
        return False
    return not _ASKING_WORD.search(text) or _OPENING.match(text) is not None


def worth_asking(question: str, answer: str, tokens: int) -> bool:
    words = re.findall(r"\w+", answer.lower())
    if not words or tokens > MAX_ANSWER_TOKENS or all(word in _EMPTY_ANSWERS for word in words):
        return False
    if len(answer) == 1 and answer.isalpha():
        return False
    if words[0] in {"however", "whatever", "whoever"}:
        return False
    if '"' in answer and ". " in answer:
        return False
    if answer.count("(") != answer.count(")") or answer.lower() in {"today", "now", "then"} or answer.count('"') % 2:
        return False
    asked = set(re.findall(r"\w+", question.lower()))
    content = [word for word in words if word not in _EMPTY_ANSWERS]
    return not (content and all(word in asked for word in content))
