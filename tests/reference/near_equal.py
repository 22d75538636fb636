"""Rows that are one piece of evidence (docs/method.md, 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Uint64, row_hash

MOST_COMPARED = 4096


def differing_bits(a: Uint64, b: Uint64) -> int:
    """In how many bits two packed rows differ."""
    return sum(int(x ^ y).bit_count() for x, y in zip(a.tolist(), b.tolist(), strict=True))


def most_differing(near_equal: int, latent_bits: int) -> int | None:
    """In how many bits near-equal rows differ at most; near_equal: the setting, 16 fraction bits; None where no two rows are near-equal."""
    return (near_equal * latent_bits) >> 16 if near_equal else None


def count_once(rows: Uint64, labels: Sequence[int], near: int | None) -> NDArray[np.bool_]:
    """Which rows of a lesson count (method.md, 5.1); near: of `most_differing`."""
    counts = np.ones(len(rows), np.bool_)
    if near is None:
        return counts
    for c in set(labels):
        own = sorted((i for i in range(len(rows)) if labels[i] == c), key=lambda i: row_hash(0, rows[i]))
        counting: list[int] = []
        for i in own:
            counts[i] = not any(differing_bits(rows[i], rows[other]) <= near for other in counting[:MOST_COMPARED])
            if counts[i]:
                counting.append(i)
    return counts
