"""The text that a chat template says by itself ("You are a helpful assistant named ..."), and answers that quote it.

A small model that has nothing to say repeats what stands in front of the question. Such words are no answer to a
question about a document, unless the document has them too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

from lift.models.control_tokens import control_spellings

# Shorter runs of the same words stand in many sentences ("you are a").
QUOTED_WORDS = 5
# ... but where an answer is nothing else, less is enough; and a name is, alone.
WHOLLY_QUOTED_WORDS = 3
_FEWEST_TOLD_WORDS = 4
_WORD = re.compile(r"\w+")
_MARK = "xQ0vZ"


def template_text(tokenizer: Any) -> tuple[str, ...]:
    """The text that the chat template puts in front of the user's first turn by itself, without the names of roles."""
    return _template_text(tokenizer, str(tokenizer.chat_template)) if tokenizer.chat_template else ()


@lru_cache(maxsize=8)
def _template_text(tokenizer: Any, _template: str) -> tuple[str, ...]:
    rendered: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before = rendered.partition(_MARK)[0]
    pieces = re.split("|".join(map(re.escape, control_spellings(tokenizer))) or r"(?!)", before)
    told = [re.sub(r"\A\s*\w+\s*\n", "", piece).strip() for piece in pieces]
    return tuple(each for each in told if len(_WORD.findall(each)) >= _FEWEST_TOLD_WORDS)


class TemplateQuotes:
    """Finds what answers about a document quote of the template's text; of words that the document has, nothing."""

    def __init__(self, told: Sequence[str], document_text: str) -> None:
        self._told = [_words(each) for each in told]
        self._names = {name.casefold() for each in told for name in _names(each)}
        self._all_told = {word for told in self._told for word in told}
        self._document_text = document_text

    @classmethod
    def of(cls, tokenizer: Any, document_text: str) -> TemplateQuotes:
        """Those of the tokenizer's template; where there is no document, all may be said."""
        return cls(template_text(tokenizer), document_text) if document_text else NO_QUOTES

    def without(self, answer: str) -> str:
        """The answer up to the first words that it quotes; empty where it begins with them."""
        cut = self.begin(answer)
        return answer if cut is None else answer[:cut].rstrip()

    def begin(self, answer: str, *, ended: bool = True) -> int | None:
        """Where the first quotation begins, in characters; None where there is none.

        Of an answer that has not `ended` a few words may still become something else.
        """
        if not self._told:
            return None
        found = list(_WORD.finditer(answer))
        words = [each[0].casefold() for each in found]
        for start in range(len(words)):
            length = self._run(words[start:]) if words[start] in self._all_told else 0
            whole = ended and start == 0 and length == len(words)
            if not length or not self._is_quotation(words[start : start + length], whole):
                continue
            return found[start].start()
        return None

    def safe_end(self, answer: str) -> int:
        """Up to where an answer that is still growing may be shown: its last words may become a quotation."""
        if not self._told:
            return len(answer)
        found = list(_WORD.finditer(answer))
        words = [each[0].casefold() for each in found]
        for start in range(max(0, len(words) - QUOTED_WORDS), len(words)):
            if any(self._may_go_on(told, words[start:]) for told in self._told):
                return len(answer[: found[start].start()].rstrip())
        return len(answer.rstrip())

    def _is_quotation(self, run: Sequence[str], whole: bool) -> bool:
        enough = len(run) >= QUOTED_WORDS
        if whole:
            enough = enough or len(run) >= WHOLLY_QUOTED_WORDS or all(word in self._names for word in run)
        return enough and f" {' '.join(run)} " not in self._document_words

    def _run(self, words: Sequence[str]) -> int:
        """How many of the first words stand in the template's text in this order."""
        longest = 0
        for told in self._told:
            for place in range(len(told)):
                length = 0
                while place + length < len(told) and length < len(words) and told[place + length] == words[length]:
                    length += 1
                longest = max(longest, length)
        return longest

    @staticmethod
    def _may_go_on(told: Sequence[str], words: Sequence[str]) -> bool:
        """Whether the words stand in `told`, of the last one perhaps only the beginning so far."""
        *whole, last = words
        return any(
            told[place : place + len(whole)] == whole and told[place + len(whole)].startswith(last)
            for place in range(len(told) - len(whole))
        )

    @cached_property
    def _document_words(self) -> str:
        return f" {' '.join(_words(self._document_text))} "


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _names(text: str) -> list[str]:
    """Words with a capital letter that do not begin a sentence."""
    found = list(_WORD.finditer(text))
    begins = [not re.fullmatch(r".*[.!?:\n]\s*|", text[: each.start()], re.DOTALL) for each in found]
    return [each[0] for each, inside in zip(found, begins, strict=True) if inside and each[0] != each[0].lower()]


NO_QUOTES = TemplateQuotes((), "")
