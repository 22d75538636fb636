"""Serving other machines: TLS, the token, slow clients, the device's own camera, the API's description."""

from __future__ import annotations

import io
import os
import re
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_serve
import tiny_model

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from PIL import Image
from starlette.testclient import TestClient

from bitreplay import Learner, Model
from bitreplay.serve import guard, server
from bitreplay.serve.app import make_app
from bitreplay.serve.openapi import document
from bitreplay.serve.session import Session

TOKEN = "0123456789abcdef"
SIZE, picture, teach, names = test_serve.SIZE, test_serve.picture, test_serve.teach, test_serve.names
model, path, session, client = test_serve.model, test_serve.path, test_serve.session, test_serve.client


@pytest.fixture
def remote(session: Session) -> Iterator[TestClient]:
    with TestClient(make_app(session, token=TOKEN), base_url="https://192.0.2.7:8008") as made:
        yield made


# Who may ask


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


# The certificate


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
    Learner.new(capacity=10).save(state)
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path / "home"), "COLUMNS": "200"} | ({"BITREPLAY_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "bitreplay", "serve", str(state), "--port", "0", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    test_serve.StateFile(state).close()  # and the state is free again


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


# Slow clients


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


# What the API is


def test_the_description_names_every_route_and_no_other(client: TestClient, session: Session) -> None:
    described = client.get("/api/v1/openapi.json").json()
    assert described == document()
    routes = {(r.path.replace(":path", ""), m.lower()) for r in make_app(session).routes for m in r.methods - {"HEAD"} if "/api/" in r.path}
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == routes


def test_answers_hold_what_the_description_promises(client: TestClient) -> None:
    def promised(url: str, method: str) -> set[str]:
        content = document()["paths"][url][method]["responses"]["200"]["content"]
        return set(content["application/json"]["schema"]["required"])

    learned = teach(client, "red").json()
    assert set(learned) == promised("/api/v1/lessons", "post")
    state = client.get("/api/v1/state").json()
    assert promised("/api/v1/state", "get") <= set(state)
    assert state["classes"][0]["recall"] == 1
    assert set(client.post("/api/v1/predict", content=picture("red")).json()) == promised("/api/v1/predict", "post")


def test_unknown_things_are_called_so_where_asked(client: TestClient) -> None:
    teach(client, "red")
    teach(client, "green")
    assert client.post("/api/v1/predict", content=picture("blue", 5)).json()["unknown"] is False
    said = [client.post("/api/v1/predict?reject=0.2", content=picture("blue", seed)).json()["unknown"] for seed in range(5)]
    known = [client.post("/api/v1/predict?reject=0.2", content=picture("red", seed)).json()["unknown"] for seed in range(5)]
    assert sum(said) >= sum(known)
    for bad in ("0", "1", "x", ""):
        assert "reject: expected a share" in client.post(f"/api/v1/predict?reject={bad}", content=picture("red")).json()["error"]


def test_another_devices_state_is_merged(client: TestClient, model: Model, tmp_path: Path) -> None:
    teach(client, "red")
    other = Learner.new(model, capacity=30, threads=1)
    other.learn(np.full((10, SIZE, SIZE, 3), 250, np.uint8), ["white"] * 10)
    before = client.get("/api/v1/file").content
    assert client.post("/api/v1/merge", content=other.content()).json() == {"equal_tails": True}
    assert names(client) == ["red", "white"]
    assert client.post("/api/v1/undo").status_code == 200
    assert client.get("/api/v1/file").content == before
    assert client.post("/api/v1/merge", content=b"no state").status_code == 400
    network, tensors = tiny_model.make_model(9, image_size=SIZE)
    stranger = Learner.new(test_serve.write_model(tmp_path / "s.model", network, tensors, {"name": "s"}), capacity=30, threads=1)
    assert "same model" in client.post("/api/v1/merge", content=stranger.content()).json()["error"]
    assert client.get("/api/v1/file").content == before


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


# One truth


def test_status_never_pairs_one_state_with_the_revision_of_another(session: Session) -> None:
    session.teach(np.zeros((4, SIZE, SIZE, 3), np.uint8), ["name-0"] * 4)
    first, done = session.status()["revision"], threading.Event()
    wrong: list[Any] = []

    def ask() -> None:
        while not done.is_set():
            status = session.status()
            if status["classes"][0]["name"] != f"name-{status['revision'] - first}":
                wrong.append(status)

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    for number in range(100):
        session.rename(f"name-{number}", f"name-{number + 1}")
    done.set()
    for asker in askers:
        asker.join()
    assert not wrong


def test_a_lesson_can_be_given_up(client: TestClient, session: Session, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    kept = path.read_bytes()
    assert client.post("/api/v1/stop").status_code == 200  # nothing is being learned: nothing happens
    inside = threading.Event()
    learn = Learner.learn

    def slow(self: Learner, images: Any, labels: Any, *, progress: Any, cancel: Any) -> None:
        def told(phase: str, done: int, total: int) -> None:
            inside.set()
            time.sleep(0.02)

        learn(self, images, labels, progress=told, cancel=cancel)

    monkeypatch.setattr(Learner, "learn", slow)
    answers: list[Any] = []
    lesson = threading.Thread(target=lambda: answers.append(teach(client, "green")))
    lesson.start()
    assert inside.wait(20)
    assert client.post("/api/v1/stop").status_code == 200
    lesson.join(20)
    assert (answers[0].status_code, "given up" in answers[0].json()["error"]) == (409, True)
    assert path.read_bytes() == kept
    session.give_up()
    assert teach(client, "green").status_code == 409  # the server ends
    assert names(client) == ["red"]


def test_what_came_to_disk_is_shown_even_if_something_failed_behind_it(
    client: TestClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(client, "red")
    teach(client, "green")

    def broken(self: Any) -> None:
        raise OSError(5, "Input/output error", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(test_serve.StateFile, "_forget_previous", broken)
        answer = client.post("/api/v1/undo")
    assert answer.status_code == 507
    assert names(client) == ["red"] == Learner.load(path).names
    teach(client, "blue")
    assert names(client) == ["red", "blue"] == Learner.load(path).names


def test_names_that_an_address_or_a_reader_would_lose_are_refused(client: TestClient) -> None:
    teach(client, "red")
    for name in (".", "..", "   ", "\u200b", "a\u202eb", "x" * 201):
        answer = client.patch("/api/v1/classes/red", json={"name": name})
        assert (answer.status_code, "that can be seen" in answer.json()["error"]) == (400, True), name
    assert client.patch("/api/v1/classes/red", json={"name": "x" * 200}).status_code == 200
    assert client.patch(f"/api/v1/classes/{'x' * 200}", content=b"[" * 60_000).status_code == 400


def test_pictures_one_after_the_other_and_of_known_kinds_only(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    assert client.post("/api/v1/predict", content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").status_code == 400
    monkeypatch.setattr("bitreplay.serve.app.MAX_PICTURE", 100)
    assert "picture 1: expected at most 100 bytes" in teach(client, "green").json()["error"]
