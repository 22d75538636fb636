"""What all tests share: real pictures, where they are there, and a Ctrl-C that ends a test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from real_pictures import DATA

# The reference's products are small: threads of BLAS would only wait for each other.  Read when numpy is first imported, which comes later.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and Python then installs no handler: tests of it need one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with the data sets of the project; the test is skipped, and says so, where it is missing."""
    if not (DATA / "cifar10" / "test.parquet").exists():
        pytest.skip(f"real images are not there: looked in {DATA}; set BITREPLAY_DATA to a folder that holds cifar10/ and tiny-imagenet/")
    return DATA
