"""A tiny model, and learners that were taught on it."""

from __future__ import annotations

import pytest
import tiny_model
from new_learner import new_learner
from tiny_lessons import HEADS, QUICK, SIZE, pictures

from bitreplay import Learner, Model
from bitreplay.model import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    return write_model(tmp_path_factory.mktemp("learner") / "tiny.model", network, tensors, {"name": "tiny"})


@pytest.fixture(params=HEADS)
def taught(model: Model, request: pytest.FixtureRequest) -> Learner:
    """A learner that knows a (6 images) and b (5), with a full memory of 8 rows."""
    learner = new_learner(model, capacity=8, seed=3, threads=2, head=request.param, **QUICK)
    learner.learn(pictures(1, 11), ["a"] * 6 + ["b"] * 5)
    return learner
