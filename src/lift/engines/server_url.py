"""The address of a server, and the variable that holds its key."""

from __future__ import annotations

import contextlib
import re
from urllib.parse import urlsplit

from lift.errors import UsageError

KEY_VARIABLE = "LIFT_ENGINE_KEY"


def check_url(url: str) -> str:
    """The URL without /v1 and slashes at its end; raises UsageError where it is none, or carries a password."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        has_secret = parts.username or parts.password or parts.query or parts.fragment
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not has_secret:
            return url.rstrip("/").removesuffix("/v1").rstrip("/")
    raise UsageError(
        f"expected the URL of a server such as http://127.0.0.1:8000, without name and password, got "
        f"{_without_secrets(url)!r}{'' if _without_secrets(url) == url else ' and a part not shown here'}; "
        f"put a key into {KEY_VARIABLE}"
    )


def _without_secrets(url: str) -> str:
    """The URL without user info, query and fragment; rather too little of it where it cannot be told apart."""
    scheme, mark, rest = url.partition("://")
    if not mark or not scheme.isalpha():
        scheme, mark, rest = "", "", url
    return scheme + mark + re.split(r"[?#]", rest.rpartition("@")[2])[0]
