"""Abstention: an answer that says that what was read, or remembered, does not answer the question. English rules.

Lift has two sentences for it, TEXT_TELLS_NOTHING (packing/prompts.py) and the one here; other models say it in many
ways. An answer is judged by its first statement, since "Ada Quill. The text does not say when." answers, and "The text
does not say. It is about a museum." does not.
"""

from __future__ import annotations

import re

from lift.answering.scoring import normalised_words

MEMORY_TELLS_NOTHING = "The memory does not tell."

# All patterns are for normalised words: lower case, no punctuation, no articles. "|" stands between two sentences.
_STOP = r"(?= \||$)"
# What was read, and never a thing that is told about: a letter, a report, a contract.
_READ = r"(?:text|passage|paragraph|context|excerpt|memory)s?"
_SOURCE = (
    r"(?:(?:this|these|given|provided|above|supplied|your|available|whole) )*"
    rf"(?:{_READ}|documents?|articles?|stor(?:y|ies)|sources?|information|content|material)"
    r"(?: (?:itself|above|provided|given|here|you (?:gave|provided|shared)))?"
)
_FROM = rf"(?:anywhere )?(?:in|by|from|within|based on|on basis of|using|with) {_SOURCE}"
_HOW = (
    r"(?:(?:explicitly|directly|specifically|actually|clearly|really|even|exactly|ever|currently|seem to|appear to) )*"
)
_TOLD = (
    r"(?:mentioned|stated|specified|given|provided|told|said|known|disclosed|indicated|described|explained|included|"
    r"discussed|revealed|addressed|available|found|identified|named|listed|answered|clear|present|covered)"
)
_ASKED = r"(?:who|whom|whose|what|which|when|where|why|whether|if|how)"
_INFORMATION = r"(?:(?:any|enough|sufficient|specific|explicit|relevant|such|further|this|that|direct|clear) )*" + (
    r"(?:information|info|details?|answers?|mention|reference|reasons?|evidence|data)"
)
_DETERMINED = r"(?:determined|answered|told|known|inferred|said|found|established|deduced|derived|concluded|identified)"
# The words before a verb, none of which begins a clause of its own: "he said that it is not mentioned" tells something.
_SUBJECT = r"(?:(?!(?:that|who|which|because|since|said|says|if|but|and) )[^ |]+ ){1,14}?"
_WITHIN = r"(?: [^ |]+){0,14}?"
_NOT = r"(?:(?:does|do) not|doesnt|dont|fails? to|never)"
_CANNOT = r"(?:cannot|can not|cant|could not|couldnt|(?:(?:am|are|was|were|im) )?unable to)"
_IS_NOT = r"(?:is not|isnt|are not|arent|has not been|have not been|hasnt been)"
_WAS_NOT = r"(?:was not|wasnt|were not|werent)"

