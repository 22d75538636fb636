"""The page's API: teach, ask, change; who may ask; what is refused and loses nothing."""

from __future__ import annotations

import io
import json
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from api_lessons import COLOURS, SIZE, names, picture, teach
from PIL import Image
from starlette.testclient import TestClient

from bitreplay import Learner
from bitreplay.serve import guard
from bitreplay.serve.session import Session
from bitreplay.store import StateFile, previous_of


def test_teach_and_ask(client: TestClient, path: Path) -> None:
    assert client.get("/api/v1/state").json()["classes"] == []
    assert "knows a class" in client.post("/api/v1/predict", content=picture("red")).json()["error"]
    for revision, name in enumerate(COLOURS, 1):
        answer = teach(client, name)
        assert answer.status_code == 200
        assert answer.json()["pictures"] == 10
        state = client.get("/api/v1/state").json()
        assert state["revision"] == revision
        assert state["busy"] is None
        assert Learner.load(path).names == names(client)  # every lesson is on disk when it is seen
    for name in COLOURS:
        answer = client.post("/api/v1/predict", content=picture(name, 99)).json()
        assert answer["name"] == name
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=0.01)
    assert [entry["samples"] for entry in state["classes"]] == [10, 10, 10]
    assert state["replay_rows"] == sum(entry["replay_rows"] for entry in state["classes"]) == 30


