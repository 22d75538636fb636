"""The trained branch in C++ equals the reference, byte for byte (docs/method.md, 7)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from numpy.typing import NDArray
from reference.branch import ReferenceBranchLearner
from reference.comparison import assert_same, assert_same_answers
from tail_model import FAMILIES, make, pair

from bitreplay import Learner, _engine

HEADS = ("lda", "cwr")
LESSONS = (([0, 1] * 5, slice(0, 10)), ([2, 0, 1, 2, 2, 3, 3], slice(10, 17)), ([3] * 12, slice(17, 29)))


def teach(ours: Learner, reference: ReferenceBranchLearner, images: NDArray[np.uint8], train_blocks: int) -> None:
    """Teach both the same lessons, compare after each, and see that the last one moved the tail."""
    for labels, rows in LESSONS:
        before = [block.shadow.copy() for block in reference.tail.blocks]
        ours.learn(images[rows], [f"c{c}" for c in labels])
        reference.learn(images[rows], labels)
        assert_same(ours, reference)
    moved = [not np.array_equal(a, b.shadow) for a, b in zip(before, reference.tail.blocks, strict=True)]
    assert sum(moved) == train_blocks, "the lesson left the tail as it was: the test shows nothing"


def mixed(learner: Learner, reference: ReferenceBranchLearner, mixing: tuple[int, int]) -> Learner:
    """The same, in which both branches are heard with these weights."""
    reference.mixing = mixing
    return Learner(learner.model, learner.settings, threads=2, state=replace(learner._state(), mixing=mixing))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("train_blocks", "values"),
    [
        (1, {}),
        (2, {"gradient_bits": 8, "tail_passes": 1}),
        (2, {"gradient_bits": 8, "tail_distillation": False, "tail_prior": 0.75}),
        (2, {"weight_bits": 16, "parameter_step": 9}),
        (2, {"weight_bits": 1, "weight_step": 6, "parameter_step": 6, "gradient_bits": 4}),
        (2, {"forward_bits": 8, "gradient_bits": 2, "weight_step": 3}),
        (1, {"forward_bits": 5, "gradient_bits": 11, "tail_mirror": False, "tail_noise": 0, "prior_correction": False}),
        (2, {"parameter_step": 4, "weight_step": 2, "weight_bits": 16, "gradient_bits": 3}),
    ],
)
def test_lessons_equal_the_reference(tmp_path: Path, family: str, train_blocks: int, values: dict[str, Any], head: str) -> None:
    ours, reference = pair(tmp_path, family, train_blocks, {"head": head, **values})
    images = tiny_model.random_images(5, 30, 16)
    teach(ours, reference, images, train_blocks)
    ours._core.rehearse(_engine.Workers(2), None)
    reference.rehearse()
    assert_same(ours, reference)
    for mixing in (reference.mixing, (30_000, 50_000)):
        assert_same_answers(mixed(ours, reference, mixing), reference, images)


@pytest.mark.parametrize("channels", [65, 128])
def test_other_sizes_equal_the_reference(tmp_path: Path, channels: int) -> None:
    ours, reference = pair(tmp_path, "quicknet", 2, {"gradient_bits": 8, "tail_epochs": 1}, channels=channels, image_size=12)
    images = tiny_model.random_images(6, 20, 12)
    for labels, rows in (([0, 1] * 5, slice(0, 10)), ([1, 0, 2, 2], slice(10, 14))):
        ours.learn(images[rows], [f"c{c}" for c in labels])
        reference.learn(images[rows], labels)
    assert_same(ours, reference)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "values",
    [
        {"gradient_bits": 8, "parameter_step": 7},
        {"weight_bits": 1, "weight_step": 6, "parameter_step": 6, "gradient_bits": 4},
        {"forward_bits": 8, "weight_bits": 16},
    ],
)
def test_a_tail_whose_features_have_no_relu_equals_the_reference(tmp_path: Path, family: str, values: dict[str, Any]) -> None:
    down = {"relu": family == "quicknet", "threshold": True, "activation": family != "quicknet"}
    ours, reference = pair(tmp_path, family, 2, values, features_relu=False, down=down)
    images = tiny_model.random_images(5, 30, 16)
    teach(ours, reference, images, 2)
    assert_same_answers(mixed(ours, reference, (1 << 15, 1 << 15)), reference, images)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("views", [2, 6])
def test_more_views_equal_the_reference(tmp_path: Path, head: str, views: int) -> None:
    ours, reference = pair(tmp_path, "quicknet", 1, {"head": head, "views": views})
    images = tiny_model.random_images(5, 30, 16)
    teach(ours, reference, images, 1)
    heard = mixed(ours, reference, (1 << 15, 1 << 15))
    assert_same_answers(heard, reference, images)
    probabilities = heard.predict(images).probabilities
    assert not np.array_equal(probabilities, heard.predict(images, views=1).probabilities)
    two, of_mirrored = (heard.predict(shown, views=2).probabilities for shown in (images, np.ascontiguousarray(images[:, :, ::-1])))
    assert np.array_equal(two, of_mirrored)  # the same two views


@pytest.mark.parametrize(
    ("tail_epochs", "tail_passes", "steps"),
    [(2, 3, [5, 5]), (2, 10_000, [50, 50]), (2, 1, [2, 2]), (30, 10_000, [60, 90]), (10_000, 1, [2, 2]), (1, 20, [29, 32])],
)
def test_steps_are_limited_by_passes_over_live_and_over_stored_rows(
    tmp_path: Path, tail_epochs: int, tail_passes: int, steps: list[int]
) -> None:
    learner, _ = pair(tmp_path, "quicknet", 1, {"tail_epochs": tail_epochs, "tail_passes": tail_passes, "held_back": 0, "near_equal": 0})
    images = tiny_model.random_images(5, 29, 16)
    calls: list[tuple[int, int]] = []
    for labels, rows in (("ab" * 5, slice(0, 10)), ("cabccdd", slice(10, 17)), ("d" * 12, slice(17, 29))):
        learner.learn(images[rows], list(labels), progress=lambda phase, *call: calls.append(call) if phase == "tail" else None)
    # 7 live rows, 5 a step, and 10 stored ones, 7 a step; then 12 live ones and 11 stored ones; none are stored in the first lesson
    assert calls == [(done, total) for total in steps for done in range(total + 1)]


def test_distillation_acts_where_two_known_classes_are_not_shown(tmp_path: Path) -> None:
    images = tiny_model.random_images(5, 30, 16)
    learners = [pair(tmp_path, "quicknet", 2, {"tail_distillation": on, "held_back": 0})[0] for on in (True, False)]
    lessons = [("ababababab", slice(0, 10), False), ("bcbcbcc", slice(10, 17), False), ("ccccccccc", slice(17, 26), True)]
    for labels, rows, differs in lessons:  # absent: none, a, then a and b
        for learner in learners:
            learner.learn(images[rows], list(labels))
        assert differs == (not np.array_equal(learners[0]._core["tail_weight"], learners[1]._core["tail_weight"]))


@pytest.mark.parametrize("weight_bits", [1, 8, 16])
def test_threads_and_a_saved_state_change_nothing(tmp_path: Path, weight_bits: int) -> None:
    values = {"weight_bits": weight_bits, "parameter_step": 8}
    images = tiny_model.random_images(5, 30, 16)
    states = []
    for threads in (1, 3):
        learner, _ = pair(tmp_path, "birealnet", 2, {**values, "threads": threads})
        for n, (labels, rows) in enumerate((("ababab", slice(0, 6)), ("cbac", slice(6, 10)), ("dd", slice(10, 12)))):
            learner.learn(images[rows], list(labels))
            path = tmp_path / f"{threads}-{n}.state"
            learner.save(path)
            if threads == 3:
                learner = Learner.load(path, threads=threads)
        states.append(path.read_bytes())
    assert states[0] == states[1]


def test_a_tail_needs_replay_and_blocks(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    with pytest.raises(ValueError, match="tail: expected None with capacity 0"):
        new_learner(model, capacity=0, train_blocks=1)
    with pytest.raises(ValueError, match="train_blocks: expected at most 2"):
        new_learner(model, train_blocks=3)
    learner = new_learner(model, capacity=2, train_blocks=1)
    images = tiny_model.random_images(1, 3, 16)
    with pytest.raises(ValueError, match="labels: expected at most 2 classes in all, got 3"):
        learner.learn(images, ["a", "b", "c"])
    assert learner.names == []
    for name, value in (("gradient_bits", 1), ("forward_bits", 17), ("weight_bits", 4), ("weight_step", 0), ("train_blocks", -1)):
        with pytest.raises(ValueError, match=name):
            new_learner(model, **{"train_blocks": 1, name: value})
