"""The commands that make, show and change a state: new, info, undo, forget, rename, merge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitreplay import Learner, Model, Settings, TailSettings
from bitreplay.store import StateFile, previous_of

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import MODELS, assert_refused, run, write_lesson


def test_new_refuses_to_overwrite(taught: Path) -> None:
    message = assert_refused(taught, "new", taught)
    assert str(taught) in message
    assert "--force" in message
    run("new", taught, "--force", "--capacity", 7)
    info = json.loads(run("info", taught, "--json")[0])
    assert (info["capacity"], info["classes"]) == (7, [])


def test_new_in_a_folder_that_is_missing(tmp_path: Path) -> None:
    _, err = run("new", tmp_path / "none" / "a.state", code=1)
    assert err == f"error: {tmp_path / 'none'}: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_memory_bytes_holds(tmp_path: Path) -> None:
    path = tmp_path / "small.state"
    run("new", path, "--memory-bytes", 8_000_000, "--lesson-images", 36)
    assert json.loads(run("info", path, "--json")[0])["bytes"]["learning_peak"] <= 8_000_000


def test_info_of_a_model() -> None:
    shipped = json.loads(run("info", "--json")[0])
    assert shipped["image_size"] == 32
    assert shipped["latent_bits"] % 64 == 0
    assert all(isinstance(count, int) and count >= 0 for count in shipped["bytes"].values())
    (file,) = [path for path in MODELS.glob("*.model") if Model.load(path).digest == shipped["digest"]]
    named = json.loads(run("info", file, "--json")[0])
    assert named["bytes"].pop("file") == file.stat().st_size
    assert named == shipped
    assert shipped["digest"] in run("info", file)[0]


def test_undo_forget_and_rename(taught: Path, tmp_path: Path) -> None:
    before = taught.read_bytes()
    run("learn", taught, write_lesson(tmp_path / "again", ["red"], first_seed=50))
    out, _ = run("undo", taught)
    assert "1 lesson, 3 classes: blue, green, red" in out
    assert taught.read_bytes() == before
    refused = assert_refused(taught, "undo", taught)
    assert "nothing can be undone" in refused
    assert "cannot be saved" not in refused
    run("rename", taught, "red", "crimson")
    assert [entry["name"] for entry in json.loads(run("info", taught, "--json")[0])["classes"]] == ["blue", "green", "crimson"]
    assert "expected one of blue, green, crimson, got 'red'" in assert_refused(taught, "forget", taught, "red")
    assert previous_of(taught).exists()
    out, _ = run("forget", taught, "crimson")
    assert "it knows 2 classes. This cannot be undone." in out
    assert not previous_of(taught).exists()
    assert b"crimson" not in taught.read_bytes()
    result = json.loads(run("predict", taught, write_lesson(tmp_path / "test", ["blue", "green"], first_seed=1000), "--json")[0])
    assert result["accuracy"] >= 0.9


def test_a_state_that_was_overwritten_comes_back(taught: Path) -> None:
    before = taught.read_bytes()
    run("new", taught, "--force", "--capacity", 5)
    run("undo", taught)
    assert taught.read_bytes() == before


def test_a_damaged_state_is_told_and_the_one_before_is_used(taught: Path, tmp_path: Path) -> None:
    run("learn", taught, write_lesson(tmp_path / "again", ["red"], first_seed=50))
    taught.write_bytes(taught.read_bytes()[:-1])
    out, err = run("predict", taught, write_lesson(tmp_path / "test", ["blue"], first_seed=1000))
    assert f"using {taught}.previous instead" in err
    assert "accuracy" in out
    out, err = run("info", taught, "--json")
    assert json.loads(out)["lessons"] == 1
    assert f"using {taught}.previous instead" in err


def test_two_commands_at_once(taught: Path, tmp_path: Path) -> None:
    with StateFile(taught):
        for words in (("learn", taught, tmp_path / "lesson"), ("forget", taught, "red"), ("rename", taught, "red", "x"), ("undo", taught)):
            assert "another process is changing it" in assert_refused(taught, *words)
        run("predict", taught, tmp_path / "lesson")


def test_merge_takes_over_what_another_device_was_taught(taught: Path, tmp_path: Path) -> None:
    run("new", tmp_path / "one.state", "--capacity", 20)
    run("new", tmp_path / "two.state", "--capacity", 20)
    run("learn", tmp_path / "one.state", write_lesson(tmp_path / "dark", ["blue"], first_seed=50))
    run("learn", tmp_path / "two.state", write_lesson(tmp_path / "light", ["green", "red"], first_seed=50))
    others = (tmp_path / "two.state").read_bytes()
    out, _ = run("merge", tmp_path / "one.state", tmp_path / "two.state")
    assert "now knows 3 classes; new: green, red" in out
    assert (tmp_path / "two.state").read_bytes() == others
    result = json.loads(run("predict", tmp_path / "one.state", tmp_path / "lesson", "--json")[0])
    assert result["accuracy"] >= 0.9
    run("undo", tmp_path / "one.state")
    assert Learner.load(tmp_path / "one.state").names == ["blue"]
    assert "no such file" in assert_refused(taught, "merge", taught, tmp_path / "none.state")
    (tmp_path / "bad.state").write_bytes(b"x" * 99)
    assert "bad.state" in assert_refused(taught, "merge", taught, tmp_path / "bad.state")


def test_new_takes_a_head_and_views(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    for head, views in (("cwr", 1), ("lda", 6)):
        state = tmp_path / f"{head}.state"
        run("new", state, "--capacity", 10, "--head", head, "--views", views)
        run("learn", state, lesson)
        assert json.loads(run("info", state, "--json")[0])["head"] == head
        assert Learner.load(state).settings.views == views
        assert json.loads(run("predict", state, lesson, "--json")[0])["accuracy"] >= 0.9
    for option, value, message in (
        ("--head", "knn", "head: expected lda or cwr, got 'knn'"),
        ("--views", 3, "views: expected 1, 2 or 6, got 3"),
    ):
        assert message in run("new", tmp_path / "none.state", option, value, code=1)[1]
        assert not (tmp_path / "none.state").exists()
    state = tmp_path / "lda.state"
    assert "views: expected 1, 2 or 6, or None, got 4" in assert_refused(state, "predict", state, lesson, "--views", 4)


def test_heads_of_two_kinds_are_not_merged(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    for head in ("lda", "cwr"):
        run("new", tmp_path / head, "--capacity", 10, "--head", head)
        run("learn", tmp_path / head, lesson)
    said = assert_refused(tmp_path / "lda", "merge", tmp_path / "lda", tmp_path / "cwr")
    assert "expected head lda, as the first, got cwr; only devices that learn alike can be merged" in said


def test_info_of_a_backbone_by_name() -> None:
    assert json.loads(run("info", "reactnet-32", "--json")[0])["name"] == "reactnet-32"
    assert json.loads(run("info", "--json")[0])["name"] == "quicknet-32"
    assert "no such file" in run("info", "quicknet-33", code=1)[1]


def test_new_reaches_every_setting(tmp_path: Path) -> None:
    state = tmp_path / "a.state"
    run(
        "new", state, "--capacity", 30, "--train-blocks", 2, "--set", "tail_noise=13", "--set", "near_equal=0", "--set", "class_priors=true"
    )
    settings = Learner.load(state).settings
    assert settings == Settings(capacity=30, tail=TailSettings(noise=13), near_equal=0, class_priors=True)
    for words, message in (
        (("--set", "tail_noise"), "expected NAME=VALUE, got 'tail_noise'"),
        (("--views", 2, "--set", "views=2"), "views is given twice"),
        (("--capacity", 3, "--memory-bytes", 10_000_000), "give --capacity or --memory-bytes, not both"),
    ):
        assert message in run("new", tmp_path / "none.state", *words, code=2)[1].replace("\n", " ")
    for pair, message in (
        ("capacitty=3", "capacitty: no such setting; did you mean capacity?"),
        ("tail_noise=3", "tail_noise: expected only where the tail is trained"),
        ("lesson_images=many", "lesson_images: expected a whole number from 1"),
    ):
        assert message in run("new", tmp_path / "none.state", "--set", pair, code=1)[1]
    assert not (tmp_path / "none.state").exists()


def test_serve_makes_a_state_with_settings_and_leaves_one_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("bitreplay.serve.server", reason="the page needs Starlette (extra serve)")
    monkeypatch.setattr(server, "run", lambda *_, **__: None)
    state = tmp_path / "a.state"
    run("serve", state, "--capacity", 40, "--train-blocks", 1, "--views", 2)
    assert Learner.load(state).settings == Settings(capacity=40, views=2, tail=TailSettings(train_blocks=1))
    run("serve", state)
    before = state.read_bytes()
    assert "exists already, and --views is for a new state" in run("serve", state, "--views", 1, code=1)[1]
    assert state.read_bytes() == before
