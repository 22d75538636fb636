"""The head, streaming LDA (docs/method.md, 4), written without a look at the engine: the same operations on every value, in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import Int64, rs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """count (K,), sums (K, D), moment (D, D), saturated: of every row that counts, exactly (method.md, 4.1)."""

    count: Int64
    sums: Int64
    moment: Int64
    saturated: int = 0

    @classmethod
    def none(cls, width: int) -> Sums:
        """Of no row."""
        return cls(np.zeros(0, np.int64), np.zeros((0, width), np.int64), np.zeros((width, width), np.int64))

    def with_rows(self, rows: NDArray[np.int8], labels: ArrayLike, classes: int) -> Sums:
        """These and further rows (N, D) of the classes `labels` (N,), all below `classes`."""
        x, of = rows.astype(np.int64), np.asarray(labels, np.int64).reshape(-1)
        count, sums = np.zeros(classes, np.int64), np.zeros((classes, x.shape[1]), np.int64)
        count[: len(self.count)], sums[: len(self.count)] = self.count, self.sums
        np.add.at(count, of, 1)
        np.add.at(sums, of, x)
        return Sums(count, sums, self.moment + x.T @ x, self.saturated + int((np.abs(x) == 127).sum()))

    def less(self, others: Sums) -> Sums:
        """These without rows that they hold."""
        return Sums(self.count - others.count, self.sums - others.sums, self.moment - others.moment, self.saturated - others.saturated)

    @property
    def triangle(self) -> Int64:
        """The upper triangle of the moment by rows, as states hold it."""
        return self.moment[np.triu_indices(len(self.moment))]

    def order(self) -> list[int]:
        """Classes by what is known of them (method.md, 4.2)."""
        return sorted(range(len(self.count)), key=lambda c: (int(self.count[c]), *self.sums[c].tolist()))

    def scatter(self) -> Floats:
        """Return W (D, D), the scatter within classes (method.md, 4.2)."""
        within = self.moment.astype(np.float64)
        for c in self.order():
            if not self.count[c]:
                continue
            s = self.sums[c].astype(np.float64)
            within = within - (s[:, None] * s) / np.float64(self.count[c])
        return within


def sums_of(rows: NDArray[np.int8], labels: ArrayLike, classes: int) -> Sums:
    """Of features (N, D) and labels (N,)."""
    return Sums.none(rows.shape[1]).with_rows(rows, labels, classes)


@dataclass(frozen=True)
class LinearClassifier:
    """weight (K, D), bias (K,), exponent: scores in units of 2^-exponent (method.md, 4.2)."""

    weight: Int64
    bias: Int64
    exponent: int

    def scores(self, rows: NDArray[np.int8]) -> Int64:
        """Return (N, K)."""
        return rows.astype(np.int64) @ self.weight.T + self.bias

    def logits(self, rows: NDArray[np.int8], factor: int = 1 << 16) -> Int64:
        """(N, K) with 16 fraction bits; factor: the frozen branch's weight (method.md, 4.3)."""
        scaled = self.scores(rows).astype(object) * factor  # integers without end
        return (rs(scaled, self.exponent) if self.exponent >= 0 else scaled << -self.exponent).astype(np.int64)


def solve(known: Sums, shrinkage: float, pseudo_pictures: float, variance: float) -> LinearClassifier:
    """Make the classifier (method.md, 4.2); of a class without rows d_c = 0 (7.6).

    Parameters
    ----------
    known
        Sums of K classes.
    shrinkage, pseudo_pictures
        nu and kappa, in rows.
    variance
        v where W has no trace.

    """
    classes, width = known.sums.shape
    if classes == 0:
        return LinearClassifier(np.zeros((0, width), np.int64), np.zeros(0, np.int64), 0)
    total = np.float64(known.count.sum())
    mean = known.sums.sum(0).astype(np.float64) / total
    a = known.scatter()
    trace = np.float64(0)
    for i in range(width):
        trace = trace + a[i, i]
    mean_variance = trace / total / np.float64(width) if trace > 0 else np.float64(variance)
    a[np.arange(width), np.arange(width)] += np.float64(shrinkage) * mean_variance
    a = a / (total + np.float64(shrinkage))

    n = known.count.astype(np.float64)[:, None]
    deviation = (known.sums.astype(np.float64) - n * mean) / np.where(n > 0, n + np.float64(pseudo_pictures), 1)
    y = deviation.copy()
    for k in range(width):  # only the upper triangle is read: a[i, j] with j >= i
        factors = a[k, k + 1 :] / a[k, k]
        a[k + 1 :, k + 1 :] = a[k + 1 :, k + 1 :] - factors[:, None] * a[k, k + 1 :]
        y[:, k + 1 :] = y[:, k + 1 :] - y[:, k : k + 1] * factors
    for k in range(width - 1, -1, -1):
        y[:, k] = y[:, k] / a[k, k]
        y[:, :k] = y[:, :k] - y[:, k : k + 1] * a[:k, k]

    largest, exponent = np.abs(y).max(), 0
    while exponent < 60 and 0 < largest * 2.0**exponent < 16383.5:
        exponent += 1
    while exponent > -60 and largest * 2.0**exponent > 32767:
        exponent -= 1
    scale = np.float64(2.0**exponent)
    bias = np.zeros(classes)
    for j in range(width):
        bias = bias - y[:, j] * (mean[j] + 0.5 * deviation[:, j])
    weight = np.clip(np.floor(y * scale + 0.5), -32767, 32767).astype(np.int64)
    return LinearClassifier(weight, np.clip(np.floor(bias * scale + 0.5), -(2.0**40), 2.0**40).astype(np.int64), exponent)


def without_class(known: Sums, k: int) -> Sums:
    """Sums without class k (method.md, 4.4)."""
    left = [c for c in range(len(known.count)) if c != k]
    between = np.zeros(known.moment.shape)
    for c in known.order():
        if c != k:
            s = known.sums[c].astype(np.float64)
            between = between + (s[:, None] * s) / np.float64(known.count[c])
    rows, total = int(known.count[left].sum()), int(known.count.sum())
    most = 127**2 * rows
    moment = np.rint(np.clip(known.scatter() * (np.float64(rows) / np.float64(total)) + between, -most, most)).astype(np.int64)
    return Sums(known.count[left], known.sums[left], moment, known.saturated * rows // total)
