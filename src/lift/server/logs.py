"""Logs as JSON lines on standard error: who asked what kind of thing and how it went, never what the texts say."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from starlette.types import Scope


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, event, and the record's `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line; of an exception its type alone, since its message may quote a text."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)  # in ASCII: no byte of a log steers a terminal that shows it


def log_to_stderr() -> None:
    """Let Lift's own logs and uvicorn's go to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("lift", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO)


def route_of(scope: Scope) -> str:
    """The pattern of the path, such as /api/memories/{name}; what stands in its place is the caller's own text."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope["path"].startswith("/static/") else "unknown"
