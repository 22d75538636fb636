"""`bitreplay learn` on real files: what it prints and writes; interrupted or refused, no byte of the state changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bitreplay import Learner, cli
from bitreplay.datasets.image_sets import read_folder
from bitreplay.store import StateFile

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import COLOURS, MODELS, PICTURES, assert_refused, draw, run, write_lesson


def test_round_trip_of_two_lessons(state: Path, tmp_path: Path) -> None:
    first, second = write_lesson(tmp_path / "one", ["green", "red"]), write_lesson(tmp_path / "two", ["blue"])
    assert "2 classes" in run("learn", state, first)[0]
    out, _ = run("learn", state, second)
    assert f"learned {PICTURES} pictures of 1 class" in out
    assert "new: blue" in out

    test = write_lesson(tmp_path / "test", ["blue", "green", "red"], first_seed=1000)
    result = json.loads(run("predict", state, test, "--json")[0])
    assert result["accuracy"] >= 0.9
    assert result["total"] == 3 * PICTURES == len(result["images"])
    hits = [image["class"] == image["name"] for image in result["images"]]
    assert result["accuracy"] == sum(hits) / len(hits)
    assert result["right"] == sum(hits)
    assert np.array(result["confusion"]["counts"]).sum(1).tolist() == [PICTURES] * 3
    assert sorted(result["confusion"]["classes"]) == ["blue", "green", "red"]
    assert all(0 < image["probability"] <= 1 for image in result["images"])

    for views in (2, 6):
        assert json.loads(run("predict", state, test, "--json", "--views", views)[0])["accuracy"] >= 0.9
    table, _ = run("predict", state, test)
    assert f"accuracy {100 * result['accuracy']:.1f} % ({sum(hits)} of {3 * PICTURES} pictures)" in table

    info = json.loads(run("info", state, "--json")[0])
    assert info["lessons"] == 2
    assert {entry["name"]: entry["samples"] for entry in info["classes"]} == dict.fromkeys(COLOURS, PICTURES)
    assert sum(entry["replay_rows"] for entry in info["classes"]) == info["replay_rows"] == info["capacity"] == 20
    assert info["bytes"]["file"] == state.stat().st_size
    shown, _ = run("info", state)
    for number in (*info["bytes"].values(), info["model"]["latent_bits"]):
        assert f"{number:,}" in shown


def test_lessons_can_train_the_tail(tmp_path: Path) -> None:
    state = tmp_path / "tail.state"
    run("new", state, "--capacity", 20, "--train-blocks", 2)
    lesson = write_lesson(tmp_path / "one", ["green", "red"])
    run("learn", state, lesson)
    run("learn", state, write_lesson(tmp_path / "two", ["blue"]))
    info = json.loads(run("info", state, "--json")[0])
    assert info["bytes"]["tail"] > 2 * 9 * 384**2
    result = json.loads(run("predict", state, lesson, "--json")[0])
    assert result["accuracy"] >= 0.9
    message = assert_refused(state, "new", tmp_path / "other.state", "--train-blocks", 3)
    assert "train_blocks: expected at most 2" in message
    assert "capacity 0" in assert_refused(state, "new", tmp_path / "other.state", "--capacity", 0, "--train-blocks", 1)


def test_learn_adds_nothing_to_the_library(state: Path, tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    learner = Learner.load(state)
    data = read_folder(lesson, learner.image_size)
    learner.learn(data.images, [data.names[label] for label in data.labels])
    learner.save(tmp_path / "library.state")
    run("learn", state, lesson, "--threads", 1)
    assert state.read_bytes() == (tmp_path / "library.state").read_bytes()


def test_files_that_people_really_have(state: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    odd = "Käse [bold] 日本 می 🥄"
    for name in (odd, "plain", ".hidden", "plain/nested"):
        (lesson / name).mkdir(parents=True)
    red, green = COLOURS["red"], COLOURS["green"]
    draw(red, 1).save(lesson / odd / "A.JPG", quality=95)
    draw(red, 2, (7, 300)).convert("P").save(lesson / odd / "b.gif")
    draw(red, 3, (1, 1)).convert("RGBA").save(lesson / odd / "c.PnG")
    draw(red, 4).convert("CMYK").save(lesson / odd / "d.tiff")
    draw(green, 5).convert("L").save(lesson / "plain" / "nested" / "e.webp")
    draw(green, 6).save(tmp_path / "elsewhere.bmp")
    (lesson / "plain" / "link.bmp").symlink_to(tmp_path / "elsewhere.bmp")
    (lesson / "plain" / "._f.jpg").write_bytes(b"a Mac's notes")
    (lesson / ".hidden" / "g.jpg").write_bytes(b"not looked at")
    (lesson / "plain" / "h.heic").write_bytes(b"no picture that we read")
    draw(green, 7).save(lesson / "beside.png")
    out, err = run("learn", state, lesson)
    assert "6 pictures of 2 classes" in out
    assert "2 files were left out" in err
    assert "hidden" not in err
    info = json.loads(run("info", state, "--json")[0])
    assert {entry["name"]: entry["samples"] for entry in info["classes"]} == {odd: 4, "plain": 2}
    assert odd in run("info", state)[0]
    assert odd in run("predict", state, lesson)[0]


def test_names_that_are_no_text_are_refused(taught: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "other"
    for name in (b"caf\xe9", b"two\nlines"):
        folder = Path(os.fsdecode(os.fsencode(lesson) + b"/" + name))
        try:
            folder.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system refuses such names itself")
        draw(COLOURS["red"], 1).save(folder / "a.png")
        assert repr(folder.name) in assert_refused(taught, "learn", taught, lesson)
        shutil.rmtree(lesson)


def test_write_protected_state_is_refused_before_the_lesson(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # os.access is asked rather than chmod: the tests may run as root, to whom nothing is forbidden.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (taught, os.W_OK) and allowed(path, mode))
    monkeypatch.setattr(Learner, "learn", lambda *_, **__: pytest.fail("the lesson was begun"))
    assert assert_refused(taught, "learn", taught, tmp_path / "lesson") == f"error: {taught}: Permission denied"


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_full_disk_keeps_the_old_state(taught: Path, tmp_path: Path) -> None:
    before, beside = taught.read_bytes(), sorted(tmp_path.iterdir())
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from bitreplay.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "learn", taught, tmp_path / "lesson"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {taught}: cannot be saved: ")
    assert last.endswith("; the state on disk is unchanged")
    assert "Traceback" not in done.stderr
    assert taught.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == beside


def during_learning(monkeypatch: pytest.MonkeyPatch, act: object) -> None:
    """Have `act` called when the learner first reports on its way."""

    @contextmanager
    def progress():  # type: ignore[no-untyped-def]
        acted = []

        def report(phase: str, done: int, total: int) -> None:
            if phase == "training" and not acted:
                acted.append(phase)
                act()  # type: ignore[operator]

        yield report
        assert acted or sys.exc_info()[0]

    monkeypatch.setattr(cli.learn, "progress", progress)


def test_ctrl_c_while_learning_changes_nothing(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during_learning(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    err = assert_refused(taught, "learn", taught, tmp_path / "lesson", code=130)
    assert err == "interrupted: nothing was changed\n"


def test_ctrl_c_while_saving_comes_too_late(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = StateFile.save
    called = []

    def interrupted(self: StateFile, learner: Learner) -> None:
        signal.raise_signal(signal.SIGINT)
        save(self, learner)
        called.append(True)

    monkeypatch.setattr(StateFile, "save", interrupted)
    run("learn", state, write_lesson(tmp_path / "lesson", ["red"]))
    assert called
    assert json.loads(run("info", state, "--json")[0])["lessons"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_state_that_another_lesson_changed_meanwhile_is_not_overwritten(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.state"
    run("new", other, "--capacity", 3)
    theirs = other.read_bytes()
    during_learning(monkeypatch, lambda: os.replace(other, taught))
    _, err = run("learn", taught, tmp_path / "lesson", code=1)
    assert "was changed in the meantime by another program" in err
    assert taught.read_bytes() == theirs


def test_a_state_behind_a_link_stays_there(state: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.state"
    link.symlink_to(state)
    run("learn", link, write_lesson(tmp_path / "lesson", ["red"]))
    assert link.is_symlink()
    assert json.loads(run("info", state, "--json")[0])["lessons"] == 1


def test_a_state_of_another_model_is_taught_with_that_model_only(tmp_path: Path) -> None:
    own = tmp_path / "own.model"
    shipped = next(MODELS.glob("*.model"))
    own.write_bytes(shipped.read_bytes())
    state, lesson = tmp_path / "own.state", write_lesson(tmp_path / "lesson", ["blue", "red"])
    run("new", state, "--model", own)
    own.unlink()  # the state carries it
    run("learn", state, lesson, "--model", shipped)
    assert json.loads(run("predict", state, lesson, "--json")[0])["accuracy"] >= 0.9
