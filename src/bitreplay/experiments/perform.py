"""Does one run: its experiences one after the other, and what the method knows after each.

Owns the order of steps in a run, and what of a line of results is measured.  Keeps the pictures and the base of the run before, since runs
come sorted by them.  Knows networks and methods only through a `Workbench`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import core50
from ..datasets.public import PictureSets, hold_out, load_cached
from ..datasets.streams import Stream, class_groups, listed, new_classes, new_instances
from ..metrics import forgetting
from .environment import environment
from .plan import Run, base_values, digest
from .protocol import StreamPlan
from .results import Line
from .workbench import Base, Workbench


@dataclass(frozen=True)
class Place:
    """Where a run finds its things: the folder of pictures, that of results, and that of float weights."""

    data: Path
    out: Path
    weights: Path


def make_stream(plan: StreamPlan, sets: PictureSets, folder: Path, split: str, seed: int) -> tuple[Stream, NDArray[np.int64] | None]:
    """Experiences of a seed, and the rows of the test pictures that count (None: all of them).

    Raises
    ------
    ValueError : the plan does not fit the set (see `streams`), or lists are missing (see `core50`).
    """
    train = sets.train
    test: NDArray[np.int64] | None = None
    if plan.kind == "ni":
        return new_instances(train.labels, plan.count, seed), None
    if plan.kind == "nc":
        groups = plan.groups or class_groups(len(train.names), plan.classes_each, plan.order_seed)
        stream = new_classes(train.labels, train.names, groups, seed)
    else:
        run = seed if plan.run == "seed" else int(plan.run)
        files = core50.read_run(folder, plan.lists, run)
        stream = listed(sets.train_files, files.experiences, seed)
        if split == "test":
            row_of = {file: row for row, file in enumerate(sets.test_files)}
            missing = [file for file in files.test if file not in row_of]
            if missing:
                raise ValueError(f"{folder}: expected the test picture {missing[0]}, found no such file; the set is at {core50.HOME}")
            test = np.array([row_of[file] for file in files.test], np.int64)
    learned = np.unique(np.concatenate(stream.classes(train.labels)))
    rows = np.arange(len(sets.test)) if test is None else test
    inside = rows[np.isin(sets.test.labels[rows], learned)]  # classes that never come cannot be known
    return stream, None if len(inside) == len(sets.test) else inside


_held: dict[str, Any] = {}  # the sets and the base that this process used last: runs come sorted by them


def _hold(kind: str, key: str, make: Callable[[], Any]) -> Any:
    if _held.get(kind, (None,))[0] != key:
        _held.pop(kind, None)  # the old one goes before the new one comes
        _held[kind] = (key, make())
    return _held[kind][1]


def _sets(run: Run, place: Place) -> PictureSets:
    def make() -> PictureSets:
        data = run.data
        sets = load_cached(data.set, place.data, data.image_size, place.out / "pictures", labels=data.labels, test_share=data.test)
        return hold_out(sets, data.valid) if run.split == "valid" else sets

    return _hold("sets", digest(asdict(run.data), run.split, str(place.data)), make)  # type: ignore[no-any-return]


def _base_name(run: Run, place: Place) -> str:
    return f"{place.out} {run.base_key}"


def _base(run: Run, place: Place, sets: PictureSets, workbench: Workbench) -> Base:
    def make() -> Base:
        seed = run.seed if run.base.first_experience == "whole" else 0
        stream, _ = make_stream(run.stream, sets, place.data, run.split, seed)
        values, folder = base_values(run.base, place.weights), place.out / "bases" / run.base_key
        return workbench.make_base(values, folder, sets.train, sets.test, stream.experiences[0].rows, seed)

    return _hold("base", _base_name(run, place), make)  # type: ignore[no-any-return]


def holds_base(run: Run, place: Place) -> bool:
    """Whether this process has made the base of a run and still holds it."""
    return bool(_held.get("base", ("",))[0] == _base_name(run, place))


def _matrix_row(right: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[NDArray[np.int64]]) -> list[float]:
    return [round(float(right[np.isin(labels, part)].mean()), 6) for part in classes]


def perform(run: Run, place: Place, workbench: Workbench, threads: int | None) -> Line:
    """Do one run.

    Returns
    -------
    The line of results, but for what is the same for all runs of a call (commit, command).
    """
    began = time.perf_counter()
    workbench.use_threads(threads)
    sets = _sets(run, place)
    train, test = sets.train, sets.test
    base = _base(run, place, sets, workbench)
    stream, test_rows = make_stream(run.stream, sets, place.data, run.split, run.seed)
    method = workbench.make_method(run.method, base.start, classes=len(train.names), seed=run.seed, settings=dict(run.settings))
    rows = base.rows(method.reads, "train")
    tested = base.rows(method.reads, "test")
    labels = test.labels
    if test_rows is not None:
        tested, labels = tested[test_rows], labels[test_rows]
    classes = stream.classes(train.labels)
    apart = sum(len(part) for part in classes) == len(np.unique(np.concatenate(classes)))
    lessons = [stream.merged(run.seed)] if method.at_once else [experience.rows for experience in stream]

    accuracy: list[float | None] = []
    matrix: list[list[float]] = []
    notes: list[Any] = []
    learning = 0.0
    for number, lesson in enumerate(lessons):
        start = time.perf_counter()
        notes.append(method.learn(rows[lesson], train.labels[lesson]))
        learning += time.perf_counter() - start
        if (number + 1) % run.stream.evaluate_every and number + 1 < len(lessons):
            accuracy.append(None)
            continue
        predicted = np.asarray(method.predict(tested))
        if predicted.shape != labels.shape:
            raise ValueError(f"{run.method}: expected a class for each of {len(labels)} test pictures, got {predicted.shape}")
        right = predicted == labels
        accuracy.append(round(float(right.mean()), 6))
        matrix.append(_matrix_row(right, labels, classes) if apart else [])
    square = apart and len(matrix) == len(stream)
    memory = {name: int(value) for name, value in method.memory().items() if value is not None}
    known = {name: memory.pop(name, None) for name in ("replay_row_bytes", "replay_bytes", "step_peak_bytes")}
    return {
        "accuracy": accuracy,
        "matrix": matrix if square else None,
        "final": accuracy[-1],
        "forgetting": round(forgetting(matrix), 6) if square else None,
        "at_once": bool(method.at_once),
        "experiences": len(stream),
        "pictures": {"train": int(sum(len(lesson) for lesson in lessons)), "test": len(labels)},
        **known,
        "memory": memory,
        "seconds_learning": round(learning, 3),
        "seconds_total": round(time.perf_counter() - began, 3),
        "notes": notes,
        "environment": environment(threads),
    }
