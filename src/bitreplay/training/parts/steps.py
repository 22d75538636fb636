"""Minibatches of current and replay samples, as indices; how a step's rate falls; which optimiser takes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def minibatches(
    live: int, replayed: int, live_batch: int, replay_batch: int, epochs: int, generator: np.random.Generator
) -> Iterator[tuple[float, Indices, Indices]]:
    """Yield (share of the experience done, current indices, replay indices) for every step.

    Each epoch passes once over the current samples in a new order; its last short batch is dropped unless it is the only one.  Replay samples
    go round in orders of their own, at most `replay_batch` of them a step, none twice in a step.
    """
    steps = max(1, live // live_batch)
    queue: Indices = np.zeros(0, np.int64)
    for epoch in range(epochs):
        order = generator.permutation(live)
        for step in range(steps):
            count = min(replay_batch, replayed)
            if len(queue) < count:
                queue = generator.permutation(replayed)
            drawn, queue = queue[:count], queue[count:]
            yield (epoch * steps + step) / (epochs * steps), order[step * live_batch : (step + 1) * live_batch], drawn


def half_cosine(done: float) -> float:
    """From 1 at the begin (`done` 0) to 0 at the end (1)."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(name: str, groups: list[dict[str, Any]], momentum: float) -> torch.optim.Optimizer:
    """Adam, or SGD with momentum, for groups of parameters; the rate is set at each step."""
    return torch.optim.Adam(groups) if name == "adam" else torch.optim.SGD(groups, momentum=momentum)
