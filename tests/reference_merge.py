"""Joining states, plainly (docs/method.md, 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from reference_arithmetic import divr

from bitreplay.state import State


def joined(states: Sequence[State]) -> dict[str, object]:
    """Names, counts, sums, heads, rows and labels of the joined state, and whether the tails were equal; rows of a class in their order."""
    names: list[str] = []
    for state in states:
        names += [name for name in state.names if name not in names]
    has = {name: [(state, state.names.index(name)) for state in states if name in state.names] for name in names}
    seen = {name: sum(int(state.seen[i]) for state, i in has[name]) for name in names}
    equal = all(
        np.array_equal(state.tail[b][key], states[0].tail[b][key])
        for state in states
        for b in range(len(state.tail))
        for key in state.tail[b]
    )

    def mean(name: str, tail: bool) -> list[int]:
        weights = [max(1, isqrt(int(state.past_count[i]) * 2**8)) for state, i in has[name]]
        rows = [[int(v) for v in (state.tail_weight if tail else state.weight)[i]] for state, i in has[name]]
        return [divr(sum(w * v for w, v in zip(weights, column, strict=True)), sum(weights)) for column in zip(*rows, strict=True)]

    head = [mean(name, False) for name in names]
    tail: list[list[int]] = []
    if states[0].tail and equal:
        tail = [mean(name, True) for name in names]
    elif states[0].tail:
        kept = max(states, key=lambda state: int(state.seen.sum()))
        tail = [
            [int(v) for v in kept.tail_weight[kept.names.index(name)]] if name in kept.names else head[c] for c, name in enumerate(names)
        ]

    own: dict[str, list[list[bytes]]] = {}  # of each class and state that has it: its rows, none twice
    for name in names:
        known: set[bytes] = set()
        own[name] = []
        for state, i in has[name]:
            rows = [state.rows[slot].tobytes() for slot in range(len(state.rows)) if state.labels[slot] == i]
            own[name].append([row for row in rows if row not in known])
            known |= set(rows)
    there = {name: sum(map(len, own[name])) for name in names}
    capacity = states[0].settings.capacity
    level = max(at for at in range(capacity + 1) if sum(min(there[name], at) for name in names) <= capacity)
    spare = capacity - sum(min(there[name], level) for name in names)
    rows, labels = [], []
    for c, name in enumerate(names):
        left = min(there[name], level)
        if there[name] > level and spare:
            left, spare = left + 1, spare - 1
        saw = [int(state.seen[i]) for state, i in has[name]]
        for k, mine in enumerate(own[name]):
            share = divr(left * saw[k], sum(saw[k:]))
            take = min(len(mine), max(share, left - sum(map(len, own[name][k + 1 :]))))
            rows += [mine[i * len(mine) // take] for i in range(take)]
            labels += [c] * take
            left -= take
    return {
        "names": names,
        "seen": [seen[name] for name in names],
        "past": [min(2**32 - 1, sum(int(state.past_count[i]) for state, i in has[name])) for name in names],
        "sums": [
            [sum(int(state.feature_sums[i][j]) for state, i in has[name]) for j in range(states[0].weight.shape[1])] for name in names
        ],
        "experience": sum(state.experience for state in states),
        "head": head,
        "tail": tail,
        "rows": rows,
        "labels": labels,
        "equal": equal,
    }
