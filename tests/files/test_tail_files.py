"""States with a trained tail: what docs/formats.md says of them is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from reference.files import pack, unpack
from tail_model import make

from bitreplay import FormatError, Learner

SETTINGS: dict[str, Any] = {"capacity": 6, "train_blocks": 1, "threads": 1}
Change = Callable[[dict[str, Any]], object]


def changed(folder: Path, weight_bits: int, change: Change) -> Path:
    """A state whose tensors were changed, with a digest that fits."""
    model, _, _ = make(folder, "birealnet")
    learner = new_learner(model, weight_bits=weight_bits, **SETTINGS)
    learner.learn(np.zeros((2, 16, 16, 3), np.uint8), ["a", "b"])
    learner.save(folder / "sound.state")
    Learner.load(folder / "sound.state")
    metadata, tensors = unpack((folder / "sound.state").read_bytes(), "state", "sound")
    tensors = {name: values.copy() for name, values in tensors.items()}
    change(tensors)
    path = folder / "changed.state"
    path.write_bytes(pack("state", {k: v for k, v in metadata.items() if k in ("model", "settings", "names", "experience")}, tensors))
    return path


def put(name: str, value: int) -> Change:
    return lambda tensors: tensors[name].__setitem__(0, value)


@pytest.mark.parametrize(
    ("weight_bits", "change", "message"),
    [
        (8, put("tail.0.shadow", -128), "tail.0.shadow: expected magnitudes up to 127"),
        (16, put("tail.0.shadow", -32768), "tail.0.shadow: expected magnitudes up to 32767"),
        (1, put("tail.0.bits", 1 << 20), "tail.0.bits: expected unused bits to be 0"),
        (8, put("tail.0.bias", 2**29 + 1), "tail.0.bias: expected magnitudes up to"),
        (8, put("tail.0.threshold", -(2**23)), "tail.0.threshold: expected magnitudes up to"),
        (8, lambda tensors: tensors.pop("tail.0.multiplier"), "tensor tail.0.multiplier is missing"),
        (8, lambda tensors: tensors.pop("tail.weight"), "tensor tail.weight is missing"),
        (8, lambda tensors: tensors.update({"tail.weight": tensors["tail.weight"][:1]}), "tail.weight: expected int32"),
        (8, lambda tensors: tensors.update({"tail.0.shadow": tensors["tail.0.shadow"].astype(np.int16)}), "tail.0.shadow: expected int8"),
        (8, lambda tensors: tensors.update({"tail.1.bias": tensors["tail.0.bias"]}), "expected no tensor tail.1.bias"),
    ],
)
def test_a_tail_outside_its_ranges_is_refused(tmp_path: Path, weight_bits: int, change: Change, message: str) -> None:
    path = changed(tmp_path, weight_bits, change)
    with pytest.raises(FormatError, match=message):
        Learner.load(path)
