"""Time of a lesson of the head, beside the network's own time for the same pictures, and of a prediction; writes JSON lines.

    python benchmarks/lesson_time.py CIFAR10_FOLDER [--threads 1] [--rounds 7] [--note "..."]

Lessons of 100 and of 10,000 pictures are given to copies of a learner that knows ten classes from 10,000 others and has a full memory of 1,500 rows.
Calls only what every version of the package has, so that `--note` can name an older one that is installed in another environment.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from log import RESULTS, Log

from bitreplay import Learner, Model
from bitreplay.datasets.image_sets import read_split


def milliseconds(call: Callable[..., object], *arguments: object) -> float:
    begun = time.perf_counter()
    call(*arguments)
    return 1e3 * (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--note", default="", help="what the table calls this version")
    parser.add_argument("--out", type=Path, default=RESULTS / "lesson_time.jsonl")
    args = parser.parse_args()
    model = Model.open(None)
    log, train = Log(args.out, model), read_split(args.data, "train", model.network.image_size)
    assert train is not None
    names = [train.names[c] for c in train.labels[:20_000]]
    known = Learner(model, threads=args.threads)
    known.learn(train.images[:10_000], names[:10_000])
    for count in (100, 10_000):
        images, labels = train.images[10_000 : 10_000 + count], names[10_000 : 10_000 + count]
        found: dict[str, list[float]] = {"lesson": [], "network": [], "predict": []}
        for _ in range(args.rounds):  # in turn, so that what else the machine does meets all
            learner = known.copy()
            found["network"].append(milliseconds(known.features, images))
            found["lesson"].append(milliseconds(learner.learn, images, labels))
            found["predict"].append(milliseconds(known.predict, images))
        medians = {f"{what}_ms": statistics.median(values) for what, values in found.items()}
        best = {f"{what}_best_ms": min(values) for what, values in found.items()}
        log.write(note=args.note, pictures=count, threads=args.threads, rounds=args.rounds, **medians, **best)


if __name__ == "__main__":
    main()