_REFUSALS = (
    # The text does not say
    rf"{_SOURCE} {_NOT} {_HOW}(?:tell|say|mention|state|specify|indicate|disclose|reveal|answer|clarify|explain|"
    r"describe|discuss|address|identify|name|list|make (?:it )?clear)\b",
    rf"{_SOURCE} {_NOT} {_HOW}(?:provide|give|contain|include|offer|have|hold|present) {_INFORMATION}\b",
    rf"{_SOURCE} (?:makes? no (?:mention|reference)|(?:is|are) silent\b|(?:does not|doesnt) tell)",
    rf"{_SOURCE} (?:says?|tells?|contains?|provides?|gives?|has|have|includes?|offers?) "
    rf"(?:nothing (?:about|on|of this)|no {_INFORMATION}\b)",
    rf"{_SOURCE} (?:is|are) (?:insufficient|not sufficient|not enough)\b",
    rf"nothing (?:is (?:said|mentioned|stated|told)|{_FROM})\b",
    rf"(?:it|that|this) {_NOT} {_HOW}(?:tell|say|mention|state|specify)(?:{_STOP}| {_ASKED}\b|{_WITHIN} {_FROM}\b)",
    rf"(?:does not|doesnt) {_HOW}(?:tell|say|mention|state|specify){_STOP}",
    # it is not mentioned
    rf"not {_HOW}{_TOLD}{_WITHIN} {_FROM}\b",
    rf"{_SUBJECT}{_IS_NOT} {_HOW}{_TOLD}{_WITHIN} {_FROM}\b",
    rf"{_SUBJECT}{_WAS_NOT} {_HOW}{_TOLD} (?:anywhere )?(?:in|by|from) (?:(?:this|given|provided|above) )*{_READ}\b",
    rf"(?:(?:it|this|that|answer|this information|that information|such information|information)"
    rf"(?: to (?:this|that|your)? ?question)? )?(?:{_IS_NOT} |not ){_HOW}"
    rf"(?:mentioned|stated|specified|given|told|said|disclosed|indicated|answered|answerable|enough {_INFORMATION})"
    rf"(?:{_STOP}| {_ASKED}\b)",
    rf"(?:(?:answer|this|that|it|information|this information)(?: to (?:this|that|your)? ?question)? )?"
    rf"(?:is unknown|is not (?:known|available|provided|found)|not known|unknown|unspecified|unanswerable|"
    rf"is unanswerable|not applicable|na)(?:{_STOP}| {_FROM}\b)",
    r"(?:this |that |your )?question (?:is (?:unanswerable|not answerable|not answered)|(?:cannot|can not|cant) be "
    r"answered)\b",
    rf"unanswerable question{_STOP}",
    # it cannot be told
    rf"(?:(?:it|this|that|answer) )?(?:cannot|can not|cant) be {_HOW}{_DETERMINED}(?:{_STOP}|{_WITHIN} {_FROM}\b)",
    rf"{_SUBJECT}(?:cannot|can not|cant) be {_HOW}{_DETERMINED}{_WITHIN} {_FROM}\b",
    rf"(?:it is |its )?(?:impossible|not possible|unclear|not clear|unknown)(?:{_WITHIN} {_FROM}\b|"
    rf" to (?:say|tell|know|determine|answer){_STOP})",
    # there is no information
    rf"(?:(?:there (?:is|are)|theres|i (?:see|find|found|have)) )?no (?:(?:specific|explicit|such|relevant|direct|"
    rf"further|clear) )*(?:information|info|mention)(?: (?:is|are))?(?:{_STOP}| (?:about|of|on|regarding|concerning|"
    rf"as to|that|given|provided|available|{_ASKED}|{_FROM})\b)",
    rf"(?:(?:there (?:is|are)|theres) )?no (?:(?:specific|explicit|clear|direct) )*(?:answers?|evidence|indication|"
    rf"details?|data|references?)(?: (?:given|found|provided|available|is given|is found|is provided))?"
    rf"(?:{_STOP}| to (?:this|that|your) question\b|{_WITHIN} {_FROM}\b)",
    rf"(?:there (?:is|are)|theres) (?:no|nothing)(?: [^ |]+){{1,10}}? (?:mentioned|given|stated|told|said) {_FROM}\b",
    rf"(?:(?:there is|there are|theres|i have|we have) )?(?:not enough|insufficient|not sufficient) "
    rf"(?:information|info|context|details?|evidence|data)(?:{_STOP}| (?:is |are )?(?:given|provided|available|about|"
    rf"on|to (?:answer|say|tell|determine|know)|{_FROM})\b)",
    rf"none (?:(?:is|are) )?(?:mentioned|given|stated|named)(?:{_STOP}| {_FROM}\b)",
    # I do not know
    rf"(?:i|we) (?:do not|dont|really do not|really dont) {_HOW}know(?:{_STOP}| (?:answer|that|this|it|based on|from|"
    rf"as|{_ASKED}(?! to))\b)",
    rf"dont know{_STOP}",
    rf"(?:i am|im) not (?:sure|certain)(?:{_STOP}| (?:about (?:this|that|it)|{_ASKED}(?! to))\b)",
    rf"(?:(?:i|we) )?{_CANNOT} {_HOW}(?:answer|determine|tell|say)"
    rf"(?:{_STOP}| (?:this|that|it|your|question|{_ASKED}(?! to)|{_FROM})\b|{_WITHIN} {_FROM}\b)",
    rf"(?:(?:i|we) )?(?:{_CANNOT}|did not|didnt|do not|dont) {_HOW}(?:find|see|locate|provide|give|have)"
    rf"(?: {_INFORMATION}\b|{_WITHIN} {_FROM}\b)",
)
_REFUSAL = re.compile("|".join(f"(?:{pattern})" for pattern in _REFUSALS))
_LEAD = re.compile(
    r"(?:(?:answer|sorry|unfortunately|apologies|my apologies|(?:im|i am) (?:very |so )?sorry|i apologi[sz]e|but|"
    r"however|well|i (?:think|believe|see|understand) that|it (?:seems|appears)(?: that)?)(?: \|)? )+"
)
_SOURCE_FIRST = re.compile(rf"(?:based on|from|given|judging by|in|looking at) {_SOURCE} (?P<said>[^|]+?)(?: \||$)")
_GUESS = re.compile(
    r"\b(?:i (?:would |will )?(?:think|believe|guess|suspect|assume|say)|probably|perhaps|maybe|most likely|my guess)\b"
)
_SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")


def abstains(answer: str) -> bool:
    """Whether an answer says that the question is not answered by what was read or remembered; an empty one does.

    One that says so and then guesses all the same does not. An answer in which somebody else does not know, or in
    which something else does not say, is an answer.
    """
    said = _statements(answer)
    if not said:
        return True
    said = _LEAD.sub("", said, count=1) if _LEAD.match(said) else said
    return _refuses(said) or ((first := _SOURCE_FIRST.match(said)) is not None and _refuses(_source_last(said, first)))


def _refuses(said: str) -> bool:
    found = _REFUSAL.match(said)
    return found is not None and not _GUESS.search(said, found.end())


def _source_last(said: str, first: re.Match[str]) -> str:
    """Move the source behind its sentence: "based on text it is unclear" -> "it is unclear from text"."""
    return f"{first['said']} from text{said[first.end('said') :]}"


def _statements(answer: str) -> str:
    """The normalised words of each sentence, with a bar between two."""
    sentences = _SENTENCE_END.split(answer.replace("’", "'"))
    return " | ".join(words for sentence in sentences if (words := " ".join(normalised_words(sentence))))
