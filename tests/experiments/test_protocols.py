"""Protocols: the shipped ones, what a file may say, and the key that tells runs apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_protocol import protocol, values

from bitreplay.experiments.plan import check_runs, plan_runs
from bitreplay.experiments.protocol import read_protocol, shipped
from bitreplay.training.workbench import TorchWorkbench


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
