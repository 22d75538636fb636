"""The head in float64 on features that are already there: the methods that the learner is compared with, and a quick way to
choose its settings on a validation split (docs/method.md, 4).  The integer learner is measured by `accuracy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class HeadOptions:
    capacity: int = 1500
    learning_rate: float = 0.05
    epochs: int = 5
    min_steps: int = 100
    live_batch: int = 50
    replay_batch: int = 128
    ghosts: int = 8
    prior: bool = True
    consolidate: bool = True  # False: one head, trained on, over all classes seen (naive)
    seed: int = 0


def _rows_in_turn(count: int, generator: np.random.Generator):
    while True:
        yield from generator.permutation(count)


def cwr_star(lessons: list[tuple[Floats, Labels]], classes: int, options: HeadOptions) -> list[Floats]:
    """Consolidated weights after each lesson, float (classes, D_f)."""
    rng = np.random.default_rng(options.seed)
    width = lessons[0][0].shape[1]
    weight, past = np.zeros((classes, width)), np.zeros(classes)
    seen_classes = np.zeros(classes, bool)
    memory: dict[int, list[Floats]] = {}
    offered = np.zeros(classes, np.int64)
    history = []
    for x, y in lessons:
        stored = [(c, row) for c, rows in memory.items() for row in rows]
        rx = np.array([row for _, row in stored]) if stored else np.empty((0, width))
        ry = np.array([c for c, _ in stored], np.int64)
        counts = np.bincount(y, minlength=classes) + np.bincount(ry, minlength=classes)
        seen_classes |= counts > 0
        active = np.flatnonzero(seen_classes if not options.consolidate else counts > 0)
        tw = weight[active].copy()
        lb, rb = min(options.live_batch, len(x)), min(options.replay_batch, len(rx))
        prior = np.zeros(len(active))
        if options.prior and rb:
            share = (lb * np.bincount(y, minlength=classes)[active] / len(x) + rb * np.bincount(ry, minlength=classes)[active] / len(rx)) / (lb + rb)
            prior = np.log(share * len(active))
        place = np.full(classes, -1)
        place[active] = np.arange(len(active))
        steps = max(options.epochs * -(-len(x) // lb), options.min_steps)
        live, replayed = _rows_in_turn(len(x), rng), _rows_in_turn(len(rx), rng) if rb else None
        for step in range(steps):
            rows = [next(live) for _ in range(lb)]
            bx, by = x[rows], y[rows]
            if rb:
                rows = [next(replayed) for _ in range(rb)]
                bx, by = np.concatenate([bx, rx[rows]]), np.concatenate([by, ry[rows]])
            logits = bx @ tw.T + prior
            top = np.maximum(logits.max(1), 0.0)
            e = np.exp(logits - top[:, None])
            p = e / (e.sum(1) + options.ghosts * np.exp(-top))[:, None]
            p[np.arange(len(by)), place[by]] -= 1.0
            tw -= options.learning_rate * (1 - step / steps) / len(bx) * (p.T @ bx)
        if options.consolidate:
            a = np.sqrt(past[active] / counts[active])
            weight[active] = (a[:, None] * weight[active] + tw - tw.mean()) / (a[:, None] + 1)
        else:
            weight[active] = tw
        past[active] += counts[active]
        history.append(weight.copy())
        if options.capacity:
            quota = options.capacity // int(seen_classes.sum())
            for c in np.unique(y):
                for row in x[y == c]:
                    rows_c = memory.setdefault(int(c), [])
                    if len(rows_c) < quota:
                        rows_c.append(row)
                    elif (j := rng.integers(offered[c] + 1)) < quota:
                        rows_c[j] = row
                    offered[c] += 1
            for c, rows_c in memory.items():
                memory[c] = [rows_c[i] for i in rng.permutation(len(rows_c))[:quota]]
    return history


def accuracy(weight: Floats, x: Floats, y: Labels) -> float:
    return float(((x @ weight.T).argmax(1) == y).mean())


def nearest_mean(x: Floats, y: Labels, classes: int) -> tuple[Floats, Floats]:
    """Weights and offsets of the nearest class mean (Euclidean, in the whitened space)."""
    means = np.stack([x[y == c].mean(0) for c in range(classes)])
    return means, -0.5 * (means**2).sum(1)


def streaming_lda(x: Floats, y: Labels, classes: int, shrinkage: float = 1e-2) -> tuple[Floats, Floats]:
    """Weights and offsets of linear discriminant analysis from streamed means and one covariance (Hayes & Kanan 2020)."""
    means = np.stack([x[y == c].mean(0) for c in range(classes)])
    inside = x - means[y]
    covariance = inside.T @ inside / len(x)
    covariance = (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weight = np.linalg.solve(covariance, means.T).T
    return weight, -0.5 * (weight * means).sum(1)
