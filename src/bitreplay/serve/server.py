"""Runs the application until Ctrl-C: on this machine's own address, or, where the user says which, on another, with TLS and a token."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import make_app
from .guard import names_of_this_machine
from .session import Session

TOKEN = "BITREPLAY_TOKEN"
_SHORTEST_TOKEN = 16
_HEAD_SECONDS = 10.0  # that a client may take for the head of a request
_HANDSHAKE_SECONDS = 5.0
_MOST_FILES = 4096  # open at once; of connections, uvicorn answers 512


class Impatient(H11Protocol):
    """HTTP/1.1 that hangs up on a client who does not get to the end of a request's head."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._wait_no_more()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Wait on, unless a request is being answered."""
        super().data_received(data)
        if self._is_idle():
            self._wait()
        else:
            self._wait_no_more()

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(_HEAD_SECONDS, self._hang_up)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        self._timer = None
        if self._is_idle():
            self.transport.abort()


class Loop(asyncio.SelectorEventLoop):
    """Waits for the handshake of TLS as briefly as for the head of a request: until then nobody counts a connection."""

    async def create_server(self, *args: Any, ssl: Any = None, **more: Any) -> Any:
        """As asyncio's."""
        if ssl:
            more["ssl_handshake_timeout"] = _HANDSHAKE_SECONDS
        return await super().create_server(*args, ssl=ssl, **more)


class Server(uvicorn.Server):
    """Gives the lesson at hand up when it is told to end."""

    def __init__(self, config: uvicorn.Config, session: Session) -> None:
        super().__init__(config)
        self._session = session

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ctrl-C, or the end of a service."""
        self._session.give_up()
        super().handle_exit(sig, frame)


def make_server(app: ASGIApp, session: Session, **more: Any) -> uvicorn.Server:
    """What runs the application of a device; `more` as uvicorn takes it."""
    config: dict[str, Any] = {"log_level": "error", "access_log": False, "timeout_keep_alive": 5, "limit_concurrency": 512}
    return Server(uvicorn.Config(app, http=Impatient, loop=f"{__name__}:Loop", **config, **more), session)


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_address() -> str:
    # That by which this machine is known in its network, as far as it can be told without asking anybody.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            address: str = probe.getsockname()[0]
            return address
        except OSError:
            return "127.0.0.1"


def _listening(host: str, port: int) -> socket.socket:
    if ":" not in host:
        return socket.create_server((host, port))
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=both)


def _allow_files() -> None:
    # As many open files as the system lets this process have, lest a crowd of silent connections keep a state from being saved.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _token() -> str:
    token = os.environ.get(TOKEN)
    if token is None:
        return secrets.token_urlsafe(16)
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{TOKEN}: expected at least {_SHORTEST_TOKEN} letters, digits, - or _, got {len(token)} characters")
    return token


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def run(
    path: Path,
    *,
    host: str | None = None,
    port: int,
    threads: int | None,
    camera: str | None = None,
    ready: Callable[[str], object],
    told: Callable[[str], object],
) -> None:
    """Serve the page of a state.

    Parameters
    ----------
    path : the state file, which is this process's until it ends.
    host : address to listen on; None or one of this machine's own for the page without TLS and token.
    port : 0 takes a free one.
    threads : for the network.
    camera : of this device, as `camera.Camera` takes it.
    ready : called with the address when it answers; off localhost the token is in it.
    told : called with what the user should know of the state, and of the certificate.

    Raises
    ------
    OSError : the port is taken, the address is not this machine's, another process is changing the state, or the camera cannot be opened.
    FormatError : the state is not sound.
    ValueError : the token of the environment is too short.
    """
    certified: dict[str, Any] = {}
    host = "127.0.0.1" if host in (None, "localhost") else host
    token, shown = None, host
    if not is_local(host):
        from .tls import certificate, home

        token = _token()
        shown = _own_address() if ipaddress.ip_address(host).is_unspecified else host
        _allow_files()
        names = {"localhost", "127.0.0.1", shown, *names_of_this_machine()}
        certified["ssl_certfile"], fingerprint = certificate(home(), names)
        told(f"the browser warns, since this device made its certificate itself; the certificate's SHA-256 fingerprint is {fingerprint}")
    with contextlib.ExitStack() as ends:
        session = Session(path, threads)
        ends.callback(session.close)
        if session.told is not None:
            told(session.told)
        eye = None
        if camera is not None:
            from .camera import Camera

            eye = Camera(camera)
            ends.callback(eye.close)
        try:
            listening = ends.enter_context(_listening(host, port))
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{host} port {port}") from None
        # An answer's body shall not wait until its head was acknowledged, 40 ms; asyncio asks for that only where it made the socket itself.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = listening.getsockname()[1]
        server = make_server(make_app(session, token=token, camera=eye), session, **certified)
        shown = "localhost" if host == "127.0.0.1" else shown
        ready(_url("http", shown, number) if token is None else f"{_url('https', shown, number)}/#{token}")
        with contextlib.suppress(KeyboardInterrupt):  # raised again once everything has ended well
            server.run(sockets=[listening])
