"""Streams: which rows come together, that none is lost or comes twice, and that seeds decide the order."""

from __future__ import annotations

import doctest
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitreplay.datasets import streams
from bitreplay.datasets.streams import CIFAR10_NC5, Experience, Stream, class_groups, listed, new_classes, new_instances

NAMES = ("ant", "bee", "cat", "dog", "eel")
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), [7, 5, 9, 5, 6]))


def rows(stream: Stream) -> list[list[int]]:
    return [experience.rows.tolist() for experience in stream]


def test_examples() -> None:
    assert doctest.testmod(streams).failed == 0


def test_new_classes_bring_all_pictures_of_their_group() -> None:
    stream = new_classes(LABELS, NAMES, [["dog", "ant"], [2], ["eel", 1]], seed=0)
    assert [experience.name for experience in stream] == ["dog ant", "cat", "eel bee"]
    for experience, classes in zip(stream, ([0, 3], [2], [1, 4]), strict=True):
        assert sorted(experience.rows.tolist()) == np.flatnonzero(np.isin(LABELS, classes)).tolist()
        assert experience.rows.dtype == np.int64
    assert [part.tolist() for part in stream.classes(LABELS)] == [[0, 3], [2], [1, 4]]
    assert sorted(stream.merged(0).tolist()) == list(range(len(LABELS)))


def test_classes_may_be_left_out() -> None:
    assert sorted(chain(*rows(new_classes(LABELS, NAMES, [["bee"], ["cat"]], seed=0)))) == np.flatnonzero(np.isin(LABELS, [1, 2])).tolist()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([["ant"], ["fly"]], r"groups: expected classes of the set \(ant, bee, cat, dog, eel\), got 'fly' in group 1"),
        ([[5]], "got 5 in group 0"),
        ([[-1]], "got -1 in group 0"),
        ([["ant"], [0]], "expected each class once, got 0 again in group 1"),
        ([["ant"], []], "got an empty group in group 1"),
        ([], "expected at least one, got none"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: list[list[str | int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_classes(LABELS, NAMES, groups, seed=0)


def test_a_class_without_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match="got no picture of 'fly' in group 0"):
        new_classes(LABELS, (*NAMES, "fly"), [["fly", "ant"]], seed=0)


def test_the_seed_orders_rows_and_nothing_else() -> None:
    groups = [["ant"], ["cat", "dog"]]
    one, same, other = (new_classes(LABELS, NAMES, groups, seed) for seed in (1, 1, 2))
    assert rows(one) == rows(same)
    assert rows(one) != rows(other)
    assert [sorted(part) for part in rows(one)] == [sorted(part) for part in rows(other)]
    assert rows(one)[0] != sorted(rows(one)[0])
    assert rows(new_classes(LABELS, NAMES, groups[:1], seed=1)) == rows(one)[:1]  # what follows does not matter
    assert one.merged(1).tolist() == same.merged(1).tolist() != one.merged(2).tolist()


def test_class_groups() -> None:
    assert class_groups(6, 3) == [[0, 1, 2], [3, 4, 5]]
    drawn = class_groups(20, 6, order_seed=3)
    assert [len(group) for group in drawn] == [6, 6, 6, 2]
    assert sorted(chain(*drawn)) == list(range(20))
    assert drawn == class_groups(20, 6, order_seed=3) != class_groups(20, 6, order_seed=4)
    with pytest.raises(ValueError, match="classes_each: expected at least 1, got 0"):
        class_groups(6, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_shares_are_equal_in_every_class(found: list[int], count: int, seed: int) -> None:
    labels = np.array(found, np.int64)
    sizes = np.bincount(labels)
    if sizes[sizes > 0].min() < count:
        with pytest.raises(ValueError, match=r"count: expected at most \d+ experiences"):
            new_instances(labels, count, seed)
        return
    stream = new_instances(labels, count, seed)
    assert sorted(chain(*rows(stream))) == list(range(len(labels)))
    for label in np.unique(labels):
        held = [int((labels[experience.rows] == label).sum()) for experience in stream]
        assert max(held) - min(held) <= 1
    assert rows(stream) == rows(new_instances(labels, count, seed))


def test_ni10_of_cifar_10_has_500_pictures_of_every_class() -> None:
    labels = np.repeat(np.arange(10), 5000)
    stream = new_instances(labels, 10, seed=0)
    assert [np.bincount(labels[experience.rows]).tolist() for experience in stream] == [[500] * 10] * 10
    assert rows(stream) != rows(new_instances(labels, 10, seed=1))
    assert len({name for group in CIFAR10_NC5 for name in group}) == 10


def test_lists_name_files() -> None:
    files = ["a", "b", "c", "d"]
    stream = listed(files, {"first": ["d", "b"], "none of ours": ["x"], "second": ["y", "a"]}, seed=0)
    assert [experience.name for experience in stream] == ["first", "second"]
    assert [sorted(part) for part in rows(stream)] == [[1, 3], [0]]
    with pytest.raises(ValueError, match="lists: expected files of the set, such as a, got x"):
        listed(files, {"first": ["x"]}, seed=0)


def test_an_experience_has_pictures() -> None:
    with pytest.raises(ValueError, match="experience empty: expected pictures, got none"):
        Stream((Experience("empty", np.zeros(0, np.int64)),))
