"""Streaming LDA: exact sums, and a classifier that is a function of them alone (docs/method.md, 9)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference_lda import solve, sums_of

from bitreplay import _engine

Int8 = NDArray[np.int8]


def statistics(rows: Int8, labels: NDArray[np.int64], classes: int) -> _engine.Statistics:
    result = _engine.Statistics(rows.shape[1])
    result.add(rows, labels.astype(np.int32), classes)
    return result


def rows_of(seed: int, count: int, width: int, classes: int) -> tuple[Int8, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    means = rng.normal(0, 30, (classes, width))
    mixing = rng.normal(0, 1, (width, width)) / np.sqrt(width)
    x = means[labels] + 25 * rng.normal(0, 1, (count, width)) @ mixing
    return np.clip(np.rint(x), -127, 127).astype(np.int8), labels


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    width=st.sampled_from([1, 2, 7, 16, 33]),
    classes=st.integers(1, 7),
    shrinkage=st.sampled_from([0.5, 8.0, 200.0]),
    pseudo=st.sampled_from([0.0, 3.0]),
)
def test_equals_the_reference_bit_for_bit(seed: int, count: int, width: int, classes: int, shrinkage: float, pseudo: float) -> None:
    rows, labels = rows_of(seed, count, width, classes)
    known = sums_of(rows, labels, classes)
    ours = statistics(rows, labels, classes)
    assert np.array_equal(ours.count, known.count)
    assert np.array_equal(ours.sums, known.sums)
    assert np.array_equal(ours.moment, known.moment[np.triu_indices(width)])
    order = [int(c) for c in np.random.default_rng(seed).permutation(np.flatnonzero(known.count))]
    weight, bias, exponent = ours.solve(shrinkage, pseudo, 64.0, np.array(order, np.int32))
    expected = solve(known, order, shrinkage, pseudo, 64.0)
    assert exponent == expected[2]
    assert np.array_equal(weight, expected[0])
    assert np.array_equal(bias, expected[1])


def test_neither_the_order_of_rows_nor_how_they_come_can_be_seen() -> None:
    rows, labels = rows_of(0, 300, 24, 5)
    names = np.array([3, 0, 4, 1, 2])  # class c of the first device is number names[c] on the second
    whole = statistics(rows, labels, 5)
    order = np.arange(5, dtype=np.int32)
    weight, bias, exponent = whole.solve(12.0, 3.0, 64.0, order)
    rng = np.random.default_rng(1)
    shuffled = rng.permutation(300)
    parts = _engine.Statistics(24)
    for part in np.array_split(shuffled, 7):
        parts.add(rows[part], names[labels[part]].astype(np.int32), 5)
    again, other, same = parts.solve(12.0, 3.0, 64.0, names.astype(np.int32))  # in the order of the first device's names
    assert (exponent, weight[order].tobytes(), bias.tobytes()) == (same, again[names].tobytes(), other[names].tobytes())


def test_many_rows_of_the_highest_values_are_counted_exactly() -> None:
    rows = np.full((140_000, 3), -127, np.int8)  # 32-bit products would overflow at 133,145
    rows[:, 1] = 127
    ours = statistics(rows, np.zeros(140_000, np.int64), 1)
    product = 140_000 * 127**2
    assert ours.moment.tolist() == [product, -product, product, product, -product, product]
    assert ours.sums.tolist() == [[-127 * 140_000, 127 * 140_000, -127 * 140_000]]


def test_it_tells_classes_apart_from_one_row_on() -> None:
    rows, labels = rows_of(5, 2000, 40, 6)
    learned, tested = np.arange(1000), np.arange(1000, 2000)
    for few, least in ((1, 0.5), (50, 0.9)):
        chosen = np.concatenate([learned[labels[learned] == c][:few] for c in range(6)])
        ours = statistics(rows[chosen], labels[chosen], 6)
        weight, bias, _ = ours.solve(20.0, 3.0, 4096.0 * 256, np.arange(6, dtype=np.int32))
        scores = rows[tested].astype(np.int64) @ weight.astype(np.int64).T + bias
        assert (scores.argmax(1) == labels[tested]).mean() > least


def test_classes_without_rows_lose_and_wrong_input_is_refused() -> None:
    rows, labels = rows_of(2, 30, 4, 2)
    ours = statistics(rows, labels, 3)
    weight, bias, _ = ours.solve(2.0, 3.0, 64.0, np.array([0, 1], np.int32))
    assert not weight[2].any()
    assert bias[2] < bias[:2].min()
    for order in ([2], [3], [-1]):
        with pytest.raises(ValueError, match="order: expected classes that have rows"):
            ours.solve(2.0, 3.0, 64.0, np.array(order, np.int32))
    with pytest.raises(ValueError, match=r"rows: expected features \(N, width\)"):
        ours.add(rows[:, :3].copy(), labels.astype(np.int32), 3)
    with pytest.raises(ValueError, match="labels: expected 0 to classes - 1"):
        ours.add(rows, labels.astype(np.int32) + 2, 3)
    empty = _engine.Statistics(4)
    assert empty.solve(2.0, 3.0, 64.0, np.array([], np.int32))[0].shape == (0, 4)
