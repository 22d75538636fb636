"""The head in float64 on features that are already there: the methods that the learner is compared with, and a quick way to
choose its settings on a validation split (docs/method.md, 4).  The integer learner is measured by `accuracy.py`.
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
    min_steps: int = DEFAULTS.min_steps
    live_batch: int = DEFAULTS.live_batch
    replay_batch: int = DEFAULTS.replay_batch
    ghosts: int = DEFAULTS.ghosts
    pull: float = DEFAULTS.pull
    mix: float = 0.8  # share of a replayed row's own deviation from its class mean; 1: the row as it is
    prior: bool = True
    means: bool = True  # class means: re-centred rows, rows for absent classes; False: plain CWR* with ghosts
    consolidate: bool = True  # False: one head, trained on, over all classes seen (naive)
    seed: int = 0


def _rows_in_turn(count: int, generator: np.random.Generator) -> Iterator[int]:
    while True:
        yield from generator.permutation(count)


def cwr_star(lessons: list[tuple[Floats, Labels]], classes: int, options: HeadOptions) -> list[Floats]:
    """Consolidated weights after each lesson, float (classes, D_f)."""
    o, rng = options, np.random.default_rng(options.seed)
    width = lessons[0][0].shape[1]
    weight, past = np.zeros((classes, width)), np.zeros(classes)
    sums, offered = np.zeros((classes, width)), np.zeros(classes, np.int64)
    rx, ry = np.empty((0, width)), np.empty(0, np.int64)  # the replay memory
    history = []
    for x, y in lessons:
        live, stored = np.bincount(y, minlength=classes), np.bincount(ry, minlength=classes)
        np.add.at(sums, y, x)
        before, offered = offered, offered + live
        mean = sums / np.maximum(offered, 1)[:, None]
        old = rx.copy()
        if o.means:
            for c in np.unique(ry):
                old[ry == c] += mean[c] - rx[ry == c].mean(0)
        absent = np.flatnonzero((offered > 0) & (live == 0)) if o.means and not len(rx) else np.empty(0, np.int64)
        counts = live + stored
        active = np.flatnonzero(offered > 0 if not o.consolidate or len(absent) else counts > 0)
        bl = min(o.live_batch, len(x))
        bo = min(o.replay_batch, len(rx)) if len(rx) else o.replay_batch * bool(len(absent))
        prior = np.zeros(len(active))
        if o.prior and bo:
            others = stored / max(len(rx), 1) if len(rx) else np.isin(np.arange(classes), absent) / len(absent)
            prior = np.log((bl * live / len(x) + bo * others)[active] / (bl + bo) * len(active))
        ghosts = 0 if o.means and bo else o.ghosts
        place = np.full(classes, -1)
        place[active] = np.arange(len(active))
        start, known = weight[active].copy(), past[active] > 0
        tw = start.copy()
        steps = max(o.epochs * -(-len(x) // bl), o.min_steps)
        turns, replayed = _rows_in_turn(len(x), rng), _rows_in_turn(len(rx), rng) if len(rx) else None
        pool, pool_y = np.concatenate([x, old]), np.concatenate([y, ry])
        for step in range(steps):
            rows = [next(turns) for _ in range(bl)]
            bx, by = x[rows], y[rows]
            if bo:
                if replayed is not None:
                    rows = [next(replayed) for _ in range(bo)]
                    ox, oy, share = old[rows], ry[rows], o.mix if o.means else 1.0
                else:
                    oy = absent[rng.integers(len(absent), size=bo)]
                    ox, share = mean[oy], 0.0
                if share < 1:
                    noise = rng.integers(len(pool), size=bo)
                    deviation = pool[noise] - mean[pool_y[noise]]
                    ox = mean[oy] + share * (ox - mean[oy]) + np.sqrt(1 - share**2) * deviation
                bx, by = np.concatenate([bx, ox]), np.concatenate([by, oy])
            logits = bx @ tw.T + prior
            top = np.maximum(logits.max(1), 0.0)
            e = np.exp(logits - top[:, None])
            p = e / (e.sum(1) + ghosts * np.exp(-top))[:, None]
            p[np.arange(len(by)), place[by]] -= 1.0
            tw -= o.learning_rate * (1 - step / steps) * (p.T @ bx / len(bx) + o.pull * known[:, None] * (tw - start))
        if o.consolidate:
            here = counts[active] > 0  # absent classes keep their rows
            rows = active[here]
            a = np.sqrt(past[rows] / counts[rows])
            weight[rows] = (a[:, None] * weight[rows] + tw[here] - tw[here].mean()) / (a[:, None] + 1)
        else:
            weight[active] = tw
        past[active] += counts[active]
        history.append(weight.copy())
        if o.capacity:
            quota = o.capacity // int((offered > 0).sum())
            kept: list[Floats] = []
            labels: list[int] = []
            for c in np.flatnonzero(offered):
                rows_c = list(rx[ry == c][rng.permutation(int(stored[c]))[:quota]])
                for i, row in enumerate(x[y == c], start=int(before[c])):
                    if len(rows_c) < quota:
                        rows_c.append(row)
                    elif (j := rng.integers(i + 1)) < quota:
                        rows_c[j] = row
                kept += rows_c
                labels += [int(c)] * len(rows_c)
            rx, ry = np.array(kept), np.array(labels)
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
