"""The float simulation's replay memory: rows and labels together, never more than its capacity."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ReplayMemory:
    """Bounded store of (row, label).

    Parameters
    ----------
    capacity : most rows.
    generator : of every random draw.
    policy : "balanced" (equal shares of the classes, within a class a reservoir over everything offered) or "random" (Pellegrini et al.
        2020: after experience i, capacity / i random rows of it overwrite random rows).
    """

    def __init__(self, capacity: int, generator: np.random.Generator, policy: str = "balanced") -> None:
        if policy not in ("balanced", "random"):
            raise ValueError(f'policy: expected "balanced" or "random", got {policy!r}')
        if capacity < 0:
            raise ValueError(f"capacity: expected 0 or more, got {capacity}")
        self.capacity, self.policy = capacity, policy
        self._generator = generator
        self.rows: NDArray[Any] | None = None
        self.labels = np.zeros(0, np.int64)
        self._key = np.zeros(0)  # a row's draw: the smallest of a class stay
        self._experience = 0

    def __len__(self) -> int:
        return len(self.labels)

    def offer(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> None:
        """Take what belongs in the memory out of an experience's rows, (N, ...), and labels, int64 (N,)."""
        self._experience += 1
        if self.capacity == 0:
            return
        if self.policy == "random":
            self._overwrite(rows, labels)
            return
        # A uniform draw for every row ever offered; the smallest of each class are a uniform sample of all its rows.
        key = self._generator.random(len(labels))
        every = np.concatenate([self.labels, labels])
        keys = np.concatenate([self._key, key])
        classes, counts = np.unique(every, return_counts=True)
        share = _shares(counts, self.capacity)
        chosen = [np.flatnonzero(every == c)[np.argsort(keys[every == c], kind="stable")[:n]] for c, n in zip(classes, share, strict=True)]
        keep = np.concatenate(chosen)
        old, new = keep[keep < len(self.labels)], keep[keep >= len(self.labels)] - len(self.labels)
        fresh = np.asarray(rows[np.sort(new)])
        new = np.sort(new)
        self.rows = fresh if self.rows is None else np.concatenate([self.rows[old], fresh])
        self.labels = np.concatenate([self.labels[old], labels[new]])
        self._key = np.concatenate([self._key[old], key[new]])

    def _overwrite(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> None:
        count = min(self.capacity // self._experience, len(labels))
        new = np.sort(self._generator.permutation(len(labels))[:count])
        room = min(self.capacity - len(self), count)
        gone = self._generator.permutation(len(self))[: count - room]
        stay = np.setdiff1d(np.arange(len(self)), gone)
        fresh = np.asarray(rows[new])
        self.rows = fresh if self.rows is None else np.concatenate([self.rows[stay], fresh])
        self.labels = np.concatenate([self.labels[stay], labels[new]])


def _shares(counts: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    # Rows of each class: as equal as the counts allow, at most `capacity` in all.
    share = np.zeros_like(counts)
    left = min(capacity, int(counts.sum()))
    while left > 0:
        open_classes = np.flatnonzero(share < counts)
        each = max(1, left // len(open_classes))
        for c in open_classes:
            more = min(each, int(counts[c] - share[c]), left)
            share[c] += more
            left -= more
    return share
