"""Laws of a learner whose head is LDA: what it knows is what it was taught, however that came (docs/method.md, 4, 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from new_learner import new_learner
from numpy.typing import NDArray
from reference.lda import Sums, without_class

from bitreplay import Learner, Model
from bitreplay.datasets.image_sets import read_split
from bitreplay.model import write_model
from bitreplay.state import State

SIZE = 16
Images = NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(4, image_size=SIZE, widths=(8, 20), blocks=(1, 1))
    return write_model(tmp_path_factory.mktemp("lda") / "tiny.model", network, tensors, {"name": "tiny"})


def learner_of(model: Model, **settings: Any) -> Learner:
    return new_learner(model, **{"capacity": 12, "near_equal": 0, "threads": 1, **settings})


def pictures(seed: int, count: int) -> Images:
    return tiny_model.random_images(seed, count, SIZE)


def frames(seed: int, scenes: int, each: int) -> Images:
    """Pictures of some scenes, as a camera that stands still takes them."""
    rng = np.random.default_rng(seed)
    still = pictures(seed, scenes).repeat(each, axis=0)
    moved: Images = np.clip(still + rng.integers(-2, 3, still.shape), 0, 255).astype(np.uint8)
    return moved


def head_of(learner: Learner) -> dict[str, tuple[bytes, int]]:
    """The classifier, name by name."""
    weight, bias, exponent = learner._core["classifier"]
    return {name: (weight[c].tobytes(), int(bias[c]) << (60 - exponent)) for c, name in enumerate(learner.names)}


def sums_of(learner: Learner) -> tuple[dict[str, tuple[int, int, bytes]], bytes, int]:
    """What the classifier is made from, name by name."""
    state = learner._state()
    of = {name: (int(state.seen[c]), int(state.count[c]), state.sums[c].tobytes()) for c, name in enumerate(state.names)}
    return of, state.moment.tobytes(), state.saturated


def remembered(learner: Learner) -> list[tuple[str, bytes]]:
    """The memory without its order."""
    state = learner._state()
    return sorted((state.names[label], row.tobytes()) for row, label in zip(state.rows, state.labels, strict=True))


def teach(learner: Learner, images: Images, names: Sequence[str], order: Sequence[int], ends: Sequence[int]) -> Learner:
    """Teach pictures in an order, in lessons that end before these places."""
    for lesson in np.split(np.asarray(order), ends):
        if len(lesson):
            learner.learn(images[lesson], [names[i] for i in lesson])
    return learner


# -- order ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(data=st.data(), views=st.sampled_from([1, 2]), capacity=st.sampled_from([0, 5, 12, 100]))
def test_any_order_and_any_split_into_lessons_give_the_same(model: Model, data: st.DataObject, views: int, capacity: int) -> None:
    count = data.draw(st.integers(1, 30))
    names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=count, max_size=count))
    images = pictures(7, count)
    found = []
    for _ in range(2):
        order = data.draw(st.permutations(range(count)))
        ends = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
        found.append(teach(learner_of(model, views=views, capacity=capacity), images, names, order, ends))
    first, second = found
    assert sums_of(first) == sums_of(second)
    assert head_of(first) == head_of(second)
    assert remembered(first) == remembered(second)
    order = [second.names.index(name) for name in first.names]
    assert np.array_equal(first.predict(images).probabilities, second.predict(images).probabilities[:, order])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), near_equal=st.sampled_from([0.05, 0.1, 0.2, 0.5]))
def test_near_equal_pictures_may_come_in_any_order_within_a_lesson_and_lessons_too(
    model: Model, data: st.DataObject, near_equal: float
) -> None:
    images, names = frames(3, 6, 5), [name for name in "abcabc" for _ in range(5)]
    lessons = [np.arange(30)[part::3] for part in range(3)]
    found = []
    for _ in range(2):
        learner = learner_of(model, near_equal=near_equal, capacity=0)
        for number in data.draw(st.permutations(range(3))):
            order = data.draw(st.permutations(lessons[number].tolist()))
            learner.learn(images[order], [names[i] for i in order])
        found.append(learner)
    assert sums_of(found[0]) == sums_of(found[1])
    assert head_of(found[0]) == head_of(found[1])
    counted = int(found[0]._state().count.sum())
    assert 6 <= counted < 30 or near_equal == 0.5, "no two pictures were near-equal, or all"


def test_the_same_pictures_taught_twice_count_twice(model: Model) -> None:
    images, names = pictures(5, 20), list("abcde" * 4)
    learner = learner_of(model, near_equal=0.05)
    learner.learn(images, names)
    once = learner._state()
    learner.learn(images, names)
    twice = learner._state()
    for name in ("count", "sums", "moment", "saturated", "seen"):
        assert np.array_equal(getattr(twice, name), 2 * getattr(once, name)), name


def test_a_burst_of_one_scene_counts_about_once_and_leaves_room_for_others(model: Model) -> None:
    learner = learner_of(model, near_equal=0.1)
    learner.learn(np.concatenate([frames(10, 1, 300), pictures(9, 12)]), ["burst"] * 300 + ["scenes"] * 12)
    state = learner._state()
    assert state.seen.tolist() == [300, 12]
    assert state.count.tolist() == [1, 12]
    assert learner.info()["last_lesson"]["counted"] == 13
    assert [entry["replay_rows"] for entry in learner.info()["classes"]] == [1, 11]


def test_a_burst_of_a_known_class_pushes_out_no_more_rows_than_count(model: Model) -> None:
    learner = learner_of(model, near_equal=0.1)
    learner.learn(pictures(9, 12), ["a"] * 12)
    before = remembered(learner)
    assert len(before) == 12
    learner.learn(frames(10, 1, 300), ["a"] * 300)
    assert learner.info()["last_lesson"]["counted"] == 1
    assert len(remembered(learner)) == 12
    assert len(set(before) & set(remembered(learner))) >= 11


# -- what is counted -------------------------------------------------------------------------------------------------------------


def test_features_at_the_end_of_their_range_are_counted_as_a_share(model: Model) -> None:
    learner = learner_of(model)
    assert learner.info()["saturated"] == 0
    images = pictures(4, 40)
    learner.learn(images, ["a"] * 40)
    features = learner.features(images).astype(np.int64)
    assert learner.info()["saturated"] == (np.abs(features) == 127).mean() > 0


@pytest.mark.parametrize("largest", [2**30 - 1, 2**31 - 1, 2**31 - 127**2 - 1])
def test_a_moment_of_32_bits_goes_on_in_64_where_it_must(model: Model, largest: int) -> None:
    learner = learner_of(model)
    learner.learn(pictures(1, 6), list("abcabc"))
    moment = np.full(len(learner._state().moment), largest, np.int32)
    moment[1:20:2] *= -1  # of the first row, behind its diagonal
    many = np.full(3, 10**6, np.int64)
    forged = replace(learner._state(), moment=moment, count=many, seen=many.astype(np.uint64))
    narrow = Learner(model, forged.settings, threads=1, state=forged)
    wide = Learner(model, forged.settings, threads=1, state=replace(forged, moment=moment.astype(np.int64)))
    images = pictures(2, 8)
    features = learner.features(images).astype(np.int64)
    expected = moment + (features.T @ features)[np.triu_indices(features.shape[1])]
    for one in (narrow, wide):
        one.learn(images, list("abcdabcd"))
        assert np.array_equal(one._core["moment"], expected)
        again = Learner.from_bytes(one.to_bytes())
        assert np.array_equal(again._core["moment"], expected)
    assert narrow.to_bytes() == wide.to_bytes()
    assert narrow._core["moment"].dtype == (np.int32 if largest < 2**30 else np.int64)


# -- forgetting --------------------------------------------------------------------------------------------------------------------


def known(state: State) -> Sums:
    """Sums of a state as the reference has them."""
    width = state.sums.shape[1]
    moment = np.zeros((width, width), np.int64)
    moment[np.triu_indices(width)] = state.moment
    moment += np.triu(moment, 1).T
    return Sums(state.count, state.sums, moment, state.saturated)


@pytest.mark.parametrize("near_equal", [0, 0.1])
@pytest.mark.parametrize("name", list("abcd"))
def test_forgetting_takes_the_sums_exactly_and_the_moment_by_its_share(model: Model, name: str, near_equal: float) -> None:
    learner = learner_of(model, near_equal=near_equal)
    learner.learn(pictures(3, 41), list("abcbd" * 8 + "d"))
    before = learner._state()
    index = before.names.index(name)
    learner.forget(name)
    after, expected = learner._state(), without_class(known(before), index)
    assert after.names == [other for other in before.names if other != name]
    assert np.array_equal(after.sums, np.delete(before.sums, index, 0))
    assert np.array_equal(after.count, np.delete(before.count, index))
    assert np.array_equal(after.seen, np.delete(before.seen, index))
    assert np.array_equal(after.moment, expected.triangle)
    assert after.saturated == expected.saturated
    assert Learner.from_bytes(learner.to_bytes()).to_bytes() == learner.to_bytes()


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 50))
def test_what_forgetting_leaves_can_be_saved_and_learning_goes_on(model: Model, counts: list[int], seed: int) -> None:
    learner = learner_of(model)
    names = [name for name, count in zip("abcdef", counts, strict=False) for _ in range(count)]
    learner.learn(pictures(seed, len(names)), names)
    for name in list(learner.names):
        learner.forget(name)
        content = learner.to_bytes()
        assert Learner.from_bytes(content).to_bytes() == content
        assert 0 <= learner.info()["saturated"] <= 1
    assert learner.names == []
    assert not learner._state().moment.any()
    learner.learn(pictures(1, 4), list("xyxy"))
    fresh = learner_of(model)
    fresh.learn(pictures(1, 4), list("xyxy"))
    assert head_of(learner) == head_of(fresh)


def test_who_forgot_a_class_answers_like_one_that_never_knew_it(real_data: Path) -> None:
    if not (real_data / "photos" / "train.parquet").exists():
        pytest.skip(f"photos are not there: looked in {real_data / 'photos'}")
    train, test = (read_split(real_data / "photos", split, 32) for split in ("train", "valid"))
    assert train is not None
    assert test is not None

    def taught(classes: list[int]) -> Learner:
        learner = new_learner(capacity=0)
        rows = np.flatnonzero(np.isin(train.labels, classes))
        learner.learn(train.images[rows], [train.names[train.labels[i]] for i in rows])
        return learner

    of_seven = {seven: taught(list(seven)) for seven in (range(first, first + 7) for first in range(0, 28, 7))}
    agreement = []
    for forgotten in range(28):
        seven = range(forgotten - forgotten % 7, forgotten - forgotten % 7 + 7)
        others = [c for c in seven if c != forgotten]
        learner, never = of_seven[seven].copy(), taught(others)
        learner.forget(train.names[forgotten])
        images = test.images[np.isin(test.labels, others)]
        same = np.array(learner.predict(images).names) == np.array(never.predict(images).names)
        agreement.append(same.mean())
    assert np.mean(agreement) >= 0.95, agreement  # on average: of some classes alone less
    assert min(agreement) >= 0.9, agreement


# -- sums that no pictures have -----------------------------------------------------------------------------------------------------


def forged(moment: NDArray[Any], name: str) -> NDArray[Any]:
    width = 20
    diagonal = np.cumsum(np.r_[0, np.arange(width, 1, -1)])
    found = np.zeros_like(moment)
    if name == "one feature":
        found[0] = moment[0]
    elif name != "zeros":
        found[:] = 127**2 * 12 if name == "all alike" else -(127**2) * 12
        found[diagonal] = 0 if name == "no diagonal" else 127**2 * 12
    return found


def test_what_forgetting_leaves_does_not_depend_on_when_classes_were_met(model: Model) -> None:
    images, names = pictures(12, 40), [name for name in "abcdefgh" for _ in range(5)]
    found = []
    for order in (range(40), range(39, -1, -1)):
        learner = teach(learner_of(model), images, names, list(order), [13, 20])
        learner.forget("c")
        found.append((sums_of(learner), head_of(learner)))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["zeros", "all alike", "lowest beside the diagonal", "no diagonal", "one feature"])
@pytest.mark.parametrize("settings", [{}, {"shrinkage": 2**-8, "pseudo_pictures": 0}, {"train_blocks": 1}], ids=str)
def test_forged_sums_load_predict_and_learn_without_harm(model: Model, name: str, settings: dict[str, Any]) -> None:
    learner = learner_of(model, **settings)
    images = pictures(6, 12)
    learner.learn(images, list("abcd" * 3))
    state = learner._state()
    hostile = Learner(model, state.settings, threads=1, state=replace(state, moment=forged(state.moment, name)))
    hostile = Learner.from_bytes(hostile.to_bytes(), threads=1)
    weight, bias, exponent = hostile._core["classifier"]
    assert np.abs(weight.astype(np.int64)).max() <= 32767
    assert np.abs(bias).max() <= 2**40
    assert abs(exponent) <= 60
    for views in (1, 6):
        prediction = hostile.predict(images, views=views, reject=0.5)
        assert np.abs(prediction.probabilities.sum(axis=1) - 1).max() < 2**-12
    hostile.learn(images, list("abce" * 3))
    hostile.forget("b")
    assert Learner.from_bytes(hostile.to_bytes()).to_bytes() == hostile.to_bytes()
