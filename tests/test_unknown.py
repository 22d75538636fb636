"""What is called unknown, and how rows are judged as if they had not been learned from (docs/method.md, 4.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from numpy.typing import NDArray
from reference.lda import Floats, sums_of
from reference.mixing import ONE, frozen_weight, inverse_temperature
from reference.unknown import ORIGIN, OWN, LeaveOneOut

from bitreplay import Learner, Model, _engine
from bitreplay.datasets.image_sets import read_split
from bitreplay.model import write_model

SIZE = 16
NU, KAPPA, VARIANCE = 4.0, 5.0, 400.0
NAMES = list("aabbabcacbabcabdabbcabde")  # e is one picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(4, image_size=SIZE, widths=(8, 20), blocks=(1, 1))
    return write_model(tmp_path_factory.mktemp("unknown") / "tiny.model", network, tensors, {"name": "tiny"})


def pictures(seed: int, count: int) -> NDArray[np.uint8]:
    return tiny_model.random_images(seed, count, SIZE)


def taught(model: Model, **settings: Any) -> Learner:
    learner = new_learner(model, **{"capacity": 40, "near_equal": 0, "threads": 2, **settings})
    learner.learn(pictures(1, len(NAMES)), NAMES)
    return learner


def judge_of(learner: Learner) -> tuple[LeaveOneOut, NDArray[np.int8], NDArray[np.int64]]:
    """The reference's judge of a learner; features and labels of the remembered rows, in slot order."""
    core, network = learner._core, learner.model.network
    images = pictures(1, len(NAMES))
    labels = np.array([learner.names.index(name) for name in NAMES])
    features = learner.features(images)[:, : learner.settings.lda_features or network.feature_count]
    latents = [row.tobytes() for row in network.latents(images)]
    slots = [latents.index(row[: network.latent_words].tobytes()) for row in core["rows"]]
    nu, sigma = learner.settings.shrinkage * features.shape[1], 2.0 ** (2 * network.feature_bits)
    known = LeaveOneOut(sums_of(features, labels, len(learner.names)), nu, learner.settings.pseudo_pictures, sigma)
    return known, features[slots], labels[slots]


# -- without the row itself --------------------------------------------------------------------------------------------------------


def rows_of_classes(seed: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = np.array([0] * 9 + [1] * 2 + [2] * 5 + [3])
    rows = rng.normal(0, 20, (4, 7))[labels] + rng.normal(0, 15, (len(labels), 7))
    return np.clip(np.rint(rows), -127, 127).astype(np.int8), labels


@pytest.mark.parametrize("seed", range(4))
def test_a_row_that_is_left_out_is_judged_as_by_sums_that_never_held_it(seed: int) -> None:
    """The closed form against sums without the row; that v is held is all that the method leaves out."""
    rows, labels = rows_of_classes(seed)
    known = LeaveOneOut(sums_of(rows, labels, 4), NU, KAPPA, VARIANCE)
    v = float(np.trace(known.known.scatter())) / len(rows) / 7
    for i in np.flatnonzero(labels < 3):
        others = np.delete(np.arange(len(rows)), i)
        less = sums_of(rows[others], labels[others], 4)
        mean, count, h = less.sums.sum(0) / len(others), less.count[:, None].astype(float), rows[i].astype(float)
        a: Floats = (less.scatter() + NU * v * np.eye(7)) / (len(others) + NU)
        y = h - mean - (less.sums - count * mean) / (count + KAPPA)
        near = np.einsum("ki,ij,kj->k", y, np.linalg.inv(a), y)
        assert np.allclose(known.distances(rows[i], int(labels[i])), near, rtol=1e-9)
        tau = 7 / 16
        b = ((len(others) + NU) * a + tau * VARIANCE * np.eye(7)) / (len(others) + NU + tau)
        z = h - (less.sums / count).sum(0) / (4 + ORIGIN)
        assert np.isclose(known.left_out(rows[i], int(labels[i])), (1 - OWN) * z @ np.linalg.inv(b) @ z - near.min(), rtol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"shrinkage": 4, "pseudo_pictures": 0}, {"capacity": 7}], ids=str)
def test_replay_accuracy_judges_remembered_rows_without_themselves(model: Model, settings: dict[str, Any]) -> None:
    learner = taught(model, **settings)
    known, rows, labels = judge_of(learner)
    f = frozen_weight(ONE, inverse_temperature(int(known.rows), known.classes))
    expected = [
        int(np.floor(-known.distances(row, int(c)) / 2 * f + 0.5).argmax()) if known.known.count[c] > 1 else -1
        for row, c in zip(rows, labels, strict=True)
    ]
    best = learner._core.classify_rows(_engine.Workers(2))
    assert best.tolist() == expected
    told = learner.replay_accuracy()
    for c, name in enumerate(learner.names):
        judged = (labels == c) & (best >= 0)
        assert told[name] == (float((best[judged] == c).mean()) if judged.any() else None)
    assert told["e"] is None


def test_replay_accuracy_is_none_without_rows_and_new_after_every_change(model: Model) -> None:
    bare = taught(model, capacity=0)
    assert bare.replay_accuracy() == dict.fromkeys("abcde")
    learner = taught(model)
    learner.replay_accuracy()
    learner.learn(pictures(3, 9), ["f"] * 9)
    assert learner._classified().tolist() == learner._core.classify_rows(_engine.Workers(1)).tolist()
    assert set(learner.replay_accuracy()) == set("abcdef")
    learner.rename("f", "g")
    assert set(learner.replay_accuracy()) == set("abcdeg")
    learner.forget("a")
    assert set(learner.replay_accuracy()) == set("bcdeg")
    assert learner._classified().tolist() == learner._core.classify_rows(_engine.Workers(1)).tolist()


