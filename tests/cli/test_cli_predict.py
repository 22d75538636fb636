"""`bitreplay predict`: names, accuracy and confusion of pictures, with classes and without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitreplay import cli

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import PICTURES, assert_refused, run, write_lesson


def test_predict_in_batches_gives_what_one_batch_gives(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("predict", taught, tmp_path / "lesson", "--json")[0]
    monkeypatch.setattr(cli.predict, "PREDICT_BATCH", 5)
    assert run("predict", taught, tmp_path / "lesson", "--json")[0] == whole


def test_predict_changes_nothing(taught: Path, tmp_path: Path) -> None:
    before = taught.read_bytes()
    run("predict", taught, tmp_path / "lesson")
    run("info", taught)
    assert taught.read_bytes() == before


def test_predict_without_class_folders_names_each_picture(taught: Path, tmp_path: Path) -> None:
    flat = tmp_path / "lesson" / "red"
    result = json.loads(run("predict", taught, flat, tmp_path / "lesson" / "blue" / "00.png", "--json")[0])
    assert "accuracy" not in result
    assert [image["file"] for image in result["images"]] == [str(path) for path in sorted(flat.iterdir())] + [
        str(tmp_path / "lesson" / "blue" / "00.png")
    ]
    assert all("class" not in image for image in result["images"])
    out, _ = run("predict", taught, flat)
    lines = out.splitlines()
    assert len(lines) == PICTURES
    for line, image in zip(lines, result["images"], strict=False):
        assert line == f"{image['file']}: {image['name']} ({100 * image['probability']:.1f} %)"


def test_predict_with_and_without_classes_at_once(taught: Path, tmp_path: Path) -> None:
    single = tmp_path / "lesson" / "blue" / "00.png"
    result = json.loads(run("predict", taught, single, tmp_path / "lesson", "--json")[0])
    assert (result["total"], len(result["images"])) == (3 * PICTURES, 3 * PICTURES + 1)
    out, _ = run("predict", taught, single, tmp_path / "lesson")
    assert out.splitlines()[0].startswith(f"{single}: ")
    assert out.splitlines()[1].startswith("accuracy ")


def test_classes_unknown_to_the_state_count_as_errors(state: Path, tmp_path: Path) -> None:
    run("learn", state, write_lesson(tmp_path / "lesson", ["green", "red"]))
    test = write_lesson(tmp_path / "test", ["blue", "red"])
    result = json.loads(run("predict", state, test, "--json")[0])
    assert result["unknown"] == ["blue"]
    assert result["total"] == 2 * PICTURES
    assert result["accuracy"] <= 0.5
    assert result["right"] == sum(image["class"] == image["name"] for image in result["images"])
    assert "unknown to the state, counted as errors: blue" in run("predict", state, test)[0]


def test_many_classes_are_shown_as_a_list_of_confusions(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = tmp_path / "swapped"
    shutil.copytree(tmp_path / "lesson" / "red", swapped / "blue")
    monkeypatch.setattr(cli.predict, "WIDEST_CONFUSION", 1)
    counts = json.loads(run("predict", taught, swapped, "--json")[0])["confusion"]
    number = counts["classes"].index
    out, _ = run("predict", taught, swapped)
    row = [line for line in out.splitlines() if "blue" in line and "red" in line]
    assert str(counts["counts"][number("blue")][number("red")]) in row[0]


def test_predict_before_any_lesson(state: Path, tmp_path: Path) -> None:
    message = assert_refused(state, "predict", state, write_lesson(tmp_path / "test", ["red"]))
    assert "knows no class yet" in message


def test_what_is_unknown_is_called_so_when_asked(state: Path, tmp_path: Path) -> None:
    run("learn", state, write_lesson(tmp_path / "lesson", ["blue", "green"]))
    test = write_lesson(tmp_path / "test", ["blue", "red"], first_seed=70)
    out, _ = run("predict", state, test, "--reject", "0.1")
    assert "pictures of known classes called unknown: " in out
    assert out.splitlines()[-1].endswith(f" of {PICTURES}")
    result = json.loads(run("predict", state, test, "--reject", "0.1", "--json")[0])
    assert result["false_rejects"]["of"] == result["false_accepts"]["of"] == PICTURES
    unknown = [image["unknown"] for image in result["images"] if image["class"] == "red"]
    assert result["false_accepts"]["count"] == PICTURES - sum(unknown)
    assert sum(unknown) > PICTURES // 2
    assert "unknown; closest to" in run("predict", state, *sorted((test / "red").iterdir()), "--reject", "0.1")[0]
    for bad in ("0", "1", "-1", "nan"):
        assert "expected a share between 0 and 1" in assert_refused(state, "predict", state, test, "--reject", bad)
