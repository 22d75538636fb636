"""Networks of given operations whose parameters are all 0, as model files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from reference.files import pack
from sealed_files import Tensors

CONV = {"op": "conv", "in": 3, "out": 4, "kernel": 1, "stride": 1, "depthwise": False, "relu": True, "shift": 0, "exponent": 8}
BLOCK = {"op": "block", "channels": 4, "shift": 0, "exponent": 8}
POOL = {"op": "pool", "channels": 4, "exponent": 8}


def plain(*prefix: dict[str, Any], image_size: int = 4, tail: int = 1) -> tuple[dict[str, Any], Tensors]:
    """Make a network of these operations whose parameters are all 0, legal or not; its tensors have the shapes that it asks for."""
    channels, tensors = 3, {}
    operations = [(f"prefix.{i}", operation) for i, operation in enumerate(prefix)]
    channels = next((o.get("out", o["channels"] if o["op"] == "block" else None) for o in reversed(prefix) if o["op"] != "pool"), 3)
    block = {**BLOCK, "channels": channels}
    operations += [(f"tail.{i}", block) for i in range(tail)]
    for name, operation in operations:
        if operation["op"] == "conv":
            out, kernel = operation["out"], operation["kernel"]
            shape = (out, kernel, kernel) if operation["depthwise"] else (out, kernel, kernel, operation["in"])
            tensors[f"{name}.weight"] = np.zeros(shape, np.int8)
            tensors[f"{name}.multiplier"] = np.zeros(out, np.int16)
            tensors[f"{name}.bias"] = np.zeros(out, np.int64)
        elif operation["op"] == "block":
            c = operation["channels"]
            tensors[f"{name}.weight"] = np.zeros((c, 3, 3, (c + 63) // 64), np.uint64)
            tensors[f"{name}.mean"] = np.zeros(c, np.int16)
            tensors[f"{name}.multiplier"] = np.zeros(c, np.int16)
            tensors[f"{name}.bias"] = np.zeros(c, np.int32)
            if name.startswith("tail"):
                tensors[f"{name}.shadow"] = np.zeros((c, 3, 3, c), np.int8)
    for name, dtype in (("threshold", np.int32), ("direction", np.uint8), ("alpha", np.int16)):
        tensors[f"cut.{name}"] = np.zeros(channels, dtype)
    tensors["features.pool_multiplier"] = np.zeros(channels, np.int32)
    tensors["features.weight"] = np.zeros((channels, channels), np.int8)
    tensors["features.multiplier"] = np.zeros(channels, np.int16)
    tensors["features.bias"] = np.zeros(channels, np.int64)
    features = {"channels": channels, "pool_shift": 0, "shift": 0, "feature_bits": 5}
    cut = {"channels": channels, "exponent": 8}
    network = {"image_size": image_size, "prefix": list(prefix), "cut": cut, "tail": [block] * tail, "features": features}
    return json.loads(json.dumps(network)), tensors


def model_file(network: dict[str, Any] | str, tensors: Tensors) -> bytes:
    text = network if isinstance(network, str) else json.dumps(network)
    return pack("model", {"network": text, "card": "{}"}, tensors)
