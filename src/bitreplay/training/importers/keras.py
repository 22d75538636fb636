"""Files of Keras weights (HDF5), read in a process of its own that may hang or crash."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError

MAGIC = b"\x89HDF\r\n\x1a\n"
SECONDS = 120.0


@dataclass(frozen=True)
class Layer:
    """A layer that has weights, by their names."""

    name: str
    weights: dict[str, NDArray[np.float32]]


def keras_layers(content: bytes, where: str, seconds: float = SECONDS) -> list[Layer]:
    """The layers of a file, as ``save_weights`` of Keras 2 writes it, in its order.

    Parameters
    ----------
    content : the file.
    where : what messages call it.
    seconds : after which it counts as damaged.

    Raises
    ------
    FormatError : it is not sound.
    ModuleNotFoundError : h5py is not installed.
    """
    importlib.import_module("h5py")
    child = [sys.executable, "-P", str(Path(__file__).with_name("keras_child.py"))]
    try:
        found = subprocess.run(child, input=content, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise FormatError(f"{where}: not a sound file of Keras weights: reading it took more than {seconds:g} seconds") from None
    if found.returncode != 0:
        lines = found.stderr.decode("utf-8", "replace").strip().splitlines()
        told = lines[-1][:300] if found.returncode == 1 and lines else f"the HDF5 library failed on it ({found.returncode})"
        raise FormatError(f"{where}: not a sound file of Keras weights: {told}")
    layers: dict[str, Layer] = {}
    with np.load(BytesIO(found.stdout)) as arrays:
        for i, key in enumerate(arrays["names"].tolist()):
            number, name, weight = key.split("|")
            layers.setdefault(number, Layer(name, {})).weights[weight] = arrays[f"array{i}"]
    return list(layers.values())
