"""The guard that every request passes before any route sees it, and every answer on its way out.

In this order: the name that the server is called by (a page of another site may point its own name at this machine),
the page that asks (a form elsewhere can post here), the key, its limits, the size of the body. Answers get the headers
that keep a browser from running or embedding anything that is not the page's own.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lift.errors import UsageError
from lift.server.failures import Refusal, fault_body, log_fault, refused
from lift.server.keys import Key, KeyFile
from lift.server.logs import route_of
from lift.server.prometheus_metrics import Metrics
from lift.server.rate_limits import RateLimits, TooMuch
from lift.server.settings import LOOPBACK_NAMES, ServerSettings

_logger = logging.getLogger("lift.server")
_REQUEST_ID = re.compile(r"[0-9A-Za-z._-]{1,64}")
_PUBLIC = frozenset(["/", "/healthz", "/readyz", "/favicon.ico"])
_UPLOAD_ROUTE = "/v1/files"
# The parts of a form around the file itself.
_FORM_BYTES = 100_000
_SAFE_METHODS = frozenset(["GET", "HEAD", "OPTIONS"])
_METHODS = _SAFE_METHODS | {"POST", "PATCH", "DELETE", "PUT"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """The ASGI application around all routes; `keys` is None where everybody who reaches the server may use it."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, keys: KeyFile | None, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._limits = RateLimits(settings.requests_per_minute, settings.concurrent)
        self._hosts = {*LOOPBACK_NAMES, *(name.lower() for name in settings.allowed_hosts)}
        # whoever listens elsewhere is called by names that only its owner knows
        self._any_host = not settings.on_loopback and not settings.allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        passage = _Passage(scope, send)
        scope.setdefault("state", {}).update(request_id=passage.request_id, caller=None)
        self._metrics.begun()
        caller: Key | None = None
        try:
            caller = self._admit(scope, passage)
            await self._app(scope, self._bounded(scope, receive), passage.send)
        except Refusal as failure:
            await refused(failure)(scope, receive, passage.send)
        except Exception as error:
            log_fault(passage.request_id, error)
            if passage.begun_to_answer:
                raise  # all that is left is to break the connection
            await JSONResponse(fault_body(passage.request_id), 500)(scope, receive, passage.send)
        finally:
            if caller is not None:
                self._limits.leave(caller, time.monotonic() - passage.begun)
            self._tell(scope, passage)

    def _admit(self, scope: Scope, passage: _Passage) -> Key | None:
        """Raise Refusal, or return the key whose request now counts as running."""
        headers = Headers(scope=scope)
        self._check_host(headers)
        self._check_origin(scope, headers)
        self._check_size(scope, headers)
        public = scope["path"] in _PUBLIC or scope["path"].startswith("/static/")
        if self._keys is None or public or scope["method"] == "OPTIONS":
            return None
        caller = self._caller(headers, self._keys, passage.request_id)
        scope["state"]["caller"] = caller
        passage.key = caller.name
        try:
            self._limits.enter(caller)
        except TooMuch as limit:
            raise Refusal(429, limit.message, code=limit.code, retry_after_s=limit.retry_after_s) from None
        return caller

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._any_host or _host_name(host) in self._hosts:
            return
        raise Refusal(
            403, f"this server does not go by the name {host!r}; start it with --allowed-host", code="wrong_host"
        )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or scope["method"] in _SAFE_METHODS or origin in self._settings.cors_origins:
            return
        if urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != "":
            return
        raise Refusal(
            403, f"the page {origin!r} may not ask here; start the server with --cors-origin", code="wrong_origin"
        )

    def _caller(self, headers: Headers, keys: KeyFile, request_id: str) -> Key:
        kind, _, secret = headers.get("authorization", "").partition(" ")
        try:
            key = keys.find(secret.strip()) if kind.lower() == "bearer" and secret.strip() else None
        except UsageError as error:
            log_fault(request_id, error)
            raise Refusal(503, "the server's key file cannot be read; ask its owner", code="no_keys") from None
        if key is None:
            raise Refusal(
                401, "expected a key as `Authorization: Bearer KEY`, got none that is known", code="invalid_api_key"
            )
        return key

    def _most_bytes(self, scope: Scope) -> int:
        upload = scope["path"].rstrip("/") == _UPLOAD_ROUTE
        return self._settings.max_upload_bytes + _FORM_BYTES if upload else self._settings.max_body_bytes

    def _check_size(self, scope: Scope, headers: Headers) -> None:
        stated = headers.get("content-length", "0")
        if stated.isascii() and stated.isdigit() and int(stated) > self._most_bytes(scope):
            raise Refusal(413, _too_large(self._most_bytes(scope)), code="too_large")

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, which ends a body that turns out larger than it may be."""
        left = self._most_bytes(scope)

        async def bounded() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise HTTPException(413, _too_large(self._most_bytes(scope)))
            return message

        return bounded

    def _tell(self, scope: Scope, passage: _Passage) -> None:
        seconds = time.monotonic() - passage.begun
        route = route_of(scope)
        # a counter is kept for every method, and callers may invent them
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.ended(method, route, passage.status, seconds)
        fields = {
            "request_id": passage.request_id,
            "method": method,
            "route": route,
            "status": passage.status,
            "seconds": round(seconds, 4),
            "bytes": passage.bytes,
            "key": passage.key,
        }
        level = logging.DEBUG if route in ("/healthz", "/readyz", "/metrics", "/static") else logging.INFO
        _logger.log(level, "request", extra={"fields": fields})


class _Passage:
    """One request and its answer: who it is, and what went out. A caller who left before any of it has status 499."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.begun = time.monotonic()
        self.status = 499
        self.begun_to_answer = False
        self.bytes = 0
        self.key: str | None = None
        self._send = send

    async def send(self, message: Message) -> None:
        """Pass on a part of the answer, with the headers that all answers have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.begun_to_answer = True
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers[name] = value
            headers["X-Request-ID"] = self.request_id
            headers.setdefault("Cache-Control", "no-store")
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)


def _too_large(most: int) -> str:
    return f"expected a body of at most {most:,} bytes, got more; split the file"


def _host_name(host: str) -> str:
    """The name in a Host header, without the port: "[::1]:8000" -> "::1"."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
