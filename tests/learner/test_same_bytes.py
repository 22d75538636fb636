"""The same input gives the same bytes, stopped in between or not; every input that should matter does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from tiny_lessons import HEADS, QUICK, SIZE, pictures, state

from bitreplay import Learner, Model
from bitreplay.settings import Settings, TailSettings

LESSONS = [["a"] * 5, ["b", "c"] * 4, ["c"], ["d", "a", "e"] * 3, ["b"] * 6]


def teach(learner: Learner, first: int, last: int) -> None:
    for number in range(first, last):
        learner.learn(pictures(50 + number, len(LESSONS[number])), LESSONS[number])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("capacity", [0, 5, 12, 1000])
def test_stopping_between_lessons_cannot_be_seen(model: Model, tmp_path: Path, capacity: int, head: str) -> None:
    settings = {**QUICK, "capacity": capacity, "seed": 2**64 - 1, "head": head}
    never = new_learner(model, threads=2, **settings)
    teach(never, 0, len(LESSONS))
    expected = state(never, tmp_path)
    stopped = new_learner(model, threads=1, **settings)
    for number in range(len(LESSONS)):
        teach(stopped, number, number + 1)
        stopped.save(tmp_path / "s")
        content = (tmp_path / "s").read_bytes()
        stopped = Learner.load(tmp_path / "s", threads=1 + number % 3)
        stopped.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == content
        assert stopped.info()["lessons"] == number + 1
    assert state(stopped, tmp_path) == expected
    images = pictures(1, 20)
    assert np.array_equal(never.predict(images).probabilities, stopped.predict(images).probabilities)


def test_a_learner_that_knows_nothing_can_be_saved_and_taught_later(model: Model, tmp_path: Path) -> None:
    new = new_learner(model, capacity=5, **QUICK)
    new.save(tmp_path / "new")
    loaded = Learner.load(tmp_path / "new")
    assert loaded.names == []
    teach(new, 0, 2)
    teach(loaded, 0, 2)
    assert state(new, tmp_path) == state(loaded, tmp_path)


def test_settings_and_model_come_back(model: Model, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "capacity": 7, "seed": 9, "lesson_images": 20, "max_classes": 6, "head": "cwr", "lda_features": 5, "class_priors": True, "views": 6, "shrinkage": 0.25, "pseudo_pictures": 2,
        "near_equal": 0.375, "learning_rate": 0.125, "epochs": 2, "live_batch": 4, "replay_batch": 5, "ghosts": 0, "prior_correction": False,
        "train_blocks": 1, "forward_bits": 9, "gradient_bits": 7, "weight_bits": 16, "weight_step": 3, "parameter_step": 8,
        "held_back": 0.25, "tail_epochs": 3, "tail_passes": 6, "tail_replay_batch": 9, "tail_noise": 3, "tail_mirror": False,
        "tail_distillation": False, "tail_prior": 0.25,
    }  # fmt: skip
    assert not any(value == Settings(tail=TailSettings()).to_dict()[name] for name, value in values.items())
    lda, cwr = values | {"head": "lda"}, values | {"lda_features": 0, "class_priors": False}
    for number, chosen in enumerate((lda, cwr)):
        new_learner(model, **chosen).save(tmp_path / f"{number}")
        loaded = Learner.load(tmp_path / f"{number}")
        assert loaded.settings.to_dict() == chosen
        assert loaded.model.digest == model.digest


def test_every_input_that_should_matter_does(model: Model, tmp_path: Path) -> None:
    images, labels = pictures(5, 8), ["a", "b"] * 4

    def learned(images: np.ndarray, labels: list[str], **changes: object) -> bytes:
        learner = new_learner(model, threads=1, **{"capacity": 4, "seed": 1, **QUICK, **changes})
        learner.learn(images, labels)
        return state(learner, tmp_path)

    for head in HEADS:
        base = learned(images, labels, head=head)
        assert learned(images.copy(), list(labels), head=head) == base
        assert learned(np.asfortranarray(images), np.array(labels), head=head) == base
        assert learned(np.concatenate([images, images], axis=2)[:, :, :SIZE], tuple(labels), head=head) == base
        frozen = images.copy()
        frozen.flags.writeable = False
        assert learned(frozen, labels, head=head) == base
        others = [
            learned(images[::-1], labels, head=head),
            learned(255 - images, labels, head=head),
            learned(images, labels[::-1], head=head),
            learned(images, labels, seed=2, head=head),
            learned(images, labels, capacity=5, head=head),
            *[
                learned(images, labels, head=head, **{name: value})
                for name, value in [("views", 2), ("shrinkage", 2), ("near_equal", 0.5), ("learning_rate", 0.06), ("ghosts", 7)]
            ],
        ]
        assert len({base, *others}) == len(others) + 1


def test_prediction_does_not_depend_on_the_batch(taught: Learner) -> None:
    images = pictures(3, 300)  # more than the core gets at once
    together = taught.predict(images)
    assert together.probabilities.shape == (300, 2)
    assert together.probabilities.dtype == np.float32
    for i in (0, 1, 255, 256, 299):
        alone = taught.predict(images[i : i + 1])
        assert alone.names == [together.names[i]]
        assert np.array_equal(alone.probabilities[0], together.probabilities[i])


def test_probabilities_are_what_prediction_says(taught: Learner) -> None:
    prediction = taught.predict(pictures(3, 200))
    scaled = prediction.probabilities * 2**15
    assert np.array_equal(scaled, np.rint(scaled))
    assert np.abs(scaled.sum(axis=1) - 2**15).max() <= 1  # half a unit a class
    assert len(set(prediction.names)) == 2
    for name, p in zip(prediction.names, prediction.probabilities, strict=True):
        assert p[taught.names.index(name)] == p.max()
