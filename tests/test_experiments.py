"""Protocols, the runs they stand for, their results and the report, with a stand-in for networks and methods (fake_training)."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from fake_training import FakeWorkbench
from PIL import Image

from bitreplay import cli
from bitreplay.experiments import markdown, report
from bitreplay.experiments.environment import told_command
from bitreplay.experiments.markdown import embed
from bitreplay.experiments.perform import Place
from bitreplay.experiments.plan import check_runs, plan_runs, split_runs
from bitreplay.experiments.protocol import Protocol, parse_protocol, read_protocol, shipped
from bitreplay.experiments.report import bytes_within, report_parts, write_report
from bitreplay.experiments.results import append_result, read_results
from bitreplay.experiments.schedule import Done, run_all
from bitreplay.training import workbench
from bitreplay.training.workbench import TorchWorkbench

FAKE = FakeWorkbench()
COLOURS = {"blue": (20, 40, 230), "green": (30, 200, 40), "red": (240, 20, 30), "white": (240, 240, 240)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colours, ten pictures of each to learn and five to be tested on."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-15, 16, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def values(**changes: Any) -> dict[str, Any]:
    """A protocol as its file gives it."""
    return {
        "name": "colours",
        "data": {"set": "folder", "image_size": 8, "valid": 0.3},
        "stream": {"kind": "nc", "groups": [["green", "red"], ["blue"], ["white"]]},
        "base": {"weights": "some"},
        "runs": [{"label": "mean", "method": "mean", "seeds": 2}],
        **changes,
    }


def protocol(**changes: Any) -> Protocol:
    return parse_protocol(values(**changes), "colours.toml")


def carry_out(plan: Protocol, pictures: Path, out: Path, split: str = "test", **options: Any) -> tuple[list[dict[str, Any]], list[Done]]:
    """Results and failures of all runs of a protocol."""
    place = Place(pictures, out, Path("weights"))
    runs = plan_runs(plan, split=split, weights=place.weights)
    failed = run_all(plan, runs, place, FAKE, threads=1, **options)
    file = out / "results.jsonl"
    return (read_results(file) if file.exists() else []), failed


# -- protocols --------------------------------------------------------------------------------------------------------------------


def test_every_shipped_protocol_can_be_read() -> None:
    assert set(shipped()) >= {
        "cifar10-nc5", "cifar10-ni10", "tiny-imagenet-nc20", "cifar100-nc10", "core50-nc", "core50-ni", "core50-nicv2-391", "folder-nc",
    }  # fmt: skip
    for name in shipped():
        plan = read_protocol(name)
        assert plan.name == name
        assert plan_runs(plan, split="test", weights=Path("weights"))


def test_every_shipped_protocol_is_what_bases_and_methods_take() -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    for name in shipped():
        check_runs(plan_runs(read_protocol(name), split="test", weights=Path("weights")), Path("weights"), TorchWorkbench())


def test_nc5_has_the_order_of_the_papers() -> None:
    assert read_protocol("cifar10-nc5").stream.groups == (
        ("frog", "bird"), ("airplane", "ship"), ("horse", "automobile"), ("dog", "deer"), ("truck", "cat"),
    )  # fmt: skip


def test_a_protocol_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'name = "mine"\n[data]\nset = "folder"\n[stream]\nkind = "ni"\ncount = 4\n[[bases]]\nweights = "w"\n[[bases]]\nname = "whole"\n'
        'weights = "w"\nfirst_experience = "whole"\nepochs = 3\n[[runs]]\nlabel = "a"\nmethod = "m"\nseeds = [4, 2]\nbases = ["whole"]\n'
        "settings = { x = 1, y = [1, 2] }\n"
    )
    plan = read_protocol(file)
    assert (plan.data.valid, plan.stream.count) == (0.2, 4)
    assert [(base.name, base.first_experience, base.options) for base in plan.bases] == [
        ("w", "frozen", {}),
        ("whole", "whole", {"epochs": 3}),
    ]
    runs = plan_runs(plan, split="test", weights=tmp_path)
    assert [(run.base.name, run.seed, run.settings) for run in runs] == [
        ("whole", 4, {"x": 1, "y": [1, 2]}),
        ("whole", 2, {"x": 1, "y": [1, 2]}),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"naem": "x"}, "naem: expected keys out of name, data, stream, base, runs, got naem"),
        ({"name": 3}, "name: expected text, got 3"),
        ({"data": {"set": "mnist"}}, "data.set: expected one of cifar10, cifar100, tiny-imagenet, core50, folder, got 'mnist'"),
        ({"data": {}}, "data.set: expected one of cifar10, .*, got nothing"),
        ({"data": {"set": "folder", "image_size": "32"}}, "data.image_size: expected a whole number from 8 to 1024, got '32'"),
        ({"data": {"set": "folder", "image_size": True}}, "data.image_size: expected"),
        ({"data": {"set": "folder", "valid": 1}}, "data.valid: expected a share between 0 and 1, got 1"),
        ({"data": {"set": "cifar10", "labels": "category"}}, "data.labels: expected keys out of set, image_size, valid, got labels"),
        ({"stream": {"kind": "nc"}}, "stream: expected either groups or classes_each, got neither"),
        ({"stream": {"kind": "nc", "groups": [["a"]], "classes_each": 1}}, "stream: expected either groups or classes_each, got both"),
        ({"stream": {"kind": "nc", "groups": [["a"], []]}}, "stream.groups: expected a list of lists"),
        ({"stream": {"kind": "nc", "groups": [["a"]], "count": 2}}, "stream.count: expected keys out of"),
        ({"stream": {"kind": "ni", "count": 0}}, "stream.count: expected a whole number, at least 1, got 0"),
        ({"stream": {"kind": "files", "lists": "NC_inc"}}, "stream.kind: expected nc or ni, since only core50 has lists"),
        ({"base": {}}, "base.weights: expected text, got nothing"),
        ({"base": {"weights": "w", "first_experience": "half"}}, "base.first_experience: expected one of frozen, whole, got 'half'"),
        ({"bases": [{"weights": "w"}]}, r"base: expected either \[base\] or \[\[bases\]\], got both"),
        ({"runs": []}, "runs: expected a list of tables, at least one"),
        ({"runs": [{"label": "a", "method": "m", "seeds": 0}]}, r"runs\[0\].seeds: expected a count of seeds"),
        ({"runs": [{"label": "a", "method": "m", "seeds": [1, 1]}]}, r"runs\[0\].seeds: expected"),
        ({"runs": [{"label": "a", "method": "m", "grid": {"x": []}}]}, r"runs\[0\].grid: expected a table of lists"),
        ({"runs": [{"label": "a", "method": "m", "grid": {"x": 3}}]}, r"runs\[0\].grid: expected a table of lists"),
        ({"runs": [{"label": "a", "method": "m", "grid": {"x": [1]}, "settings": {"x": 2}}]}, r"runs\[0\].grid.x: expected an axis"),
        (
            {"runs": [{"label": "a {y}", "method": "m", "grid": {"x": [1]}}]},
            r"runs\[0\].label: expected settings in braces out of x, got {y}",
        ),
        ({"runs": [{"label": "a {", "method": "m"}]}, r"runs\[0\].label: expected text, with settings in braces"),
        ({"runs": [{"label": "a", "method": "m"}, {"label": "a", "method": "n"}]}, "runs: expected a label for each run, got 'a' twice"),
        ({"runs": [{"label": "a", "method": "m", "bases": ["other"]}]}, r"runs\[0\].bases: expected names out of some, got other"),
    ],
)
def test_what_is_wrong_with_a_protocol_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^colours.toml: {message}"):
        protocol(**changes)


def test_a_file_that_is_no_protocol_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("name = ")
    with pytest.raises(ValueError, match=r"^a\.toml: expected TOML"):
        read_protocol(tmp_path / "a.toml")
    with pytest.raises(FileNotFoundError, match=r"none of the shipped protocols: .*cifar10-nc5"):
        read_protocol("nowhere")


def test_grids_are_multiplied_out_and_labelled() -> None:
    plan = protocol(
        runs=[
            {"label": "e ({bits})", "method": "m", "grid": {"bits": [8, 16], "capacity": [1, 2]}, "settings": {"width": 3}},
            {"label": "f, M = {capacity}", "method": "m", "grid": {"capacity": [5]}},
        ]
    )
    runs = plan_runs(plan, split="test", weights=Path("w"))
    assert [run.label for run in runs] == ["e (8), capacity 1", "e (8), capacity 2", "e (16), capacity 1", "e (16), capacity 2", "f, M = 5"]
    assert [run.series for run in runs] == ["e (8)", "e (8)", "e (16)", "e (16)", "f, M = M"]
    assert runs[1].settings == {"width": 3, "bits": 8, "capacity": 2}
    assert runs[1].axes == ("bits", "capacity")
    assert [run.label for run in plan_runs(plan, split="test", weights=Path("w"), only=["e ({bits})"])] == [run.label for run in runs[:4]]
    assert len(plan_runs(plan, split="test", weights=Path("w"), only=["e (16), capacity 1"], seeds=range(3))) == 3
    with pytest.raises(ValueError, match=r"only: expected labels out of e \(8\), capacity 1, .*; got e$"):
        plan_runs(plan, split="test", weights=Path("w"), only=["e"])


def keys(split: str = "test", weights: Path = Path("none"), **changes: Any) -> tuple[list[str], list[str]]:
    runs = plan_runs(protocol(**changes), split=split, weights=weights)
    return [run.key for run in runs], [run.base_key for run in runs]


def test_a_key_tells_apart_what_changes_a_result_and_nothing_else(tmp_path: Path) -> None:
    run_keys, base_keys = keys()
    assert len(set(run_keys)) == 2  # two seeds
    assert len(set(base_keys)) == 1  # a frozen base does not depend on them
    again = keys(runs=[{"label": "another name", "method": "mean", "seeds": [0, 1]}])
    assert again == (run_keys, base_keys)
    assert keys(data={**values()["data"], "valid": 0.1}) == (run_keys, base_keys)  # not looked at in tests
    for changes in (
        {"split": "valid"},
        {"runs": [{"label": "mean", "method": "mean", "seeds": 2, "settings": {"capacity": 1}}]},
        {"runs": [{"label": "mean", "method": "other", "seeds": 2}]},
        {"stream": {"kind": "ni", "count": 2}},
        {"data": {**values()["data"], "image_size": 9}},
        {"base": {"weights": "other"}},
        {"base": {"weights": "some", "epochs": 4}},
    ):
        assert not set(keys(**changes)[0]) & set(run_keys), changes
    valid = keys("valid")
    assert not set(keys("valid", data={**values()["data"], "valid": 0.1})[0]) & set(valid[0])
    # "whole": the first experience makes the base, so stream and seed belong to it.
    whole = keys(base={"weights": "some", "first_experience": "whole"})
    assert len(set(whole[1])) == 2
    assert not set(keys(base={"weights": "some", "first_experience": "whole"}, stream={"kind": "ni", "count": 2})[1]) & set(whole[1])
    assert keys(stream={"kind": "ni", "count": 2})[1] == base_keys
    # Weights of the same name that are other weights.
    (tmp_path / "some-00000.safetensors").write_bytes(b"1")
    first = keys(weights=tmp_path)
    (tmp_path / "some-00000.safetensors").write_bytes(b"2")
    assert not set(keys(weights=tmp_path)[0]) & set(first[0])


# -- runs -------------------------------------------------------------------------------------------------------------------------


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


# -- results ----------------------------------------------------------------------------------------------------------------------


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


# -- workers ----------------------------------------------------------------------------------------------------------------------


def test_workers_do_what_one_process_does_and_outlive_a_run_that_kills_its_worker(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    runs = [
        {"label": "a", "method": "mean", "seeds": 3},
        {"label": "b", "method": "mean", "seeds": 3, "settings": {"fails_on_seed": 1}},
        {"label": "c", "method": "mean", "seeds": 2, "settings": {"dies_on_seed": 1}},
    ]
    lines, failed = carry_out(protocol(runs=runs), pictures, tmp_path / "many", workers=2)
    assert sorted((line["label"], line["seed"]) for line in lines) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 2), ("c", 0)]
    assert sorted((done.run.label, done.run.seed) for done in failed) == [("b", 1), ("c", 1)]
    errors = {done.run.label: done.error or "" for done in failed}
    assert errors["b"] == "RuntimeError: this method fails"
    assert "worker" in errors["c"].lower()
    alone, _ = carry_out(protocol(runs=runs[:1]), pictures, tmp_path / "one")
    same = ("key", "accuracy", "matrix", "final", "pictures")
    found = sorted((line for line in lines if line["label"] == "a"), key=lambda line: line["seed"])
    assert [{key: line[key] for key in same} for line in found] == [{key: line[key] for key in same} for line in alone]
    assert {note["process"] for line in lines for note in line["notes"]}.isdisjoint({os.getpid()})


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from bitreplay.training import workbench
from fake_training import FakeWorkbench
workbench.TorchWorkbench = FakeWorkbench
from bitreplay.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_after_ctrl_c_the_same_command_goes_on(pictures: Path, tmp_path: Path, workers: int) -> None:
    if workers > 1:
        pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    program, plan = tmp_path / "program.py", tmp_path / "slow.toml"
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))
    text = (
        'name = "slow"\n[data]\nset = "folder"\nimage_size = 8\n[stream]\nkind = "ni"\ncount = 1\n[base]\nweights = "some"\n'
        '[[runs]]\nlabel = "quick"\nmethod = "mean"\nseeds = 2\n[[runs]]\nlabel = "slow"\nmethod = "mean"\nseeds = 2\nsettings = {{ seconds = {} }}\n'
    )
    plan.write_text(text.format(60))
    words = [sys.executable, program, "experiment", plan, "--data", pictures, "--out", tmp_path / "out", "--workers", str(workers)]
    # A session of its own: as at a terminal, Ctrl-C goes to the workers, too.
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        file = tmp_path / "out" / "results.jsonl"
        deadline = time.monotonic() + 60
        while not file.exists() or file.read_bytes().count(b"\n") < 2:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=30)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert running.returncode == 130
    assert err.splitlines()[-1] == f"interrupted: finished runs are in {file}; the same command goes on"
    assert "Traceback" not in err
    before = file.read_bytes()
    assert [line["label"] for line in read_results(file)] == ["quick", "quick"]
    done = subprocess.run([*words, "--only", "quick"], capture_output=True, text=True, check=True)
    assert "2 of 2 runs" in done.stdout
    assert file.read_bytes() == before


def test_a_running_scheduler_is_used_where_one_is_named(pictures: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed (extra train)")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address=None,
        host="127.0.0.1",
        local_directory=str(tmp_path / "dask"),
    ) as cluster:
        lines, failed = carry_out(protocol(), pictures, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert (len(lines), failed) == (2, [])


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_the_real_bases_and_methods_fit(pictures: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    runs = [
        {"label": "slda", "method": "slda"},
        {"label": "engine", "method": "engine", "settings": {"capacity": 8}},
    ]
    plan = protocol(data={"set": "folder", "image_size": 32}, base={"weights": "quicknet-32"}, runs=runs)
    place = Place(pictures, tmp_path, Path(__file__).parents[1] / "weights")
    assert run_all(plan, plan_runs(plan, split="test", weights=place.weights), place, TorchWorkbench(), threads=1) == []
    slda, engine = read_results(tmp_path)
    assert slda["accuracy"] == engine["accuracy"] == [0.5, 0.75, 1.0]
    assert engine["replay_bytes"] == 8 * engine["replay_row_bytes"] == 8 * 770


# -- the commands -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, run in `tmp_path` with the stand-in."""
    monkeypatch.setattr(workbench, "TorchWorkbench", FakeWorkbench)
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result.stdout, result.stderr

    return run


