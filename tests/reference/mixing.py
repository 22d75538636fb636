"""How the logits of two branches make one, and how that is chosen (docs/method.md, 7.7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Int64, rs
from .head import exp2neg, log2q

ONE = 1 << 16
SCALES = [math.floor(2 ** (16 + k / 2) + 0.5) for k in range(-6, 5)]
LIKE_ROWS = 4


def inverse_temperature(rows: int, classes: int) -> int:
    """Return a, 16 fraction bits."""
    return math.floor(65536 / (1.6 + 24 / math.sqrt(rows / classes)) + 0.5)


def frozen_weight(scale: int, temperature: int) -> int:
    """f of s_f and a."""
    return min(int(rs(scale * temperature, 16)), 1 << 20)


def loss(logits: Int64, label: int) -> int:
    """Minus the logarithm of a class's probability, 16 fraction bits."""
    top = int(logits.max())
    total = int(exp2neg((np.minimum(top - logits, 1 << 40) * 94548) >> 16).sum())
    return top - int(logits[label]) + (((log2q(total) - (30 << 16)) * 45426) >> 16)


@dataclass(frozen=True)
class Held:
    """Rows that were held back: labels (R,), logits (R, K) of LDA without the row and of the branch."""

    labels: NDArray[np.int64]
    frozen: Int64
    branch: Int64

    def mean(self, values: list[float]) -> float:
        """Mean over classes of means over rows."""
        of = [[v for v, label in zip(values, self.labels, strict=True) if label == c] for c in sorted(set(self.labels.tolist()))]
        return sum(sum(own) / len(own) for own in of) / len(of)

    def best(self, logits: Int64) -> tuple[int, list[int]]:
        """The scale with the lowest loss, and the losses of all rows there."""
        found = [(s, [loss(rs(row * s, 16), int(label)) for row, label in zip(logits, self.labels, strict=True)]) for s in SCALES]
        return min(found, key=lambda one: self.mean([float(v) for v in one[1]]))


def choose_mixing(held: Held, old: int, *, heard: bool = False) -> tuple[tuple[int, int], int]:
    """Return the scales s_f and s_b, and the class for whose sake the branch is not heard, or -1; old: how many classes were known before; heard: whether
    the branch was.
    """
    classes = sorted(set(held.labels.tolist()))
    if len(classes) < 2:
        return (ONE, 0), -1
    both = held.frozen + held.branch
    (alone_scale, alone), (scale, mixed) = held.best(held.frozen), held.best(both)
    gains = [float(a - b) for a, b in zip(alone, mixed, strict=True)]
    own = {c: [g for g, label in zip(gains, held.labels, strict=True) if label == c] for c in classes}
    squares = {c: sum((g - sum(own[c]) / len(own[c])) ** 2 for g in own[c]) for c in classes}
    pooled = sum(squares.values()) / max(len(gains) - len(classes), 1)
    variance = sum((squares[c] + LIKE_ROWS * pooled) / (len(own[c]) - 1 + LIKE_ROWS) / len(own[c]) for c in classes) / len(classes) ** 2
    if scale * 6 < ONE or held.mean(gains) <= (0 if heard else math.sqrt(variance) / 2):
        return (alone_scale, 0), -1
    was, now = (logits.argmax(axis=1) == held.labels for logits in (held.frozen, both))
    for c in classes:
        lost, won = (int((a & ~b & (held.labels == c)).sum()) for a, b in ((was, now), (now, was)))
        if c < old and lost - won > 0 and (lost - won) ** 2 > 4 * (lost + won):
            return (alone_scale, 0), c
    return (scale, scale), -1
