"""Sound files to change, and a limit on what reading them may allocate."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest
from sealed_files import Shelf

from bitreplay import _engine

MAX_BYTES = 50_000_000  # no file of these tests may make the reader allocate more


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session", params=["lda", "cwr"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A shelf for each kind of head."""
    return Shelf(tmp_path_factory.mktemp("either"), request.param)


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Fails the test that makes Python, numpy or the core allocate much; for hostile sizes."""
    _engine.reset_memory_peak()
    before = _engine.memory()[0]
    tracemalloc.start()
    yield
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert python_peak < MAX_BYTES
    assert _engine.memory()[1] - before < MAX_BYTES
