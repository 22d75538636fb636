"""Many devices' files become one learner, here or on workers (docs/method.md, 8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_model
from new_learner import new_learner

from bitreplay import Cancelled, FormatError, Learner, Model
from bitreplay.fleet import PART
from bitreplay.model import write_model

SIZE = 16
QUICK: dict[str, Any] = {"capacity": 9, "threads": 1, "near_equal": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(4, image_size=SIZE, widths=(8, 20), blocks=(1, 1))
    return write_model(tmp_path_factory.mktemp("fleet") / "tiny.model", network, tensors, {"name": "tiny"})


def files(model: Model, folder: Path, count: int, **settings: Any) -> list[Path]:
    """States of devices that know two of nine classes each."""
    paths = []
    for number in range(count):
        learner = new_learner(model, **{**QUICK, **settings})
        names = [str(number % 9), str((number + 1) % 9)]
        learner.learn(tiny_model.random_images(100 + number, 6, SIZE), [names[i % 2] for i in range(6)])
        paths.append(folder / f"{number}.state")
        learner.save(paths[-1])
    return paths


def head_of(learner: Learner) -> dict[str, tuple[bytes, int]]:
    weight, bias, exponent = learner._core["classifier"]
    return {name: (weight[c].tobytes(), int(bias[c]) << (60 - exponent)) for c, name in enumerate(learner.names)}


def remembered(learner: Learner) -> set[tuple[str, bytes]]:
    core = learner._core
    return {(learner.names[label], row.tobytes()) for row, label in zip(core["rows"], core["labels"], strict=True)}


@pytest.mark.parametrize("head", ["lda", "cwr"])
def test_files_are_merged_as_learners_are(model: Model, tmp_path: Path, head: str) -> None:
    paths = files(model, tmp_path, 5, head=head)
    a, b = (new_learner(model, **QUICK, head=head) for _ in range(2))
    calls: list[tuple[str, int, int]] = []
    assert a.merge_files(*paths, progress=lambda *call: calls.append(call))
    assert b.merge(*(Learner.load(path) for path in paths))
    assert a.to_bytes() == b.to_bytes()
    assert [call for call in calls if call[0] == "files"] == [("files", done, 5) for done in range(5)]


def test_what_fails_leaves_no_trace(model: Model, tmp_path: Path) -> None:
    paths = files(model, tmp_path, 3)
    learner = new_learner(model, **QUICK)
    before = learner.to_bytes()
    with pytest.raises(Cancelled, match="given up"):
        learner.merge_files(*paths, cancel=lambda: True)
    (tmp_path / "bad.state").write_bytes(paths[0].read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"bad\.state"):
        learner.merge_files(*paths, tmp_path / "bad.state")
    with pytest.raises(FileNotFoundError):
        learner.merge_files(*paths, tmp_path / "none.state")
    with pytest.raises(ValueError, match="paths: expected at least one state file"):
        learner.merge_files()
    with pytest.raises(ValueError, match="workers: expected at least 1, got 0"):
        learner.merge_files(*paths, workers=0)
    assert learner.to_bytes() == before


def on_workers(model: Model, folder: Path, **settings: Any) -> tuple[Learner, Learner]:
    """A learner with more room than the devices have, merged in this process and on two workers."""
    pytest.importorskip("distributed", reason="files are shared with Dask (extra train)")
    paths = files(model, folder, PART + 6, **settings)
    alone, shared = (new_learner(model, **{**QUICK, "capacity": 40, "seed": 3}) for _ in range(2))
    alone.merge_files(*paths)
    shared.merge_files(*paths, workers=2)
    return alone, shared


def test_workers_give_the_head_that_one_process_gives(model: Model, tmp_path: Path) -> None:
    alone, shared = on_workers(model, tmp_path)
    assert head_of(shared) == head_of(alone)
    assert shared.info()["lessons"] == alone.info()["lessons"] == PART + 6


def test_workers_give_the_names_and_rows_that_one_process_gives(model: Model, tmp_path: Path) -> None:
    alone, shared = on_workers(model, tmp_path)
    assert shared.names == alone.names
    assert remembered(shared) == remembered(alone)


def test_parts_may_know_more_classes_than_a_device(model: Model, tmp_path: Path) -> None:
    alone, shared = on_workers(model, tmp_path, max_classes=5)
    assert sorted(shared.names) == sorted(alone.names) == list("012345678")
