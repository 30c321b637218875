"""Loaded by every Python that has this directory in PYTHONPATH: connections to other machines are noted and refused.

Loopback and Unix sockets are let through. Each attempt is a line of the file that NETWORK_GUARD_LOG names.
"""

from __future__ import annotations

import ipaddress
import os
import sys

_LOG = os.environ.get("NETWORK_GUARD_LOG")
_WATCHED = {
    "socket.connect",
    "socket.sendto",
    "socket.sendmsg",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.gethostbyaddr",
    "socket.bind",
}


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("utf-8", "replace")
    if host is None or host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host)).is_loopback
    except ValueError:
        return False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event not in _WATCHED:
        return
    address = arguments[0] if event.startswith("socket.get") else arguments[1]
    if address is None or (isinstance(address, str | bytes) and not event.startswith("socket.get")):
        return  # a Unix socket, or one that is connected already
    host = address[0] if isinstance(address, tuple) else address
    if _is_here(host):
        return
    if _LOG:
        with open(_LOG, "a", encoding="utf-8") as log:
            log.write(f"{event} {address!r} {sys.argv[:6]}\n")
    raise PermissionError(f"the network is watched: {event} {address!r}")


sys.addaudithook(_watch)