TOML = """
name = "colours"
[data]
set = "folder"
image_size = 8
valid = 0.3
[stream]
kind = "nc"
groups = [["green", "red"], ["blue"], ["white"]]
[base]
weights = "some"
[[runs]]
label = "all"
method = "mean"
settings = { at_once = true }
[[runs]]
label = "mean"
method = "mean"
seeds = 2
[[runs]]
label = "fails"
method = "mean"
seeds = 2
settings = { fails_on_seed = 1 }
"""


def test_the_commands_on_a_protocol(command: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    dry, _ = command("experiment", "mine.toml", "--data", "nowhere", "--dry-run")
    assert "5 of 5 runs to do" in dry
    assert not (tmp_path / "bitreplay-runs").exists()

    words = ("experiment", "mine.toml", "--data", pictures)
    out, err = command(*words, "--only", "mean", "--only", "all", "--threads", 1)
    assert "1/3  some, all, seed 0: 100.0 % in 0 s" in out
    assert out.endswith(f"{Path('bitreplay-runs/results.jsonl')}: 3 of 3 runs\n")
    out, err = command(*words, code=1)
    assert "note: some, fails, seed 1 failed: RuntimeError: this method fails" in err
    assert err.splitlines()[-1].startswith("error: 1 of 5 runs failed, the others are in bitreplay-runs/results.jsonl")
    assert "all" not in out
    dry, _ = command(*words, "--dry-run")
    assert "1 of 5 runs to do" in dry
    assert "7 of 9 runs to do" not in command(*words, "--dry-run", "--seeds", 3)[0]
    command(*words, "--split", "valid", "--only", "mean", "--seeds", 1)

    (tmp_path / "docs.md").write_text("# Ours\n\n<!-- table: final colours-some -->\nold\n<!-- end -->\nrest\n")
    out, _ = command("report", "bitreplay-runs", "--split", "test", "--against", "all", "--embed", "docs.md", "--out", "shown")
    assert "docs.md: final colours-some" in out
    text = (tmp_path / "docs.md").read_text()
    assert "| mean | 100.00 ± 0.00 | 0.00 |" in text
    assert "old" not in text
    assert text.endswith("<!-- end -->\nrest\n")
    assert "| mean | +0.00 | 1 |" in (tmp_path / "shown" / "report.md").read_text()
    both = command("report", "bitreplay-runs")[0]
    assert "from 5 runs" in both
    assert "must not be compared" in (tmp_path / "bitreplay-report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("experiment", "nothing.toml", "--data", "."), "error: nothing.toml: no such file, and none of the shipped protocols: "),
        (("experiment", "cifar10-nc5", "--data", "nowhere"), "error: nowhere: expected a folder with cifar10, found none"),
        (("experiment", "cifar10-nc5", "--data", ".", "--split", "both"), "error: split: expected one of test, valid, got 'both'"),
        (("experiment", "cifar10-nc5", "--data", ".", "--only", "x"), "error: only: expected labels out of "),
        (("report", "nowhere"), "error: nowhere: No such file or directory"),
    ],
)
def test_what_the_commands_refuse(command: Any, words: tuple[str, ...], message: str) -> None:
    assert command(*words, code=1)[1].splitlines()[-1].startswith(message)


