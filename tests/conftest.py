"""What the tests share: where real images lie, and whether they are there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and Python then installs no handler: tests of it need one.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA = Path(os.environ.get("BITREPLAY_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the data sets of the project; the test is skipped, and says so, where it is missing."""
    if not (DATA / "cifar10" / "test.parquet").exists():
        pytest.skip(f"real images are not there: looked in {DATA}; set BITREPLAY_DATA to a folder that holds cifar10/ and tiny-imagenet/")
    return DATA
