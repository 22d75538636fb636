"""States of several devices become one (docs/method.md, 8)."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from itertools import permutations
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from reference.merge import joined

from bitreplay import Cancelled, FormatError, Learner
from bitreplay.merge import merged_state
from bitreplay.model import Model, write_model
from bitreplay.state import MAX_LESSONS, State, pack_state

SIZE = 16
QUICK: dict[str, Any] = {"capacity": 9, "threads": 1, "near_equal": 0.05}
HEADS = pytest.mark.parametrize("head", ["lda", "cwr"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(4, image_size=SIZE, widths=(8, 64), blocks=(1, 1), tail_blocks=1)
    return write_model(tmp_path_factory.mktemp("merge") / "tiny.model", network, tensors, {"name": "tiny"})


def taught(model: Model, seed: int, *lessons: str, **more: Any) -> Learner:
    learner = new_learner(model, seed=seed, **{**QUICK, **more})
    for number, lesson in enumerate(lessons):
        learner.learn(tiny_model.random_images(10 * seed + number, len(lesson), SIZE), list(lesson))
    return learner


@HEADS
def test_classes_and_counts_add_up_and_the_memory_is_balanced(model: Model, tmp_path: Path, head: str) -> None:
    a, b, c = taught(model, 1, "xxxxyyyy", "xxzz", head=head), taught(model, 2, "wwwwwwxx", head=head), taught(model, 3, "vvv", head=head)
    before = [learner.to_bytes() for learner in (b, c)]
    parts = [learner._state() for learner in (a, b, c)]
    assert a.merge(b, c)
    assert [learner.to_bytes() for learner in (b, c)] == before
    assert a.names == ["x", "y", "z", "w", "v"]
    state = a._state()
    assert state.seen.tolist() == [8, 4, 2, 6, 3]
    if head == "lda":
        assert state.sums[0].tolist() == (parts[0].sums[0] + parts[1].sums[1]).tolist()
        assert state.count.tolist() == [8, 4, 2, 6, 3]
        assert state.saturated == sum(part.saturated for part in parts) > 0
    else:
        assert state.past_count.tolist() == [*(parts[0].past_count + np.array([2, 0, 0], np.uint32)), 6, 3]
    assert np.bincount(state.labels).tolist().count(2) == 4  # 9 rows over 5 classes: four may have one more
    theirs = {row.tobytes() for part in parts for row in part.rows}
    assert all(row.tobytes() in theirs for row in state.rows)
    path = tmp_path / "merged.state"
    a.save(path)
    assert Learner.load(path).to_bytes() == a.to_bytes()
    a.learn(tiny_model.random_images(99, 4, SIZE), list("uuxx"))  # learning goes on
    assert a.names[-1] == "u"


@HEADS
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("train_blocks", [0, 1])
@pytest.mark.parametrize("capacity", [3, 9, 40])
@pytest.mark.parametrize("seed", range(4))
def test_joining_equals_the_reference(model: Model, seed: int, capacity: int, train_blocks: int, views: int, head: str) -> None:
    rng = np.random.default_rng(seed)
    more: dict[str, Any] = {"train_blocks": train_blocks, "head": head, "views": views, "near_equal": [0, 0.05, 0.3, 0.45][seed]}
    learners = []
    for number in range(3):
        lessons = ["".join(rng.choice(list("xyz"), rng.integers(1, 14))) for _ in range(1 if seed == 3 else rng.integers(1, 4))]
        learners.append(taught(model, 10 * seed + number, *lessons, capacity=int(rng.integers(capacity, 2 * capacity)), **more))
    learners.append(learners[0].copy())  # rows that two devices share
    states = [learner._state() for learner in learners]
    ours, equal = merged_state(states)
    theirs = joined(states)
    assert equal == theirs.pop("equal")
    assert equal == (seed == 3 or not train_blocks or all(s.experience == 1 for s in states))
    for key, value in theirs.items():
        found = getattr(ours, key)
        assert (found.tolist() if isinstance(found, np.ndarray) else found) == value, key


def of_each_name(learner: Learner) -> dict[str, tuple[bytes, int]]:
    """The classifier name by name."""
    weight, bias, exponent = learner._core["classifier"]
    return {name: (weight[c].tobytes(), int(bias[c]) << (60 - exponent)) for c, name in enumerate(learner.names)}


def remembered(state: State) -> set[tuple[str, bytes]]:
    """The memory as a set."""
    return {(state.names[label], row.tobytes()) for row, label in zip(state.rows, state.labels, strict=True)}


def devices(model: Model, seed: int, count: int, **more: Any) -> tuple[list[Learner], Learner]:
    """Devices that were taught some pictures each, and one that was taught all of them."""
    rng = np.random.default_rng(seed)
    whole = new_learner(model, **{**QUICK, "near_equal": 0, **more})
    found = []
    for number in range(count):
        found.append(new_learner(model, **{**QUICK, "near_equal": 0, **more}))
        for lesson in range(int(rng.integers(1, 4))):
            labels = [str(name) for name in rng.choice(list("vwxyz"), rng.integers(1, 12))]
            images = tiny_model.random_images(1000 * seed + 10 * number + lesson, len(labels), SIZE)
            for learner in (found[-1], whole):
                learner.learn(images, labels)
    return found, whole


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_devices_joined_are_one_that_was_taught_everything(model: Model, seed: int, views: int) -> None:
    parts, whole = devices(model, seed, 5, views=views)
    first, *others = parts
    first.merge(*others)
    assert first.names == whole.names
    joined, taught_all = first._state(), whole._state()
    for name in ("seen", "count", "sums", "moment", "saturated", "experience"):
        assert np.array_equal(getattr(joined, name), getattr(taught_all, name)), name
    assert of_each_name(first) == of_each_name(whole)
    assert remembered(joined) == remembered(taught_all)
    images = tiny_model.random_images(77, 20, SIZE)
    assert np.array_equal(first.predict(images).probabilities, whole.predict(images).probabilities)


def trees(states: list[State]) -> list[State]:
    """The states joined in every order, and by both trees of three."""
    found = []
    for a, b, c in permutations(states):
        found.append(merged_state([a, b, c])[0])
        found.append(merged_state([a, merged_state([b, c])[0]])[0])
    return found


def heads_of(state: State) -> tuple[dict[str, tuple[int, int, bytes]], bytes, int]:
    classes = {name: (int(state.seen[c]), int(state.count[c]), state.sums[c].tobytes()) for c, name in enumerate(state.names)}
    return classes, state.moment.astype(np.int64).tobytes(), state.saturated


@pytest.mark.parametrize("capacity", [0, 4, 9, 23])
@pytest.mark.parametrize("seed", range(4))
def test_merging_is_associative_and_commutative(model: Model, seed: int, capacity: int) -> None:
    states = [learner._state() for learner in devices(model, seed, 3, capacity=capacity)[0]]
    found = trees(states)
    assert all(heads_of(state) == heads_of(found[0]) for state in found)
    assert all(remembered(state) == remembered(found[0]) for state in found)


def test_rows_that_devices_share_leave_the_order_unseen(model: Model) -> None:
    """As docs/method.md, 8.1, has it: with near_equal=0 the memory is a function of all rows, and equal ones count once."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        pool, labels = tiny_model.random_images(seed, 60, SIZE), [str(name) for name in rng.choice(list("wxyz"), 60)]
        learners = [new_learner(model, capacity=3 + seed, near_equal=0, threads=1) for _ in range(3)]
        for learner in learners:
            own = rng.permutation(60)[: rng.integers(1, 25)]
            learner.learn(pool[own], [labels[i] for i in own])
        found = trees([learner._state() for learner in learners])
        assert all(remembered(state) == remembered(found[0]) for state in found), seed


