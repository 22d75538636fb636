"""A state, the session that owns it, and a client that asks on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tiny_model
from new_learner import new_learner

from bitreplay import Model
from bitreplay.model import write_model

if TYPE_CHECKING:  # from the extras: without them the tests are skipped, file by file
    from starlette.testclient import TestClient

    from bitreplay.serve.session import Session


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    from api_lessons import SIZE

    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    return write_model(tmp_path_factory.mktemp("serve") / "tiny.model", network, tensors, {"name": "tiny"})


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    new_learner(model, capacity=30, threads=1, near_equal=0).save(tmp_path / "x.state")
    return tmp_path / "x.state"


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    from bitreplay.serve.session import Session

    made = Session(path, threads=1)
    yield made
    made.close()


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    from starlette.testclient import TestClient

    from bitreplay.serve.app import make_app

    with TestClient(make_app(session), base_url="http://localhost:8008") as made:
        yield made
