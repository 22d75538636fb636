"""LDA from exact integer sums on the engine's int8 features, beside the same in float64 and beside the nearest class mean.

    python benchmarks/lda_head.py DATA [--model quicknet-32] [--cache FOLDER]

DATA as in `sets`.  CIFAR-10: all training pictures, then the test pictures; photos: train, then test.  Tiny-ImageNet, whose training pictures the
backbone learned from: half of the validation pictures of each class, then the other half.  Every picture counts, near-equal or not.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from log import RESULTS, Log
from numpy.typing import NDArray
from sets import SETS, Rows, Sets, halves

from bitreplay import Model, Settings, _engine
from bitreplay.datasets.image_sets import ImageSet

Int8 = NDArray[np.int8]
SHRINKAGE, PSEUDO_PICTURES = Settings().shrinkage, Settings().pseudo_pictures


def features(model: Model, data: ImageSet) -> Int8:
    parts = []
    for i in range(0, len(data), 1000):
        images = np.ascontiguousarray(data.images[i : i + 1000])
        parts.append(model.network.features_of_latents(model.network.latents(images)))
    return np.concatenate(parts)


def in_float(x: Int8, y: Rows, tested: Int8, feature_bits: int) -> NDArray[np.float64]:
    """Scores (N, K) of docs/method.md, 4.2, by numpy's own solver; every class has rows."""
    rows, width = x.astype(np.float64), x.shape[1]
    count = np.bincount(y)[:, None]
    sums = np.zeros((len(count), width))
    np.add.at(sums, y, rows)
    mean = rows.mean(0)
    scatter = rows.T @ rows - (sums / count).T @ sums
    weight = SHRINKAGE * width
    variance = np.trace(scatter) / len(x) / width or 4.0**feature_bits
    covariance = (scatter + weight * variance * np.eye(width)) / (len(x) + weight)
    deviation = (sums - count * mean) / (count + PSEUDO_PICTURES)
    w = np.linalg.solve(covariance, deviation.T).T
    return tested.astype(np.float64) @ w.T - (w * (mean + 0.5 * deviation)).sum(1)


def by_means(x: Int8, y: Rows, tested: Int8) -> NDArray[np.float64]:
    """Scores (N, K): minus half the squared distance to each class mean, but for what all classes share."""
    means = np.stack([x[y == c].mean(0) for c in range(int(y.max()) + 1)])
    return tested.astype(np.float64) @ means.T - 0.5 * (means**2).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, default=RESULTS / "lda_head.jsonl")
    args = parser.parse_args()
    model = Model.open(args.model)
    network = model.network
    sets, log = Sets(args.data, network.image_size, args.cache), Log(args.out, model)
    for name in args.only:
        test = sets.test(name)
        if name == "tiny-imagenet":
            all_rows, (first, second) = features(model, test), halves(test.labels)
            x, y, tested, labels = all_rows[first], test.labels[first], all_rows[second], test.labels[second]
        else:
            train = sets.train(name)
            x, y, tested, labels = features(model, train), train.labels, features(model, test), test.labels
        classes = int(y.max()) + 1
        begun = time.perf_counter()
        statistics = _engine.Statistics(network.feature_count)
        statistics.add(np.ascontiguousarray(x), y.astype(np.int32), classes)
        added = time.perf_counter()
        weight, bias, _ = statistics.solve(SHRINKAGE * network.feature_count, PSEUDO_PICTURES, 4.0**network.feature_bits)
        solved = time.perf_counter()
        found = (tested.astype(np.int64) @ weight.astype(np.int64).T + bias).argmax(1)
        other = in_float(x, y, tested, network.feature_bits).argmax(1)
        nearest = by_means(x, y, tested).argmax(1)
        log.write(
            backbone=model.name, set=name, classes=classes, learned=len(x), tested=len(tested), integer=100 * (found == labels).mean(),
            float=100 * (other == labels).mean(), same=100 * (found == other).mean(), class_means=100 * (nearest == labels).mean(),
            add_us=1e6 * (added - begun) / len(x), solve_ms=1e3 * (solved - added),
        )  # fmt: skip


if __name__ == "__main__":
    main()
