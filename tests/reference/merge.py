"""Joining states, plainly (docs/method.md, 8.1)."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np

from bitreplay.state import State

from .arithmetic import divr
from .near_equal import most_differing
from .replay import update_memory


def joined(states: Sequence[State]) -> dict[str, Any]:
    """What the joined state holds, and whether the tails were equal; a class that is to begin anew in v has a row of zeros with LDA."""
    first = states[0]
    settings, width = first.settings.for_core(), first.model.network.feature_count
    names: list[str] = []
    for state in states:
        names += [name for name in state.names if name not in names]
    has = {name: [(state, state.names.index(name)) for state in states if name in state.names] for name in names}
    equal = all(
        np.array_equal(state.tail[b][key], first.tail[b][key]) for state in states for b in range(len(state.tail)) for key in state.tail[b]
    )

    def total(field: str) -> list[Any]:
        """Of each class, over the states that have it."""
        return [sum((getattr(state, field)[i].astype(object) for state, i in has[name]), start=0) for name in names]

    def mean(rows: str, counts: str) -> list[list[int]]:
        found = []
        for name in names:
            weights = [max(1, isqrt(int(getattr(state, counts)[i]) << 8)) for state, i in has[name]]
            values = [[int(v) for v in getattr(state, rows)[i]] for state, i in has[name]]
            found.append(
                [divr(sum(w * v for w, v in zip(weights, column, strict=True)), sum(weights)) for column in zip(*values, strict=True)]
            )
        return found

    kept = max(states, key=lambda state: int(state.seen.sum()))  # the first of those that saw most
    branch: list[list[int]] = []
    if first.tail and equal:
        branch = mean("tail_weight", "seen")
    elif first.tail:
        fresh = [[0] * width for _ in names] if first.settings.head == "lda" else mean("weight", "past_count")
        branch = [kept.tail_weight[kept.names.index(name)].tolist() if name in kept.names else fresh[c] for c, name in enumerate(names)]

    rows, labels = np.zeros((0, first.rows.shape[1]), np.uint64), np.zeros(0, np.uint16)
    near = most_differing(settings["near_equal"], first.model.network.latent_bits) or 0  # equal rows count once in any case
    for state in states:
        known = [names.index(state.names[label]) for label in state.labels]
        rows, labels = update_memory(
            rows, labels, state.rows, known,
            capacity=settings["capacity"], seed=settings["seed"], near=near, latent_words=first.model.network.latent_words,
        )  # fmt: skip

    lda = first.settings.head == "lda"
    return {
        "names": names,
        "experience": sum(state.experience for state in states),
        "seen": [int(n) for n in total("seen")],
        "count": [int(n) for n in total("count")] if lda else [],
        "sums": [row.tolist() for row in total("sums")] if lda else [],
        "moment": np.sum([state.moment.astype(np.int64) for state in states], axis=0).tolist(),
        "saturated": sum(state.saturated for state in states),
        "past_count": [] if lda else [min(2**32 - 1, int(n)) for n in total("past_count")],
        "weight": [] if lda else mean("weight", "past_count"),
        "mixing": (kept if first.tail else first).mixing,  # OPEN: whose, where the tails are equal
        "tail_weight": branch,
        "rows": rows.tolist(),
        "labels": labels.tolist(),
        "equal": equal,
    }
