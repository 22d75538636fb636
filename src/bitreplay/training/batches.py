"""Batches of training pictures, made while the optimiser works (docs/method.md, section 2.4).

Owns the order of an epoch, which crop of a picture a step sees, and the thread that is a few batches ahead.  A batch is a function of
(seed, epoch, step) alone, so an epoch can be entered anywhere.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..datasets.image_sets import ImageSet
from .crops import Boxes, cut, draw_boxes, enlarge
from .recipe import Recipe
from .soft_labels import SoftLabels

_AHEAD = 3
_ORDER, _PIXELS, _FIRST_CROP = 1, 2, 3  # what is drawn: the last of the numbers that key a generator; that of a teacher's crops has none


@dataclass(frozen=True)
class Batch:
    """What a step learns from.

    Parameters
    ----------
    images : float32 (B, 3, S, S), 0..255.
    labels : int64 (B,).
    classes, shares : a teacher's answers for these very crops, as `SoftLabels.targets` gives them; None without.
    """

    images: Tensor
    labels: Tensor
    classes: Tensor | None = None
    shares: Tensor | None = None


class Batches:
    """The batches of one epoch.

    Parameters
    ----------
    data : training pictures.
    soft : soft labels of them, or None.
    crops : with soft labels, how many crops of each picture to learn from; each epoch shows the next one, in rotation.
    image_size : side of the network's input in pixels.
    recipe : batch size, seed, and, without soft labels, what crops are like.
    epoch : number of the epoch, from 0.
    """

    def __init__(self, data: ImageSet, soft: SoftLabels | None, crops: int, image_size: int, recipe: Recipe, epoch: int) -> None:
        self._data, self._soft, self._size, self._recipe, self._epoch = data, soft, image_size, recipe, epoch
        self._order = self._generator(_ORDER).permutation(len(data))
        if soft is not None:
            first = np.random.default_rng((recipe.seed, 0, 0, _FIRST_CROP)).integers(0, crops, len(data))
            self._crop = (first + epoch) % crops
            self._boxes = Boxes(np.empty((len(data), 4), np.float32), np.empty(len(data), np.bool_))
            for number in range(crops):
                rows = np.flatnonzero(self._crop == number)
                drawn = soft.header.crops.boxes(number, len(data))[rows]
                self._boxes.edges[rows], self._boxes.mirrored[rows] = drawn.edges, drawn.mirrored

    def _generator(self, purpose: int, step: int = 0) -> np.random.Generator:
        return np.random.default_rng((self._recipe.seed, self._epoch, step, purpose))

    def make(self, step: int) -> Batch:
        """The batch of one step."""
        recipe = self._recipe
        rows = np.sort(self._order[step * recipe.batch_size : (step + 1) * recipe.batch_size])  # in the order of the file
        generator = self._generator(_PIXELS, step)
        boxes = self._boxes[rows] if self._soft is not None else draw_boxes(len(rows), recipe.smallest, recipe.stretch, generator)
        pixels = self._data.images[rows]
        images = cut(pixels, boxes, self._size)
        if recipe.blurred:
            chosen = np.flatnonzero(generator.random(len(rows)) < recipe.blurred)
            small = int(generator.integers(3 * self._size // 8, 3 * self._size // 4 + 1))
            if len(chosen):
                images[chosen] = enlarge(cut(pixels[chosen], boxes[chosen], small), self._size)
        labels = torch.from_numpy(self._data.labels[rows])
        if self._soft is None:
            return Batch(images, labels)
        return Batch(images, labels, *self._soft.targets(self._crop[rows], rows))

    def run(self, start: int, stop: int) -> Iterator[Batch]:
        """The batches of steps `start` to `stop` - 1, made in a thread a few steps ahead."""
        with ThreadPoolExecutor(1, "batches") as worker:
            waiting = deque(worker.submit(self.make, step) for step in range(start, min(start + _AHEAD, stop)))
            try:
                for step in range(start, stop):
                    if step + _AHEAD < stop:
                        waiting.append(worker.submit(self.make, step + _AHEAD))
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
