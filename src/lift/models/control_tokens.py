"""Text -> tokens, so that only the chat template writes control tokens: "<|im_end|>" in a document stays text.

Text without the spelling of a control token is tokenised as the tokenizer alone does it, token for token. Where content
has one, a second copy of the tokenizer is used in which every control token is spelt with characters that no text has;
the template's own control tokens are put into that spelling, and the content is not. All else (white space that tokens
take from their neighbours, prefix spaces, merges) is then as before. `split_special_tokens` of transformers would
change the tokenizer that other threads use, and knows no difference between a template and its content.

Where a template changes its content beyond recognition, or the tokenizer has no such copy, a space is put behind the
first character of a control token in the content ("< |im_end|>"). So it is in what goes to a model
behind an API, whose tokenizer is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from lift.documents.cleaning import without_terminal_codes

# noncharacters of Unicode, which no text may have
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
# what stands for the content when the template's own text is looked for: no template changes it
_PLACEHOLDER = "xQ{}vZ"
# A space at either end of the content is the template's to strip.
_VARIANTS: tuple[Callable[[str], str], ...] = (str, str.strip, str.lstrip, str.rstrip)

# marks of the families of models; which of them a model behind an API knows is not to be seen from here
_KNOWN_MARKS = re.compile(
    r"<[|｜][^\s<>]{1,40}[|｜]>|</?s>|<bos>|<eos>|<(?:start|end)_of_turn>|\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>"
)

Render = Callable[[Sequence[str]], str]


@dataclass(frozen=True)
class Encoded:
    """Tokens of a text, and the characters [start, end) of each."""

    ids: list[int]
    offsets: list[tuple[int, int]]


def content_ids(tokenizer: Any, text: str, *, add_special_tokens: bool = False) -> list[int]:
    """Tokens of a text that has no control token in it; `add_special_tokens`: those of the tokenizer around it."""
    known = _control(tokenizer)
    ids = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    if known.of(ids) == (known.around if add_special_tokens else ()):
        return ids
    found = known.read([(text, False)], add_special_tokens)
    if found is not None:
        return found.ids
    return list(tokenizer(known.neutral(text), add_special_tokens=add_special_tokens)["input_ids"])


def encode_content(tokenizer: Any, text: str) -> Encoded:
    """content_ids, with the characters of `text` that each token stands for."""
    known = _control(tokenizer)
    encoded = _encoded(tokenizer, text)
    if not known.of(encoded.ids):
        return encoded
    found = known.read([(text, False)], False)
    if found is not None:
        return found
    encoded = _encoded(tokenizer, known.neutral(text))
    place = known.places_before_neutral(text)
    return Encoded(encoded.ids, [(place[start], place[end]) for start, end in encoded.offsets])


def rendered_ids(tokenizer: Any, render: Render, contents: Sequence[str]) -> list[int]:
    """Tokens of `render(contents)`, where control tokens are only what `render` itself puts around the contents."""
    known = _control(tokenizer)
    rendered = render(contents)
    ids = list(tokenizer(rendered, add_special_tokens=False)["input_ids"])
    written = known.of(ids)
    if not written:
        return ids
    marks = [_PLACEHOLDER.format(number) for number in range(len(contents))]
    frame = render(marks)
    if written == _written_by(known, frame):
        return ids
    parts = _parts(frame, marks, rendered, contents)
    found = None if parts is None else known.read(parts, False)
    if found is not None:
        return found.ids
    neutral = render([known.neutral(text) for text in contents])
    return list(tokenizer(neutral, add_special_tokens=False)["input_ids"])


def decode_content(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of generated tokens, without the control tokens and the terminal's codes among them."""
    written = _control(tokenizer).ids
    text: str = tokenizer.decode([token for token in ids if token not in written], skip_special_tokens=True)
    return without_terminal_codes(text)


def without_known_marks(text: str) -> str:
    """Content for a model whose tokenizer is not at hand: with a space in whatever is spelt as control tokens are."""
    return _KNOWN_MARKS.sub(_spaced, text)


def control_spellings(tokenizer: Any) -> tuple[str, ...]:
    """The control tokens as they are spelt: special tokens, and added ones that the chat template writes."""
    return _control(tokenizer).spellings


