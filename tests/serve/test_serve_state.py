"""What the API says is what the state is: its description, one truth while others change it, names and pictures it takes."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from api_lessons import SIZE, names, picture, teach
from new_learner import new_learner

from bitreplay.model import write_model
from bitreplay.store import StateFile

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from starlette.testclient import TestClient

from bitreplay import Learner, Model
from bitreplay.serve.app import make_app
from bitreplay.serve.openapi import document
from bitreplay.serve.session import Session


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
    assert state["classes"][0]["replay_accuracy"] == 1
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
    other = new_learner(model, capacity=30, threads=1)
    other.learn(np.full((10, SIZE, SIZE, 3), 250, np.uint8), ["white"] * 10)
    before = client.get("/api/v1/file").content
    assert client.post("/api/v1/merge", content=other.to_bytes()).json() == {"equal_tails": True}
    assert names(client) == ["red", "white"]
    assert client.post("/api/v1/undo").status_code == 200
    assert client.get("/api/v1/file").content == before
    assert client.post("/api/v1/merge", content=b"no state").status_code == 400
    network, tensors = tiny_model.make_model(9, image_size=SIZE)
    stranger = new_learner(write_model(tmp_path / "s.model", network, tensors, {"name": "s"}), capacity=30, threads=1)
    assert "same model" in client.post("/api/v1/merge", content=stranger.to_bytes()).json()["error"]
    assert client.get("/api/v1/file").content == before


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
        patch.setattr(StateFile, "_forget_previous", broken)
        answer = client.post("/api/v1/undo")
    assert answer.status_code == 507
    assert names(client) == ["red"] == Learner.load(path).names
    teach(client, "blue")
    assert names(client) == ["red", "blue"] == Learner.load(path).names


def test_names_that_an_address_or_a_reader_would_lose_are_refused(client: TestClient) -> None:
    teach(client, "red")
    for name in (".", "..", "   ", "\u200b", "a\u202eb", "x" * 201):
        answer = client.patch("/api/v1/classes/red", json={"name": name})
        assert (answer.status_code, "not all blank" in answer.json()["error"]) == (400, True), name
    assert client.patch("/api/v1/classes/red", json={"name": "x" * 200}).status_code == 200
    assert client.patch(f"/api/v1/classes/{'x' * 200}", content=b"[" * 60_000).status_code == 400


def test_pictures_one_after_the_other_and_of_known_kinds_only(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    teach(client, "red")
    assert client.post("/api/v1/predict", content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").status_code == 400
    monkeypatch.setattr("bitreplay.serve.app.MAX_PICTURE", 100)
    assert "picture 1: expected at most 100 bytes" in teach(client, "green").json()["error"]
