"""The replay memory (docs/method.md, 5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from reference_arithmetic import Uint64, below, draw

PURPOSE_DROP, PURPOSE_OFFER = 3, 4


def memory_targets(seen: Sequence[int], capacity: int) -> list[int]:
    """Rows that each class may hold, by `seen` and the capacity alone (method.md, 5)."""
    if sum(seen) <= capacity:
        return list(seen)  # every L fits: the method's "largest L" is infinity
    level = 0
    while sum(min(s, level + 1) for s in seen) <= capacity:
        level += 1
    remainder = capacity - sum(min(s, level) for s in seen)
    targets = []
    for s in seen:
        extra = s > level and remainder > 0
        remainder -= extra
        targets.append(min(s, level) + extra)
    return targets


def update_memory(
    rows: Uint64, labels: NDArray[np.uint16], seen: Sequence[int], live_rows: Uint64, live_labels: Sequence[int], *,
    capacity: int, seed: int, experience: int,
) -> tuple[Uint64, NDArray[np.uint16], list[int]]:  # fmt: skip
    """Offer the live rows of one experience to the memory (method.md, 5).

    Parameters
    ----------
    rows, labels
        The memory in slot order.
    seen
        Rows offered so far by class, this experience excluded; classes not yet in it count 0.
    live_rows, live_labels
        Rows of this experience in order.
    capacity, seed, experience
        M, the learner's seed, the number of lessons before this one.

    Returns
    -------
    rows, labels, seen
        The new ones.

    """
    live_labels = [int(c) for c in live_labels]
    classes = max([len(seen), *(c + 1 for c in live_labels)])
    before = list(seen) + [0] * (classes - len(seen))
    after = [before[c] + live_labels.count(c) for c in range(classes)]
    targets = memory_targets(after, capacity)

    # An entry is ("old", slot) or ("new", live row). A list of entries per class, as the method has it.
    lists: list[list[tuple[str, int]]] = []
    for c in range(classes):
        entries = [("old", int(slot)) for slot in np.flatnonzero(labels == c)]
        t = targets[c]
        while len(entries) > t:
            j = below(len(entries), draw(seed, PURPOSE_DROP, experience << 32 | c, len(entries)))
            entries[j] = entries[-1]
            entries.pop()
        i = before[c]
        for row, label in enumerate(live_labels):
            if label != c:
                continue
            if len(entries) < t:
                entries.append(("new", row))
            elif t > 0:
                j = below(i + 1, draw(seed, PURPOSE_OFFER, experience << 32 | c, i))
                if j < t:
                    entries[j] = ("new", row)
            i += 1
        lists.append(entries)

    # OPEN: "a replaced entry's new row goes into the slot of the entry that was dropped or replaced" is read as the summary of the
    # complete rule that follows it: survivors stay, all new rows together take the free slots in ascending order.
    memory: dict[int, tuple[Uint64, int]] = {}
    arrivals: list[tuple[Uint64, int]] = []
    for c, entries in enumerate(lists):
        for kind, index in entries:
            if kind == "old":
                memory[index] = (rows[index], c)
            else:
                arrivals.append((live_rows[index], c))
    slot = 0
    for arrival in arrivals:
        while slot in memory:
            slot += 1
        memory[slot] = arrival
    while memory and max(memory) >= len(memory):  # a hole is left: the highest slot moves into the lowest hole
        hole = next(s for s in range(len(memory)) if s not in memory)
        memory[hole] = memory.pop(max(memory))
    assert len(memory) <= capacity
    new_rows = np.zeros((len(memory), live_rows.shape[1]), np.uint64)
    new_labels = np.zeros(len(memory), np.uint16)
    for s, (row, c) in memory.items():
        new_rows[s], new_labels[s] = row, c
    return new_rows, new_labels, after
