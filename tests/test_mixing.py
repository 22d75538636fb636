"""Which branch is heard after a lesson that trained the tail (docs/method.md, 7.6 and 7.7)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from numpy.typing import NDArray
from reference.arithmetic import PURPOSE_HELD_BACK, row_hash
from reference.comparison import assert_same
from reference.mixing import ONE, Held, choose_mixing, frozen_weight, inverse_temperature, loss
from tail_model import make, pair

from bitreplay import Learner

SIZE = 16
LESSONS = (["a", "b"] * 20, ["c", "d"] * 20, ["a", "c", "e"] * 13, ["d"] * 30)
SETTINGS: dict[str, Any] = {
    "capacity": 60, "near_equal": 0, "tail_passes": 20, "live_batch": 50, "tail_replay_batch": 60, "tail_noise": 4, "gradient_bits": 8,
}  # fmt: skip


def pictures(names: list[str], seed: int) -> NDArray[np.uint8]:
    """A pattern of squares for each class, in noise."""
    rng = np.random.default_rng(seed)
    squares = {name: np.random.default_rng(ord(name)).integers(60, 196, (4, 4, 3)) for name in names}
    still = np.stack([squares[name].repeat(4, axis=0).repeat(4, axis=1) for name in names])
    return np.clip(still + rng.normal(0, 50, still.shape), 0, 255).astype(np.uint8)


# -- the choice, by hand -------------------------------------------------------------------------------------------------------


def held(*rows: tuple[int, list[float], list[float]]) -> Held:
    """Rows: a label, the logits of LDA and those of the branch."""
    labels, frozen, branch = zip(*rows, strict=True)
    return Held(np.array(labels), np.rint(np.array(frozen) * ONE).astype(np.int64), np.rint(np.array(branch) * ONE).astype(np.int64))


def test_temperatures_are_those_of_the_formula() -> None:
    assert inverse_temperature(9, 1) == 6827  # 65536 / 9.6 = 6826.7
    assert inverse_temperature(576, 1) == 25206  # 65536 / 2.6 = 25206.2
    assert inverse_temperature(30, 3) == int(65536 / (1.6 + 24 / 10**0.5) + 0.5)
    assert frozen_weight(ONE, 12_345) == 12_345
    assert frozen_weight(ONE // 2, 5) == 3
    assert frozen_weight(2**20, 2**17) == 2**20


def test_the_loss_is_minus_the_logarithm_of_a_probability() -> None:
    for logits, label, expected in (([0, 0], 0, np.log(2)), ([3, 0], 1, np.log(1 + np.exp(3))), ([3, 0], 0, np.log(1 + np.exp(-3)))):
        assert loss(np.array(logits) * ONE, label) / ONE == pytest.approx(expected, abs=1e-3)
    assert loss(np.array([0, 1 << 45]), 0) == (1 << 45) - 1  # exp2neg(0) is a little below one


def test_rows_of_one_class_choose_nothing() -> None:
    assert choose_mixing(held((0, [1, 0], [5, 0]), (0, [1, 0], [5, 0])), 2) == ((ONE, 0), -1)


def test_a_branch_that_knows_more_is_heard_and_one_that_knows_less_is_not() -> None:
    unsure, sure = [[0.2, 0.0], [0.0, 0.2]], [[3.0, 0.0], [0.0, 3.0]]
    good = held(*[(c, unsure[c], sure[c]) for c in (0, 1) for _ in range(6)])
    (frozen, branch), worse = choose_mixing(good, 0)
    assert frozen == branch > 0
    assert worse == -1
    bad = held(*[(c, unsure[c], sure[1 - c]) for c in (0, 1) for _ in range(6)])
    assert choose_mixing(bad, 0)[0][1] == 0
    assert choose_mixing(bad, 0, heard=True)[0][1] == 0


def test_a_branch_that_was_heard_need_not_prove_itself_anew() -> None:
    rng = np.random.default_rng(7)  # a gain that is smaller than half its standard error
    right = np.eye(2)
    few = held(
        *[(c, (rng.normal(0, 1, 2) + right[c]).tolist(), (rng.normal(0, 1, 2) + 0.6 * right[c]).tolist()) for c in (0, 1) for _ in range(6)]
    )
    assert choose_mixing(few, 0)[0][1] == 0
    assert choose_mixing(few, 0, heard=True)[0][1] > 0


def test_an_old_class_that_loses_is_told_and_a_new_one_may_lose() -> None:
    rows = [(c, [0.0 if k != c else 0.1 for k in range(3)], [0.0 if k != c else 9.0 for k in range(3)]) for c in (0, 1) for _ in range(20)]
    rows += [(2, [0.0, 0.0, 0.1], [0.2, 0.0, 0.0])] * 8
    scales, worse = choose_mixing(held(*rows), 3)
    assert worse == 2
    assert scales[1] == 0
    scales, worse = choose_mixing(held(*rows), 2)
    assert worse == -1
    assert scales[0] == scales[1] > 0


# -- lessons -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("quicknet", {"held_back": 0.25}),
        ("birealnet", {"held_back": 0.5, "views": 2}),
        ("reactnet", {"held_back": 0.5, "views": 6}),
        ("quicknet", {"held_back": 0.0}),
        ("quicknet", {"held_back": 0.25, "lda_features": 5, "class_priors": True}),
    ],
)
def test_the_choice_equals_the_references_after_every_lesson(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    ours, theirs = pair(tmp_path, family, 1, {**SETTINGS, **settings})
    chosen = []
    for number, names in enumerate(LESSONS):
        images = pictures(names, number)
        ours.learn(images, names)
        theirs.learn(images, [ours.names.index(name) for name in names])
        assert_same(ours, theirs)
        chosen.append(ours._core["mixing"])
    assert chosen[0] == (ONE, 0)
    assert any(branch for _, branch in chosen) == (family == "quicknet"), "both outcomes are wanted of these tests"


def taught(folder: Path, **settings: Any) -> Learner:
    model, _, _ = make(folder, "quicknet")
    learner = new_learner(model, **{**SETTINGS, "train_blocks": 1, "threads": 1, **settings})
    for number, names in enumerate(LESSONS[:3]):
        learner.learn(pictures(names, number), names)
    return learner


def test_what_is_held_back_is_a_property_of_the_row_and_about_the_share_asked_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 2**64, (4000, 5), dtype=np.uint64)
    for share in (32, 64, 128):
        found = np.mean([row_hash(7, row, PURPOSE_HELD_BACK) >> 56 < share for row in rows])
        assert found == pytest.approx(share / 256, abs=0.02)
    assert row_hash(7, rows[0]) != row_hash(7, rows[0], PURPOSE_HELD_BACK) != row_hash(8, rows[0], PURPOSE_HELD_BACK)


def test_without_rows_to_train_on_the_branch_has_not_begun_and_is_not_heard(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    names = LESSONS[0]
    images = pictures(names, 0)
    with_tail, without = (new_learner(model, **{**SETTINGS, "train_blocks": blocks}) for blocks in (1, 0))
    for learner in (with_tail, without):
        learner.learn(images, names)
    assert not with_tail._core["tail_weight"].any()
    assert with_tail._core["mixing"] == (ONE, 0)
    assert with_tail.info()["last_lesson"]["tail_weight"] == 0
    assert np.array_equal(with_tail.predict(images).probabilities, without.predict(images).probabilities)


def test_lessons_of_a_learner_with_a_tail_leave_its_head_as_they_would_without(tmp_path: Path) -> None:
    with_tail, without = taught(tmp_path), taught(tmp_path, train_blocks=0)
    for name in ("count", "sums", "moment", "rows", "labels", "seen"):
        assert np.array_equal(with_tail._core[name], without._core[name]), name
    assert all(np.array_equal(a, b) for a, b in zip(with_tail._core["classifier"], without._core["classifier"], strict=True))


def test_the_weight_of_the_tail_and_the_class_that_it_harmed_are_told(tmp_path: Path) -> None:
    learner = taught(tmp_path)
    told = learner.info()["last_lesson"]
    assert told["tail_weight"] == learner._core["mixing"][1] / ONE
    worse = learner._core["worse"]
    assert told["tail_harmed"] == (learner.names[worse] if worse >= 0 else None)
    again = Learner.from_bytes(learner.to_bytes(), threads=1)
    assert again._core["mixing"] == learner._core["mixing"]


def test_with_the_papers_head_both_count_alike_once_the_tail_was_trained(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    learner = new_learner(model, **{**SETTINGS, "train_blocks": 1, "head": "cwr"})
    for number, expected in enumerate([(ONE, 0), (ONE // 2, ONE // 2)]):
        learner.learn(pictures(LESSONS[number], number), LESSONS[number])
        assert learner._core["mixing"] == expected


def test_joined_devices_have_the_scales_of_the_kept_tail(tmp_path: Path) -> None:
    busy, other = taught(tmp_path), taught(tmp_path, seed=9)
    busy.learn(pictures(LESSONS[3], 8), LESSONS[3])
    state = replace(other._state(), mixing=(12_345, 54_321))
    merged = Learner(other.model, other.settings, threads=1, state=state)
    merged.merge(busy)
    assert merged.info()["lessons"] == busy.info()["lessons"] + other.info()["lessons"] + 1  # a rehearsal, which weighs the branch anew
    again = Learner.from_bytes(merged.to_bytes(), threads=1)
    assert again.to_bytes() == merged.to_bytes()