@HEADS
def test_states_that_are_read_one_by_one_are_joined_the_same(model: Model, head: str) -> None:
    states = [taught(model, seed, "xxyz", head=head)._state() for seed in range(4)]
    once, streamed = merged_state(states)[0], merged_state(iter(states))[0]
    assert pack_state(once) == pack_state(streamed)


def test_a_head_of_the_papers_is_averaged_by_the_roots_of_counts(model: Model) -> None:
    a, b = taught(model, 1, "xxxxy", capacity=0, head="cwr"), taught(model, 2, "xxy", capacity=0, head="cwr")
    p, q = a._state(), b._state()
    a.merge(b)  # no rows: nothing is trained
    shares = isqrt(int(p.past_count[0]) << 8), isqrt(int(q.past_count[0]) << 8)
    exact = (shares[0] * p.weight[0].astype(np.float64) + shares[1] * q.weight[0]) / sum(shares)
    assert np.abs(a._state().weight[0] - exact).max() <= 0.5


@HEADS
def test_the_joined_learner_names_what_two_devices_were_taught(model: Model, head: str) -> None:
    halves = [np.full((8, SIZE, SIZE, 3), value, np.uint8) for value in (0, 255)]
    a, b = taught(model, 1, capacity=16, head=head), taught(model, 2, capacity=16, head=head)
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
    assert not state.tail_weight[:2].any()  # they begin anew
    assert a.merge(b) is False
    assert a._core["tail_weight"][:2].any(axis=1).all()
    fresh = taught(model, 1, "xxyy", train_blocks=1)
    assert fresh.merge(taught(model, 2, "zzyy", train_blocks=1))  # neither tail has been trained yet
    fresh.learn(tiny_model.random_images(5, 4, SIZE), list("xyzz"))


