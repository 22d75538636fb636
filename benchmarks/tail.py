"""What training the tail adds to the head, and how many binary weights it turns over; writes JSON lines.

    python benchmarks/tail.py DATA [--split valid] [--seeds 3] [--only NAME] [--out benchmarks/results/tail.jsonl]

DATA as for accuracy.py.  Two protocols: nc5 (five lessons of two classes, the papers' order) and ni10 (ten lessons with a tenth of
the pictures of every class, drawn by seed 1234).  Head-only and trained tail see the same rows, with the same replay memory.
Settings were chosen with ``--split valid``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import NC5, load

from bitreplay import Learner, __version__
from bitreplay.data import ImageSet

TAIL = {"train_blocks": 2}
# Name, protocols, capacity, settings, whether every seed runs.
RUNS: list[tuple[str, tuple[str, ...], int, dict[str, Any], bool]] = [
    ("head only", ("nc5", "ni10"), 1500, {}, True),
    ("tail trained", ("nc5", "ni10"), 1500, TAIL, True),
    ("head only", ("nc5",), 6000, {}, True),
    ("tail trained", ("nc5",), 6000, TAIL, True),
    ("head only", ("ni10",), 6000, {}, False),
    ("tail trained", ("ni10",), 6000, TAIL, False),
    ("head only", ("nc5", "ni10"), 300, {}, False),
    ("tail trained", ("nc5", "ni10"), 300, TAIL, False),
    ("tail trained, rows not varied", ("nc5",), 1500, TAIL | {"tail_noise": 0, "tail_mirror": False}, False),
]


def protocol(name: str, train: ImageSet) -> list[np.ndarray]:
    rng = np.random.default_rng(1234)
    if name == "nc5":
        names = np.array(train.names)
        return [rng.permutation(np.flatnonzero(np.isin(names[train.labels], classes))) for classes in NC5]
    parts = [np.array_split(rng.permutation(np.flatnonzero(train.labels == c)), 10) for c in range(len(train.names))]
    return [rng.permutation(np.concatenate([part[i] for part in parts])) for i in range(10)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default=None, help="names of runs, with ; between them")
    parser.add_argument("--capacity", type=int, default=None, help="runs with this capacity alone")
    parser.add_argument("--protocol", choices=("nc5", "ni10"), default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tail.jsonl")
    args = parser.parse_args()
    train, test = load(args.data, args.split, 32)
    names = np.array(train.names)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    for name, protocols, capacity, settings, every_seed in RUNS:
        if args.only is not None and name not in args.only.split(";"):
            continue
        if args.capacity not in (None, capacity):
            continue
        for which in protocols:
            if args.protocol not in (None, which):
                continue
            for seed in range(args.seeds if every_seed else 1):
                learner = Learner.new(capacity=capacity, seed=seed, threads=args.threads, **settings)
                flips, began = [], time.monotonic()
                for rows in protocol(which, train):
                    learner.learn(np.ascontiguousarray(train.images[rows]), list(names[train.labels[rows]]))
                    lesson = learner.info()["last_lesson"]
                    if lesson["weights"]:
                        flips.append(round(lesson["flipped"] / lesson["weights"], 5))
                seconds = time.monotonic() - began
                right = np.array(learner.predict(test.images).names) == names[test.labels]
                line = {
                    "method": name, "protocol": which, "capacity": capacity, "seed": seed, "accuracy": round(float(right.mean()), 4),
                    "flipped": flips, "seconds": round(seconds, 1), "split": args.split, "model": learner.model.digest[:12],
                    "commit": commit, "version": __version__,
                }  # fmt: skip
                print(json.dumps(line), flush=True)
                args.out.parent.mkdir(parents=True, exist_ok=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
