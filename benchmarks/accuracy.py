"""Accuracy of the learner's head on CIFAR-10, beside joint training and the usual methods; writes JSON lines.

    python benchmarks/accuracy.py DATA [--model FILE] [--split valid] [--seeds 3] [--out benchmarks/results/accuracy.jsonl]

DATA is a folder with CIFAR-10's train*.parquet and test*.parquet (or class folders below train/ and test/).  Settings are chosen
with ``--split valid`` (the last fifth of the training pictures, shuffled, is held out); the test pictures give the final figures.
The learner runs in integers from the pictures on; `head_twin` and `lda_head` give the rows marked "float" from the same int8 features.
What training the tail adds is in `streams.py`, nc5 and ni10.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from head_twin import HeadOptions, accuracy, cwr_star
from lda_head import by_means, in_float
from log import RESULTS, Log
from sklearn.linear_model import LogisticRegression

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet, read_split
from bitreplay.datasets.streams import CIFAR10_NC5 as NC5


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
        self.split, self.log = args.split, Log(args.out, self.model)

    def note(self, method: str, capacity: int | None, seed: int | None, value: float, **more: Any) -> None:
        self.log.write(method=method, capacity=capacity, seed=seed, accuracy=value, **more, split=self.split)

    def lessons(self, lessons: Sequence[tuple[str, ...]], capacity: int, seed: int, method: str, **settings: Any) -> None:
        learner = Learner(self.model, Settings.from_dict({"capacity": capacity, "seed": seed, **settings}))
        began = time.monotonic()
        for classes in lessons:
            rows = np.flatnonzero(np.isin(self.names[self.train.labels], classes))
            learner.learn(self.train.images[rows], list(self.names[self.train.labels[rows]]))
        seconds = time.monotonic() - began
        right = np.array(learner.predict(self.test.images).names) == self.names[self.test.labels]
        sizes = learner.info()["bytes"]
        self.note(method, capacity, seed, right.mean(), seconds=seconds, learned_bytes=sizes["kept"] - sizes["network"])

    def float_methods(self, seeds: int) -> None:
        probe, unit = Learner(self.model), 2.0**self.model.network.feature_bits
        whole, y = probe.features(self.train.images), self.train.labels
        tested, yt = probe.features(self.test.images), self.test.labels
        x, xt = whole / unit, tested / unit
        regression = LogisticRegression(C=0.01, max_iter=300).fit(x, y)
        self.note("logistic regression (scikit-learn, all data at once)", None, None, regression.score(xt, yt))
        self.note("nearest mean (float)", 0, None, (by_means(whole, y, tested).argmax(1) == yt).mean())
        scores = in_float(whole, y, tested, self.model.network.feature_bits)
        self.note("LDA (float64, numpy's solver)", 0, None, (scores.argmax(1) == yt).mean())
        index = {name: i for i, name in enumerate(self.names)}
        lessons = [(x[rows], y[rows]) for rows in (np.isin(y, [index[c] for c in classes]) for classes in NC5)]
        for seed in range(seeds):
            naive = cwr_star(lessons, len(index), HeadOptions(capacity=0, ghosts=0, consolidate=False, seed=seed))
            self.note("naive: one softmax over the classes seen, no replay (float)", 0, seed, accuracy(naive[-1], xt, yt))

    def all(self, seeds: int) -> None:
        self.float_methods(seeds)
        one: list[tuple[str, ...]] = [(c,) for pair in NC5 for c in pair]
        # Nothing in LDA's head is drawn: one seed tells all.
        self.lessons([tuple(self.train.names)], 0, 0, "joint: the same head, all data at once")
        self.lessons(NC5, 0, 0, "bitreplay, two classes a lesson")
        self.lessons(one, 0, 0, "bitreplay, one class a lesson")
        for views in (2, 6):
            self.lessons(NC5, 0, 0, f"bitreplay, two classes a lesson, {views} views", views=views)
        for seed in range(seeds):
            self.lessons(NC5, 0, seed, 'CWR* (head="cwr")', head="cwr")
            self.lessons(NC5, 0, seed, 'CWR* (head="cwr"), softmax masked to the lesson', head="cwr", ghosts=0)
            for capacity in (300, 1500):
                self.lessons(NC5, capacity, seed, 'CWR* (head="cwr")', head="cwr")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "accuracy.jsonl")
    args = parser.parse_args()
    Runs(args).all(args.seeds)


if __name__ == "__main__":
    main()
