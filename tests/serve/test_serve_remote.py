"""Serving other machines: the token, TLS and its certificate, addresses, the device's own camera."""

from __future__ import annotations

import io
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner

from bitreplay.store import StateFile

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from bitreplay import cli
from bitreplay.serve.app import make_app
from bitreplay.serve.openapi import document
from bitreplay.serve.session import Session

TOKEN = "0123456789abcdef"


@pytest.fixture
def remote(session: Session) -> Iterator[TestClient]:
    with TestClient(make_app(session, token=TOKEN), base_url="https://192.0.2.7:8008") as made:
        yield made


@pytest.mark.parametrize("given", [None, "", "Bearer", f"Bearer {TOKEN}x", f"bearer {TOKEN}", TOKEN, "Bearer \xff"])
def test_without_the_token_nothing_is_told_and_nothing_changes(remote: TestClient, path: Path, given: str | None) -> None:
    kept = path.read_bytes()
    headers = {} if given is None else {"authorization": given.encode("latin-1")}
    routes = [(method, url) for url, methods in document()["paths"].items() for method in methods]
    assert len(routes) == 12
    for method, url in routes:
        answer = remote.request(method.upper(), url.replace("{name}", "red"), headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "the one that bitreplay serve printed" in answer.json()["error"]
    assert path.read_bytes() == kept
    assert remote.get("/").status_code == 200  # the page itself asks for the token


@pytest.mark.parametrize(
    ("host", "status"),
    [("192.0.2.7:8008", 200), ("192.0.2.7", 200), ("localhost:8008", 200), (f"{socket.gethostname()}:8008", 200),
     ("localhost:evil", 403), ("localhost:80@evil.example", 403), ("192.0.2.8:8008", 403), ("rebound.example:8008", 403), ("", 403)],
)  # fmt: skip
def test_with_the_token_this_machines_names_are_answered(remote: TestClient, host: str, status: int) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "host": host}
    assert remote.get("/api/v1/state", headers=headers).status_code == status
    foreign = headers | {"origin": "https://evil.example"}
    assert remote.get("/api/v1/state", headers=foreign).status_code == 403


def test_the_certificate_is_made_once_and_again_for_new_names(tmp_path: Path) -> None:
    tls = pytest.importorskip("bitreplay.serve.tls", reason="TLS needs cryptography (extra serve)")
    folder = tmp_path / "not there yet"
    path, first = tls.certificate(folder, ["localhost", "192.0.2.7"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert re.fullmatch(r"([0-9A-F]{2}:){31}[0-9A-F]{2}", first)
    content = path.read_bytes()
    assert tls.certificate(folder, ["192.0.2.7"]) == (path, first)
    assert path.read_bytes() == content
    _, second = tls.certificate(folder, ["localhost", "device.local"])
    assert second != first
    for broken in (b"", content[:300], content.replace(b"CERTIFICATE", b"CERTIFICAT")):
        path.write_bytes(broken)
        tls.certificate(folder, ["localhost"])
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(path)
    assert [p.name for p in folder.iterdir()] == ["certificate.pem"]


def test_the_command_serves_other_machines_with_tls_token_and_camera(tmp_path: Path) -> None:
    camera: list[str] = []
    try:
        import cv2
    except ImportError:
        print("no OpenCV here: without --camera")
    else:
        film = tmp_path / "film.avi"
        writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 30, (64, 48))
        for _ in range(5):
            writer.write(np.full((48, 64, 3), (30, 20, 240), np.uint8))
        writer.release()
        camera = ["--camera", str(film)]
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0", "--threads", "1", "--host", "0.0.0.0"]
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "home")}
    environment.pop("BITREPLAY_TOKEN", None)
    with subprocess.Popen([*command, *camera], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        found = re.search(r"https://[0-9.]+:(\d+)/#(\S+) ", child.stdout.readline())
        assert found
        port, token = int(found[1]), found[2]
        assert len(token) >= 20
        context = ssl.create_default_context(cafile=tmp_path / "home" / "bitreplay" / "certificate.pem")

        def get(what: str, given: str | None = token) -> Any:
            request = urllib.request.Request(f"https://127.0.0.1:{port}/{what}")
            if given:
                request.add_header("Authorization", f"Bearer {given}")
            return urllib.request.urlopen(request, context=context, timeout=20)

        for _ in range(200):
            try:
                with get("api/v1/state") as answer:
                    assert (b'"camera":true' in answer.read()) == bool(camera)
                break
            except ConnectionError:
                time.sleep(0.05)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get("api/v1/state", None)
        with get("", None) as answer:
            assert b"<title>bitreplay" in answer.read()
        with pytest.raises((OSError, urllib.error.URLError)):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20)
        if camera:
            with get("api/v1/camera") as answer:
                red = np.asarray(Image.open(io.BytesIO(answer.read())))[160, 160]
            assert red[0] > 200 > 100 > red[1]
        child.terminate()
        child.wait(20)
        assert "SHA-256 fingerprint" in child.stderr.read()


@pytest.mark.parametrize(
    ("words", "token", "message"),
    [
        (["--host", "example.org"], None, "expected an address of this machine"),
        (["--host", "192.0.2.1"], None, "192.0.2.1 port "),
        (["--host", "0.0.0.0"], "short", "expected at least 16 letters"),
        (["--camera", "/no/such/camera"], None, "camera /no/such/camera: cannot be opened"),
    ],
)
def test_what_cannot_be_served_is_said(tmp_path: Path, words: list[str], token: str | None, message: str) -> None:
    if words[0] == "--camera":
        pytest.importorskip("cv2", reason="--camera needs OpenCV (extra camera)")
    state = tmp_path / "x.state"
    new_learner(capacity=10).save(state)
    environment = {"XDG_STATE_HOME": str(tmp_path / "home"), "COLUMNS": "200", "BITREPLAY_TOKEN": token}
    done = CliRunner().invoke(cli.app, ["serve", str(state), "--port", "0", *words], env=environment)
    assert done.exit_code in (1, 2)
    assert isinstance(done.exception, SystemExit)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    StateFile(state).close()  # and the state is free again


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.2", r"http://127\.0\.0\.2:\d+"), ("::1", r"http://\[::1\]:\d+")])
def test_the_address_that_is_printed_answers(tmp_path: Path, host: str, shown: str) -> None:
    command = [sys.executable, "-m", "bitreplay", "serve", str(tmp_path / "x.state"), "--port", "0", "--host", host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.readline()
        if not said and host == "::1":
            pytest.skip("no IPv6 here")
        found = re.search(shown, said)
        assert found, said
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{found[0]}/api/v1/state", timeout=20) as answer:
                    assert answer.status == 200
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        else:
            raise AssertionError("it does not answer")
        child.terminate()


def test_a_camera_that_is_gone_is_told(session: Session) -> None:
    class Unplugged:
        def jpeg(self) -> bytes:
            raise OSError("camera: gives no picture any more; is it still plugged in?")

    with TestClient(make_app(session, camera=Unplugged()), base_url="http://localhost") as client:
        assert client.get("/api/v1/state").json()["camera"] is True
        answer = client.get("/api/v1/camera")
        assert (answer.status_code, "plugged in" in answer.json()["error"]) == (503, True)
    with TestClient(make_app(session), base_url="http://localhost") as client:
        assert client.get("/api/v1/camera").status_code == 404
