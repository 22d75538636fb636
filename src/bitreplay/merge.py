"""Two or more devices' states as one (docs/method.md, 8): what each was taught, by all.

Knows states as values; the training that follows is the core's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .state import MAX_LESSONS, State


def merged_state(states: Sequence[State]) -> tuple[State, bool]:
    """Join states of one model.

    Settings are those of the first.  Class means add up, heads are averaged by the square roots of their CWR* counts, memories are cut to the
    capacity by class balance, so that a class keeps of each device's rows in proportion to what the device saw.

    Returns
    -------
    The joined state, and whether all tails were equal; else the tail is that of the device which saw most rows.

    Raises
    ------
    ValueError : they stand on different models or train different blocks, or their classes are too many.
    """
    first = states[0]
    for number, state in enumerate(states[1:], start=2):
        if state.model.digest != first.model.digest:
            raise ValueError(
                f"state {number}: expected one taught on model {first.model.digest[:12]}, as the first, got {state.model.digest[:12]}; "
                "only devices with the same model can be merged"
            )
        mine, its = ((s.settings.train_blocks, s.settings.weight_bits, s.settings.forward_bits) for s in (first, state))
        if mine != its:
            raise ValueError(
                f"state {number}: expected train_blocks, weight_bits and forward_bits {mine}, as the first, got {its}; "
                "only devices that train the same blocks can be merged"
            )
    names = list(dict.fromkeys(name for state in states for name in state.names))
    limit = first.settings.max_classes
    if len(names) > limit:
        raise ValueError(f"states: expected at most {limit} classes in all, got {len(names)}; merge into one with a larger max_classes")
    if first.settings.train_blocks and len(names) > first.settings.capacity:
        raise ValueError(
            f"states: expected at most {first.settings.capacity} classes in all, got {len(names)}: where the tail is trained, every class "
            "needs a row in the replay memory; merge into one with a larger capacity"
        )
    where = [np.array([names.index(name) for name in state.names], np.int64) for state in states]
    past = _added([s.past_count for s in states], where, len(names))
    seen = _added([s.seen for s in states], where, len(names))
    most = 2**32 - 1
    if np.any(seen > most):
        raise ValueError(f"states: expected at most {most} rows of a class in all, got {int(seen.max())}")
    if (lessons := sum(state.experience for state in states)) >= MAX_LESSONS:  # the rehearsal is one more
        raise ValueError(f"states: expected fewer than {MAX_LESSONS} lessons in all, got {lessons}")
    rows, labels = _memory(states, where, seen, first.settings.capacity)
    weight = _averaged([s.weight for s in states], [s.past_count for s in states], where, len(names))
    equal = all(_same_tail(first, state) for state in states[1:])
    tail_weight, kept = first.tail_weight, first
    if first.settings.train_blocks:
        kept = max(states, key=lambda state: int(state.seen.sum()))
        if equal:
            tail_weight = _averaged([s.tail_weight for s in states], [s.past_count for s in states], where, len(names))
        else:
            tail_weight = weight.copy()
            tail_weight[[names.index(name) for name in kept.names]] = kept.tail_weight
    joined = replace(
        first,
        names=names,
        experience=lessons,
        weight=weight,
        past_count=np.minimum(past, most).astype(np.uint32),
        feature_sums=_added([s.feature_sums for s in states], where, len(names)),
        seen=seen.astype(np.uint64),
        rows=rows,
        labels=labels,
        tail_weight=tail_weight,
        tail=kept.tail,
    )
    return joined, equal


def _same_tail(a: State, b: State) -> bool:
    return all(
        values.keys() == others.keys() and all(np.array_equal(values[key], others[key]) for key in values)
        for values, others in zip(a.tail, b.tail, strict=True)
    )


def _added(parts: Sequence[NDArray[Any]], where: Sequence[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    total = np.zeros((classes, *parts[0].shape[1:]), np.int64)
    for part, index in zip(parts, where, strict=True):
        total[index] += part.astype(np.int64)
    return total


def _averaged(
    parts: Sequence[NDArray[np.int32]], counts: Sequence[NDArray[np.uint32]], where: Sequence[NDArray[np.int64]], classes: int
) -> NDArray[np.int32]:
    # Mean of a class's head rows, weighted by isqrt(count * 2^8): at most 2^20 * 2^31 a device.
    total = np.zeros((classes, parts[0].shape[1]), np.int64)
    shares = np.zeros((classes, 1), np.int64)
    for part, count, index in zip(parts, counts, where, strict=True):
        share = np.array([max(1, isqrt(int(c) << 8)) for c in count], np.int64).reshape(-1, 1)
        total[index] += share * part
        shares[index] += share
    mean: NDArray[np.int64] = (2 * total + shares) // (2 * shares)
    return mean.astype(np.int32)


def _memory(
    states: Sequence[State], where: Sequence[NDArray[np.int64]], seen: NDArray[np.int64], capacity: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    # Of each class as many rows as the balance allows (docs/method.md, 8.1), of each device in proportion to the rows of the class that it saw.
    here = _new_rows(states, where)
    stored = _added([np.array([len(slots) for slots in slots_of]) for slots_of in here], where, len(seen))
    rows, labels = [], []
    for c, room in enumerate(_balanced(stored, capacity)):
        holders = [(i, int(np.flatnonzero(index == c)[0])) for i, index in enumerate(where) if c in index]
        left, weight_left = int(room), sum(int(states[i].seen[local]) for i, local in holders)
        stored_left = sum(len(here[i][local]) for i, local in holders)
        for i, local in holders:
            slots, saw = here[i][local], int(states[i].seen[local])
            stored_left -= len(slots)
            wanted = (2 * left * saw + weight_left) // (2 * weight_left)
            take = min(len(slots), max(wanted, left - stored_left))
            chosen = slots[np.arange(take) * len(slots) // max(take, 1)]  # spread evenly over those that are there
            rows.append(states[i].rows[chosen])
            labels += [c] * take
            left, weight_left = left - take, weight_left - saw
    width = states[0].rows.shape[1]
    return np.concatenate([*rows, np.zeros((0, width), np.uint64)]), np.array(labels, np.uint16)


def _new_rows(states: Sequence[State], where: Sequence[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    # Slots of each state's classes, without rows that an earlier state has of the class: devices that were merged before share some.
    known: set[tuple[int, bytes]] = set()
    found = []
    for state, index in zip(states, where, strict=True):
        mine = [(int(index[label]), row.tobytes()) for label, row in zip(state.labels, state.rows, strict=True)]
        fresh = np.array([row not in known for row in mine], bool)
        found.append([np.flatnonzero((state.labels == local) & fresh) for local in range(len(state.names))])
        known |= set(mine)
    return found


def _balanced(stored: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
    # min(stored, level), the level as high as fits, and one more for the lowest classes while there is room.
    low, high = 0, capacity
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(stored, middle).sum()) <= capacity else (low, middle - 1)
    rooms = np.minimum(stored, low)
    more = np.flatnonzero(stored > low)[: capacity - int(rooms.sum())]
    rooms[more] += 1
    return rooms
