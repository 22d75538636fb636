"""The replay memory and near-equal rows: the core against the reference, and small examples (docs/method.md, 5)."""

from __future__ import annotations

import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.near_equal import MOST_COMPARED

from bitreplay import _engine

Rows = NDArray[np.uint64]


def rows_of(rng: np.random.Generator, count: int, words: int, scenes: int) -> Rows:
    """Rows of a few scenes, each with some bits turned over; some are equal."""
    still = rng.integers(0, 2**64, (scenes, words), dtype=np.uint64)
    rows = still[rng.integers(0, scenes, count)].copy()
    for row in rows:
        for _ in range(rng.integers(0, 6)):
            row[rng.integers(words)] ^= np.uint64(1) << np.uint64(rng.integers(64))
    return rows


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    capacity=st.integers(0, 20),
    words=st.sampled_from([1, 3, 8, 9]),
    further=st.sampled_from([0, 2]),
    near=st.sampled_from([None, 0, 1, 5, 64]),
    classes=st.integers(1, 4),
    scenes=st.sampled_from([2, 6, 1000]),
)
def test_the_memory_equals_the_reference(
    seed: int, capacity: int, words: int, further: int, near: int | None, classes: int, scenes: int
) -> None:
    rng = np.random.default_rng(seed)
    ours = _engine.Memory(capacity, words, further, seed, -1 if near is None else near)
    rows, labels = np.zeros((0, words + further), np.uint64), np.zeros(0, np.uint16)
    for _ in range(4):
        count = int(rng.integers(0, 15))
        offered = np.concatenate([rows_of(rng, count, words, scenes), rng.integers(0, 9, (count, further)).astype(np.uint64)], axis=1)
        of = rng.integers(0, classes, count)
        ours.offer(offered, of.astype(np.int32), classes)
        rows, labels = ref.update_memory(rows, labels, offered, of.tolist(), capacity=capacity, seed=seed, near=near, latent_words=words)
        assert np.array_equal(ours.labels(), labels)
        assert np.array_equal(ours.rows(), rows)


@pytest.mark.parametrize(
    ("counts", "capacity", "expected"),
    [([], 5, 5), ([3], 5, 5), ([9], 5, 5), ([1, 9, 9], 10, 4), ([2, 2, 2], 6, 6), ([4, 4, 4], 10, 3), ([9] * 20, 10, 0), ([5, 5], 0, 0)],
)
def test_levels_by_hand(counts: list[int], capacity: int, expected: int) -> None:
    assert ref.level(counts, capacity) == expected


def test_what_is_kept_are_the_smallest_hashes_in_the_slots_that_the_method_gives() -> None:
    rows = np.arange(1, 13, dtype=np.uint64)[:, None]
    order = sorted(range(12), key=lambda i: ref.row_hash(5, rows[i]))
    memory = _engine.Memory(4, 1, 0, 5, -1)
    memory.offer(rows[6:], np.zeros(6, np.int32), 1)
    first = [i for i in order if i >= 6][:4]
    assert memory.rows()[:, 0].tolist() == [i + 1 for i in first]  # ascending hashes
    memory.offer(rows[:6], np.zeros(6, np.int32), 1)
    kept = order[:4]
    free = [slot for slot, i in enumerate(first) if i not in kept]
    expected = list(first)
    for slot, i in zip(free, [i for i in kept if i < 6], strict=True):
        expected[slot] = i
    assert memory.rows()[:, 0].tolist() == [i + 1 for i in expected]


def test_rows_left_out_as_near_equal_lower_no_other_class() -> None:
    rng = np.random.default_rng(3)
    still, others = rng.integers(0, 2**64, (1, 4), dtype=np.uint64), rng.integers(0, 2**64, (9, 4), dtype=np.uint64)
    memory = _engine.Memory(10, 4, 0, 0, 3)
    memory.offer(np.concatenate([still, others]), np.array([0] + [1] * 9, np.int32), 2)
    assert np.bincount(memory.labels()).tolist() == [1, 9]
    frames = still.repeat(300, axis=0)
    frames[:, 1] ^= np.uint64(1) << rng.integers(0, 64, 300).astype(np.uint64)
    memory.offer(frames, np.zeros(300, np.int32), 2)
    assert np.bincount(memory.labels()).tolist() == [1, 9]


def test_near_equal_rows_differ_in_at_most_so_many_bits() -> None:
    a = np.zeros(3, np.uint64)
    assert ref.differing_bits(a, np.array([1, 2**63, 5], np.uint64)) == 4
    assert ref.most_differing(0, 6144) is None
    assert ref.most_differing(6554, 6144) == 614  # a tenth, in 16 fraction bits: floor
    assert ref.most_differing(1, 6144) == 0  # equal rows alone
    b = a.copy()
    b[1] = 0b111
    for near, expected in ((3, [True, False]), (2, [True, True]), (None, [True, True])):
        assert sorted(ref.count_once(np.stack([a, b]), [0, 0], near).tolist()) == sorted(expected)
        assert ref.count_once(np.stack([a, b]), [0, 1], near).all()  # of two classes


def test_a_row_is_compared_with_the_first_4096_of_its_class_that_count() -> None:
    """What comes behind that many distinct rows counts, near-equal or not; of rows before it counts once."""
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2**64, (MOST_COMPARED + 40, 2), dtype=np.uint64)
    memory = _engine.Memory(3 * MOST_COMPARED, 2, 0, 0, 0)
    memory.offer(rows, np.zeros(len(rows), np.int32), 1)
    assert len(memory.labels()) == len(rows)
    memory.offer(rows, np.zeros(len(rows), np.int32), 1)
    assert len(memory.labels()) == len(rows) + 40  # those in the slots behind
