"""States of several devices become one (docs/method.md, 8)."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from reference_merge import joined

from bitreplay import Cancelled, FormatError, Learner
from bitreplay.merge import merged_state
from bitreplay.model import Model, write_model
from bitreplay.state import MAX_LESSONS, pack_state

SIZE = 16
QUICK: dict[str, Any] = {"min_steps": 20, "epochs": 1, "capacity": 9, "threads": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(4, image_size=SIZE, widths=(8, 64), blocks=(1, 1), tail_blocks=1)
    return write_model(tmp_path_factory.mktemp("merge") / "tiny.model", network, tensors, {"name": "tiny"})


def taught(model: Model, seed: int, *lessons: str, **more: Any) -> Learner:
    learner = Learner.new(model, seed=seed, **{**QUICK, **more})
    for number, lesson in enumerate(lessons):
        learner.learn(tiny_model.random_images(10 * seed + number, len(lesson), SIZE), list(lesson))
    return learner


def test_classes_counts_and_means_add_up_and_the_memory_is_balanced(model: Model, tmp_path: Path) -> None:
    a, b, c = taught(model, 1, "xxxxyyyy", "xxzz"), taught(model, 2, "wwwwwwxx"), taught(model, 3, "vvv")
    before = [learner.content() for learner in (b, c)]
    parts = [learner._state() for learner in (a, b, c)]
    assert a.merge(b, c)
    assert [learner.content() for learner in (b, c)] == before
    assert a.names == ["x", "y", "z", "w", "v"]
    state = a._state()
    assert state.seen.tolist() == [8, 4, 2, 6, 3]
    assert state.feature_sums[0].tolist() == (parts[0].feature_sums[0] + parts[1].feature_sums[1]).tolist()
    assert state.past_count.tolist() == [*(parts[0].past_count + np.array([2, 0, 0], np.uint32)), 6, 3]
    assert np.bincount(state.labels).tolist() == [2, 2, 2, 2, 1]  # 9 rows over 5 classes: the lowest get one more
    theirs = {row.tobytes() for part in parts for row in part.rows}
    assert all(row.tobytes() in theirs for row in state.rows)
    path = tmp_path / "merged.state"
    a.save(path)
    assert Learner.load(path).content() == a.content()
    a.learn(tiny_model.random_images(99, 4, SIZE), list("uuxx"))  # learning goes on
    assert a.names[-1] == "u"


@pytest.mark.parametrize("train_blocks", [0, 1])
@pytest.mark.parametrize("capacity", [3, 9, 40])
@pytest.mark.parametrize("seed", range(4))
def test_joining_equals_the_reference(model: Model, seed: int, capacity: int, train_blocks: int) -> None:
    rng = np.random.default_rng(seed)
    learners = []
    for number in range(3):
        lessons = ["".join(rng.choice(list("xyz"), rng.integers(1, 14))) for _ in range(1 if seed == 3 else rng.integers(1, 4))]
        learners.append(
            taught(model, 10 * seed + number, *lessons, capacity=int(rng.integers(capacity, 2 * capacity)), train_blocks=train_blocks)
        )
    learners.append(learners[0].copy())  # rows that two devices share
    states = [learner._state() for learner in learners]
    ours, equal = merged_state(states)
    theirs = joined(states)
    found = {
        "names": ours.names, "seen": ours.seen.tolist(), "past": ours.past_count.tolist(), "sums": ours.feature_sums.tolist(),
        "experience": ours.experience, "head": ours.weight.tolist(), "tail": ours.tail_weight.tolist(), "equal": equal,
        "rows": [row.tobytes() for row in ours.rows], "labels": ours.labels.tolist(),
    }  # fmt: skip
    assert equal == (seed == 3 or not train_blocks or all(s.experience == 1 for s in states))
    for key, value in theirs.items():
        assert found[key] == value, key


def test_heads_are_averaged_by_the_roots_of_their_counts(model: Model) -> None:
    a, b = taught(model, 1, "xxxxy", capacity=0), taught(model, 2, "xxy", capacity=0)
    p, q = a._state(), b._state()
    a.merge(b)  # no rows: nothing is trained
    shares = isqrt(int(p.past_count[0]) << 8), isqrt(int(q.past_count[0]) << 8)
    exact = (shares[0] * p.weight[0].astype(np.float64) + shares[1] * q.weight[0]) / sum(shares)
    assert np.abs(a._state().weight[0] - exact).max() <= 0.5


def test_of_a_class_each_device_gives_rows_by_what_it_saw(model: Model) -> None:
    a, b = taught(model, 1, "x" * 30, capacity=8), taught(model, 2, "x" * 10, capacity=8)
    state, _ = merged_state([a._state(), b._state()])
    mine = {row.tobytes() for row in a._state().rows}
    assert len(state.rows) == 8
    assert sum(row.tobytes() in mine for row in state.rows) == 6
    scarce = taught(model, 3, "x", capacity=8)  # one row is all that it has
    state, _ = merged_state([scarce._state(), b._state()])
    assert len(state.rows) == 8
    assert scarce._state().rows[0].tobytes() in {row.tobytes() for row in state.rows}


def test_the_rehearsal_names_what_two_devices_were_taught(model: Model) -> None:
    halves = [np.full((8, SIZE, SIZE, 3), value, np.uint8) for value in (0, 255)]
    a, b = taught(model, 1, capacity=16), taught(model, 2, capacity=16)
    a.learn(halves[0], ["dark"] * 8)
    b.learn(halves[1], ["bright"] * 8)
    a.merge(b)
    assert a.predict(np.concatenate([halves[0][:1], halves[1][:1]])).names == ["dark", "bright"]


def test_unequal_tails_are_told_and_the_busiest_is_kept(model: Model) -> None:
    a, b = taught(model, 1, "xxyy", "xy", train_blocks=1), taught(model, 2, "zzzzvv", "zzvvzz", train_blocks=1)
    state, equal = merged_state([a._state(), b._state()])
    assert not equal
    assert state.tail[0]["shadow"].tolist() == b._state().tail[0]["shadow"].tolist()
    assert state.tail_weight[2:].tolist() == b._state().tail_weight.tolist()
    assert state.tail_weight[:2].tolist() == state.weight[:2].tolist()
    assert a.merge(b) is False
    fresh = taught(model, 1, "xxyy", train_blocks=1)
    assert fresh.merge(taught(model, 2, "zzyy", train_blocks=1))  # neither tail has been trained yet
    fresh.learn(tiny_model.random_images(5, 4, SIZE), list("xyzz"))


def test_any_thread_count_gives_the_same_bytes(model: Model) -> None:
    found = set()
    for threads in (1, 2, 3):
        a, b = taught(model, 1, "xxyy", "xy", train_blocks=1, threads=threads), taught(model, 2, "zzv", "zv", train_blocks=1)
        a.merge(b)
        found.add(a.content())
    assert len(found) == 1


def test_merging_twice_keeps_no_row_twice_and_two_may_merge_each_other(model: Model) -> None:
    a, b = taught(model, 1, "xxxxxx"), taught(model, 2, "xxxxyy")
    a.merge(b)
    a.merge(b)
    rows = [row.tobytes() for row in a._state().rows]
    assert len(set(rows)) == len(rows) == 9

    def merge(one: Learner, other: Learner) -> None:
        with suppress(RuntimeError):  # one change at a time
            one.merge(other)

    threads = [threading.Thread(target=merge, args=pair) for pair in ((a, b), (b, a)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def test_lessons_are_counted_to_the_end_and_no_further(model: Model) -> None:
    def after(lessons: int) -> Learner:
        state = taught(model, 1, "xxyy")._state()
        learner = Learner(state.model, state.settings, 1, state=replace(state, experience=lessons))
        return Learner.from_content(learner.content())

    last = after(MAX_LESSONS - 1)
    last.learn(tiny_model.random_images(5, 2, SIZE), list("xy"))
    assert Learner.from_content(last.content()).info()["lessons"] == MAX_LESSONS
    with pytest.raises(ValueError, match="at most 4294967295 lessons"):
        last.learn(tiny_model.random_images(5, 2, SIZE), list("xy"))
    for lessons in (MAX_LESSONS, MAX_LESSONS - 1):
        with pytest.raises(ValueError, match="expected fewer than 4294967295 lessons"):
            taught(model, 2, "zz").merge(after(lessons))
    other = taught(model, 2, "zz")
    other.merge(after(MAX_LESSONS - 2))
    assert Learner.from_content(other.content()).info()["lessons"] == MAX_LESSONS
    with pytest.raises(FormatError, match="expected a count"):
        Learner.from_content(pack_state(replace(last._state(), experience=MAX_LESSONS + 1)))


def test_rows_seen_are_counted_to_the_end_and_no_further(model: Model) -> None:
    state = taught(model, 1, "xxyy")._state()
    many = Learner(state.model, state.settings, 1, state=replace(state, seen=np.array([2**32 - 2, 2], np.uint64)))
    with pytest.raises(ValueError, match="at most 4294967295 rows of a class"):
        taught(model, 2, "xx").merge(many)
    with pytest.raises(ValueError, match="at most 4294967295 rows of a class"):
        many.learn(tiny_model.random_images(5, 2, SIZE), list("xx"))


def test_what_cannot_be_merged_is_refused_and_nothing_changes(model: Model, tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(5, image_size=SIZE, widths=(8, 64), blocks=(1, 1), tail_blocks=1)
    stranger = write_model(tmp_path / "other.model", network, tensors, {"name": "other"})
    learner = taught(model, 1, "xxyy", max_classes=3)
    before = learner.content()
    for others, message in (
        ([], "expected at least one learner"),
        ([learner], "expected other learners"),
        ([taught(stranger, 2, "a")], "only devices with the same model can be merged"),
        ([taught(model, 2, "ab", "ab", train_blocks=1)], "only devices that train the same blocks"),
        ([taught(model, 2, "abx")], "at most 3 classes in all, got 4"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.merge(*others)
        assert learner.content() == before
    small = taught(model, 1, "xxyy", train_blocks=1, capacity=2)
    with pytest.raises(ValueError, match="every class needs a row"):
        small.merge(taught(model, 2, "zz", train_blocks=1))
    with pytest.raises(Cancelled):
        learner.merge(taught(model, 2, "zz"), cancel=lambda: True)
    assert learner.content() == before
