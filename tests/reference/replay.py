"""The replay memory (docs/method.md, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Uint64, row_hash
from .near_equal import MOST_COMPARED, differing_bits


def level(counts: Sequence[int], capacity: int) -> int:
    """The largest L up to the capacity with which sum(min(n_c, L)) fits into it (method.md, 5)."""
    return max(at for at in range(capacity + 1) if sum(min(n, at) for n in counts) <= capacity)


@dataclass(frozen=True)
class Entry:
    """A row that may be kept: of slot `index`, or live row `index`."""

    key: int
    label: int
    index: int
    live: bool
    row: Uint64


def update_memory(
    rows: Uint64, labels: NDArray[np.uint16], live_rows: Uint64, live_labels: Sequence[int], *,
    capacity: int, seed: int, near: int | None, latent_words: int,
) -> tuple[Uint64, NDArray[np.uint16]]:  # fmt: skip
    """Offer rows that count to the memory (method.md, 5).

    Parameters
    ----------
    rows, labels
        The memory in slot order.
    live_rows, live_labels
        The rows that are offered.
    capacity, seed, near, latent_words
        M; the learner's seed; in how many bits near-equal rows differ at most, or None; the first words of a row, by which all is decided.

    Returns
    -------
    rows, labels
        The new ones.

    """
    offered = []
    for i, (row, c) in enumerate(zip(live_rows, live_labels, strict=True)):
        stored = [other[:latent_words] for other, label in zip(rows, labels, strict=True) if label == c][:MOST_COMPARED]
        if near is None or not any(differing_bits(row[:latent_words], other) <= near for other in stored):
            offered.append(Entry(row_hash(seed, row[:latent_words]), int(c), i, True, row))
    entries = [
        Entry(row_hash(seed, row[:latent_words]), int(c), i, False, row) for i, (row, c) in enumerate(zip(rows, labels, strict=True))
    ]
    entries += offered
    classes = max((entry.label + 1 for entry in entries), default=0)
    # OPEN: equal rows, which have equal hashes, come in the order of slots before live rows.
    of_class = [sorted((e for e in entries if e.label == c), key=lambda e: (e.key, e.live, e.index)) for c in range(classes)]
    most = level([len(own) for own in of_class], capacity)
    candidates = sorted((own[most] for own in of_class if len(own) > most), key=lambda e: (e.key, e.label))
    spare = candidates[: capacity - sum(min(len(own), most) for own in of_class)]
    kept = [entry for own in of_class for entry in own[:most] + [e for e in own[most : most + 1] if e in spare]]

    memory = {entry.index: entry for entry in kept if not entry.live}
    slot = 0
    for entry in kept:  # classes ascending, and within a class ascending hashes
        if entry.live:
            while slot in memory:
                slot += 1
            memory[slot] = entry
    while memory and max(memory) >= len(memory):  # a hole is left: the highest slot moves into the lowest hole
        hole = next(s for s in range(len(memory)) if s not in memory)
        memory[hole] = memory.pop(max(memory))
    assert len(memory) <= capacity
    new_rows = np.zeros((len(memory), live_rows.shape[1]), np.uint64)
    new_labels = np.zeros(len(memory), np.uint16)
    for s, entry in memory.items():
        new_rows[s], new_labels[s] = entry.row, entry.label
    return new_rows, new_labels