@pytest.mark.parametrize("views", [2, 6])
def test_with_several_views_rows_are_judged_by_the_means_that_the_sums_hold(model: Model, views: int) -> None:
    learner = taught(model, views=views)
    core, width = learner._core, learner.model.network.feature_count
    held = np.ascontiguousarray(core["rows"][:, learner.model.network.latent_words :]).view(np.int8)[:, :width]
    assert np.array_equal(held.astype(np.int64).sum(0), core["sums"].sum(0))  # every picture is remembered
    assert len(held) == len(NAMES)
    assert not np.array_equal(held, learner.features(pictures(1, len(NAMES)))[: len(held)])


def test_with_the_papers_head_rows_are_judged_as_they_were_learned(model: Model) -> None:
    learner = taught(model, head="cwr")
    features = learner.model.network.features_of_latents(learner._core["rows"]).astype(np.int64)
    logits = features @ (learner._core["weight"].astype(np.int64) >> 16).T
    assert np.array_equal(learner._core.classify_rows(_engine.Workers(1)), logits.argmax(axis=1))


# -- how familiar a picture looks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"shrinkage": 4, "pseudo_pictures": 0}, {"capacity": 7}, {"lda_features": 5, "class_priors": True}], ids=str
)
def test_familiarity_and_threshold_equal_the_reference(model: Model, settings: dict[str, Any]) -> None:
    learner = taught(model, **settings)
    known, rows, labels = judge_of(learner)
    images = pictures(8, 80)
    unknown = learner._core.unknown(_engine.Workers(1))
    familiarity = learner._core.predict(images, _engine.Workers(1), 1, unknown)[2].astype(np.float64)
    expected = known.familiarity(learner.features(images)[:, : rows.shape[1]])
    unit = 2.0 ** np.round(np.log2(np.median(familiarity / expected)))  # 2^F, which nothing says
    spread = expected.std()
    assert np.abs(familiarity / unit - expected).max() < 0.01 * spread  # weights of 16 bits
    for share in (0.001, 0.05, 0.1, 0.5, 0.9, 0.999):
        assert unknown.threshold(share) / unit == pytest.approx(known.threshold(rows, labels, share), abs=1e-6 * spread)


def test_what_falls_short_of_the_threshold_is_unknown_and_the_names_stay(model: Model) -> None:
    learner = taught(model)
    images = pictures(8, 60)
    plain = learner.predict(images)
    assert not plain.unknown.any()
    shares = (0.01, 0.1, 0.3, 0.5, 0.99, float(np.float32(0.25)))
    counts = []
    for share in shares:
        unknown = learner._core.unknown(_engine.Workers(1))
        asked = learner.predict(images, reject=share)
        expected = learner._core.predict(images, _engine.Workers(2), 1, unknown)[2] < unknown.threshold(float(share))
        assert np.array_equal(asked.unknown, expected)
        assert asked.names == plain.names
        assert np.array_equal(asked.probabilities, plain.probabilities)
        counts.append((float(share), int(asked.unknown.sum())))
    assert [count for _, count in sorted(counts)] == sorted(count for _, count in counts)
    for bad in (0, 1, -0.1, float("nan"), "x"):
        with pytest.raises(ValueError, match="reject: expected a share between 0 and 1"):
            learner.predict(images, reject=bad)  # type: ignore[arg-type]


def test_the_threshold_follows_every_change_and_threads_do_not_matter(model: Model) -> None:
    learner = taught(model)
    images = pictures(8, 60)
    first = learner.predict(images, reject=0.3).unknown
    assert np.array_equal(first, taught(model, threads=1).predict(images, reject=0.3).unknown)
    learner.learn(images[:30], ["new"] * 30)
    fresh = Learner.from_bytes(learner.to_bytes())
    changed = learner.predict(images, reject=0.3).unknown
    assert np.array_equal(changed, fresh.predict(images, reject=0.3).unknown)
    assert changed[:30].sum() < first[:30].sum()


def test_one_class_can_be_unsure_too_and_what_cannot_be_asked_is_told(model: Model) -> None:
    learner = new_learner(model, capacity=8, threads=1, near_equal=0)
    learner.learn(pictures(1, 8), ["a"] * 8)
    assert 0 < learner.predict(pictures(8, 40), reject=0.3).unknown.sum() < 40
    message = "reject: expected a learner that remembers a row of a class with at least two pictures"
    bare, single = (new_learner(model, capacity=capacity, threads=1, near_equal=0) for capacity in (0, 8))
    bare.learn(pictures(1, 8), ["a"] * 8)
    single.learn(pictures(1, 3), list("abc"))
    for learner in (bare, single):
        with pytest.raises(ValueError, match=message):
            learner.predict(pictures(8, 3), reject=0.1)
    with pytest.raises(ValueError, match="reject: expected a learner whose head is lda, got cwr"):
        taught(model, head="cwr").predict(pictures(8, 3), reject=0.1)


def test_of_real_pictures_about_the_share_asked_for_is_called_unknown_and_more_of_other_things(real_data: Path) -> None:
    data = read_split(real_data / "cifar10", "valid", 32)
    assert data is not None
    learner = new_learner(capacity=300)
    of = [np.flatnonzero(data.labels == c) for c in range(10)]
    for c in range(5):
        learner.learn(data.images[of[c][:60]], [data.names[c]] * 60)
    known, others = (np.concatenate([of[c][500:600] for c in classes]) for classes in (range(5), range(5, 10)))
    for share in (0.05, 0.1, 0.3):
        refused = learner.predict(data.images[known], reject=share).unknown.mean()
        assert 0.5 * share < refused < 1.6 * share
        assert learner.predict(data.images[others], reject=share).unknown.mean() > 1.3 * refused
