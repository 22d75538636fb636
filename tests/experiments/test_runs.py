"""Runs of a protocol and the file of their results, with a stand-in for networks and methods (fake_training)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_protocol import carry_out, protocol, values

from bitreplay.experiments.environment import told_command
from bitreplay.experiments.plan import plan_runs, split_runs
from bitreplay.experiments.protocol import parse_protocol
from bitreplay.experiments.results import append_result, read_results


def test_a_run_is_measured_after_every_experience(pictures: Path, tmp_path: Path) -> None:
    plan = protocol(
        runs=[{"label": "mean", "method": "mean", "seeds": 2}, {"label": "last", "method": "mean", "settings": {"forgets": True}}]
    )
    lines, failed = carry_out(plan, pictures, tmp_path, command=["/usr/bin/bitreplay", "experiment", "x", "--data", "/home/me/pictures"])
    assert not failed
    assert [(line["label"], line["seed"]) for line in lines] == [("mean", 0), ("mean", 1), ("last", 0)]
    line = lines[0]
    assert line["accuracy"] == [0.5, 0.75, 1.0]
    assert line["matrix"] == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert (line["final"], line["forgetting"]) == (1.0, 0.0)
    assert lines[2]["accuracy"] == [0.5, 0.25, 0.25]
    assert lines[2]["matrix"] == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    assert lines[2]["forgetting"] == 1.0
    assert [note["rows"] for note in line["notes"]] == [20, 10, 10]
    assert (line["replay_row_bytes"], line["replay_bytes"], line["step_peak_bytes"], line["memory"]) == (3, 0, None, {"labels": 2})
    assert line["pictures"] == {"train": 40, "test": 20}
    assert line["command"] == "bitreplay experiment x --data pictures"
    assert set(line) == {
        "key", "protocol", "split", "base", "label", "series", "run", "axes", "method", "settings", "seed", "accuracy", "matrix", "final",
        "forgetting", "at_once", "experiences", "pictures", "replay_row_bytes", "replay_bytes", "step_peak_bytes", "memory",
        "seconds_learning", "seconds_total", "notes", "environment", "commit", "command",
    }  # fmt: skip
    assert set(line["environment"]) == {"python", "numpy", "torch", "bitreplay", "cpu", "isa", "threads", "platform"}
    text = (tmp_path / "results.jsonl").read_text()
    for private in (str(tmp_path), str(pictures), "/home", os.uname().nodename):
        assert private not in text


def test_joint_training_gets_everything_in_one_call(pictures: Path, tmp_path: Path) -> None:
    plan = protocol(runs=[{"label": "joint", "method": "mean", "settings": {"at_once": True}}])
    (line,), _ = carry_out(plan, pictures, tmp_path)
    assert (line["accuracy"], line["matrix"], line["forgetting"], line["at_once"]) == ([1.0], None, None, True)
    assert [note["rows"] for note in line["notes"]] == [40]


def test_experiences_that_share_classes_have_no_matrix(pictures: Path, tmp_path: Path) -> None:
    (line,), _ = carry_out(
        protocol(stream={"kind": "ni", "count": 5, "evaluate_every": 2}, runs=[{"label": "a", "method": "mean"}]), pictures, tmp_path
    )
    assert line["accuracy"] == [None, 1.0, None, 1.0, 1.0]
    assert (line["matrix"], line["forgetting"], line["experiences"]) == (None, None, 5)


def test_classes_that_never_come_are_not_asked_for(pictures: Path, tmp_path: Path) -> None:
    (line,), _ = carry_out(
        protocol(stream={"kind": "nc", "groups": [["red"], ["blue"]]}, runs=[{"label": "a", "method": "mean"}]), pictures, tmp_path
    )
    assert line["accuracy"] == [0.5, 1.0]
    assert line["pictures"] == {"train": 20, "test": 10}


def test_choices_are_made_on_pictures_held_out_of_the_training_set(pictures: Path, tmp_path: Path) -> None:
    (line, _), _ = carry_out(protocol(), pictures, tmp_path, split="valid")
    assert line["split"] == "valid"
    assert line["pictures"] == {"train": 28, "test": 12}


def test_bases_are_made_once_or_once_a_seed(pictures: Path, tmp_path: Path) -> None:
    bases = [{"weights": "some"}, {"name": "whole", "weights": "some", "first_experience": "whole", "model": "m"}]
    content = {key: value for key, value in values().items() if key != "base"}
    lines, _ = carry_out(parse_protocol({**content, "bases": bases}), pictures, tmp_path)
    assert [(line["base"], line["seed"]) for line in lines] == [("some", 0), ("some", 1), ("whole", 0), ("whole", 1)]
    calls = [json.loads(text) for file in (tmp_path / "bases").glob("*/calls.jsonl") for text in file.read_text().splitlines()]
    assert sorted((call["model"], call["seed"]) for call in calls) == [("m", 0), ("m", 1), ("some", 0)]
    assert all(call["first"] == [1, 2] for call in calls)  # green and red
    assert all(Path(call["weights"]).parts[-2:] == ("weights", "some") for call in calls)


def test_runs_with_a_result_are_not_repeated(pictures: Path, tmp_path: Path) -> None:
    first, _ = carry_out(protocol(), pictures, tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    carry_out(protocol(), pictures, tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before
    more, _ = carry_out(protocol(runs=[{"label": "mean", "method": "mean", "seeds": 3}]), pictures, tmp_path)
    assert [line["seed"] for line in more] == [0, 1, 2]
    assert more[:2] == first


def test_a_run_under_another_label_is_named_anew_and_not_repeated(pictures: Path, tmp_path: Path) -> None:
    first, _ = carry_out(protocol(), pictures, tmp_path)
    lines, _ = carry_out(protocol(runs=[{"label": "renamed", "method": "mean", "seeds": 2}]), pictures, tmp_path)
    assert [line["label"] for line in lines] == ["mean", "mean", "renamed", "renamed"]
    assert [line["notes"] for line in lines[2:]] == [line["notes"] for line in first]


def test_two_labels_for_one_run_are_one_run(pictures: Path, tmp_path: Path) -> None:
    runs = [{"label": "a", "method": "mean", "settings": {"capacity": 7}}, {"label": "b", "method": "mean", "grid": {"capacity": [7, 8]}}]
    lines, _ = carry_out(protocol(runs=runs), pictures, tmp_path)
    assert [line["label"] for line in lines] == ["a", "b, capacity 7", "b, capacity 8"]
    assert lines[0]["seconds_total"] == lines[1]["seconds_total"]
    assert lines[0]["key"] == lines[1]["key"]


def test_a_run_that_fails_does_not_take_the_others_with_it(pictures: Path, tmp_path: Path) -> None:
    plan = protocol(runs=[{"label": "a", "method": "mean", "seeds": 3, "settings": {"fails_on_seed": 1}}])
    told: list[tuple[int, int, str | None]] = []
    lines, failed = carry_out(plan, pictures, tmp_path, progress=lambda outcome, done, total: told.append((done, total, outcome.error)))
    assert [line["seed"] for line in lines] == [0, 2]
    assert [(done.run.seed, done.error) for done in failed] == [(1, "RuntimeError: this method fails")]
    assert told == [(1, 3, None), (2, 3, "RuntimeError: this method fails"), (3, 3, None)]


def test_a_base_that_fails_is_tried_once(pictures: Path, tmp_path: Path) -> None:
    _, failed = carry_out(protocol(base={"weights": "some", "epochs": 13}), pictures, tmp_path)
    assert [done.error for done in failed] == ["epochs: expected another number, got 13"] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": [{"label": "a", "method": "mean", "settings": {"colour": 1}}]}, "run 'a': colour: expected settings out of"),
        ({"runs": [{"label": "a", "method": "median"}]}, "run 'a': method: expected one of mean, got 'median'"),
        ({"base": {"weights": "some", "colour": 1}}, "base 'some': .*colour"),
    ],
)
def test_impossible_settings_are_found_before_anything_runs(pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        carry_out(protocol(**changes), pictures, tmp_path)
    assert not list(tmp_path.iterdir())


def test_commands_are_told_without_folders_and_addresses() -> None:
    words = [
        "/a/b/bitreplay",
        "experiment",
        "x.toml",
        "--data",
        "/a/b/c",
        "--out=/a/d",
        "--only",
        "the label",
        "--scheduler",
        "tcp://1.2.3.4:5",
        "--weights",
        "w/x",
    ]
    assert told_command(words) == "bitreplay experiment x.toml --data c --out=d --only 'the label' --scheduler tcp://... --weights w/x"


def test_a_line_that_was_cut_off_is_passed_over_and_done_again(pictures: Path, tmp_path: Path) -> None:
    whole, _ = carry_out(protocol(), pictures, tmp_path)
    file = tmp_path / "results.jsonl"
    content = file.read_bytes()
    first = content.index(b"\n") + 1
    for size in (first + 1, len(content) - 1, first, 10):
        file.write_bytes(content[:size])
        lines = read_results(file)
        assert [line["seed"] for line in lines] == ([0] if size >= first else [])
        runs = plan_runs(protocol(), split="test", weights=Path("weights").absolute())
        assert len(split_runs(runs, tmp_path)[0]) == 2 - len(lines)
        again, _ = carry_out(protocol(), pictures, tmp_path)
        assert [line["seed"] for line in again] == [0, 1]
        assert [line["accuracy"] for line in again] == [line["accuracy"] for line in whole]
        assert all(json.loads(text) for text in file.read_text().splitlines())


def test_a_long_line_that_was_cut_off_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    append_result(file, {"key": "a", "label": "x"})
    with file.open("ab") as stream:
        stream.write(b'{"key": "' + b"y" * 200_000)
    append_result(file, {"key": "b", "label": "x"})
    assert file.read_text() == '{"key": "a", "label": "x"}\n{"key": "b", "label": "x"}\n'


def test_the_last_line_of_a_key_and_label_counts(tmp_path: Path) -> None:
    for key, label, value in (("a", "x", 1), ("b", "x", 2), ("a", "y", 3), ("a", "x", 4)):
        append_result(tmp_path / "results.jsonl", {"key": key, "label": label, "value": value})
    assert [line["value"] for line in read_results(tmp_path)] == [2, 3, 4]


@pytest.mark.parametrize("text", ["nonsense", "[1]", '{"key": "a"}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text('{"key": "a", "label": "x"}\n' + text + '\n{"key": "b", "label": "x"}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl: line 2: expected a result"):
        read_results(file)
