"""How well "I don't know" works: whether it calls as many known things unknown as was asked, and what it lets through; writes JSON lines.

    python benchmarks/reject.py DATA [--cache FOLDER] [--draws 20] [--only SET ...] [--set views=2]

DATA as in `sets`.  A draw takes half of the classes of a set (of CIFAR-10 also one and two), teaches 10 or 30 pictures of each (photos: 10 or 22) in one
lesson, and asks about the other pictures of these classes and about all pictures of the other classes, from the same pool: photos of both splits,
CIFAR-10's test pictures, Tiny-ImageNet's validation pictures.  So pictures to learn and to test are of one kind; new objects or light are not.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from log import RESULTS, Log
from numpy.typing import NDArray
from sets import SETS, Rows, Sets, rows_by_class
from sklearn.metrics import roc_auc_score
from streams import setting

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet

SHARES = (0.05, 0.1, 0.2)
COUNTS = {"photos": (10, 22), "cifar10": (10, 30), "tiny-imagenet": (10, 30)}


def pool(sets: Sets, name: str) -> ImageSet:
    test = sets.test(name)
    if name != "photos":
        return test
    train = sets.train(name)
    return ImageSet(np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]), train.names)


def familiarity(learner: Learner, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """What `predict(reject=...)` compares with its threshold."""
    core, unknown, views = learner._core, learner._unknown(), learner.settings.views
    parts = [core.predict(images[i : i + 256], 1, views, unknown)[2] for i in range(0, len(images), 256)]
    return np.concatenate(parts)


def drawn(data: ImageSet, known: int, count: int, seed: int) -> tuple[Rows, Rows, Rows]:
    """Rows to learn, to know again, and of the other classes."""
    rng = np.random.default_rng((seed, known, count))
    rows = rows_by_class(data.labels, rng)
    classes = rng.permutation(len(rows))
    mine, others = [rows[c] for c in classes[:known]], [rows[c] for c in classes[known:]]
    return np.concatenate([r[:count] for r in mine]), np.concatenate([r[count:] for r in mine]), np.concatenate(others)


def measured(learner: Learner, data: ImageSet, again: Rows, others: Rows) -> dict[str, Any]:
    known, strange, labels = familiarity(learner, data.images[again]), familiarity(learner, data.images[others]), data.labels[again]
    remembered = len(learner._core["labels"])
    line: dict[str, Any] = {"auroc": roc_auc_score(np.repeat([1, 0], [len(known), len(strange)]), np.concatenate([known, strange]))}
    for share in SHARES:
        least = learner._unknown().threshold(share)
        rejected = float(np.mean([(known[labels == c] < least).mean() for c in np.unique(labels)]))
        # Binomial errors: of the pictures that are tested, and with that of the remembered rows that set the threshold.
        errors = np.sqrt(share * (1 - share) * np.array([1 / len(known), 1 / len(known) + 1 / remembered]))
        within = (abs(rejected - share) <= 2 * errors).tolist()
        accepted = float((strange >= least).mean())
        line[f"{share:g}"] = {"false_reject": rejected, "false_accept": accepted, "within_test": within[0], "within_both": within[1]}
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE", help="further settings of the learner")
    parser.add_argument("--out", type=Path, default=RESULTS / "reject.jsonl")
    args = parser.parse_args()
    model, settings = Model.open(args.model), dict(args.set)
    sets, log = Sets(args.data, model.network.image_size, args.cache), Log(args.out, model)
    for name in args.only:
        data = pool(sets, name)
        half = len(data.names) // 2
        for known in (half, 1, 2) if name == "cifar10" else (half,):
            for count in COUNTS[name]:
                for seed in range(args.draws):
                    taught, again, others = drawn(data, known, count, seed)
                    learner = Learner(model, Settings.from_dict({"seed": seed, **settings}))
                    learner.learn(data.images[taught], [data.names[c] for c in data.labels[taught]])
                    line = measured(learner, data, again, others)
                    log.write(set=name, classes=known, count=count, seed=seed, settings=settings, **line)


if __name__ == "__main__":
    main()
