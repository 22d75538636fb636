"""What all tests share: real pictures, where they are there, and a Ctrl-C that ends a test."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from real_pictures import DATA

# A shell that starts the tests in the background has them ignore Ctrl-C, and Python then installs no handler: tests of it need one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the data sets of the project; the test is skipped, and says so, where it is missing."""
    if not (DATA / "cifar10" / "test.parquet").exists():
        pytest.skip(f"real images are not there: looked in {DATA}; set BITREPLAY_DATA to a folder that holds cifar10/ and tiny-imagenet/")
    return DATA
