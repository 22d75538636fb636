"""What backbones see: LDA from few pictures a class on sets that differ in kind, time and bytes; writes JSON lines.

    python benchmarks/eyes.py DATA NAME=MODEL ... [--draws 10] [--out benchmarks/results/eyes.jsonl]

DATA holds photos/, cifar10/ and tiny-imagenet/ as parquet.  MODEL is a shipped backbone's name or a model file.  Each picture is brought to the model's size;
learned from `train`, tested on `test` or `valid`: all photographs, and of the others 100 (CIFAR-10) and 20 (Tiny-ImageNet) pictures a class, the same for every
backbone.  One view, the learner's own head.  A shipped backbone has seen Tiny-ImageNet's training pictures, so it is not asked about that set.
"""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from log import RESULTS, Log
from PIL import Image
from sets import Rows, rows_by_class

from bitreplay import Learner, Model, Settings, load_pictures
from bitreplay.datasets.image_sets import ImageSet

SETS = {"photos": (40, 40), "cifar10": (40, 100), "tiny-imagenet": (20, 20)}  # pictures a class that are drawn from, and tested on, at most
COUNTS = {"photos": (10, 20), "cifar10": (20,), "tiny-imagenet": (10,)}


def some(files: list[Path], most: int, size: int) -> ImageSet:
    """At most so many pictures of each class, drawn with a fixed seed."""
    tables = [pq.read_table(file) for file in files]
    labels = np.concatenate([table["label"].to_numpy() for table in tables]).astype(np.int64)
    cells = [cell for table in tables for cell in table["image"]]
    chosen = np.concatenate([rows[:most] for rows in rows_by_class(labels, np.random.default_rng(7))])
    pictures = [Image.open(io.BytesIO(cells[int(row)].as_py()["bytes"])).convert("RGB") for row in chosen]
    return ImageSet(load_pictures(pictures, size), labels[chosen], [str(c) for c in range(int(labels.max()) + 1)])


def accuracy(model: Model, learned: ImageSet, rows: Rows, tested: ImageSet) -> float:
    """Of a head that was taught these rows."""
    learner = Learner(model, Settings(capacity=0))
    learner.learn(np.ascontiguousarray(learned.images[rows]), [str(c) for c in learned.labels[rows]])
    return float((np.array(learner.predict(tested.images).names, np.int64) == tested.labels).mean())


def milliseconds(model: Model) -> float:
    """Of one picture with one thread: the best of 200."""
    learner, best = Learner(model, Settings(capacity=0), threads=1), np.inf
    picture = np.random.default_rng(0).integers(0, 256, (1, learner.image_size, learner.image_size, 3), dtype=np.uint8)
    for _ in range(200):
        began = time.perf_counter()
        learner.features(picture)
        best = min(best, time.perf_counter() - began)
    return 1000 * float(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "eyes.jsonl")
    args = parser.parse_args()
    for entry in args.models:
        name, _, place = entry.partition("=")
        model = Model.open(place)
        log, size, network = Log(args.out, model), model.network.image_size, model.network
        figures: dict[str, list[float]] = {}
        for folder, (drawn_from, tested_on) in SETS.items():
            if folder == "tiny-imagenet" and model.shipped:
                continue
            files = sorted((args.data / folder).glob("train*.parquet"))[:1]
            learned = some(files, drawn_from, size)
            tested = some(
                sorted([*(args.data / folder).glob("test*.parquet"), *(args.data / folder).glob("valid*.parquet")]), tested_on, size
            )
            for count in COUNTS[folder]:
                for seed in range(args.draws):
                    rows = np.concatenate([rows[:count] for rows in rows_by_class(learned.labels, np.random.default_rng(seed))])
                    figures.setdefault(f"{folder} {count}", []).append(accuracy(model, learned, rows, tested))
        log.write(
            name=name,
            figures=figures,
            milliseconds=milliseconds(model),
            network_bytes=network.bytes,
            row_bytes=network.latent_words * 8,
            size=size,
        )


if __name__ == "__main__":
    main()
