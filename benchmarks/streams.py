"""Streams that no one tuned to: what a learner knows after them, with its tail trained and with the head alone; writes JSON lines.

    python benchmarks/streams.py DATA [--cache FOLDER] [--train-blocks 0 2] [--capacity 1500] [--seeds 3] [--only NAME ...] [--set views=2]

DATA as in `sets`.  Tiny-ImageNet's training pictures are learned, its validation pictures named; digits are scikit-learn's, half and half.  A seed draws
classes and pictures and is the learner's; with seed 0 pictures come in the order of their files.  Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from log import RESULTS, Log
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from sets import Rows, Sets, rows_by_class
from sklearn.datasets import load_digits

from bitreplay import Learner, Model, Settings
from bitreplay.datasets.image_sets import ImageSet
from bitreplay.datasets.streams import CIFAR10_NC5, new_instances
from bitreplay.settings import TAIL_NAMES

Images = NDArray[np.uint8]


class Device:
    """A learner whose lessons are timed."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.seconds: list[float] = []

    def learn(self, images: Images, names: str | Sequence[str]) -> None:
        begun = time.perf_counter()
        self.learner.learn(images, [names] * len(images) if isinstance(names, str) else list(names))
        self.seconds.append(time.perf_counter() - begun)

    def named(self, images: Images, name: str) -> float:
        """Share of the pictures that are called so."""
        return float(np.mean([found == name for found in self.learner.predict(images).names]))

    def right(self, images: Images, names: Sequence[str]) -> float:
        return float(np.mean(np.array(self.learner.predict(images).names) == np.array(names)))


Make = Callable[[], Device]
Case = tuple[str, dict[str, float], Device]  # figures are shares, "accuracy" the one that stands for the stream


class Kinds:
    """Pictures by class: of Tiny-ImageNet those to learn and those to test on."""

    def __init__(self, sets: Sets, seed: int) -> None:
        self._train, self._test = sets.train("tiny-imagenet"), sets.test("tiny-imagenet")
        self.names = self._train.names
        self._rows = rows_by_class(self._train.labels, np.random.default_rng((seed, 1)) if seed else None)

    def train(self, classes: Sequence[int] | Rows, count: int, first: int = 0) -> Images:
        return self._train.images[np.concatenate([self._rows[c][first : first + count] for c in classes])]

    def test(self, classes: Sequence[int] | Rows, count: int | None = None) -> Images:
        return self._test.images[np.concatenate([np.flatnonzero(self._test.labels == c)[:count] for c in classes])]

    def names_of(self, classes: Sequence[int] | Rows, count: int) -> list[str]:
        return [self.names[c] for c in classes for _ in range(count)]

    def right(self, device: Device, classes: Sequence[int] | Rows, change: Callable[[Images], Images] = lambda x: x) -> float:
        return device.right(change(self.test(classes)), self.names_of(classes, 50))


def digits(seed: int) -> tuple[ImageSet, ImageSet]:
    found = load_digits()
    grey = (255 - found.images * 15).astype(np.uint8)
    images = np.repeat(np.repeat(np.repeat(grey[..., None], 4, 1), 4, 2), 3, 3)
    first, second = np.arange(0, len(grey), 2), np.arange(1, len(grey), 2)
    first = np.random.default_rng((seed, 2)).permutation(first) if seed else first
    names = tuple(str(digit) for digit in range(10))
    return tuple(ImageSet(images[rows], found.target[rows].astype(np.int64), names) for rows in (first, second))  # type: ignore[return-value]


# Streams ----------------------------------------------------------------------------------------------------------------------------------


