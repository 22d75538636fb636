"""Devices' states as one (docs/method.md, 8): what each was taught, by all.

Knows states as values; the training that follows is the core's.  States are taken one by one, so thousands need no more memory than two.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine import Memory
from .model import Model
from .settings import Settings
from .state import MAX_LESSONS, State, row_words

_MOST = 2**32 - 1
_ALIKE = ("head", "views", "train_blocks", "weight_bits", "forward_bits")  # settings without which values do not add


def merged_state(states: Iterable[State], settings: Settings | None = None) -> tuple[State, bool]:
    """Join states of one model.

    Settings are those of the first, or those given.  Sums of LDA add; heads of CWR* are averaged by the square roots of their counts; memories are cut to the
    capacity as if all of their rows had been offered to one.  States are read one after the other, so an iterator may make each when it is its turn.

    Returns
    -------
    The joined state, and whether all tails were equal; else the tail is that of the device which saw most pictures.

    Raises
    ------
    ValueError : they stand on different models or are learned otherwise, or their classes are too many.
    """
    remaining = iter(states)
    first = next(remaining)
    if settings is not None:
        check_fits(first.model, settings, first, "state 1")
        first = replace(first, settings=settings)
    joined = _Joined(first)
    for number, state in enumerate(remaining, start=2):
        check_fits(first.model, first.settings, state, f"state {number}")
        joined.add(state)
    return joined.state()


def check_fits(model: Model, settings: Settings, state: State, where: str) -> None:
    """ValueError, which begins with `where`, unless the state can be joined to ones of that model under these settings."""
    if state.model.digest != model.digest:
        raise ValueError(
            f"{where}: expected one taught on model {model.digest[:12]}, as the first, got {state.model.digest[:12]}; "
            "only devices with the same model can be merged"
        )
    these, those = settings.to_dict(), state.settings.to_dict()
    for name in _ALIKE:
        mine, its = these.get(name), those.get(name)  # without a tail neither has its widths
        if mine != its:
            raise ValueError(f"{where}: expected {name} {mine}, as the first, got {its}; only devices that learn alike can be merged")


class _Joined:
    """Sums of what has been added so far."""

    def __init__(self, first: State) -> None:
        settings, network = first.settings, first.model.network
        width = network.feature_count
        self._first = first
        self._names: dict[str, int] = {}
        self._lessons = self._saturated = 0
        self._seen = np.zeros(0, np.int64)
        self._past = np.zeros(0, np.int64)
        self._count = np.zeros(0, np.int64)
        self._sums = np.zeros((0, first.sums.shape[1]), np.int64)
        self._moment = np.zeros(first.moment.shape, np.int64)
        self._head, self._branch = _Mean(width), _Mean(width)
        further = row_words(network, settings) - network.latent_words
        near = network.near(round(settings.near_equal * 2**16))  # equal rows count once in any case
        self._memory = Memory(settings.capacity, network.latent_words, further, settings.seed, near, not network.has_cut)
        self._equal = True
        self._kept = first  # whose tail is kept, if not all are equal
        self.add(first)

    def add(self, state: State) -> None:
        settings = self._first.settings
        for name in state.names:
            self._names.setdefault(name, len(self._names))
        known = len(self._names)
        if known > settings.max_classes:
            raise ValueError(
                f"states: expected at most {settings.max_classes} classes in all, got more; merge into one with a larger max_classes"
            )
        if settings.train_blocks and known > settings.capacity:
            raise ValueError(
                f"states: expected at most {settings.capacity} classes in all, got more: where the tail is trained, every class "
                "needs a row in the replay memory; merge into one with a larger capacity"
            )
        where = np.array([self._names[name] for name in state.names], np.int64)
        self._lessons += state.experience
        if self._lessons >= MAX_LESSONS:  # the rehearsal is one more
            raise ValueError(f"states: expected fewer than {MAX_LESSONS} lessons in all, got {self._lessons}")
        self._seen = _added(self._seen, state.seen, where, known)
        if np.any(self._seen > _MOST):
            raise ValueError(f"states: expected at most {_MOST} pictures of a class in all, got {int(self._seen.max())}")
        if settings.head == "lda":
            self._count = _added(self._count, state.count, where, known)
            self._sums = _added(self._sums, state.sums, where, known)
            self._moment += state.moment
            self._saturated += state.saturated
        else:
            self._past = _added(self._past, state.past_count, where, known)
            self._head.add(state.weight, state.past_count, where, known)
        if settings.train_blocks:
            self._equal = self._equal and _same_tail(self._first, state)
            self._branch.add(state.tail_weight, state.seen, where, known)
            if int(state.seen.sum()) > int(self._kept.seen.sum()):
                self._kept = state
        self._memory.offer(state.rows, where[state.labels].astype(np.int32), known)

    def state(self) -> tuple[State, bool]:
        first, names = self._first, list(self._names)
        branch = first.tail_weight
        if first.settings.train_blocks and self._equal:
            branch = self._branch.values()
        elif first.settings.train_blocks:
            # A class that it does not know begins anew: LDA's when the tail is trained next (method.md, 7.6), CWR*'s as the head knows it.
            branch = self._head.values() if first.settings.head == "cwr" else np.zeros((len(names), first.tail_weight.shape[1]), np.int32)
            branch[[self._names[name] for name in self._kept.names]] = self._kept.tail_weight
        joined = replace(
            first,
            names=names,
            experience=self._lessons,
            rows=self._memory.rows(),
            labels=self._memory.labels(),
            seen=self._seen.astype(np.uint64),
            count=self._count,
            sums=self._sums,
            moment=self._moment,
            saturated=self._saturated,
            weight=self._head.values(),
            past_count=np.minimum(self._past, _MOST).astype(np.uint32),
            mixing=self._kept.mixing,
            tail_weight=branch,
            tail=self._kept.tail,
        )
        return joined, self._equal


class _Mean:
    """Means of the head rows of each class, weighted by the square roots of its counts."""

    def __init__(self, width: int) -> None:
        self._total = np.zeros((0, width), np.int64)
        self._shares = np.zeros(0, np.int64)

    def add(self, rows: NDArray[np.int32], counts: NDArray[Any], where: NDArray[np.int64], classes: int) -> None:
        share = np.array([max(1, isqrt(int(c) << 8)) for c in counts], np.int64)  # at most 2^20, times 2^31 of a weight
        self._total = _added(self._total, share[:, None] * rows, where, classes)
        self._shares = _added(self._shares, share, where, classes)

    def values(self) -> NDArray[np.int32]:
        shares = self._shares[:, None]
        mean: NDArray[np.int64] = (2 * self._total + shares) // (2 * shares)
        return mean.astype(np.int32)


def _added(total: NDArray[np.int64], part: NDArray[Any], where: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    if len(total) < classes:
        total = np.concatenate([total, np.zeros((classes - len(total), *total.shape[1:]), np.int64)])
    total[where] += part.astype(np.int64)
    return total


def _same_tail(a: State, b: State) -> bool:
    return all(
        values.keys() == others.keys() and all(np.array_equal(values[key], others[key]) for key in values)
        for values, others in zip(a.tail, b.tail, strict=True)
    )
