"""Streaming LDA: exact sums, and a classifier that is a function of them alone (docs/method.md, 4.1 and 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.lda import Sums, solve, sums_of

from bitreplay import _engine

Int8 = NDArray[np.int8]
Int64 = NDArray[np.int64]
NU, KAPPA, VARIANCE = 12.0, 3.0, 64.0


def statistics(rows: Int8, labels: Int64, classes: int) -> Any:
    result = _engine.Statistics(rows.shape[1])
    result.add(rows, labels.astype(np.int32), classes)
    return result


def restored(known: Sums) -> Any:
    """What the core makes of sums that it did not add up itself: with a moment of 64 bits."""
    result = _engine.Statistics(known.sums.shape[1])
    result.restore(known.count, known.sums, known.triangle, known.saturated)
    return result


def rows_of(seed: int, count: int, width: int, classes: int) -> tuple[Int8, Int64]:
    """Features of classes that differ, each class at least once where there are rows enough."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(classes), rng.integers(0, classes, count)])[: max(count, classes)])
    means = rng.normal(0, 30, (classes, width))
    mixing = rng.normal(0, 1, (width, width)) / np.sqrt(width)
    x = means[labels] + 25 * rng.normal(0, 1, (len(labels), width)) @ mixing
    return np.clip(np.rint(x), -127, 127).astype(np.int8), labels


def assert_same(ours: Any, known: Sums) -> None:
    assert np.array_equal(ours.count, known.count)
    assert np.array_equal(ours.sums, known.sums)
    assert np.array_equal(ours.moment, known.triangle)
    assert ours.saturated == known.saturated


def assert_same_classifier(ours: Any, known: Sums, shrinkage: float, pseudo_pictures: float, variance: float = VARIANCE) -> None:
    weight, bias, exponent = ours.solve(shrinkage, pseudo_pictures, variance)
    expected = solve(known, shrinkage, pseudo_pictures, variance)
    assert exponent == expected.exponent
    assert np.array_equal(weight, expected.weight)
    assert np.array_equal(bias, expected.bias)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    width=st.sampled_from([1, 2, 7, 16, 17, 33]),
    classes=st.sampled_from([1, 2, 3, 7, 15, 16, 17, 40]),
    shrinkage=st.sampled_from([0.5, 8.0, 200.0]),
    pseudo=st.sampled_from([0.0, 3.0]),
)
def test_equals_the_reference_bit_for_bit(seed: int, count: int, width: int, classes: int, shrinkage: float, pseudo: float) -> None:
    rows, labels = rows_of(seed, count, width, classes)
    known = sums_of(rows, labels, classes)
    ours = statistics(rows, labels, classes)
    assert_same(ours, known)
    assert_same_classifier(ours, known, shrinkage, pseudo)
    assert_same_classifier(restored(known), known, shrinkage, pseudo)


@pytest.mark.parametrize("row", [0, 1, 127, -127])
@pytest.mark.parametrize("classes", [1, 2])
def test_rows_without_any_scatter_take_the_variance_of_a_whitened_feature(row: int, classes: int) -> None:
    rows, labels = np.full((6, 5), row, np.int8), np.arange(6) % classes
    rows[labels == 1] //= 2
    known = sums_of(rows, labels, classes)
    assert not known.scatter().any()
    assert_same_classifier(statistics(rows, labels, classes), known, NU, KAPPA)
    assert_same_classifier(statistics(rows, labels, classes), known, NU, KAPPA, 2.0**24)


def test_the_exponent_turns_negative_where_scatter_is_tiny() -> None:
    rows = np.repeat(np.array([[100] * 8, [-100] * 8], np.int8), 200, axis=0)
    rows[0, 0] = 99  # one value in 3,200 differs
    labels = np.arange(400) // 200
    ours, known = statistics(rows, labels, 2), sums_of(rows, labels, 2)
    assert ours.solve(0.5, 0.0, VARIANCE)[2] < 0
    assert_same_classifier(ours, known, 0.5, 0.0)


def test_neither_the_order_of_rows_nor_how_they_come_nor_names_can_be_seen() -> None:
    rows, labels = rows_of(0, 300, 24, 5)
    names = np.array([3, 0, 4, 1, 2])  # class c of the first device is number names[c] on the second
    weight, bias, exponent = statistics(rows, labels, 5).solve(NU, KAPPA, VARIANCE)
    shuffled = np.random.default_rng(1).permutation(len(rows))
    parts = _engine.Statistics(24)
    for part in np.array_split(shuffled, 7):
        parts.add(rows[part], names[labels[part]].astype(np.int32), 5)
    again, other, same = parts.solve(NU, KAPPA, VARIANCE)
    assert (exponent, weight.tobytes(), bias.tobytes()) == (same, again[names].tobytes(), other[names].tobytes())


def test_classes_of_as_many_rows_are_ordered_by_their_sums() -> None:
    """Where counts are equal the order of sums decides, to the last feature: numbers of classes must not."""
    rng = np.random.default_rng(4)
    rows = rng.integers(-100, 101, (40, 6)).astype(np.int8)
    labels = np.arange(40) % 8
    for c in range(8):  # sums differ in the last feature alone
        rows[labels == c, :5] = rows[labels == 0, :5]
    first = statistics(rows, labels, 8).solve(NU, KAPPA, VARIANCE)
    names = rng.permutation(8)
    other = statistics(rows, names[labels], 8).solve(NU, KAPPA, VARIANCE)
    assert (first[2], first[0].tobytes(), first[1].tobytes()) == (other[2], other[0][names].tobytes(), other[1][names].tobytes())


