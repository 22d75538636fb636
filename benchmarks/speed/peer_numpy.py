"""NumPy with its float32 BLAS: the step of the head, written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from works import Loaded, head, softmax_gradient


def version() -> str:
    return np.__version__


def prepare(work: str, variant: str, folder: str) -> None:
    pass


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    data = head()
    weight, rate = data.weight.T.copy(), np.float32(data.rate)
    start, first = weight.copy(), []

    def step() -> None:
        nonlocal weight
        weight -= data.x.T @ (softmax_gradient(data.x @ weight, data.labels) * rate)

    def update() -> Any:
        first.append((weight - start).T)
        return first[0]

    return Loaded(step, update, data.update, 0.9999)