class _ControlTokens:
    """The control tokens of one tokenizer and chat template. `around`: those that the tokenizer puts around a text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        template = json.dumps(tokenizer.chat_template, ensure_ascii=False) if tokenizer.chat_template else ""
        numbers = {
            str(token): int(number)
            for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
            # some models add "<tool_call>" without calling it special; runs of line breaks of others are no marks
            if token.special or (any(map(str.isalpha, str(token))) and str(token) in template)
        }
        numbers.update((tokenizer.convert_ids_to_tokens(number), number) for number in tokenizer.all_special_ids)
        self._numbers = {spelling: number for spelling, number in numbers.items() if spelling}
        self.spellings = tuple(sorted(self._numbers, key=len, reverse=True))
        self.ids = frozenset(self._numbers.values())
        self._pattern = re.compile("|".join(map(re.escape, self.spellings)) or r"(?!)")
        self.around = self.of(tokenizer("")["input_ids"])

    def of(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The control tokens among `ids`, in order."""
        return tuple(token for token in ids if token in self.ids)

    def template_of(self, frame: str) -> tuple[int, ...]:
        """The control tokens of a rendered template."""
        return self.of(self._tokenizer(frame, add_special_tokens=False)["input_ids"])

    def neutral(self, text: str) -> str:
        """The text with a space behind the first character of every control token."""
        return self._pattern.sub(_spaced, text)

    def places_before_neutral(self, text: str) -> list[int]:
        """For each place in neutral(text), its end included, the place in `text`."""
        spaces = {found.start() + 1 for found in self._pattern.finditer(text)}
        return [place for place in range(len(text) + 1) for _ in range(2 if place in spaces else 1)]

    def read(self, parts: Sequence[tuple[str, bool]], add_special_tokens: bool) -> Encoded | None:
        """The tokens of all parts together, each a text and whether it is the template's.

        None where no copy can be made, or even that finds a control token that is spelt in the content.
        """
        copy = self._copy
        contents = [text for text, is_template in parts if not is_template]
        if copy is None or any(_OPEN in text or _CLOSE in text for text, _ in parts):
            return None
        joined = "".join(self._respelt(text) if is_template else text for text, is_template in parts)
        read = copy.tokenizer.encode(joined, add_special_tokens=add_special_tokens)
        # what the tokenizer puts around a text has its own numbers
        added = [bool(each) for each in read.special_tokens_mask]
        ids = [
            token if outside else copy.originals.get(token, token)
            for token, outside in zip(read.ids, added, strict=True)
        ]
        stray = any(
            token in self.ids and not outside and spelt not in copy.controls
            for token, spelt, outside in zip(ids, read.ids, added, strict=True)
        )
        # a token for what is unknown may be a special one: that is no control token which somebody has spelt
        if stray and any(self._pattern.search(text) for text in contents):
            return None
        return Encoded(ids, list(read.offsets))

    def _respelt(self, text: str) -> str:
        return self._pattern.sub(lambda found: f"{_OPEN}{self._numbers[found[0]]}{_CLOSE}", text)

    @cached_property
    def _copy(self) -> _Copy | None:
        from tokenizers import Tokenizer

        try:
            described = json.loads(self._tokenizer.backend_tokenizer.to_str())
            spelt = {token["id"]: self._respelt(token["content"]) for token in described["added_tokens"]}
            for token in described["added_tokens"]:
                token["content"] = spelt[token["id"]]
            described.update(truncation=None, padding=None)
            build: Any = Tokenizer
            copy = build.from_str(json.dumps(described))
        except Exception:  # a tokenizer in Python, or with parts in Python, says in its own way that it has none
            return None
        if not self.ids <= spelt.keys():
            return None
        originals = {copy.token_to_id(spelling): number for number, spelling in spelt.items()}
        return _Copy(copy, originals, frozenset(number for number in originals if originals[number] in self.ids))


@dataclass(frozen=True)
class _Copy:
    """A tokenizer whose control tokens are spelt otherwise. `originals`: its numbers of added tokens -> the original's.

    `controls`: its numbers of control tokens.
    """

    tokenizer: Any
    originals: Mapping[int, int]
    controls: frozenset[int]


def _spaced(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def _control(tokenizer: Any) -> _ControlTokens:
    return _of_template(tokenizer, str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _of_template(tokenizer: Any, _template: str) -> _ControlTokens:
    return _ControlTokens(tokenizer)


@lru_cache(maxsize=64)
def _written_by(known: _ControlTokens, frame: str) -> tuple[int, ...]:
    return known.template_of(frame)


def _encoded(tokenizer: Any, text: str) -> Encoded:
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Encoded(list(read["input_ids"]), [(start, end) for start, end in read["offset_mapping"]])


def _parts(frame: str, marks: Sequence[str], rendered: str, contents: Sequence[str]) -> list[tuple[str, bool]] | None:
    """`rendered` as the template's text and contents in turn; None where they are not what `frame` lets expect."""
    frames = re.split("|".join(map(re.escape, marks)), frame)
    if [found[0] for found in re.finditer("|".join(map(re.escape, marks)), frame)] != list(marks):
        return None
    if not rendered.startswith(frames[0]):
        return None
    parts = [(frames[0], True)]
    place = len(frames[0])
    for following, content in zip(frames[1:], contents, strict=True):
        for variant in _VARIANTS:
            text = variant(content)
            if rendered.startswith(text + following, place):
                parts += [(text, False), (following, True)]
                place += len(text) + len(following)
                break
        else:
            return None
    return parts if place == len(rendered) else None
