"""CWR* and other heads in float64, on features that are already there: the methods that the learner is compared with (docs/method.md, 6).

The learner itself runs in integers, from the pictures on: `accuracy.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitreplay import Settings

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
DEFAULTS = Settings()  # the learner's own, so that the twin follows them


@dataclass(frozen=True)
class HeadOptions:
    capacity: int = 1500
    learning_rate: float = DEFAULTS.learning_rate
    epochs: int = DEFAULTS.epochs
    live_batch: int = DEFAULTS.live_batch
    replay_batch: int = DEFAULTS.replay_batch
    ghosts: int = DEFAULTS.ghosts
    prior: bool = DEFAULTS.prior_correction
    consolidate: bool = True  # False: one head, trained on, over all classes seen (naive)
    seed: int = 0


def _rows_in_turn(count: int, generator: np.random.Generator) -> Iterator[int]:
    while True:
        yield from generator.permutation(count)


def cwr_star(lessons: list[tuple[Floats, Labels]], classes: int, options: HeadOptions) -> list[Floats]:
    """Consolidated weights after each lesson, float (classes, D_f)."""
    o, rng = options, np.random.default_rng(options.seed)
    width = lessons[0][0].shape[1]
    weight, past, offered = np.zeros((classes, width)), np.zeros(classes), np.zeros(classes, np.int64)
    rx, ry, rank = np.empty((0, width)), np.empty(0, np.int64), np.empty(0)  # the replay memory; of each class the lowest ranks stay
    history = []
    for x, y in lessons:
        live, stored = np.bincount(y, minlength=classes), np.bincount(ry, minlength=classes)
        offered += live
        counts = live + stored
        active = np.flatnonzero(counts if o.consolidate else offered)
        bl, bo = min(o.live_batch, len(x)), min(o.replay_batch, len(rx))
        prior = np.zeros(len(active))
        if o.prior and bo:
            prior = np.log((bl * live / len(x) + bo * stored / len(rx))[active] / (bl + bo) * len(active))
        ghosts = 0 if bo else o.ghosts
        place = np.full(classes, -1)
        place[active] = np.arange(len(active))
        tw = weight[active].copy()
        steps = o.epochs * -(-len(x) // bl)
        turns, replayed = _rows_in_turn(len(x), rng), _rows_in_turn(len(rx), rng)
        for step in range(steps):
            rows, old = [next(turns) for _ in range(bl)], np.array([next(replayed) for _ in range(bo)], np.int64)
            bx, by = np.concatenate([x[rows], rx[old]]), np.concatenate([y[rows], ry[old]])
            logits = bx @ tw.T + prior
            top = np.maximum(logits.max(1), 0.0)
            e = np.exp(logits - top[:, None])
            p = e / (e.sum(1) + ghosts * np.exp(-top))[:, None]
            p[np.arange(len(by)), place[by]] -= 1.0
            tw -= o.learning_rate * (1 - step / steps) * p.T @ bx / len(bx)
        if o.consolidate:
            a = np.sqrt(past[active] / counts[active])[:, None]
            weight[active] = (a * weight[active] + tw - tw.mean()) / (a + 1)
        else:
            weight[active] = tw
        past[active] += counts[active]
        history.append(weight.copy())
        if o.capacity:
            rx, ry, rank = np.concatenate([rx, x]), np.concatenate([ry, y]), np.concatenate([rank, rng.random(len(x))])
            quota = o.capacity // int((offered > 0).sum())
            kept = np.concatenate([sorted(np.flatnonzero(ry == c), key=rank.__getitem__)[:quota] for c in np.flatnonzero(offered)])
            rx, ry, rank = rx[kept], ry[kept], rank[kept]
    return history


def accuracy(weight: Floats, x: Floats, y: Labels) -> float:
    return float(((x @ weight.T).argmax(1) == y).mean())
