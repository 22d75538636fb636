"""Pictures of four colours, to learn and to be tested on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

COLOURS = {"blue": (20, 40, 230), "green": (30, 200, 40), "red": (240, 20, 30), "white": (240, 240, 240)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colours, ten pictures of each to learn and five to be tested on."""
    from PIL import Image  # needs the extra demo: without it the tests are skipped, file by file

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 5)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(np.array(colour) + rng.integers(-15, 16, (8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder
