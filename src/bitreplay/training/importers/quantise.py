"""A float graph as the operations of a model file (docs/method.md, 3): exponents from calibration pictures, and every rounding that happens once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model import Tensors
from ..features import feature_layer, whitening
from ..fold import HEADROOM, INPUT_EXPONENT, exponent_for
from .graph import Graph, Node, Shape, dot_products, each, pooled
from .level import levelled
from .write import Dots, Writer, refuse_missing

Floats = NDArray[np.float64]
Progress = Callable[[str, int, int], object]

_KEPT_EXPONENT = ("add", "concat", "max_pool", "average_pool", "prelu", "select", "gate")  # what they read and what they give share one
# The head's shrinkage weighs features as their units do: units that follow the spread fully make much of features that hardly tell classes apart, and
# few pictures tell the spread badly.
UNIT_POWER = 0.25
_MOST_BATCH, _BATCH_VALUES = 64, 1 << 23


def silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants of a picture: (pixel / 255 - mean) / spread, a channel each.

    Parameters
    ----------
    mean, spread : of pixels in 0..1; by default those of ImageNet, which most networks are trained with.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    spread: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """float32 (N, 3, S, S) of uint8 (N, S, S, 3)."""
        scaled = (images / 255.0 - np.array(self.mean)) / np.array(self.spread)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))


@dataclass
class Calibration:
    """What calibration pictures made of a graph.

    Parameters
    ----------
    largest : of every value the largest magnitude in each channel, float64 (C,).
    dots : of binary convolutions, by their numbers.
    features : float64 (N, C).
    """

    largest: list[Floats]
    dots: dict[int, Dots]
    features: Floats


def _batch(graph: Graph) -> int:
    return max(1, min(_MOST_BATCH, _BATCH_VALUES // max(height * width * channels for height, width, channels in graph.shapes())))


def float_features(graph: Graph, images: NDArray[np.uint8], preprocessing: Preprocessing) -> Floats:
    """Features of the float network, float64 (N, C), of uint8 (N, S, S, 3)."""
    return calibrate(graph, images, preprocessing).features


@torch.no_grad()
def calibrate(graph: Graph, images: NDArray[np.uint8], preprocessing: Preprocessing, progress: Progress = silent) -> Calibration:
    """Run a graph on pictures, uint8 (N, S, S, 3)."""
    largest = [np.zeros(shape[2]) for shape in graph.shapes()]
    dots: dict[int, Dots] = {}
    features: list[Floats] = []
    batch = _batch(graph)
    for begin in range(0, len(images), batch):
        x = preprocessing(images[begin : begin + batch])
        largest[0] = np.maximum(largest[0], x.abs().amax((0, 2, 3)).double().numpy())
        value = x
        for i, read, value in each(graph, x):
            largest[i + 1] = np.maximum(largest[i + 1], value.abs().amax((0, 2, 3)).double().numpy())
            node = graph.nodes[i]
            if node.kind == "binary":
                z = dot_products(node, read[0])
                found = (z.relu() if node.relu else z).double()
                nothing = np.zeros(found.shape[1])
                before = dots.get(i, Dots(nothing, nothing + np.inf, nothing - np.inf))
                mean = before.mean + found.mean((0, 2, 3)).numpy() * len(x) / len(images)
                dots[i] = Dots(
                    mean, np.minimum(before.low, found.amin((0, 2, 3)).numpy()), np.maximum(before.high, found.amax((0, 2, 3)).numpy())
                )
        features.append(pooled(graph, value).double().numpy())
        progress("calibration", min(begin + batch, len(images)), len(images))
    return Calibration(largest, dots, np.concatenate(features))


def blocks_of(graph: Graph) -> dict[int, int]:
    """Additions that are one operation with the binary convolution which they add to its own input: addition -> convolution, by their numbers."""
    readers, found = graph.readers(), dict[int, int]()
    for i, node in enumerate(graph.nodes):
        if node.kind != "add" or node.relu:
            continue
        for one, other in (node.reads, node.reads[::-1]):
            conv = graph.nodes[one - 1] if one > 0 else None
            if conv is None or conv.kind != "binary" or conv.reads != (other,) or readers[one] != [i]:
                continue
            if (conv.kernel, conv.stride, conv.pad, conv.groups) == (3, 1, (1, 1, 1, 1), 1):
                found[i] = one - 1
                break
    return found


def _exponents(graph: Graph, largest: list[float]) -> list[int]:
    # One exponent for each value; values that are added, joined or pooled share it.
    group = list(range(len(largest)))

    def root(value: int) -> int:
        while group[value] != value:
            value = group[value]
        return value

    for i, node in enumerate(graph.nodes):
        if node.kind in _KEPT_EXPONENT:
            for value in node.reads[:1] if node.kind == "gate" else node.reads:
                group[root(value)] = root(i + 1)
    reach: dict[int, float] = {}
    for value, most in enumerate(largest):
        reach[root(value)] = max(reach.get(root(value), 0.0), most)
    return [max(-16, min(30, exponent_for(reach[root(value)] * HEADROOM))) for value in range(len(largest))]


@dataclass(frozen=True)
class Quantised:
    """A float graph in integers.

    Parameters
    ----------
    network, tensors : for `write_model`; a network without a cut.
    graph : the graph whose values the integers stand for: that of before, its channels scaled by `factors`.
    factors : of every value, float64 (C,).
    exponents : of every value; integer value v stands for v * 2^-exponent.
    places : of a value of the graph the number of that value of the network; those inside a block are missing.
    """

    network: dict[str, Any]
    tensors: Tensors
    graph: Graph
    factors: list[Floats]
    exponents: list[int]
    places: dict[int, int]

    def features(self, rows: NDArray[np.int8]) -> Floats:
        """What the device's features, int8 (N, C), stand for in the float network: float64 (N, C)."""
        layer, tensors = (
            self.network["features"],
            {name: value.astype(np.float64) for name, value in self.tensors.items() if "features" in name},
        )
        scaled = rows * 2.0 ** layer["shift"] - tensors["features.bias"]
        pooled_values = np.linalg.solve(tensors["features.weight"], (scaled / tensors["features.multiplier"]).T).T
        height, width, _ = self.graph.shapes()[-1]
        unit = tensors["features.pool_multiplier"] * 2.0 ** -layer["pool_shift"] * height * width * 2.0 ** self.exponents[-1]
        result: Floats = pooled_values / unit / self.factors[-1]
        return result


