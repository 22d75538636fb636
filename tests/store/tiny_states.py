"""Pictures and settings of the small states that these tests keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny_model

SIZE = 16
QUICK: dict[str, Any] = {"capacity": 9, "threads": 1, "near_equal": 0}


def pictures(seed: int, count: int) -> np.ndarray:
    return tiny_model.random_images(seed, count, SIZE)
