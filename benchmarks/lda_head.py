"""LDA from exact integer sums on the engine's int8 features, beside the same in float64, and beside what else the state already holds: class means.

python benchmarks/lda_head.py DATA [--model quicknet-32]

DATA holds cifar10/, tiny-imagenet/ and photos/ in parquet.  CIFAR-10: all training pictures, then the test pictures.  Tiny-ImageNet: half of the
validation pictures of each class, then the other half; photos: train, then test.  Appends lines to benchmarks/results/lda_head.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from backbone import PSEUDO_PICTURES
from numpy.typing import NDArray

from bitreplay import Model, _engine
from bitreplay.data import ImageSet, by_name, cached_split

Int8 = NDArray[np.int8]


def features(model: Model, data: ImageSet) -> Int8:
    parts = []
    for i in range(0, len(data), 1000):
        images = np.ascontiguousarray(data.images[i : i + 1000])
        parts.append(model.network.features_of_latents(model.network.latents(images)))
    return np.concatenate(parts)


def in_float(x: Int8, y: NDArray[np.int64], tested: Int8) -> NDArray[np.float64]:
    """Scores (N, K) with the same shrinkage, by numpy's own solver."""
    rows, width = x.astype(np.float64), x.shape[1]
    count = np.bincount(y)[:, None]
    sums = np.zeros((len(count), width))
    np.add.at(sums, y, rows)
    mean = rows.mean(0)
    scatter = rows.T @ rows - (sums / count).T @ sums
    weight = width / 2
    covariance = (scatter + weight * np.trace(scatter) / len(x) / width * np.eye(width)) / (len(x) + weight)
    deviation = (sums - count * mean) / (count + PSEUDO_PICTURES)
    w = np.linalg.solve(covariance, deviation.T).T
    return tested.astype(np.float64) @ w.T - (w * (mean + 0.5 * deviation)).sum(1)


def halves(data: ImageSet) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(data.labels == c)) for c in range(len(data.names))]
    return np.concatenate([r[: len(r) // 2] for r in rows]), np.concatenate([r[len(r) // 2 :] for r in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="quicknet-32")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lda_head.jsonl")
    args = parser.parse_args()
    model = Model.open(args.model)
    size, width = model.network.image_size, model.network.feature_count
    for name in ("cifar10", "tiny-imagenet", "photos"):
        test = cached_split(args.data / name, "valid", size, args.cache)
        assert test is not None
        if name == "tiny-imagenet":  # the backbone learned from its training pictures
            all_rows, first, second = features(model, test), *halves(test)
            x, y, tested, labels = all_rows[first], test.labels[first], all_rows[second], test.labels[second]
        else:
            train = cached_split(args.data / name, "train", size, args.cache)
            assert train is not None
            x, y, tested, labels = features(model, train), train.labels, features(model, test), by_name(test, train.names, name).labels
        classes = int(y.max()) + 1
        begun = time.perf_counter()
        statistics = _engine.Statistics(width)
        statistics.add(np.ascontiguousarray(x), y.astype(np.int32), classes)
        added = time.perf_counter()
        weight, bias, exponent = statistics.solve(
            width / 2, PSEUDO_PICTURES, 4.0**model.network.feature_bits, np.arange(classes, dtype=np.int32)
        )
        solved = time.perf_counter()
        found = (tested.astype(np.int64) @ weight.astype(np.int64).T + bias).argmax(1)
        other = in_float(x, y, tested).argmax(1)
        means = np.stack([x[y == c].mean(0) for c in range(classes)])
        nearest = (tested.astype(np.float64) @ means.T - 0.5 * (means**2).sum(1)).argmax(1)
        line: dict[str, Any] = {"model": model.name, "set": name, "classes": classes, "learned": len(x), "tested": len(tested)}
        line |= {"integer": 100 * (found == labels).mean(), "float": 100 * (other == labels).mean(), "same": 100 * (found == other).mean()}
        line |= {"class_means": 100 * (nearest == labels).mean(), "exponent": exponent}
        line |= {"add_us": 1e6 * (added - begun) / len(x), "solve_ms": 1e3 * (solved - added)}
        line = {key: round(float(value), 3) if isinstance(value, float) else value for key, value in line.items()}
        print(json.dumps(line), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