def test_any_thread_count_gives_the_same_bytes(model: Model) -> None:
    found = set()
    for threads in (1, 2, 3):
        a, b = taught(model, 1, "xxyy", "xy", train_blocks=1, threads=threads), taught(model, 2, "zzv", "zv", train_blocks=1)
        a.merge(b)
        found.add(a.to_bytes())
    assert len(found) == 1


def test_merging_twice_keeps_no_row_twice_and_two_may_merge_each_other(model: Model) -> None:
    a, b = taught(model, 1, "xxxxxx"), taught(model, 2, "xxxxyy")
    a.merge(b)
    a.merge(b)
    rows = [row.tobytes() for row in a._state().rows]
    assert len(set(rows)) == len(rows)

    def merge(one: Learner, other: Learner) -> None:
        with suppress(RuntimeError):  # one change at a time
            one.merge(other)

    threads = [threading.Thread(target=merge, args=pair) for pair in ((a, b), (b, a)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


@HEADS
def test_lessons_are_counted_to_the_end_and_no_further(model: Model, head: str) -> None:
    def after(lessons: int) -> Learner:
        state = taught(model, 1, "xxyy", head=head)._state()
        learner = Learner(state.model, state.settings, threads=1, state=replace(state, experience=lessons))
        return Learner.from_bytes(learner.to_bytes())

    last = after(MAX_LESSONS - 1)
    last.learn(tiny_model.random_images(5, 2, SIZE), list("xy"))
    assert Learner.from_bytes(last.to_bytes()).info()["lessons"] == MAX_LESSONS
    with pytest.raises(ValueError, match="at most 4294967295 lessons"):
        last.learn(tiny_model.random_images(5, 2, SIZE), list("xy"))
    for lessons in (MAX_LESSONS, MAX_LESSONS - 1):
        with pytest.raises(ValueError, match="expected fewer than 4294967295 lessons"):
            taught(model, 2, "zz", head=head).merge(after(lessons))
    other = taught(model, 2, "zz", head=head)
    other.merge(after(MAX_LESSONS - 2))
    rehearsals = int(head == "cwr")  # one more lesson, where something is trained
    assert Learner.from_bytes(other.to_bytes()).info()["lessons"] == MAX_LESSONS - 1 + rehearsals
    with pytest.raises(FormatError, match="expected a count"):
        Learner.from_bytes(pack_state(replace(last._state(), experience=MAX_LESSONS + 1)))


def test_rows_seen_are_counted_to_the_end_and_no_further(model: Model) -> None:
    state = taught(model, 1, "xxyy")._state()
    many = Learner(state.model, state.settings, threads=1, state=replace(state, seen=np.array([2**32 - 2, 2], np.uint64)))
    with pytest.raises(ValueError, match="at most 4294967295 pictures of a class"):
        taught(model, 2, "xx").merge(many)
    with pytest.raises(ValueError, match="at most 4294967295 pictures of a class"):
        many.learn(tiny_model.random_images(5, 2, SIZE), list("xx"))


def test_what_cannot_be_merged_is_refused_and_nothing_changes(model: Model, tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(5, image_size=SIZE, widths=(8, 64), blocks=(1, 1), tail_blocks=1)
    stranger = write_model(tmp_path / "other.model", network, tensors, {"name": "other"})
    learner = taught(model, 1, "xxyy", max_classes=3)
    before = learner.to_bytes()
    for others, message in (
        ([], "expected at least one learner"),
        ([learner], "expected other learners"),
        ([taught(stranger, 2, "a")], "only devices with the same model can be merged"),
        (
            [taught(model, 2, "ab", "ab", train_blocks=1)],
            "state 2: expected train_blocks 0, as the first, got 1; only devices that learn alike",
        ),
        ([taught(model, 2, "ab", head="cwr")], "state 2: expected head lda, as the first, got cwr; only devices that learn alike"),
        ([taught(model, 2, "xx"), taught(model, 3, "x", views=2)], "state 3: expected views 1, as the first, got 2"),
        ([taught(model, 2, "abx")], "at most 3 classes in all, got more"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.merge(*others)
        assert learner.to_bytes() == before
    small = taught(model, 1, "xxyy", train_blocks=1, capacity=2)
    with pytest.raises(ValueError, match="every class needs a row"):
        small.merge(taught(model, 2, "zz", train_blocks=1))
    for more in ({"head": "cwr"}, {"train_blocks": 1}):  # something is trained
        learner = taught(model, 1, "xxyy", **more)
        before = learner.to_bytes()
        with pytest.raises(Cancelled):
            learner.merge(taught(model, 2, "zz", **more), cancel=lambda: True)
        assert learner.to_bytes() == before
