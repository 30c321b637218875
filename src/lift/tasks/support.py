"""Whether a text supports an answer: a check that lets no number, name or word through that the text does not hold.

A generator may be wrong. What it says is only stored where its answer is a run of the text's own words, or where each
of its words of content and each of its numbers, signs and units included, occurs in the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from lift.tasks.rules.lexicon import words

# Words that turn a statement round (not, never, before, after, until, over) are missing on purpose.
_FUNCTION_WORDS = words(
    """a an the this that these those it its he him his she her hers they them their theirs we us our you your i me my
    who whom whose which what when where why how be is are was were been being am do does did doing done have has had
    having will would shall should can could may might must of in on at by for from to into onto with within as and or
    but so if then than there here also s"""
)
_ARTICLES = frozenset({"a", "an", "the"})
_CURRENCY = "$€£¥₹"
# Scripts that put no space between words: every character stands for itself.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN = re.compile(
    rf"(?:(?<![^\s(\[{_CURRENCY}])-)?\d+(?:[.,:/]\d+)*[^\W\d_{_UNSPACED}]*|[{_UNSPACED}]|[^\W\d_{_UNSPACED}]+|[{_CURRENCY}]"
)
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def tokens(text: str) -> tuple[str, ...]:
    """Words, numbers and signs of currency in lower case; "per cent" and "%" are one, and so are the dashes."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-").casefold()
    plain = re.sub(r"per cent\b|%", " percent ", plain)
    return tuple(_TOKEN.findall(plain))


def content_words(text: str) -> list[str]:
    """The tokens that an answer is proved by: all but words of English grammar alone, which turn no statement round."""
    return [token for token in tokens(text) if token not in _FUNCTION_WORDS]


@dataclass(frozen=True)
class SupportingText:
    """A text that answers are held against, taken apart once."""

    run: str
    tokens: frozenset[str]

    @classmethod
    def of(cls, text: str) -> SupportingText:
        """Take `text` apart."""
        found = tokens(text)
        return cls(_run(found), frozenset(found))

    def holds(self, answer: str) -> bool:
        """Whether `answer` has content, and is a run of this text's words or has all its content and numbers from it.

        Articles, case and punctuation do not count. In scripts without spaces only a run does: their single
        characters occur everywhere.
        """
        content = content_words(answer)
        if not content:
            return False
        if _run(tokens(answer)) in self.run:
            return True
        return not _HAS_UNSPACED.search(answer) and self.tokens.issuperset(content)


def _run(found: tuple[str, ...]) -> str:
    return f" {' '.join(token for token in found if token not in _ARTICLES)} "
