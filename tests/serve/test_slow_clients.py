"""Connections that say nothing or go slowly are hung up on, and keep nobody waiting."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from api_lessons import picture

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from bitreplay.serve import guard, server
from bitreplay.serve.app import make_app
from bitreplay.serve.session import Session


def test_silent_connections_are_hung_up_on_before_the_handshake(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="TLS needs cryptography (extra serve)")
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0", "--host", "0.0.0.0"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "home")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as child:
        assert child.stdout is not None
        found = re.search(r":(\d+)/#", child.stdout.readline())
        assert found
        silent = [socket.create_connection(("127.0.0.1", int(found[1])), timeout=20) for _ in range(200)]
        began = time.monotonic()
        assert not any(ended(connection) for connection in silent)
        assert time.monotonic() - began < 15  # not asyncio's minute
        child.terminate()


@contextmanager
def served(session: Session) -> Iterator[int]:
    running = server.make_server(make_app(session), session)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not running.started:
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(20)


def ended(connection: socket.socket) -> bytes:
    """What came until the server hung up."""
    found = b""
    with connection:
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
    return found


def test_200_slow_clients_keep_nobody_waiting_and_are_hung_up_on(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_HEAD_SECONDS", 3.0)
    monkeypatch.setattr(guard, "_GRACE", 3.0)
    with served(session) as port:
        slow = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(200)]
        for number, connection in enumerate(slow):
            if number % 2:
                connection.sendall(b"POST /api/v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Le")
            else:
                length = b"Transfer-Encoding: chunked" if number % 4 else b"Content-Length: 60000000"  # what is promised buys no patience
                head = b"POST /api/v1/lessons HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                connection.sendall(head + length + b"\r\n\r\n" + (b"8\r\n--x\r\nCon\r\n" if number % 4 else b"--x\r\nCon"))

        def post(what: str, content: bytes, kind: str) -> bytes:
            request = urllib.request.Request(f"http://localhost:{port}/api/v1/{what}", content, {"Content-Type": kind})
            with urllib.request.urlopen(request, timeout=20) as answer:
                body: bytes = answer.read()
            return body

        form = b'--y\r\nContent-Disposition: form-data; name="name"\r\n\r\nred\r\n'
        form += b'--y\r\nContent-Disposition: form-data; name="picture"; filename="0.png"\r\n\r\n' + picture("red") + b"\r\n--y--\r\n"
        assert b'"pictures":1' in post("lessons", form, "multipart/form-data; boundary=y")
        assert b'"red"' in post("predict", picture("red"), "image/png")
        for number, connection in enumerate(slow[:20]):
            connection.sendall(b"n" if number % 2 else b"1\r\nt\r\n" if number % 4 else b"t")  # they go on, slowly
        answers = [ended(connection) for connection in slow]
        assert all(not answer for answer in answers[1::2])
        assert {answer[:12] for answer in answers[::2]} == {b"HTTP/1.1 408"}
        assert b'"red"' in post("predict", picture("red"), "image/png")
