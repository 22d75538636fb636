"""What a backbone's frozen features are worth to those who will teach it: LDA on pictures that it never saw, beside its top-1.

python benchmarks/backbone.py DATA runs/quicknet-64/checkpoint.pt [weights/quicknet-32 ...] [--split test] [--note "..."]

DATA holds tiny-imagenet/, cifar10/ and photos/ in parquet (photos: 30 classes of Grocery Store in natural photos, learned in some shops, tested in
others).  Choices are made with --split valid: photos are learned from the test pictures and tested on the others, CIFAR-10 is cut from its training
pictures.  Appends lines to benchmarks/results/backbone_features.jsonl; `python benchmarks/report.py` makes docs/backbone.md's table of them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import torch
from numpy.typing import NDArray

from bitreplay.datasets.image_sets import ImageSet, by_name, cached_split
from bitreplay.training.crops import to_float
from bitreplay.training.evaluation import top1
from bitreplay.training.export import load_network
from bitreplay.training.packed_conv import PackedConv, use_packed
from bitreplay.training.zoo.network import CutNetwork

Floats = NDArray[np.float64]
PSEUDO_PICTURES = 3  # of the mean of all, with which each class mean is shrunk


def lda(x: Floats, y: NDArray[np.int64], tested: Floats, labels: NDArray[np.int64]) -> float:
    """Share named rightly by LDA: within-class scatter shrunk towards its mean variance with the weight of D/2 rows, means towards the mean of all."""
    dimensions = x.shape[1]
    centre = x.mean(0)
    x, tested = x - centre, tested - centre
    counts = np.bincount(y)
    sums = np.zeros((len(counts), dimensions))
    np.add.at(sums, y, x)
    means = sums / np.maximum(counts, 1)[:, None]
    scatter = x.T @ x - (means.T * counts) @ means
    weight = dimensions / 2
    covariance = (scatter + weight * np.trace(scatter) / len(x) / dimensions * np.eye(dimensions)) / (len(x) + weight)
    means = sums / (counts + PSEUDO_PICTURES)[:, None]
    directions = np.linalg.solve(covariance, means.T)
    scores = tested @ directions - 0.5 * (means.T * directions).sum(0)
    return float((scores.argmax(1) == labels).mean())


@torch.inference_mode()
def features(network: CutNetwork, data: ImageSet) -> Floats:
    parts = []
    for i in range(0, len(data), 250):
        batch = to_float(data.images[i : i + 250]).contiguous(memory_format=torch.channels_last)
        parts.append(network.features(batch).double().numpy())
    return np.concatenate(parts)


def draw(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == c))[:count] for c in np.unique(labels)])


def few(x: Floats, y: NDArray[np.int64], tested: Floats, labels: NDArray[np.int64], count: int, draws: int = 10) -> tuple[float, float]:
    found = [lda(x[rows], y[rows], tested, labels) for rows in (draw(y, count, seed) for seed in range(draws))]
    return 100 * float(np.mean(found)), 100 * float(np.std(found, ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("backbones", type=Path, nargs="+")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--note", default="", help="what the table says of these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "backbone_features.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for place in args.backbones:
        network, told = load_network(place)
        use_packed(network, PackedConv(args.threads, 8))
        size = network.config.image_size

        def both(name: str, size: int = size) -> tuple[ImageSet, ImageSet]:
            train, test = (cached_split(args.data / name, split, size, args.cache) for split in ("train", "valid"))
            assert train is not None
            assert test is not None
            return train, by_name(test, train.names, name)

        line: dict[str, Any] = {
            "backbone": place.name if place.suffix != ".pt" else place.parent.name,
            "split": args.split,
            "note": args.note,
        }
        line |= {"config": network.config.to_dict(), "epochs": told.get("epoch"), "hours": told.get("hours")}
        _, pictures = both("tiny-imagenet")
        line["top1"] = 100 * top1(network, pictures)
        train, test = both("photos")
        x, tested, y, labels = features(network, train), features(network, test), train.labels, test.labels
        if args.split == "valid":
            x, tested, y, labels = tested, x, labels, y
        line["photos"] = 100 * lda(x, y, tested, labels)
        line["photos_10"], line["photos_10_sd"] = few(x, y, tested, labels, 10)
        if args.split == "test":
            line["photos_20"], line["photos_20_sd"] = few(x, y, tested, labels, 20)
        train, test = both("cifar10")
        if args.split == "valid":
            test = ImageSet(train.images[-10_000:], train.labels[-10_000:], train.names)
            train = ImageSet(train.images[:-10_000], train.labels[:-10_000], train.names)
        x, tested = features(network, train), features(network, test)
        line["cifar10"] = 100 * lda(x, train.labels, tested, test.labels)
        line["cifar10_20"], line["cifar10_20_sd"] = few(x, train.labels, tested, test.labels, 20)
        line = {key: round(value, 2) if isinstance(value, float) else value for key, value in line.items()}
        print(json.dumps(line), flush=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
