"""Who may ask, and how much: hosts, origins, the token, sizes and patience, before anything of a request is read.

A page elsewhere cannot read or teach the device: its requests name another origin, and where it made a name of its own point here (DNS
rebinding) they name another host.  Off localhost every request of the API needs the token.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 64 << 20
MAX_PICTURE = 16 << 20
MAX_TEXT = 64 << 10
LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
API = "/api/"
_SLOWEST = 50_000  # bytes a second; a body that comes slower is given up
_GRACE = 20.0  # seconds that every body may take


def refusal(status: int, message: str) -> JSONResponse:
    """An error as the API gives it."""
    more = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    return JSONResponse({"error": message}, status, HEADERS | more)


def names_of_this_machine() -> set[str]:
    """Its host name, with and without `.local`, in lower case."""
    name = socket.gethostname().lower()
    return {name, f"{name.partition('.')[0]}.local"}


def _host(value: str) -> str:
    # The name in a Host header, without its port; "" where it is none.
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?", value)
    return found[1].lower() if found else ""


class Guard:
    """Passes on what may pass; else 401 (token), 403 (host, origin), 408 (too slow), 413 (too large).

    Parameters
    ----------
    app : what is guarded.
    token : what the API asks for, as `Authorization: Bearer TOKEN`; None for localhost, where no other address is answered.
    """

    def __init__(self, app: ASGIApp, token: str | None = None) -> None:
        self._app, self._token = app, token
        self._names = LOCAL if token is None else LOCAL | names_of_this_machine()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        limit = _limit(scope["method"], scope["path"])
        refused = self._refused(request) or _too_large(request, limit)
        if refused is not None:
            await refused(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        read, more = 0, True

        async def counted() -> Any:
            nonlocal read, more
            if not more:
                return await receive()  # the next is that the client has gone
            try:
                async with asyncio.timeout(began + _GRACE + read / _SLOWEST - clock()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"body: expected at least {_SLOWEST} bytes a second, got fewer") from None
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
            if read > limit:
                raise HTTPException(413, f"body: expected at most {limit} bytes, got more")
            return message

        await self._app(scope, counted, send)

    def _refused(self, request: Request) -> JSONResponse | None:
        host, origin, scheme = request.headers.get("host", ""), request.headers.get("origin"), request.scope["scheme"]
        name = _host(host)
        if name not in self._names and not (name and name == _address(request.scope)):
            return refusal(403, f"host: expected one of this machine's own names, {', '.join(sorted(self._names))}, got {host!r}")
        if origin is not None and origin.lower() != f"{scheme}://{host}".lower():
            return refusal(403, f"origin: expected {scheme}://{host}, got {origin!r}")
        if self._token is not None and request.scope["path"].startswith(API):
            given = request.headers.get("authorization", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return refusal(401, "token: expected the one that bitreplay serve printed, as 'Authorization: Bearer TOKEN'")
        return None


def _address(scope: Scope) -> str:
    # The address of this machine that the client reached, as a Host header writes it.
    address = (scope.get("server") or ("",))[0].lower()
    return f"[{address}]" if ":" in address else address


def _limit(method: str, path: str) -> int:
    if path.endswith("/predict"):
        return MAX_PICTURE
    return MAX_TEXT if method in ("GET", "PATCH", "DELETE") else MAX_BODY


def _too_large(request: Request, limit: int) -> JSONResponse | None:
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= limit:
        return None
    return refusal(413, f"body: expected at most {limit} bytes, got {length:.40}")
