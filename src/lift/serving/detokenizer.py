"""Incremental detokenizer: tokens -> text that can be shown.

Nothing is shown that may change, be cut off, or be part of a text that ends the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lift.models.control_tokens import decode_content
from lift.models.template_text import NO_QUOTES, TemplateQuotes
from lift.serving.request import TextDelta, TokenInfo

_INCOMPLETE = "�"


class IncrementalDetokenizer:
    """The text of one answer. `strip`: without white space around it. `stops` end it and are no part of it.

    It ends, too, where it begins to say what is among the `quotes` of the chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str] = (),
        *,
        strip: bool = True,
        quotes: TemplateQuotes = NO_QUOTES,
    ) -> None:
        self._quotes = quotes
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._strip = strip
        self._ids: list[int] = []
        self._settled = 0  # tokens whose text is in `_text`
        self._text = ""
        self._shown = 0  # characters of the text, from the start
        self._infos: list[TokenInfo] = []  # of tokens that are in no delta yet
        self._all_infos: list[TokenInfo] = []
        self.stopped = False

    @property
    def tokens(self) -> int:
        """How many tokens were heard."""
        return len(self._ids)

    def append(self, token: int, info: TokenInfo | None = None) -> TextDelta | None:
        """One token more; what can be shown by now, if anything. After a stop text (`stopped`) nothing is to come."""
        self._ids.append(token)
        if info is not None:
            self._infos.append(info)
            self._all_infos.append(info)
        new = self._decode(self._ids[self._context :])[len(self._decode(self._ids[self._context : self._settled])) :]
        if new.endswith(_INCOMPLETE):
            return None
        searched = max(0, len(self._text) - max(map(len, self._stops), default=0))
        self._text += new
        self._settled = len(self._ids)
        found = [place for stop in self._stops if (place := self._text.find(stop, searched)) >= 0]
        if found:
            self._text = self._text[: min(found)]
            self.stopped = True
            return self.close()
        if self._quotes.begin(self._text, ended=False) is not None:
            self.stopped = True
            return self.close()
        return self._delta(self._safe_end())

    def close(self) -> TextDelta | None:
        """The rest of the text when the answer has ended."""
        if not self.stopped and self._settled < len(self._ids):
            rest = self._decode(self._ids[self._context :])
            self._text += rest[len(self._decode(self._ids[self._context : self._settled])) :]
            self._settled = len(self._ids)
        self._text = self._quotes.without(self._text)
        delta = self._delta(len(self._text.rstrip()) if self._strip else len(self._text))
        return delta or (self._told("") if self._infos else None)

    @property
    def text(self) -> str:
        """All that was shown; after close() the whole answer."""
        return self._text[self._start : self._shown] if self._shown else ""

    def whole(self) -> TextDelta | None:
        """All that was shown, in one piece; None where there is nothing."""
        return TextDelta(self.text, tuple(self._all_infos)) if self.text or self._all_infos else None

    @property
    def _context(self) -> int:
        # a token may look different at the very beginning, so some of those before are decoded with it
        return max(0, self._settled - 4)

    @property
    def _start(self) -> int:
        return len(self._text) - len(self._text.lstrip()) if self._strip else 0

    def _safe_end(self) -> int:
        """Up to where the text may be shown now."""
        end = self._quotes.safe_end(self._text)
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._text)), 0, -1):
                if self._text.endswith(stop[:length]):
                    end = min(end, len(self._text) - length)
                    break
        return len(self._text[:end].rstrip()) if self._strip else end

    def _delta(self, end: int) -> TextDelta | None:
        begin = max(self._shown, self._start)
        if end <= begin:
            return None
        self._shown = end
        return self._told(self._text[begin:end])

    def _told(self, text: str) -> TextDelta:
        infos, self._infos = tuple(self._infos), []
        return TextDelta(text, infos)

    def _decode(self, ids: Sequence[int]) -> str:
        return decode_content(self._tokenizer, ids)