def quantise(
    graph: Graph,
    images: NDArray[np.uint8],
    preprocessing: Preprocessing | None = None,
    labels: NDArray[np.int64] | None = None,
    progress: Progress = silent,
    *,
    unit_power: float = UNIT_POWER,
) -> tuple[Quantised, Calibration]:
    """Round a float graph.

    Parameters
    ----------
    graph : folded.
    images : calibration pictures, uint8 (N, S, S, 3); exponents and the features' units come from them.
    preprocessing : of pictures, as the network was trained.
    labels : of the pictures, int64 (N,): then the features are whitened by the scatter within classes (3.6).
    progress : receives phase, done, total.
    unit_power : how far a feature's unit follows its own spread on the pictures; 0: all have one unit.

    Returns
    -------
    The graph in integers, and what the pictures made of it in float.

    Raises
    ------
    ValueError : it holds something that the engine has not, named by its place in the file.
    """
    preprocessing = preprocessing or Preprocessing()
    refuse_missing(graph)
    seen = calibrate(graph, images, preprocessing, progress)
    scaled, factors = levelled(graph, seen.largest)
    exponents = _exponents(scaled, [float((reach * factor).max()) for reach, factor in zip(seen.largest, factors, strict=True)])
    writer, blocks, sizes = Writer(exponents, seen.dots), blocks_of(scaled), scaled.shapes()
    writer.start(_first(preprocessing))
    inside = set(blocks.values())
    for i, node in enumerate(scaled.nodes):
        if i in blocks:
            writer.block(i + 1, scaled.nodes[blocks[i]], blocks[i])
        elif i not in inside:
            writer.node(i + 1, node, sizes[node.reads[0]][2], sizes[i + 1][2])
    layer, tensors = _features(seen.features, factors[-1], labels, unit_power, exponents[-1], sizes[-1])
    layer["relu"] = graph.pooled_relu
    network = {"image_size": graph.image_size, "prefix": writer.operations, "tail": [], "features": layer}
    return Quantised(network, {**writer.tensors, **tensors}, scaled, factors, exponents, writer.places), seen


def _first(preprocessing: Preprocessing) -> Node:
    # What the network reads, of what the pixels are: value 0 is 2 * pixel - 255, exponent 7.  A pad of 0 stays a pad of 0 behind it.
    mean, spread = np.array(preprocessing.mean), np.array(preprocessing.spread)
    unit = 2.0**INPUT_EXPONENT / 510 / spread
    return Node("scale", (0,), weights={"multiplier": unit, "bias": (0.5 - mean) / spread})


def _features(
    features: Floats, factor: Floats, labels: NDArray[np.int64] | None, unit_power: float, exponent: int, size: Shape
) -> tuple[dict[str, Any], Tensors]:
    # The feature layer reads features * factor.
    overall = max(float(features.std()), 1e-9)
    if labels is None:
        unit = np.maximum(features.std(0) / overall, 0.01) ** unit_power * overall
        matrix, centre = np.eye(len(unit)), features.mean(0) / unit
    else:
        unit = np.maximum(features.std(0), 0.01 * overall)  # a channel that is always 0 gets the unit of those that are nearly so
        matrix, centre = whitening(features / unit, labels, True)
    return feature_layer(features * factor, unit * factor, matrix, centre, exponent=exponent, pixels=size[0] * size[1])