def other(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """500 of "other", then a few of one digit."""
    train, test = digits(seed)
    for digit in (3, 8):
        for count in (5, 20):
            device = make()
            device.learn(train.images[train.labels != digit][:500], "other")
            device.learn(train.images[train.labels == digit][:count], "it")
            old = device.named(test.images[test.labels != digit], "other")
            new = device.named(test.images[test.labels == digit], "it")
            yield f"digit {digit}, {count} pictures", {"accuracy": (old + new) / 2, "other": old, "it": new}, device


def nothing(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """500 of "nothing", of 100 kinds, then 20 of one thing."""
    kinds, pick, device = Kinds(sets, seed), np.random.default_rng(400 + seed).permutation(200), make()
    device.learn(kinds.train(pick[:100], 5), "nothing")
    device.learn(kinds.train(pick[100:101], 20), "it")
    old, new = device.named(kinds.test(pick[:100], 5), "nothing"), device.named(kinds.test(pick[100:101]), "it")
    yield "", {"accuracy": (old + new) / 2, "nothing": old, "it": new}, device


def two(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """Two classes of 20 pictures, one an experience: the mean of ten such pairs, and the worst first class."""
    kinds, found = Kinds(sets, seed), []
    for pair in range(10):
        classes = np.random.default_rng(900 + 10 * seed + pair).choice(200, 2, replace=False)
        device = make()
        for c in classes:
            device.learn(kinds.train([c], 20), kinds.names[c])
        found.append([kinds.right(device, [c]) for c in classes])
    first, second = np.mean(found, axis=0)
    yield "", {"accuracy": (first + second) / 2, "first": first, "second": second, "worst first": min(f for f, _ in found)}, device


def noise(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """Five experiences of two classes; a share of the pictures has one of the ten names at random."""
    kinds, rng = Kinds(sets, seed), np.random.default_rng(700 + seed)
    classes = rng.choice(200, 10, replace=False)
    chance, names = rng.random(1000), kinds.names_of(rng.choice(classes, 1000), 1)
    for share in (0.0, 0.02, 0.05, 0.2):
        device = make()
        for i in range(0, 10, 2):
            right = kinds.names_of(classes[i : i + 2], 100)
            given = [names[100 * i + n] if chance[100 * i + n] < share else name for n, name in enumerate(right)]
            device.learn(kinds.train(classes[i : i + 2], 100), given)
        yield f"{100 * share:.0f} %", {"accuracy": kinds.right(device, classes)}, device


def noise_digits(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """Five experiences of two digits; a share of the pictures has one of the ten names at random."""
    (train, test), rng = digits(seed), np.random.default_rng(seed)
    chance, names = rng.random(len(train)), rng.integers(0, 10, len(train))
    for share in (0.0, 0.02, 0.05, 0.2):
        device, given = make(), np.where(chance < share, names, train.labels)
        for digit in range(0, 10, 2):
            rows = np.flatnonzero(np.isin(train.labels, (digit, digit + 1)))
            device.learn(train.images[rows], given[rows].astype(str).tolist())
        yield f"{100 * share:.0f} %", {"accuracy": device.right(test.images, test.labels.astype(str).tolist())}, device


def two_hundred(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """200 experiences of one class; accuracy on all of them, time of the last experience, bytes of the saved state."""
    kinds, order = Kinds(sets, seed), np.random.default_rng(seed).permutation(200)
    for count in (100, 20):
        device = make()
        for c in order:
            device.learn(kinds.train([c], count), kinds.names[c])
        figures = {"accuracy": kinds.right(device, order), "last lesson, s": device.seconds[-1]}
        yield f"{count} pictures", figures | {"state, bytes": len(device.learner.to_bytes())}, device


def _dark(images: Images) -> Images:
    return (images * 0.3).astype(np.uint8)


def _bright(images: Images) -> Images:
    return np.clip(images.astype(np.int64) + 110, 0, 255).astype(np.uint8)


def _blurred(images: Images) -> Images:
    return np.stack([np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5))) for image in images])


def drift(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """Ten names, 50 pictures each, then 50 others each in a new look; both looks before, after, and when all is one experience."""
    kinds, classes = Kinds(sets, seed), np.random.default_rng(300 + seed).choice(200, 10, replace=False)
    names, old = kinds.names_of(classes, 50), kinds.train(classes, 50)
    for look, change in (("dark", _dark), ("bright", _bright), ("blurred", _blurred)):
        device, joint, new = make(), make(), change(kinds.train(classes, 50, first=50))

        def both(device: Device, when: str, change: Callable[[Images], Images] = change) -> dict[str, float]:
            return {f"old look{when}": kinds.right(device, classes), f"new look{when}": kinds.right(device, classes, change)}

        device.learn(old, names)
        before = both(device, " before")
        device.learn(new, names)
        joint.learn(np.concatenate([old, new]), names + names)
        after = both(device, "")
        yield look, {"accuracy": sum(after.values()) / 2} | before | after | both(joint, ", joint"), device


def imbalance(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """10,000 pictures of one name, then five names of one picture each."""
    kinds, pick, rng = Kinds(sets, seed), np.random.default_rng(200 + seed).permutation(200), np.random.default_rng(5)
    kind, few, thing = pick[:100], pick[100:105], pick[105:106]

    def varied(image: Images) -> Images:
        mirrored = image[:, ::-1] if rng.random() < 0.5 else image
        return np.clip(np.roll(mirrored, rng.integers(-3, 4, 2), (0, 1)) * rng.uniform(0.8, 1.2), 0, 255).astype(np.uint8)

    one = kinds.train(thing, 100)
    for big, images, tested in (
        ("nothing", kinds.train(kind, 100), kinds.test(kind, 10)),
        ("one thing", np.stack([varied(one[i % 100]) for i in range(10_000)]), kinds.test(thing)),
    ):
        device = make()
        device.learn(images, big)
        for c in few:
            device.learn(kinds.train([c], 1), kinds.names[c])
        names, kept = kinds.right(device, few), device.named(tested, big)
        yield f"10,000 of {big}", {"accuracy": (names + kept) / 2, "names": names, "the 10,000": kept}, device


def burst(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """Ten classes of 50, one an experience; the first begins with 300 near-copies of one picture: the mean over five that come first, and the same without."""
    kinds, classes = Kinds(sets, seed), np.random.default_rng(100 + seed).choice(200, 10, replace=False)

    def copies(image: Images, rng: np.random.Generator) -> Images:
        moved = [np.roll(image, rng.integers(-1, 2, 2), (0, 1)) + rng.integers(-3, 4) + rng.normal(0, 2, image.shape) for _ in range(300)]
        return np.clip(np.stack(moved), 0, 255).astype(np.uint8)

    for case in ("the 50 alone", "300 near-copies, then the 50"):
        found = []
        for number, c in enumerate(classes[:5]):
            device, images, others = make(), kinds.train([c], 50), np.delete(classes, number)
            if case.startswith("300"):
                device.learn(copies(images[0], np.random.default_rng((seed, number))), kinds.names[c])
            device.learn(images, kinds.names[c])
            for b in others:
                device.learn(kinds.train([b], 50), kinds.names[b])
            found.append((kinds.right(device, classes), kinds.right(device, [c]), kinds.right(device, others)))
        whole, it, rest = np.mean(found, axis=0)
        yield case, {"accuracy": whole, "it": it, "the others": rest}, device


def photos(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """30 groceries, six an experience."""
    train, test, order, device = sets.train("photos"), sets.test("photos"), np.random.default_rng(seed).permutation(30), make()
    for i in range(0, 30, 6):
        rows = np.flatnonzero(np.isin(train.labels, order[i : i + 6]))
        device.learn(train.images[rows], [train.names[c] for c in train.labels[rows]])
    yield "", {"accuracy": device.right(test.images, [test.names[c] for c in test.labels])}, device


def _cifar10(sets: Sets, make: Make, lessons: Sequence[Rows]) -> Case:
    train, test, device = sets.train("cifar10"), sets.test("cifar10"), make()
    for rows in lessons:
        device.learn(train.images[rows], [train.names[c] for c in train.labels[rows]])
    return "", {"accuracy": device.right(test.images, [test.names[c] for c in test.labels])}, device


def nc5(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """CIFAR-10, two classes an experience."""
    train = sets.train("cifar10")
    names = np.array(train.names)[train.labels]
    yield _cifar10(sets, make, [np.flatnonzero(np.isin(names, pair)) for pair in CIFAR10_NC5])


def ni10(sets: Sets, seed: int, make: Make) -> Iterator[Case]:
    """CIFAR-10, a tenth of the pictures of every class an experience."""
    yield _cifar10(sets, make, [lesson.rows for lesson in new_instances(sets.train("cifar10").labels, 10, seed)])


STREAMS: dict[str, Callable[[Sets, int, Make], Iterator[Case]]] = {
    stream.__name__: stream
    for stream in (other, nothing, two, noise, noise_digits, two_hundred, drift, imbalance, burst, photos, nc5, ni10)
}


def setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def settings_of(further: dict[str, Any], capacity: int, seed: int, blocks: int) -> Settings:
    """Of a run; those of the tail count only where it is trained."""
    mine = {name: value for name, value in further.items() if blocks or name not in TAIL_NAMES}
    return Settings.from_dict({"capacity": capacity, "seed": seed, "train_blocks": blocks, **mine})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default=None)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--train-blocks", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--capacity", type=int, nargs="+", default=[1500])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=STREAMS, default=list(STREAMS), metavar="NAME", help=", ".join(STREAMS))
    parser.add_argument("--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE", help="further settings of the learner")
    parser.add_argument("--out", type=Path, default=RESULTS / "streams.jsonl")
    args = parser.parse_args()
    model, settings = Model.open(args.model), dict(args.set)
    sets, log = Sets(args.data, model.network.image_size, args.cache), Log(args.out, model)
    for name in args.only:
        for capacity in args.capacity:
            for seed in range(args.seeds):
                for blocks in args.train_blocks:

                    def make(seed: int = seed, capacity: int = capacity, blocks: int = blocks) -> Device:
                        return Device(Learner(model, settings_of(settings, capacity, seed, blocks)))

                    for case, figures, device in STREAMS[name](sets, seed, make):
                        info = device.learner.info()
                        log.write(
                            stream=name, case=case, seed=seed, capacity=capacity, train_blocks=blocks, settings=settings, figures=figures,
                            tail_weight=info["last_lesson"]["tail_weight"], learned_bytes=info["bytes"]["kept"] - info["bytes"]["network"],
                            seconds=sum(device.seconds),
                        )  # fmt: skip


if __name__ == "__main__":
    main()