def test_undo_rename_forget_download_upload(client: TestClient, path: Path) -> None:
    assert client.get("/api/v1/state").json()["can_undo"] is False
    assert client.post("/api/v1/undo").status_code == 404
    teach(client, "red")
    before = client.get("/api/v1/file").content
    assert before == path.read_bytes()
    teach(client, "a/b ü?", "blue")
    assert client.post("/api/v1/undo").status_code == 200
    assert path.read_bytes() == before
    assert names(client) == ["red"]
    teach(client, "a/b ü?", "blue")
    assert client.patch("/api/v1/classes/a%2Fb%20%C3%BC%3F", json={"name": "sky"}).status_code == 200
    assert names(client) == ["red", "sky"]
    assert client.patch("/api/v1/classes/sky", json={"name": "red"}).status_code == 400
    assert client.patch("/api/v1/classes/sky", json=[]).json()["error"].startswith("body: expected")
    assert client.patch("/api/v1/classes/sky", content=b"{").status_code == 400
    assert client.delete("/api/v1/classes/sky").status_code == 200
    assert not previous_of(path).exists()
    assert b"sky" not in path.read_bytes()
    assert "expected one of red" in client.delete("/api/v1/classes/sky").json()["error"]
    kept = path.read_bytes()
    assert client.put("/api/v1/file", content=b"no state").status_code == 400
    assert path.read_bytes() == kept
    teach(client, "green")
    assert client.put("/api/v1/file", content=before).status_code == 200
    assert names(client) == ["red"]
    client.post("/api/v1/undo")
    assert names(client) == ["red", "green"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "127.0.0.1:8008"}, 200),
        ({"host": "[::1]:8008"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example:8008"}, 403),
        ({"host": ""}, 403),
        ({"origin": "http://localhost:8008"}, 200),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "https://localhost:8008"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_hosts_and_other_pages_are_refused(client: TestClient, path: Path, headers: dict, status: int, method: str) -> None:
    teach(client, "red")
    kept = path.read_bytes()
    url = "/api/v1/state" if method == "GET" else "/api/v1/classes/red"
    assert client.request(method, url, headers=headers).status_code == status
    assert (path.read_bytes() == kept) == (status == 403 or method == "GET")


def test_the_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    text = page.text + client.get("/page.js").text + client.get("/page.css").text
    assert not re.search(r"https?://|//[a-z]+\.[a-z]", text)
    for wanted in re.findall(r'(?:href|src)="([^"#]+)"', page.text):
        if not wanted.startswith("data:"):
            assert client.get(f"/{wanted}").status_code == 200, wanted
    assert client.get("/page.html").status_code == 404
    assert client.get("/../app.py").status_code == 404


@pytest.mark.parametrize("content", [b"", b"no picture", picture("red")[:60]])
def test_what_is_no_picture_is_refused(client: TestClient, content: bytes) -> None:
    teach(client, "red")
    assert client.post("/api/v1/predict", content=content).status_code == 400
    files = [("picture", ("0.png", picture("blue"))), ("picture", ("1.png", content))]
    answer = client.post("/api/v1/lessons", data={"name": "blue"}, files=files)
    assert answer.status_code == 400
    assert "picture 2" in answer.json()["error"] or content == b""
    assert names(client) == ["red"]


def test_what_is_too_large_is_refused(client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    assert client.post("/api/v1/predict", content=b"x", headers={"content-length": str(1 << 30)}).status_code == 413
    assert client.post("/api/v1/predict", content=b"x", headers={"content-length": "-1"}).status_code == 413
    file = io.BytesIO()
    Image.new("1", (6_000, 6_000)).save(file, "PNG")
    bomb = file.getvalue()
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + bomb[24:29]
    larger = bomb[:12] + head + struct.pack(">I", zlib.crc32(head)) + bomb[33:]  # only says that it is: nobody decodes it
    for content, got in ((bomb, "got 6000 x 6000"), (larger, "got far more")):
        answer = client.post("/api/v1/predict", content=content)
        assert answer.status_code == 400
        assert f"expected at most 25000000 pixels, {got}" in answer.json()["error"]
    monkeypatch.setattr(guard, "MAX_PICTURE", 1000)
    assert client.post("/api/v1/predict", content=picture("red")).status_code == 413
    assert names(client) == ["red"]

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * (1 << 20)

    assert client.post("/api/v1/predict", content=endless()).status_code == 413  # chunked: no length beforehand


@pytest.mark.parametrize(
    ("data", "files", "message"),
    [
        ({}, [("picture", ("0.png", picture("red")))], "name: expected the name"),
        ({"name": "red"}, [], "picture: expected at least one"),
        ({"name": "red\n"}, [("picture", ("0.png", picture("red")))], "names"),
        ({"name": ""}, [("picture", ("0.png", picture("red")))], "names"),
    ],
)
def test_lessons_that_make_no_sense_are_refused(client: TestClient, data: dict, files: list, message: str) -> None:
    answer = client.post("/api/v1/lessons", data=data, files=files or None)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert names(client) == []


def test_it_answers_while_it_learns_and_takes_one_change_at_a_time(
    client: TestClient, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach(client, "red")
    teach(client, "blue")
    go_on, inside = threading.Event(), threading.Event()
    learn = Learner.learn

    def slow(self: Learner, images: Any, labels: Any, *, progress: Any = None, cancel: Any = None) -> None:
        def told(phase: str, done: int, total: int) -> None:
            progress(phase, done, total)
            inside.set()
            assert go_on.wait(20)

        learn(self, images, labels, progress=told, cancel=cancel)

    monkeypatch.setattr(Learner, "learn", slow)
    results: list[Any] = []
    lesson = threading.Thread(target=lambda: results.append(teach(client, "green")))
    lesson.start()
    assert inside.wait(20)
    assert client.post("/api/v1/predict", content=picture("blue", 99)).json()["name"] == "blue"
    state = client.get("/api/v1/state").json()
    assert state["busy"]["what"] == "learning"
    assert [entry["name"] for entry in state["classes"]] == ["red", "blue"]
    for answer in (teach(client, "green"), client.post("/api/v1/undo"), client.delete("/api/v1/classes/red"),
                   client.patch("/api/v1/classes/red", json={"name": "x"}), client.put("/api/v1/file", content=b"x")):  # fmt: skip
        assert answer.status_code == 409
        assert "wait until it has finished" in answer.json()["error"]
    go_on.set()
    lesson.join()
    assert results[0].status_code == 200
    assert names(client) == ["red", "blue", "green"]


def test_what_cannot_be_saved_has_not_happened(client: TestClient, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    kept = path.read_bytes()

    def full(self: StateFile, learner: Learner, *, keep: bool = True) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "save", full)
        for answer in (
            teach(client, "blue"),
            client.delete("/api/v1/classes/red"),
            client.patch("/api/v1/classes/red", json={"name": "x"}),
        ):
            assert answer.status_code == 507
            assert "No space left on device" in answer.json()["error"]
            assert path.read_bytes() == kept
            assert names(client) == ["red"]
    assert teach(client, "blue").status_code == 200
    assert names(client) == ["red", "blue"]


def test_a_state_that_was_deleted_meanwhile_is_no_404(client: TestClient, path: Path) -> None:
    teach(client, "red")
    content = path.read_bytes()
    path.unlink()
    for answer in (teach(client, "blue"), client.delete("/api/v1/classes/red"), client.post("/api/v1/undo")):
        assert answer.status_code == 507
    assert names(client) == ["red"]
    assert client.get("/api/v1/file").content == content  # what it knows can still be fetched


def test_running_out_of_memory_while_saving_changes_nothing(client: TestClient, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    kept = path.read_bytes()

    def short(self: Learner) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "to_bytes", short)
        with pytest.raises(MemoryError):
            teach(client, "blue")
    assert names(client) == ["red"]
    teach(client, "green")
    assert names(client) == ["red", "green"]
    assert kept == previous_of(path).read_bytes()


def test_a_damaged_state_is_told(path: Path) -> None:
    with StateFile(path) as file:
        learner, _ = file.load()
        learner.learn(np.zeros((4, SIZE, SIZE, 3), np.uint8), ["a"] * 4)
        file.save(learner)
    path.write_bytes(path.read_bytes()[:-1])
    session = Session(path, threads=1)
    try:
        assert f"using {path}.previous instead" in session.status()["note"]
    finally:
        session.close()


def test_the_command_serves_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    import signal
    import urllib.request

    path = tmp_path / "a new.state"
    command = [sys.executable, "-m", "bitreplay", "serve", str(path), "--port", "0", "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        found = re.search(r"http://localhost:(\d+)", child.stdout.readline())
        assert found
        port = int(found[1])
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/state") as answer:
                    assert json.load(answer)["classes"] == []
                break
            except ConnectionError:
                time.sleep(0.05)
        other = subprocess.run(command, capture_output=True, text=True)
        assert other.returncode == 1
        assert "another process is changing it" in other.stderr
        taken = subprocess.run([*command[:4], str(tmp_path / "b.state"), "--port", str(port)], capture_output=True, text=True)
        assert taken.returncode == 1
        assert f"port {port}: Address already in use" in taken.stderr
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((_outside(), port), timeout=1).close()
        child.send_signal(signal.SIGINT)
        child.wait(20)
        assert child.returncode == 0
        assert child.stderr.read() == f"note: {path}: created\n"
    StateFile(path).close()


def _outside() -> str:
    # An address of this machine that is not localhost's.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "192.0.2.1"
        address: str = probe.getsockname()[0]
    return address
