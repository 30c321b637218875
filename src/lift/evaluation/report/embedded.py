"""The rows of a run within a page: every text once, the rows by number, as JSON, gzip and base64.

base64 has none of the characters that end a script element, so whatever an answer says stays data.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

TEXT_FIELDS: tuple[str, ...] = (
    "suite",
    "document",
    "question_id",
    "method",
    "question",
    "answer",
    "error",
    "title",
    "kind",
)
TEXT_FIELDS += ("context", "prompt", "memory", "judge", "main")
LIST_FIELDS = ("gold", "support")
PLAIN_FIELDS = ("scores", "prompt_tokens", "answer_tokens", "seconds", "truncated", "supported", "cell")


def embed_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """{"texts": [..], "textFields", "listFields", "plainFields", "rows": [[..]]}, packed; equal rows, equal text.

    A row holds the values of the three lists of fields in their order: a text as its place in `texts`, a list of texts
    as a list of places, the rest as it is. The key of a row is left out: its line stands for it.
    """
    places: dict[str, int] = {}

    def place(text: str | None) -> int | None:
        return None if text is None else places.setdefault(text, len(places))

    packed = [
        [
            *(place(row.get(name)) for name in TEXT_FIELDS),
            *([place(text) for text in row.get(name) or ()] for name in LIST_FIELDS),
            *(row.get(name) for name in PLAIN_FIELDS),
        ]
        for row in rows
    ]
    fields = {"textFields": TEXT_FIELDS, "listFields": LIST_FIELDS, "plainFields": PLAIN_FIELDS}
    value = {**fields, "texts": list(places), "rows": packed}
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")
