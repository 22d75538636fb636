"""Small files of Keras weights as Larq Zoo publishes them, for tests of the importer."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

Layers = list[dict[str, NDArray[np.float32]]]


def save(path: Path, layers: Layers) -> bytes:
    """As ``save_weights`` of Keras 2 writes it; layers without weights lie between."""
    with h5py.File(path, "w") as file:
        names = []
        for i, weights in enumerate(layers):
            names += [f"layer_{i}".encode(), f"activation_{i}".encode()]
            group = file.create_group(f"layer_{i}")
            group.attrs["weight_names"] = [f"layer_{i}/{name}:0".encode() for name in weights]
            for name, values in weights.items():
                group[f"layer_{i}/{name}:0"] = values
            file.create_group(f"activation_{i}").attrs["weight_names"] = np.zeros(0, "S1")
        file.attrs["layer_names"] = names
    return path.read_bytes()


class Maker:
    """Random layers."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.layers: Layers = []

    def kernel(self, *shape: int, name: str = "kernel") -> Maker:
        self.layers.append({name: (self.rng.normal(size=shape) / 3).astype(np.float32)})
        return self

    def norm(self, channels: int, *, plain: bool = False) -> Maker:
        own = {} if plain else {"gamma": self.rng.uniform(0.3, 1, channels), "beta": self.rng.normal(size=channels) / 3}
        seen = {"moving_mean": self.rng.normal(size=channels), "moving_variance": self.rng.uniform(0.5, 9, channels)}
        self.layers.append({name: values.astype(np.float32) for name, values in {**own, **seen}.items()})
        return self

    def dense(self, channels: int, classes: int) -> Maker:
        self.layers.append({"kernel": self.rng.normal(size=(channels, classes)).astype(np.float32), "bias": np.ones(classes, np.float32)})
        return self


def quicknet() -> Layers:
    """A stem of 16 channels, a block, a transition to 32, two blocks, 5 classes."""
    m = Maker().kernel(3, 3, 3, 4).norm(4).kernel(3, 3, 4, 1, name="depthwise_kernel").norm(4, plain=True).kernel(1, 1, 4, 16).norm(16)
    m.kernel(3, 3, 16, 16).norm(16).kernel(3, 3, 16, 1, name="depthwise_kernel").kernel(1, 1, 16, 32).norm(32)
    return m.kernel(3, 3, 32, 32).norm(32).kernel(3, 3, 32, 32).norm(32).dense(32, 5).layers


def birealnet() -> Layers:
    """Two blocks of 16 channels, one that halves the map, 5 classes.  Keras saves the binary path's layer before the shortcut's."""
    m = Maker(1).kernel(7, 7, 3, 16).norm(16).kernel(3, 3, 16, 16).norm(16).kernel(3, 3, 16, 16).norm(16)
    return m.kernel(3, 3, 16, 32).kernel(1, 1, 16, 32).norm(32).norm(32).dense(32, 5).layers
