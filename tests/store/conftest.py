"""A tiny model, and a state of it that was saved after each of two lessons."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from new_learner import new_learner
from tiny_states import QUICK, SIZE, pictures

from bitreplay import Model
from bitreplay.model import write_model
from bitreplay.store import StateFile


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    return write_model(tmp_path_factory.mktemp("store") / "tiny.model", network, tensors, {"name": "tiny"})


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    """A state that knows a, b and c from two lessons, and was saved after each."""
    learner = new_learner(model, **QUICK)
    learner.learn(pictures(1, 8), list("aabbabab"))
    learner.save(tmp_path / "x.state")
    with StateFile(tmp_path / "x.state") as file:
        learner.learn(pictures(2, 6), list("cccacb"))
        file.save(learner)
    return tmp_path / "x.state"
