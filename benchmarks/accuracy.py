"""Accuracy of the learner on CIFAR-10, beside joint training and the usual methods; writes JSON lines.

    python benchmarks/accuracy.py DATA [--model FILE] [--split valid] [--seeds 3] [--out benchmarks/results/accuracy.jsonl]

DATA is a folder with CIFAR-10's train*.parquet and test*.parquet (or class folders below train/ and test/).  Settings are chosen
with ``--split valid`` (the last fifth of the training pictures, shuffled, is held out); the test pictures give the final figures.
The learner runs in integers from the pictures on; `head_twin` gives the rows marked "float" from the same int8 features.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from head_twin import HeadOptions, accuracy, cwr_star, nearest_mean, streaming_lda
from sklearn.linear_model import LogisticRegression

from bitreplay import Learner, Model, __version__
from bitreplay.data import ImageSet, read_split

NC5 = [("frog", "bird"), ("airplane", "ship"), ("horse", "automobile"), ("dog", "deer"), ("truck", "cat")]


def load(folder: Path, split: str, size: int) -> tuple[ImageSet, ImageSet]:
    train = read_split(folder, "train", size)
    assert train is not None
    if split == "test":
        test = read_split(folder, "valid", size)
        assert test is not None
        return train, test
    order = np.random.default_rng(0).permutation(len(train))
    cut = len(train) * 4 // 5
    parts = [ImageSet(train.images[rows], train.labels[rows], train.names) for rows in (order[:cut], order[cut:])]
    return parts[0], parts[1]


class Runs:
    """Runs one setting at a time and appends its result to the file."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = Model.open(args.model)
        self.train, self.test = load(args.data, args.split, self.model.network.image_size)
        self.names = np.array(self.train.names)
        self.out = args.out
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        self.common = {"split": args.split, "model": self.model.digest[:12], "commit": commit, "version": __version__}

    def note(self, method: str, capacity: int | None, seed: int | None, value: float, **more: Any) -> None:
        line = {"method": method, "capacity": capacity, "seed": seed, "accuracy": round(value, 4), **more, **self.common}
        print(json.dumps(line), flush=True)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def lessons(self, lessons: list[tuple[str, ...]], capacity: int, seed: int, method: str, **settings: Any) -> None:
        learner = Learner.new(self.model, capacity=capacity, seed=seed, **settings)
        began = time.monotonic()
        for classes in lessons:
            rows = np.flatnonzero(np.isin(self.names[self.train.labels], classes))
            learner.learn(self.train.images[rows], list(self.names[self.train.labels[rows]]))
        seconds = time.monotonic() - began
        right = np.array(learner.predict(self.test.images).names) == self.names[self.test.labels]
        row_bytes = learner.info()["bytes"]["replay_row"]
        self.note(method, capacity, seed, float(right.mean()), seconds=round(seconds, 1), row_bytes=row_bytes)

    def float_methods(self, seeds: int) -> None:
        probe = Learner.new(self.model)
        unit = 2.0**self.model.network.feature_bits
        x, y = probe.features(self.train.images) / unit, self.train.labels
        xt, yt = probe.features(self.test.images) / unit, self.test.labels
        regression = LogisticRegression(C=0.01, max_iter=300).fit(x, y)
        self.note("logistic regression (scikit-learn, all data at once)", None, None, float(regression.score(xt, yt)))
        for name, rule in (("nearest mean (float)", nearest_mean), ("streaming LDA (float)", streaming_lda)):
            weight, offset = rule(x, y, len(self.names))
            self.note(name, 0, None, float(((xt @ weight.T + offset).argmax(1) == yt).mean()))
        index = {name: i for i, name in enumerate(self.names)}
        lessons = [(x[rows], y[rows]) for rows in (np.isin(y, [index[c] for c in classes]) for classes in NC5)]
        for seed in range(seeds):
            naive = cwr_star(lessons, len(index), HeadOptions(capacity=0, ghosts=0, pull=0.0, means=False, consolidate=False, seed=seed))
            self.note("naive: one softmax over the classes seen, no replay (float)", 0, seed, accuracy(naive[-1], xt, yt))

    def all(self, seeds: int) -> None:
        self.float_methods(seeds)
        everything = [tuple(self.train.names)]
        for seed in range(seeds):
            self.lessons(everything, 0, seed, "joint: the same head, all data at once")
            for capacity in (0, 300, 1500):
                self.lessons(NC5, capacity, seed, "bitreplay, two classes a lesson")
            self.lessons([(c,) for pair in NC5 for c in pair], 1500, seed, "bitreplay, one class a lesson")
        for capacity in (100, 6000):
            self.lessons(NC5, capacity, 0, "bitreplay, two classes a lesson")
        self.lessons(NC5, 0, 0, "plain CWR* with ghosts", class_means=False)
        self.lessons(NC5, 0, 0, "plain CWR*, softmax masked to the lesson", class_means=False, ghosts=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "accuracy.jsonl")
    args = parser.parse_args()
    Runs(args).all(args.seeds)


if __name__ == "__main__":
    main()
