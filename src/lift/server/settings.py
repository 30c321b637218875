"""Settings of the server, made by its operator."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from lift.errors import UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class ServerSettings:
    """Limits and doors of the server.

    `allowed_hosts`: names that requests may call the server by, besides the loopback ones. `cors_origins`: pages of
    other servers that may call it from a browser. `requests_per_minute` and `concurrent`: what a key may do whose own
    line says nothing else. `max_upload_bytes` bounds a document, `max_stored_bytes` all that are kept. `answer_s`
    bounds an answer, its waiting included; `shutdown_s` is how long running answers may take when the server is asked
    to stop. `connections` may be open at once. A request's header has to come within `header_s`, and 10 kB of its
    body at least in each `body_silence_s`; a connection without requests ends after `idle_s`, and so does one whose
    reader takes nothing for `write_silence_s`.
    """

    model: str = "smollm2"
    host: str = "127.0.0.1"
    port: int = 8000
    key_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_upload_bytes: int = 50_000_000
    max_stored_bytes: int = 10_000_000_000
    max_body_bytes: int = 2_000_000
    requests_per_minute: int = 600
    concurrent: int = 64
    answer_s: float = 300.0
    shutdown_s: float = 20.0
    connections: int = 1000
    header_s: float = 15.0
    body_silence_s: float = 30.0
    idle_s: float = 30.0
    write_silence_s: float = 60.0

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Raise UsageError where the server would be open to a network without keys."""
        if not self.on_loopback and self.key_file is None:
            raise UsageError(
                f"expected --api-key-file, since --host {self.host} can be reached from other machines, got none; make "
                "a key with `lift serve --new-key NAME --scopes read,ask --api-key-file FILE`, or leave --host out"
            )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