def test_sums_of_two_devices_add() -> None:
    rows, labels = rows_of(3, 200, 9, 4)
    half = len(rows) // 2
    a, b = sums_of(rows[:half], labels[:half], 4), sums_of(rows[half:], labels[half:], 4)
    both = restored(Sums(a.count + b.count, a.sums + b.sums, a.moment + b.moment, a.saturated + b.saturated))
    whole = statistics(rows, labels, 4)
    assert_same(both, sums_of(rows, labels, 4))
    assert [part.tobytes() for part in both.solve(NU, KAPPA, VARIANCE)[:2]] == [p.tobytes() for p in whole.solve(NU, KAPPA, VARIANCE)[:2]]


def test_rows_taught_twice_count_twice() -> None:
    rows, labels = rows_of(6, 50, 5, 3)
    once, twice = statistics(rows, labels, 3), statistics(rows, labels, 3)
    twice.add(rows, labels.astype(np.int32), 3)
    for name in ("count", "sums", "moment", "saturated"):
        assert np.array_equal(getattr(twice, name), 2 * getattr(once, name)), name


def test_features_at_the_end_of_their_range_are_counted() -> None:
    rows = np.array([[127, -127, 126, -126], [0, 127, 127, -128 + 1], [5, 6, 7, 8]], np.int8)
    ours = statistics(rows, np.zeros(3, np.int64), 1)
    assert ours.saturated == 5
    ours.add(rows[:1], np.zeros(1, np.int32), 1)
    assert ours.saturated == 7


def test_many_rows_of_the_highest_values_are_counted_exactly() -> None:
    rows = np.full((140_000, 3), -127, np.int8)  # 32-bit products would overflow at 133,145
    rows[:, 1] = 127
    ours = _engine.Statistics(3)
    assert ours.moment.dtype == np.int32
    for part in np.split(rows, [133_143, 133_144, 133_145, 133_146]):
        ours.add(part, np.zeros(len(part), np.int32), 1)
    product = 140_000 * 127**2
    assert ours.moment.tolist() == [product, -product, product, product, -product, product]
    assert ours.sums.tolist() == [[-127 * 140_000, 127 * 140_000, -127 * 140_000]]
    assert ours.moment.dtype == np.int64


@pytest.mark.parametrize("largest", [2**31 - 1, 2**31 - 127**2 - 1, 2**31, 2**40, 2**62])
def test_large_sums_go_on_exactly(largest: int) -> None:
    known = Sums(np.array([2**33 - 1]), np.array([[-127 * 2**32, 2**31]]), np.array([[largest, -largest], [-largest, largest]]), 2**34)
    rows = np.array([[127, -127], [-127, 127], [3, 5]], np.int8)
    ours = restored(known)
    ours.add(rows, np.array([0, 1, 1], np.int32), 2)
    assert_same(ours, known.with_rows(rows, np.array([0, 1, 1]), 2))


def test_it_tells_classes_apart_from_one_row_on() -> None:
    rows, labels = rows_of(5, 2000, 40, 6)
    learned, tested = np.arange(1000), np.arange(1000, 2000)
    for few, least in ((1, 0.5), (50, 0.9)):
        chosen = np.concatenate([learned[labels[learned] == c][:few] for c in range(6)])
        weight, bias, _ = statistics(rows[chosen], labels[chosen], 6).solve(20.0, KAPPA, 4096.0 * 256)
        scores = rows[tested].astype(np.int64) @ weight.astype(np.int64).T + bias
        assert (scores.argmax(1) == labels[tested]).mean() > least


def test_wrong_input_is_refused() -> None:
    rows, labels = rows_of(2, 30, 4, 2)
    ours = statistics(rows, labels, 3)
    with pytest.raises(ValueError, match="solve: expected rows of every class"):
        ours.solve(NU, KAPPA, VARIANCE)
    with pytest.raises(ValueError, match=r"rows: expected features \(N, width\)"):
        ours.add(rows[:, :3].copy(), labels.astype(np.int32), 3)
    with pytest.raises(ValueError, match="labels: expected 0 to classes - 1"):
        ours.add(rows, labels.astype(np.int32) + 2, 3)
    assert _engine.Statistics(4).solve(NU, KAPPA, VARIANCE)[0].shape == (0, 4)


FORGED: dict[str, Callable[[Any], Any]] = {
    "a moment of zeros": lambda moment: np.zeros_like(moment),
    "not positive definite": lambda moment: moment * 0 + np.eye(len(moment), dtype=np.int64) - 5,
    "the highest values outside the diagonal": lambda moment: np.where(np.eye(len(moment)) > 0, 1, 127**2 * 30),
    "the lowest values outside the diagonal": lambda moment: np.where(np.eye(len(moment)) > 0, 0, -(127**2) * 30),
    "one feature alone": lambda moment: np.where(np.eye(len(moment))[0] > 0, moment, 0),
}


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("shrinkage", [1 / 256, 4.0])
@pytest.mark.parametrize("pseudo_pictures", [0.0, 5.0])
def test_sums_that_no_rows_have_give_a_classifier_within_its_bounds(name: str, shrinkage: float, pseudo_pictures: float) -> None:
    rows, labels = rows_of(8, 30, 6, 3)
    sound = sums_of(rows, labels, 3)
    ours = restored(Sums(sound.count, sound.sums, np.asarray(FORGED[name](sound.moment)), 0))
    weight, bias, exponent = ours.solve(shrinkage, pseudo_pictures, VARIANCE)
    assert np.abs(weight.astype(np.int64)).max() <= 32767
    assert np.abs(bias).max() <= 2**40
    assert abs(exponent) <= 60
