"""Bad pictures, labels and settings: a clear error, and nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from tiny_lessons import QUICK, pictures, state

from bitreplay import Learner, Model, Settings, TailSettings
from bitreplay.settings import TAIL_NAMES

GOOD = pictures(1, 3)

BAD_IMAGES = [
    (GOOD.tolist(), TypeError, r"images: expected a numpy array( or PictureFiles)?, got list"),
    (None, TypeError, r"images: expected a numpy array( or PictureFiles)?, got NoneType"),
    (GOOD.astype(np.float32), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got float32 \(3, 8, 8, 3\); scale to 0\.\.255"),
    (GOOD.astype(np.int8), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got int8 \(3, 8, 8, 3\)"),
    (GOOD > 3, ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got bool"),
    (GOOD[0], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(8, 8, 3\)"),
    (GOOD[None], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(1, 3, 8, 8, 3\)"),
    (GOOD[..., :1], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 8, 8, 1\)"),
    (GOOD.transpose(0, 3, 1, 2), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 3, 8, 8\)"),
    (pictures(1, 3, 9), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 9, 9, 3\); bring them to 8 x 8 RGB"),
    (GOOD[:, :7], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 7, 8, 3\)"),
    (GOOD[:0], ValueError, r"images: expected at least one, got none"),
]


@pytest.mark.parametrize(("images", "error", "message"), BAD_IMAGES, ids=[str(i) for i in range(len(BAD_IMAGES))])
def test_images_that_do_not_fit_are_refused(taught: Learner, tmp_path: Path, images: object, error: type[Exception], message: str) -> None:
    before = state(taught, tmp_path)
    with pytest.raises(error, match=message):
        taught.learn(images, ["a", "new", "b"])
    with pytest.raises(error, match=message):
        taught.predict(images)
    with pytest.raises(error, match=message):
        taught.features(images)
    assert state(taught, tmp_path) == before


BAD_LABELS = [
    ("abc", TypeError, "labels: expected a sequence of names, got one str"),
    (["a", "b"], ValueError, "labels: expected 3, one per image, got 2"),
    (["a"] * 4, ValueError, "labels: expected 3, one per image, got 4"),
    ([], ValueError, "labels: expected 3, one per image, got 0"),
    (["a", "b", 7], TypeError, r"labels: expected names \(str\), got int 7"),
    (["a", "b", None], TypeError, r"labels: expected names \(str\), got NoneType None"),
    ([b"a", b"b", b"c"], TypeError, r"labels: expected names \(str\), got bytes b'a'"),
    (np.array([0, 1, 2]), TypeError, r"labels: expected names \(str\), got int"),
    (["a", "", "b"], ValueError, "labels: expected names .*, got ''"),
    (["a", "two\nlines", "b"], ValueError, r"labels: expected names of 1 to 200 characters, .*, got 'two\\nlines'"),
    (["a", "\x00", "b"], ValueError, r"labels: expected names of 1 to 200 characters, .*, got '\\x00'"),
    (["a", "\x1b[31mred", "b"], ValueError, r"labels: expected names of 1 to 200 characters, .*, got '\\x1b\[31mred'"),
    (["a", "\x85", "b"], ValueError, "labels: expected names of 1 to 200 characters, .*"),
    (["a", "\ud800", "b"], ValueError, r"labels: expected names of 1 to 200 characters, .*, got '\\ud800'"),
    (None, TypeError, "labels: expected a sequence of names, got NoneType"),
    (5, TypeError, "labels: expected a sequence of names, got int"),
]


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS, ids=[str(i) for i in range(len(BAD_LABELS))])
def test_labels_that_are_no_names_are_refused(
    taught: Learner, tmp_path: Path, labels: object, error: type[Exception], message: str
) -> None:
    before = state(taught, tmp_path)
    with pytest.raises(error, match=message):
        taught.learn(GOOD, labels)
    assert state(taught, tmp_path) == before
    assert taught.names == ["a", "b"]


def test_more_classes_than_fit_are_refused(model: Model, tmp_path: Path) -> None:
    learner = new_learner(model, capacity=5, max_classes=3, **QUICK)
    learner.learn(pictures(1, 2), ["a", "b"])
    before = state(learner, tmp_path)
    with pytest.raises(ValueError, match=r"labels: expected at most 3 classes in all, got 4; .*larger max_classes"):
        learner.learn(pictures(2, 3), ["c", "a", "d"])
    assert state(learner, tmp_path) == before
    learner.learn(pictures(2, 3), ["c", "a", "b"])
    assert learner.names == ["a", "b", "c"]


def test_more_images_than_a_lesson_takes_are_refused(model: Model, tmp_path: Path) -> None:
    learner = new_learner(model, capacity=5, lesson_images=4, **QUICK)
    before = state(learner, tmp_path)
    with pytest.raises(ValueError, match=r"images: expected at most 4 per lesson, got 5; .*lesson_images"):
        learner.learn(pictures(1, 5), ["a"] * 5)
    assert state(learner, tmp_path) == before
    learner.learn(pictures(1, 4), ["a"] * 4)
    assert learner.info()["classes"][0]["samples"] == 4


def test_predicting_before_learning_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="predict: expected a learner that knows a class, got one that knows no class; call learn"):
        new_learner(model).predict(GOOD)


WHOLE = "expected a whole number from"

BAD_SETTINGS = [
    ({"threads": 0}, ValueError, r"threads: expected .*got 0"),
    ({"threads": -1}, ValueError, r"threads: expected .*got -1"),
    ({"threads": 1.5}, ValueError, r"threads: expected .*got 1.5"),
    ({"threads": True}, ValueError, r"threads: expected .*got True"),
    ({"threads": 2**31}, ValueError, r"threads: expected .*got 2147483648"),
    ({"capacity": -1}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got -1"),
    ({"capacity": 2**24 + 1}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got 16777217"),
    ({"capacity": True}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got True"),
    ({"capacity": 10.0}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got 10.0"),
    ({"capacity": "10"}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got '10'"),
    ({"memory_bytes": 0}, ValueError, r"memory_bytes: expected at least \d+ .*, got 0; allow more, or lower lesson_images or max_classes"),
    ({"memory_bytes": -5}, ValueError, r"memory_bytes: expected at least \d+ .*, got -5"),
    ({"memory_bytes": 1e6}, ValueError, r"memory_bytes: expected .*, got 1000000.0"),
    ({"memory_bytes": "4 MB"}, ValueError, r"memory_bytes: expected .*, got '?4 MB"),
    ({"memory_bytes": 10**6, "max_classes": 0}, ValueError, f"max_classes: {WHOLE} 1 to 65535, got 0"),
    ({"seed": -1}, ValueError, f"seed: {WHOLE} 0 to 18446744073709551615, got -1"),
    ({"seed": 2**64}, ValueError, f"seed: {WHOLE} 0 to"),
    ({"max_classes": 65_536}, ValueError, f"max_classes: {WHOLE} 1 to 65535, got 65536"),
    ({"lesson_images": 0}, ValueError, f"lesson_images: {WHOLE} 1 to 16777216, or None, got 0"),
    ({"lesson_images": False}, ValueError, f"lesson_images: {WHOLE} .*got False"),
    ({"learning_rate": 0}, ValueError, r"learning_rate: expected .* to 4, got 0"),
    ({"learning_rate": 4.1}, ValueError, r"learning_rate: expected .* to 4, got 4.1"),
    ({"learning_rate": float("nan")}, ValueError, r"learning_rate: expected .* to 4, got nan"),
    ({"learning_rate": float("inf")}, ValueError, r"learning_rate: expected .* to 4, got inf"),
    ({"learning_rate": 10**400}, ValueError, r"learning_rate: expected .* to 4"),
    ({"learning_rate": True}, ValueError, r"learning_rate: expected .* to 4, got True"),
    ({"learning_rate": "0.1"}, ValueError, r"learning_rate: expected .* to 4, got '0.1'"),
    ({"epochs": 0}, ValueError, f"epochs: {WHOLE} 1 to 10000, got 0"),
    ({"head": "knn"}, ValueError, "head: expected lda or cwr, got 'knn'"),
    ({"head": None}, ValueError, "head: expected lda or cwr, got None"),
    *[({"views": views}, ValueError, f"views: expected 1, 2 or 6, got {views!r}") for views in (0, 3, 7, True, "2", 2.5)],
    ({"shrinkage": 0}, ValueError, r"shrinkage: expected 0\.00390625 to 64, got 0"),
    ({"shrinkage": 64.1}, ValueError, r"shrinkage: expected .* to 64, got 64\.1"),
    ({"pseudo_pictures": -1}, ValueError, "pseudo_pictures: expected 0 to 1000, got -1"),
    ({"pseudo_pictures": float("nan")}, ValueError, "pseudo_pictures: expected 0 to 1000, got nan"),
    ({"near_equal": 0.51}, ValueError, r"near_equal: expected 0 to 0\.5, got 0\.51"),
    ({"held_back": 0.6}, ValueError, r"held_back: expected 0 to 0\.5, got 0\.6"),
    ({"near_equal": True}, ValueError, r"near_equal: expected 0 to 0\.5, got True"),
    ({"class_means": True}, ValueError, "class_means: no such setting"),
    ({"live_batch": 0}, ValueError, f"live_batch: {WHOLE} 1 to .*got 0"),
    ({"replay_batch": 4097}, ValueError, f"replay_batch: {WHOLE} 1 to .*got 4097"),
    ({"ghosts": -1}, ValueError, f"ghosts: {WHOLE} 0 to 1024, got -1"),
    ({"tail_passes": 0}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 0"),
    ({"tail_passes": 10_001}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 10001"),
    ({"tail_passes": 2.0}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 2.0"),
    ({"tail_prior": 1.1}, ValueError, r"tail_prior: expected 0 to 1, got 1.1"),
    ({"tail_prior": float("nan")}, ValueError, r"tail_prior: expected 0 to 1, got nan"),
    ({"tail_distillation": 1}, ValueError, "tail_distillation: expected True or False, got 1"),
    ({"prior_correction": 1}, ValueError, "prior_correction: expected True or False, got 1"),
    ({"lda_features": -1}, ValueError, f"lda_features: {WHOLE} 0 to"),
    ({"lda_features": 10_000}, ValueError, "lda_features: expected at most the [0-9]+ features of the model"),
    ({"head": "cwr", "lda_features": 3}, ValueError, "lda_features: expected 0 with head cwr, got 3"),
    ({"head": "cwr", "class_priors": True}, ValueError, "class_priors: expected False with head cwr, got True"),
    ({"class_priors": 1}, ValueError, "class_priors: expected True or False, got 1"),
    ({"learning_rte": 0.1}, ValueError, "learning_rte: no such setting; did you mean learning_rate?"),
    ({"train_blocks": 0, "tail_noise": 3}, ValueError, "tail_noise: expected only where the tail is trained"),
    ({"tail": {"noise": 3}}, ValueError, "tail: no such setting"),
]


@pytest.mark.parametrize(("values", "error", "message"), BAD_SETTINGS, ids=[str(v[0])[:60] for v in BAD_SETTINGS])
def test_settings_out_of_range_are_refused(model: Model, values: dict, error: type[Exception], message: str) -> None:
    if "train_blocks" not in values and not TAIL_NAMES.keys().isdisjoint(values):
        values = {**values, "train_blocks": 1}

    def make(threads: Any = 1, memory_bytes: Any = None, **values: Any) -> Learner:
        settings = Settings.from_dict(values)
        if memory_bytes is None:
            return Learner(model, settings, threads=threads)
        return Learner.within_memory(memory_bytes, model, settings, threads=threads)

    with pytest.raises(error, match=message):
        make(**values)


def test_a_tail_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match="tail: expected TailSettings or None, got dict"):
        Settings(tail={"noise": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="train_blocks: expected at least 1, got 0; for a tail that is not trained, give tail=None"):
        TailSettings(train_blocks=0)
    with pytest.raises(ValueError, match="noise: expected a whole number from 0 to 128, got 129"):
        TailSettings(noise=129)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 0}, {"seed": 2**64 - 1}, {"head": "cwr", "learning_rate": 2**-16}, {"head": "cwr", "learning_rate": 4},
        {"head": "cwr", "ghosts": 1024}, {"shrinkage": 2**-8}, {"shrinkage": 64}, {"pseudo_pictures": 0}, {"pseudo_pictures": 1000},
        {"near_equal": 0.5}, {"near_equal": 2**-16}, {"views": 6},
        {"train_blocks": 1, "held_back": 0}, {"train_blocks": 1, "held_back": 0.5}, {"train_blocks": 1, "tail_passes": 1}, {"train_blocks": 1, "tail_passes": 10_000},
    ],
    ids=str,
)  # fmt: skip
def test_settings_at_the_end_of_their_range_work(model: Model, tmp_path: Path, values: dict) -> None:
    learner = new_learner(model, **{"capacity": 3, **QUICK, **values})
    learner.learn(pictures(1, 4), ["a", "b"] * 2)
    learner.learn(pictures(2, 4), ["a", "b"] * 2)
    before = state(learner, tmp_path)
    assert state(Learner.load(tmp_path / "state-to-compare"), tmp_path) == before


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.model"):
        new_learner(tmp_path / "none.model")
    with pytest.raises(ValueError, match=r"model: expected one of .*got 'no such'"):
        Model.from_package("no such")
