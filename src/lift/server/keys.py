"""API keys: only their hashes are kept, one JSON line a key, each with what it may do.

    {"name": "anna", "sha256": "...", "scopes": ["read", "ask"], "requests_per_minute": 60, "concurrent": 4}

A key is 256 random bits, so one round of SHA-256 is as good as a slow hash: there is nothing to guess. The file is read
again when it changes; a line that is deleted ends its key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lift.errors import UsageError
from lift.memories.durable import sync_directory

SCOPES = ("read", "ask", "absorb", "admin")
_PREFIX = "lift-"
_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"name", "sha256", "scopes", "requests_per_minute", "concurrent"}


@dataclass(frozen=True)
class Key:
    """Who calls. Limits that are None are the server's; the scope admin holds all others."""

    name: str
    sha256: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None
    concurrent: int | None = None

    def may(self, scope: str) -> bool:
        """Whether the key may do what wants `scope`."""
        return scope in self.scopes or "admin" in self.scopes


class KeyFile:
    """The keys in a file; raises UsageError where it is missing, damaged or empty when the server starts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = _state(path)
        self._keys = read_keys(path)
        if not self._keys:
            raise UsageError(
                f"expected at least one key in {path}, got none; make one with "
                f"`lift serve --new-key NAME --scopes read,ask --api-key-file {path}`"
            )

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is, or None; raises UsageError where the file was changed into no key file."""
        state = _state(self.path)
        if state != self._seen:
            self._keys = read_keys(self.path)
            self._seen = state
        digest = _hash(secret)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


def read_keys(path: Path) -> list[Key]:
    """The keys of a file; raises UsageError with the first wrong line."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError:
        raise UsageError(
            f"expected a file of API keys, got {str(path)!r}, where there is none; make it with "
            f"`lift serve --new-key NAME --scopes read,ask --api-key-file {path}`"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"expected a readable file of API keys, got {str(path)!r}: {error}") from error
    return [_parse(line, f"line {number} of {path}") for number, line in enumerate(lines, 1) if line.strip()]


def add_key(
    path: Path,
    name: str,
    scopes: Sequence[str],
    *,
    requests_per_minute: int | None = None,
    concurrent: int | None = None,
) -> str:
    """Append a new key's hash to the file, which is made for its owner alone, and return the key.

    Raises UsageError for a bad or taken name, unknown scopes, limits below 1, and a file that cannot be written.
    """
    secret = _PREFIX + secrets.token_urlsafe(32)
    record: dict[str, Any] = {"name": name, "sha256": _hash(secret), "scopes": list(dict.fromkeys(scopes))}
    limits = {"requests_per_minute": requests_per_minute, "concurrent": concurrent}
    record |= {limit: value for limit, value in limits.items() if value is not None}
    line = json.dumps(record) + "\n"
    _parse(line, "the new key")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            known = read_keys(path) if path.exists() else []
            if any(key.name == name for key in known):
                raise UsageError(f"there is a key named {name!r} in {path} already; choose another name")
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
            sync_directory(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write the key file {path} ({error.strerror}); choose another place") from error
    return secret


def _parse(line: str, where: str) -> Key:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UsageError(f"{where}: expected a JSON object with name, sha256 and scopes, got something else")
    unknown = sorted(set(record) - _FIELDS)
    if unknown:
        raise UsageError(f"{where}: expected {', '.join(sorted(_FIELDS))}, got the unknown {unknown[0]!r}")
    name, digest, scopes = record.get("name"), record.get("sha256"), record.get("scopes")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(f"{where}: expected a name of 1 to 64 letters, digits, '.', '_', '@' or '-', got {name!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise UsageError(f"{where}: expected sha256 as 64 hexadecimal digits, got something else")
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise UsageError(f"{where}: expected scopes among {', '.join(SCOPES)}, got {scopes!r}")
    for limit in ("requests_per_minute", "concurrent"):
        value = record.get(limit)
        if value is not None and (type(value) is not int or value < 1):
            raise UsageError(f"{where}: expected {limit} as a number above 0, got {value!r}")
    return Key(name, digest, frozenset(scopes), record.get("requests_per_minute"), record.get("concurrent"))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
