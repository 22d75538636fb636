"""What settings of the head are worth: fewer features, and class priors where classes are unlike in size; writes JSON lines.

    python benchmarks/head_settings.py DATA [--cache FOLDER] [--only SET ...]

DATA as in `sets`.  Photos and CIFAR-10: training pictures, then test pictures; digits are scikit-learn's; Tiny-ImageNet, whose training pictures the
backbone and the order of its features come from: half of the validation pictures of each class, then the other half.  Fewer features: all pictures, and
ten draws of ten a class.  Class priors: of a class, in an order that is drawn, the share 1/rank of its pictures is kept, in learning and in testing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from few_shot import part
from log import RESULTS, Log
from sets import SETS, Rows, Sets, halves, rows_by_class
from streams import digits

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet

Splits = tuple[ImageSet, ImageSet]


def splits(sets: Sets, name: str) -> Splits:
    if name == "digits":
        return digits(0)
    test = sets.test(name)
    if name == "tiny-imagenet":
        first, second = halves(test.labels)
        return part(test, first), part(test, second)
    return sets.train(name), test


def right(learner: Learner, learned: ImageSet, tested: ImageSet) -> float:
    for i in range(0, len(learned), 5000):
        learner.learn(learned.images[i : i + 5000], [learned.names[c] for c in learned.labels[i : i + 5000]])
    found = learner.predict(tested.images).names
    return float(np.mean([name == tested.names[c] for name, c in zip(found, tested.labels, strict=True)]))


def skewed(data: ImageSet, order: Rows) -> ImageSet:
    rows = rows_by_class(data.labels, np.random.default_rng(0))
    return part(data, np.concatenate([rows[c][: max(2, round(len(rows[c]) / rank))] for rank, c in enumerate(order, 1)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--only", nargs="+", choices=(*SETS, "digits"), default=(*SETS, "digits"))
    parser.add_argument("--out", type=Path, default=RESULTS / "head_settings.jsonl")
    args = parser.parse_args()
    model = Model.open(args.model)
    width = model.network.feature_count
    sets, log = Sets(args.data, model.network.image_size, args.cache), Log(args.out, model)

    def new(**settings: bool | int) -> Learner:
        return Learner(model, Settings.from_dict({"capacity": 0, **settings}))

    for name in args.only:
        learned, tested = splits(sets, name)
        for features in (width, width * 2 // 3, width // 2, width // 3, width // 4):
            learner = new(lda_features=features)
            accuracy = right(learner, learned, tested)
            few = []
            for seed in range(10):
                rows = np.concatenate([rows[:10] for rows in rows_by_class(learned.labels, np.random.default_rng(seed))])
                few.append(right(new(lda_features=features), part(learned, rows), tested))
            moment = features * (features + 1) // 2 * 4
            log.write(set=name, case="features", features=features, all=accuracy, ten=few, moment_bytes=moment)
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(len(learned.names))
            own, asked = skewed(learned, order), skewed(tested, order)
            found = {str(priors): right(new(class_priors=priors), own, asked) for priors in (False, True)}
            log.write(set=name, case="priors", seed=seed, uniform=found["False"], shares=found["True"])


if __name__ == "__main__":
    main()