def test_without_dask_workers_are_refused_with_a_word_how_to_get_it(
    command: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    monkeypatch.setitem(sys.modules, "distributed", None)
    _, err = command("experiment", "mine.toml", "--data", pictures, "--workers", 2, code=1)
    assert err.splitlines()[-1] == 'error: distributed is not installed; pip install "bitreplay[train]"'


def test_a_missing_set_is_said_once_for_each_run(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    (tmp_path / "empty").mkdir()
    _, err = command("experiment", "mine.toml", "--data", "empty", "--only", "all", code=1)
    assert "expected a subfolder per class with pictures in it" in err


# -- the report -------------------------------------------------------------------------------------------------------------------


def result(label: str, seed: int, final: float, **more: Any) -> dict[str, Any]:
    line = {
        "key": f"{label} {seed} {more.get('split')}", "protocol": "p", "split": "test", "base": "b", "label": label, "series": label, "run": label,
        "axes": [], "method": "m", "settings": {}, "seed": seed, "accuracy": [final / 2, final], "matrix": [[1.0, 0.0], [final, 1.0]],
        "final": final, "forgetting": 1 - final, "at_once": False, "experiences": 2, "replay_row_bytes": None, "replay_bytes": None,
        "step_peak_bytes": None, "seconds_learning": 1.5, "seconds_total": 2.0, "environment": {"cpu": "c", "isa": "avx2", "threads": 1}, "commit": "abc",
    }  # fmt: skip
    return {**line, **more}


def tables(lines: list[dict[str, Any]], against: tuple[str, ...] = ()) -> dict[str, str]:
    return {part.name: part.table for _, parts in report_parts(lines, against) for part in parts}


JOINT = {"at_once": True, "accuracy": [0.8], "matrix": None, "forgetting": None}


def test_final_accuracy_is_mean_and_deviation_over_seeds() -> None:
    notes = [{"flipped": 0.0}, {"flipped": 0.02}, {"flipped": 0.031}]
    lines = [
        result("a", 0, 0.6, notes=notes),
        result("a", 1, 0.7),
        result("b", 0, 0.5),
        result("j", 0, 0.8, **JOINT),
        result("k", 0, 0.7, **JOINT),
    ]
    assert tables(lines)["final p-b"] == (
        "| method | final accuracy | below joint | forgetting | replay bytes | flipped an experience, % | seeds |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| a | 65.00 ± 7.07 | 15.00 | 35.00 ± 7.07 |  | 2.00 to 3.10 | 2 |\n"
        "| b | 50.00 | 30.00 | 50.00 |  |  | 1 |\n"
        "| j | 80.00 | 0.00 |  |  |  | 1 |\n"
        "| k | 70.00 | 10.00 |  |  |  | 1 |"
    )


def test_differences_are_of_the_same_seed() -> None:
    lines = [result("a", 0, 0.6), result("a", 1, 0.7), result("a", 2, 0.1), result("b", 1, 0.65), result("b", 0, 0.57), result("c", 7, 0.5)]
    assert tables(lines, ("b",))["paired p-b"].splitlines()[2:] == ["| a | +4.00 ± 1.41 | 2 |"]
    assert tables(lines, ("a",))["paired p-b"].splitlines()[2:] == ["| b | -4.00 ± 1.41 | 2 |"]
    with pytest.raises(ValueError, match="against: expected a label out of a, b, c, got 'd'"):
        tables(lines, ("d",))


def test_accuracy_after_each_experience_and_matrix() -> None:
    lines = [result("a", 0, 0.6), result("a", 1, 0.8), result("n", 0, 0.5, accuracy=[None, 0.5], matrix=None), result("j", 0, 0.8, **JOINT)]
    found = tables(lines)
    assert found["experiences p-b"].splitlines()[2:] == ["| a | 35.0 ± 7.1 | 70.0 ± 14.1 |", "| n |  | 50.0 |"]
    assert found["matrix p-b a"].splitlines()[2:] == ["| 1 | 100.0 | 0.0 |", "| 2 | 70.0 | 100.0 |"]
    assert {name for name in found if name.startswith("matrix")} == {"matrix p-b a"}


def test_many_experiences_are_thinned_out() -> None:
    lines = [result("a", 0, 0.5, accuracy=[0.5] * 391, matrix=None)]
    header = tables(lines)["experiences p-b"].splitlines()[0]
    assert header.startswith("| method | 20 | 40 |")
    assert header.endswith("| 380 | 391 |")


@pytest.mark.parametrize(
    ("points", "target", "text", "value"),
    [
        ([(100, 0.6)], 0.5, "<= 100", None),
        ([(100, 0.4), (400, 0.4)], 0.5, "> 400", None),
        ([(100, 0.4), (400, 0.6)], 0.5, "200", 200),
        ([(100, 0.4), (400, 0.5), (1600, 0.9)], 0.5, "400", 400),
        ([(100, 0.4), (400, 0.3), (1600, 0.5)], 0.45, "1,131", 1131.4),
    ],
)
def test_bytes_at_which_a_curve_reaches_a_target(points: list[tuple[float, float]], target: float, text: str, value: float | None) -> None:
    found = bytes_within(points, target)
    assert found[0] == text
    assert found[1] == (None if value is None else pytest.approx(value, abs=0.05))


def test_accuracy_against_replay_bytes() -> None:
    lines = [
        *(result(f"bits {m}", 0, f, series="bits", replay_bytes=m) for m, f in ((400, 0.8), (100, 0.74))),
        *(result(f"float {m}", s, f + s / 100, series="float", replay_bytes=m) for m, f in ((1000, 0.7), (4000, 0.78)) for s in (0, 2)),
        *(result(f"8-bit {m}", 0, f, series="8-bit", replay_bytes=m) for m, f in ((500, 0.6), (900, 0.61))),
        result("none", 0, 0.7, series="none", replay_bytes=0),
        result("j", 0, 0.8, **JOINT),
    ]
    assert tables(lines)["memory p-b"].splitlines()[2:] == [
        "| bits | 100: 74.00; 400: 80.00 | 200 | 1.0 |",
        "| float | 1,000: 71.00; 4,000: 79.00 | 2,828 | 14.1 |",
        "| 8-bit | 500: 60.00; 900: 61.00 | > 900 |  |",
    ]
    assert "memory p-b" not in tables(lines[-2:])


def test_grids_are_tables() -> None:
    def cell(down: int, across: int, more: str, final: float) -> dict[str, Any]:
        settings = {"gradient_bits": down, "weight_bits": across, "master": more}
        return result(f"{down} {across} {more}", 0, final, run="g", axes=list(settings), settings=settings)

    lines = [cell(16, 8, "own", 0.1), cell(8, 8, "own", 0.2), cell(8, 16, "own", 0.3), cell(8, 16, "copy", 0.4)]
    found = tables(lines)
    assert found["grid p-b g, master own"].splitlines() == [
        "| gradient_bits \\ weight_bits | 8 | 16 |", "| --- | --- | --- |", "| 8 | 20.00 | 30.00 |", "| 16 | 10.00 |  |",
    ]  # fmt: skip
    assert found["grid p-b g, master copy"].splitlines()[2:] == ["| 8 | 40.00 |"]


def test_what_is_not_comparable_is_kept_apart_and_said(tmp_path: Path) -> None:
    lines = [result("a", 0, 0.5), result("a", 1, 0.6, commit="def"), result("a", 0, 0.9, split="valid"), result("a", 0, 0.7, base="c")]
    names = [group.name for group, _ in report_parts(lines)]
    assert names == ["p-b", "p-valid-b", "p-c"]
    file, _ = write_report(lines, tmp_path)
    text = file.read_text()
    assert "commit abc, def (several: figures may not be comparable)" in text
    assert "measured on pictures held out of the training set" in text
    assert "must not be compared with one another" in text


def test_a_report_has_its_plots_beside_it(tmp_path: Path) -> None:
    lines = [result(f"a {m}", s, 0.5 + m / 1000, series="a", run="a", replay_bytes=m) for m in (10, 100) for s in (0, 1)]
    lines.append(result("j", 0, 0.8, **JOINT))
    file, found = write_report(lines, tmp_path / "r", svg=True)
    links = [line.partition("(")[2].rstrip(")") for line in file.read_text().splitlines() if line.startswith("![")]
    assert links == ["experiences-p-b.png", "memory-p-b.png"]
    for link in links:
        with Image.open(tmp_path / "r" / link) as plot:
            assert plot.size == (960, 600)
            assert len(set(plot.convert("L").tobytes())) > 10
        assert (tmp_path / "r" / link).with_suffix(".svg").exists()
    assert set(found) == {"final p-b", "experiences p-b", "memory p-b", "matrix p-b a 100", "cost p-b"}
    with pytest.raises(ValueError, match="results: expected at least one finished run, got none"):
        write_report([], tmp_path / "none")


def test_tables_are_put_between_their_marks() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- table: y -->\nkept\n<!-- end -->\n"
    assert embed(text, {"x": "new", "z": "?"}) == (text.replace("old", "new"), ["x"])
    with pytest.raises(ValueError, match="expected the marks <!-- table: x --> and <!-- end -->, found no <!-- end -->"):
        embed("<!-- table: x -->", {"x": "new"})


def test_examples() -> None:
    for module in (markdown, report):
        assert doctest.testmod(module).failed == 0
