"""Streaming LDA in numpy, from docs/method.md, 9, without a look at the engine: the same operations on every value, in the same order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sums:
    """count (K,), sums (K, D), moment (D, D): of every row, exactly."""

    count: Int64
    sums: Int64
    moment: Int64


def sums_of(rows: NDArray[np.int8], labels: NDArray[np.int64], classes: int) -> Sums:
    """Of features (N, D) and labels (N,)."""
    x = rows.astype(np.int64)
    sums = np.zeros((classes, x.shape[1]), np.int64)
    np.add.at(sums, labels, x)
    return Sums(np.bincount(labels, minlength=classes).astype(np.int64), sums, x.T @ x)


def solve(known: Sums, order: list[int], shrinkage: float, pseudo_pictures: float, variance: float) -> tuple[NDArray[np.int16], Int64, int]:
    """Weights (K, D), bias (K,) and exponent of the classifier; `order`: the classes with rows."""
    classes, width = known.sums.shape
    weight, bias = np.zeros((classes, width), np.int16), np.full(classes, -(2**63) // 4, np.int64)
    if not order:
        return weight, bias, 0
    total = np.float64(known.count[order].sum())
    mean = known.sums[order].sum(0).astype(np.float64) / total
    a = known.moment.astype(np.float64)
    for c in order:
        s = known.sums[c].astype(np.float64)
        a = a - (s[:, None] * s) / np.float64(known.count[c])
    trace = np.float64(0)
    for i in range(width):
        trace = trace + a[i, i]
    mean_variance = trace / total / np.float64(width) if trace > 0 else np.float64(variance)
    a[np.arange(width), np.arange(width)] += np.float64(shrinkage) * mean_variance
    a = a / (total + np.float64(shrinkage))

    n = known.count[order].astype(np.float64)[:, None]
    deviation = (known.sums[order].astype(np.float64) - n * mean) / (n + np.float64(pseudo_pictures))
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
    weight[order] = np.clip(np.floor(y * scale + 0.5), -32767, 32767).astype(np.int16)
    for row, c in enumerate(order):
        value = np.float64(0)
        for j in range(width):
            value = value - y[row, j] * (mean[j] + 0.5 * deviation[row, j])
        bias[c] = int(np.clip(np.floor(value * scale + 0.5), -(2.0**60), 2.0**60))
    return weight, bias, exponent
