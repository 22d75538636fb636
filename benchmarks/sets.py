"""The picture sets that benchmarks learn from and test on, by the names of their folders below DATA.

DATA holds cifar10/, tiny-imagenet/ and photos/ in parquet (or class folders below train/ and test/).  Tiny-ImageNet's training pictures are what
the shipped backbones learned from; its validation pictures they never saw.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitreplay.datasets.image_sets import ImageSet, by_name, cached_split

SETS = ("photos", "cifar10", "tiny-imagenet")
Rows = NDArray[np.int64]


class Sets:
    """Pictures of both splits, decoded once into a cache and mapped into memory."""

    def __init__(self, data: Path, size: int, cache: Path) -> None:
        self._data, self._size, self._cache = data, size, cache

    def train(self, name: str) -> ImageSet:
        return self._split(name, "train")

    def test(self, name: str) -> ImageSet:
        """The test pictures (Tiny-ImageNet: validation), labels counted as in `train`."""
        found = self._split(name, "valid")
        return found if name == "tiny-imagenet" else by_name(found, self.train(name).names, name)

    def _split(self, name: str, split: str) -> ImageSet:
        found = cached_split(self._data / name, split, self._size, self._cache)
        if found is None:
            raise SystemExit(f"{self._data / name}: expected pictures in a split {split}, found none")
        return found


def rows_by_class(labels: Rows, rng: np.random.Generator | None) -> list[Rows]:
    """Row numbers of each class, in their order, or in one that is drawn."""
    found = [np.flatnonzero(labels == c) for c in range(int(labels.max()) + 1)]
    return found if rng is None else [rng.permutation(rows) for rows in found]


def halves(labels: Rows) -> tuple[Rows, Rows]:
    """Two halves of each class, always the same."""
    rows = rows_by_class(labels, np.random.default_rng(0))
    return np.concatenate([r[: len(r) // 2] for r in rows]), np.concatenate([r[len(r) // 2 :] for r in rows])
