"""From 1, 5, 10 and 20 pictures a class: the learner beside simple methods on the same pictures; writes JSON lines.

    python benchmarks/few_shot.py DATA [--cache FOLDER] [--draws 10] [--counts 1 5 10 20] [--only SET ...]

DATA as in `sets`.  Photos and CIFAR-10: drawn from the training pictures, tested on the test pictures; Tiny-ImageNet: drawn from half of the validation
pictures, tested on the other half.  A class with fewer pictures gives all it has.  Class means, LDA in float and logistic regression get the learner's own
features, of one view; the colour histogram gets pixels.  Nothing is chosen: logistic regression has scikit-learn's C = 1 on standardised features.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from lda_head import Int8, by_means, features, in_float
from log import RESULTS, Log
from numpy.typing import NDArray
from sets import SETS, Rows, Sets, halves, rows_by_class
from sklearn.linear_model import LogisticRegression

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet

Floats = NDArray[np.float32]


def logistic(x: Int8, y: Rows, tested: Int8) -> Rows:
    mean, spread = x.mean(0), np.maximum(x.std(0), 1e-9)
    found: Rows = LogisticRegression(C=1.0, max_iter=1000).fit((x - mean) / spread, y).predict((tested - mean) / spread)
    return found


def histograms(images: NDArray[np.uint8]) -> Floats:
    """Shares of the pixels (N, 64) in 4 x 4 x 4 boxes of RGB."""
    boxes = (images >> 6).astype(np.int64) @ np.array([16, 4, 1])
    counts = np.zeros((len(images), 64), np.float32)
    np.add.at(counts, (np.arange(len(images))[:, None], boxes.reshape(len(images), -1)), 1)
    return counts / boxes[0].size


def nearest_histogram(x: Floats, y: Rows, tested: Floats) -> Rows:
    """Class of the nearest by the chi-square distance, Σ (a - b)² / (a + b)."""
    best, distance = np.zeros(len(tested), np.int64), np.full(len(tested), np.inf, np.float32)
    for row, label in zip(x, y, strict=True):
        total = tested + row
        here = np.divide((tested - row) ** 2, total, out=np.zeros_like(total), where=total > 0).sum(1)
        closer = here < distance
        best[closer], distance[closer] = label, here[closer]
    return best


class Task:
    """Pictures to draw from and to test on, with what the simple methods see of them."""

    def __init__(self, model: Model, learned: ImageSet, tested: ImageSet) -> None:
        self.model, self.learned, self.tested, self.names = model, learned, tested, learned.names
        self._test_features, self._test_histograms = features(model, tested), histograms(tested.images)

    def accuracies(self, seed: int, count: int) -> dict[str, float]:
        rows = np.concatenate([rows[:count] for rows in rows_by_class(self.learned.labels, np.random.default_rng(seed))])
        images, y = self.learned.images[rows], self.learned.labels[rows]
        names, right = [self.names[c] for c in y], np.array([self.names[c] for c in self.tested.labels])
        found = {}
        for views in (1, 6):
            learner = Learner(self.model, Settings(views=views))
            learner.learn(images, names)
            found[f"learner_{views}"] = float((np.array(learner.predict(self.tested.images).names) == right).mean())
        x = features(self.model, ImageSet(images, y, self.names))
        answers = {
            "class_means": by_means(x, y, self._test_features).argmax(1),
            "lda": in_float(x, y, self._test_features, self.model.network.feature_bits).argmax(1),
            "logistic": logistic(x, y, self._test_features),
            "histogram": nearest_histogram(histograms(images), y, self._test_histograms),
        }
        return found | {name: float((answer == self.tested.labels).mean()) for name, answer in answers.items()}


def part(data: ImageSet, rows: Rows) -> ImageSet:
    return ImageSet(data.images[rows], data.labels[rows], data.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 5, 10, 20])
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, default=RESULTS / "few_shot.jsonl")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "The number of unique classes")  # one picture a class is meant
    model = Model.open(args.model)
    sets, log = Sets(args.data, model.network.image_size, args.cache), Log(args.out, model)
    for name in args.only:
        test = sets.test(name)
        if name == "tiny-imagenet":
            first, second = halves(test.labels)
            task = Task(model, part(test, first), part(test, second))
        else:
            task = Task(model, sets.train(name), test)
        for count in args.counts:
            for seed in range(args.draws):
                log.write(set=name, count=count, seed=seed, accuracy=task.accuracies(seed, count))


if __name__ == "__main__":
    main()
