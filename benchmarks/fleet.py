"""The states of a fleet as one: time and memory of merging thousands of files, in one process and shared among Dask workers; writes JSON lines.

    python benchmarks/fleet.py DATA --folder FLEET [--states 10000] [--workers 2] [--cache FOLDER]

DATA as in `sets`.  Makes the files first, which does not count: real learners are taught 20 classes of Tiny-ImageNet's validation pictures, a few of each;
a device is the exact sum of some of them, so that all differ, with the replay rows of one.  Then it merges a tenth of the files, and all, each time in
fresh processes, and compares with the plain sum.  FLEET, a folder that may be new, needs some 4 GB for 10,000.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from log import RESULTS, Log
from numpy.typing import NDArray
from sets import Sets, rows_by_class

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet
from bitreplay.state import State, pack_state, parse_state, read_state

CLASSES, NAMES = 20, 50  # of a device, out of so many
GROUPS, PARTS = 4, 12  # vocabularies, and learners of each: 4 * (2^12 - 1) different sums
ADDED = ("count", "sums", "seen")


# Making ---------------------------------------------------------------------------------------------------------------------------------


def parts_of(model: Model, pictures: ImageSet, group: int, capacity: int) -> list[State]:
    """States of learners that were taught the same 20 names, a few pictures each."""
    rng = np.random.default_rng(group)
    classes, rows = rng.permutation(NAMES)[:CLASSES], rows_by_class(pictures.labels, rng)
    states = []
    for part in range(PARTS):
        learner = Learner(model, Settings(capacity=capacity))
        taught = np.concatenate([rows[c][4 * part : 4 * part + 4] for c in classes])
        learner.learn(pictures.images[taught], [pictures.names[c] for c in pictures.labels[taught]])
        states.append(learner._state())
    return states


def summed(states: Sequence[State]) -> State:
    """Sums of states with the same names in the same order, and the replay rows of the first."""
    wide = {name: sum(getattr(state, name) for state in states) for name in ADDED}
    wide["moment"] = sum(state.moment.astype(np.int64) for state in states)
    whole = {name: sum(getattr(state, name) for state in states) for name in ("experience", "saturated")}
    return replace(states[0], **wide, **whole)


def make(folder: Path, model: Model, pictures: ImageSet, count: int, capacity: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    groups = [parts_of(model, pictures, group, capacity) for group in range(GROUPS)]
    subsets = [np.random.default_rng((7, group)).permutation(np.arange(1, 2**PARTS)) for group in range(GROUPS)]
    if count > sum(map(len, subsets)):
        raise SystemExit(f"--states: expected at most {sum(map(len, subsets))}, got {count}")
    for i in range(count):
        group, number = i % GROUPS, int(subsets[i % GROUPS][i // GROUPS])
        device = summed([state for part, state in enumerate(groups[group]) if number >> part & 1])
        (folder / f"{i:05}.state").write_bytes(pack_state(device))


# Merging --------------------------------------------------------------------------------------------------------------------------------


def merged(paths: Sequence[Path], model: str | None, workers: int) -> tuple[bytes, float, float]:
    """The merged state, seconds, and the most megabytes that this process or one of its workers held."""
    begun = time.perf_counter()
    learner = Learner.load(paths[0], model=Model.open(model))
    learner.merge_files(*paths[1:], workers=workers)
    content = learner.to_bytes()
    return content, time.perf_counter() - begun, max(own_peak_mb(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def own_peak_mb() -> float:
    """Of this process alone: `resource` would hand down what its parent held."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def in_fresh_process(paths: Sequence[Path], model: str | None, workers: int) -> tuple[bytes, float, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(merged, paths, model, workers).result()


# The plain sum --------------------------------------------------------------------------------------------------------------------------


def plain_sum(paths: Sequence[Path], model: Model) -> dict[str, Any]:
    """Count, sum of features and pictures seen of each name, and what all names share."""
    found: dict[str, Any] = {"moment": 0, "saturated": 0, "experience": 0}
    for path in paths:
        state = read_state(path, model)
        found["moment"] = found["moment"] + state.moment.astype(np.int64)
        found["saturated"] += state.saturated
        found["experience"] += state.experience
        for c, name in enumerate(state.names):
            found[name] = found.get(name, 0) + _of_class(state, c)
    return found


def _of_class(state: State, c: int) -> NDArray[np.int64]:
    return np.concatenate([[state.count[c]], [state.seen[c]], state.sums[c]]).astype(np.int64)


def memory(content: bytes, model: Model) -> list[tuple[str, bytes]]:
    """Replay rows with their names, in whichever slots they lie."""
    state = parse_state(content, model, "merged")
    return sorted((state.names[label], row.tobytes()) for label, row in zip(state.labels, state.rows, strict=True))


def equals(content: bytes, expected: dict[str, Any], model: Model) -> bool:
    state = parse_state(content, model, "merged")
    found = {"moment": state.moment, "saturated": state.saturated, "experience": state.experience}
    found |= {name: _of_class(state, c) for c, name in enumerate(state.names)}
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--states", type=int, default=10_000)
    parser.add_argument("--capacity", type=int, default=20, help="rows in a device's replay memory")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, default=RESULTS / "fleet.jsonl")
    args = parser.parse_args()
    model = Model.open(args.model)
    log = Log(args.out, model)
    make(args.folder, model, Sets(args.data, model.network.image_size, args.cache).test("tiny-imagenet"), args.states, args.capacity)
    for count in (args.states // 10, args.states):
        paths = [args.folder / f"{i:05}.state" for i in range(count)]
        expected = plain_sum(paths, model)
        alone = None
        for workers in (1, args.workers):
            content, seconds, megabytes = in_fresh_process(paths, args.model, workers)
            alone = alone or content
            log.write(
                workers=workers, states=count, classes=CLASSES, capacity=args.capacity, file_bytes=sum(path.stat().st_size for path in paths),
                seconds=seconds, peak_mb=megabytes, equal=equals(content, expected, model), same_memory=memory(content, model) == memory(alone, model),
            )  # fmt: skip


if __name__ == "__main__":
    main()
