"""Where the tokens of a text stand in it: a document is tokenised once, however many questions it is cut for."""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, overload
from weakref import WeakKeyDictionary

from lift.models.control_tokens import encode_content

KEPT_BYTES = 16 * 2**20  # of one tokenizer's documents: two million tokens


class TokenSpans(Sequence[tuple[int, int]]):
    """The characters [start, end) of each token of a text, eight bytes a token."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self._starts = array("I", (start for start, _ in spans))
        self._ends = array("I", (end for _, end in spans))

    @property
    def bytes(self) -> int:
        """The value that is held."""
        return self._starts.itemsize * len(self._starts) + self._ends.itemsize * len(self._ends)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> tuple[int, int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[int, int]]: ...
    def __getitem__(self, index: int | slice) -> tuple[int, int] | list[tuple[int, int]]:
        if isinstance(index, slice):
            return list(zip(self._starts[index], self._ends[index], strict=True))
        return self._starts[index], self._ends[index]


class _KeptSpans:
    """The spans of the texts that were cut last, by the hash of their text."""

    def __init__(self) -> None:
        self._spans: OrderedDict[bytes, TokenSpans] = OrderedDict()  # the longest unused first
        self._lock = threading.Lock()

    def find(self, key: bytes) -> TokenSpans | None:
        with self._lock:
            if key in self._spans:
                self._spans.move_to_end(key)
            return self._spans.get(key)

    def add(self, key: bytes, spans: TokenSpans) -> None:
        with self._lock:
            self._spans[key] = spans
            held_bytes = sum(each.bytes for each in self._spans.values())
            while held_bytes > KEPT_BYTES:
                held_bytes -= self._spans.popitem(last=False)[1].bytes


_kept: WeakKeyDictionary[Any, _KeptSpans] = WeakKeyDictionary()  # they go with their tokenizer


def token_spans(tokenizer: Any, text: str) -> TokenSpans:
    """The spans of the tokens of `text`, found once and kept, as far as KEPT_BYTES go, for the next question."""
    kept = _kept.setdefault(tokenizer, _KeptSpans())
    key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    spans = kept.find(key)
    if spans is None:
        spans = TokenSpans(encode_content(tokenizer, text).offsets)
        kept.add(key, spans)
    return spans
