"""A learner with a tail that was taught, whose state can be changed below its digest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_model
from new_learner import new_learner
from numpy.typing import NDArray
from reference.files import pack, unpack
from tail_model import make

Tensors = dict[str, NDArray[Any]]


class Taught:
    """A state whose tail was trained, in parts that can be changed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.model, _, _ = make(folder, "birealnet", channels=6, image_size=8)
        self.images = tiny_model.random_images(1, 4, 8)
        self.learner = new_learner(self.model, capacity=4, threads=1, near_equal=0, **settings)
        for names in ("abab", "bcba"):
            self.learner.learn(self.images, list(names))
        self.content = self.learner.to_bytes()
        words, self.tensors = unpack(self.content, "state", "s")
        self.words = {key: value for key, value in words.items() if key in ("model", "settings", "names", "experience")}

    def changed(self, tensors: Tensors | None = None, **settings: Any) -> bytes:
        known = json.loads(self.words["settings"])
        words = {**self.words, "settings": json.dumps({**known, **settings})}
        return pack("state", words, {**self.tensors, **(tensors or {})})


def last(name: str, value: int) -> Callable[[Tensors], Tensors]:
    """Of tensors: the one of this name with another last value."""

    def change(tensors: Tensors) -> Tensors:
        values = tensors[name].copy()
        values.reshape(-1)[-1] = value
        return {name: values}

    return change
