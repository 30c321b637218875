"""The server's socket: bound before anything else is loaded, so that an address that cannot be had is said at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import threading

from lift.errors import UsageError
from lift.server.settings import ServerSettings

_BACKLOG = 2048
_LOOKUP_S = 1.5


def open_socket(settings: ServerSettings) -> socket.socket:
    """A listening socket; raises UsageError where the address cannot be listened on."""
    family, address = _resolved(settings.host, settings.port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(_refusal(settings, error)) from error
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """The address under which a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "127.0.0.1" if address.version == 4 else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[object, ...]]:
    """The family and address to bind; a name is looked up for _LOOKUP_S seconds at most, since resolvers wait long."""
    found: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
    failed: list[str] = []

    def look_up() -> None:
        try:
            families = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            found.extend((socket.AddressFamily(each[0]), each[4]) for each in families)
        except (OSError, UnicodeError, OverflowError) as error:
            failed.append(str(getattr(error, "strerror", None) or error).lower())

    looking = threading.Thread(target=look_up, name="host-lookup", daemon=True)
    looking.start()
    looking.join(_LOOKUP_S)
    if not found:
        said = failed[0] if failed else f"no answer within {_LOOKUP_S} s"
        raise UsageError(
            f"expected --host to be an address or name of this machine, got {host!r} ({said}); "
            "leave it out, or give an address such as 127.0.0.1"
        )
    # a name may stand for addresses of both kinds, and most clients try the older one too
    return min(found, key=lambda each: each[0] != socket.AF_INET)


def _refusal(settings: ServerSettings, error: OSError | OverflowError) -> str:
    where = f"{settings.host} port {settings.port}"
    code = getattr(error, "errno", None)
    if code == errno.EADDRINUSE:
        return f"{where} is in use by another program; choose another --port"
    if code == errno.EADDRNOTAVAIL:
        return (
            f"expected --host to be an address of this machine, got {settings.host!r}, which is not; "
            "leave it out, or give 127.0.0.1"
        )
    if code in (errno.EACCES, errno.EPERM):
        return f"{where} may not be listened on by this user; choose a --port of 1024 or above"
    said = os.strerror(code).lower() if code else str(error)
    return f"cannot listen on {where} ({said}); choose another --host or --port"
