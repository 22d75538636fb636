"""What merging two devices costs in accuracy, against one device that was taught both halves in turn; writes JSON lines.

    python benchmarks/merge.py DATA [--split valid] [--seeds 3] [--head cwr] [--train-blocks 2] [--out benchmarks/results/merge.jsonl]

DATA as in `accuracy`.  Halves are five classes each (``classes``), or half of the pictures of each class (``pictures``); a device learns its
half in ``--lessons`` lessons.  LDA's sums add, so with it alone nothing is lost.  With trained blocks and more than one lesson the tails differ in the
end, and that of one is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import load
from log import RESULTS, Log
from numpy.typing import NDArray

from bitreplay import Learner, Model, Settings, TailSettings


def halves(labels: NDArray[Any], by: str) -> list[NDArray[np.int64]]:
    order = np.random.default_rng(1).permutation(len(labels))
    first = labels[order] < 5 if by == "classes" else np.arange(len(order)) % 2 == 0
    return [order[first], order[~first]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--capacity", type=int, default=1500)
    parser.add_argument("--head", choices=["lda", "cwr"], default="lda")
    parser.add_argument("--train-blocks", type=int, default=0)
    parser.add_argument("--lessons", type=int, default=1)
    parser.add_argument("--halves", choices=["classes", "pictures"], nargs="+", default=["classes", "pictures"])
    parser.add_argument("--out", type=Path, default=RESULTS / "merge.jsonl")
    args = parser.parse_args()
    model = Model.open(None)
    train, test = load(args.data, args.split, model.network.image_size)
    names, log = np.array(train.names), Log(args.out, model)

    def right(learner: Learner) -> float:
        return float((np.array(learner.predict(test.images).names) == names[test.labels]).mean())

    tail = TailSettings(train_blocks=args.train_blocks) if args.train_blocks else None
    for by in args.halves:
        for seed in range(args.seeds):
            parts = halves(train.labels, by)
            one, *devices = (
                Learner(model, Settings(capacity=args.capacity, seed=s, head=args.head, tail=tail)) for s in (seed, seed, seed + 100)
            )
            for part, device in zip(parts, devices, strict=True):
                for rows in np.array_split(part, args.lessons):
                    lesson = train.images[rows], names[train.labels[rows]].tolist()
                    device.learn(*lesson)
                    one.learn(*lesson)
            merged = devices[0].copy()
            equal = merged.merge(devices[1])
            log.write(
                halves=by, seed=seed, capacity=args.capacity, head=args.head, train_blocks=args.train_blocks, lessons=args.lessons,
                equal_tails=equal, split=args.split, in_turn=right(one), merged=right(merged),
            )  # fmt: skip


if __name__ == "__main__":
    main()
