"""Pictures and settings of small, quick lessons, and what a learner knows afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_model

from bitreplay import Learner

SIZE = 8
QUICK: dict[str, Any] = {"live_batch": 7, "replay_batch": 9, "epochs": 10, "near_equal": 0}
HEADS = ("lda", "cwr")


def pictures(seed: int, count: int, size: int = SIZE) -> np.ndarray:
    return tiny_model.random_images(seed, count, size)


def state(learner: Learner, folder: Path) -> bytes:
    """Everything that is known, as the state file holds it."""
    path = folder / "state-to-compare"
    learner.save(path)
    return path.read_bytes()
