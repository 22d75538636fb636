"""Runs of pre-training that take a second: networks, a recipe, soft labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")

from bitreplay.datasets.image_sets import cached_split  # noqa: E402
from bitreplay.training.crops import STORED  # noqa: E402
from bitreplay.training.recipe import Recipe  # noqa: E402
from bitreplay.training.soft_labels import Crops, make_soft_labels  # noqa: E402
from bitreplay.training.teachers import checkpoint_teacher  # noqa: E402
from bitreplay.training.zoo.network import NetworkConfig  # noqa: E402

torch.set_num_threads(1)  # networks so small take longer with more, and runs are compared bit for bit

CONFIG = NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1)
RECIPE = Recipe(epochs=3, batch_size=10, learning_rate=5e-3, warmup_steps=2, cut_start=1, cut_ramp=1, precision="32-true")
FLOATS = NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1, cut="none", family="residual")


def labelled(pictures: Path, teacher: Path, out: Path, cache: Path, crops: int = 2) -> Path:
    seen_by = checkpoint_teacher(teacher)
    data = cached_split(pictures, "train", STORED * seen_by.image_size, cache, enlarge=False)
    assert data is not None
    make_soft_labels(data, out, seen_by, crops=Crops(crops), kept=2)
    return out


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, b["model"][name]) for name, tensor in a["model"].items())
