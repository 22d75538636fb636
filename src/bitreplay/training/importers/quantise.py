"""A float graph as the operations of a model file (docs/method.md, 3): exponents from calibration pictures, and every rounding that happens once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...model import Tensors
from ..features import feature_layer, whitening
from ..fold import INPUT_EXPONENT, SLOPE_BITS, Floats, affine, exponent_for, pack_signs
from .graph import Graph, Node, run, shapes
from .level import levelled

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pictures in 0..1, as most networks of ImageNet are trained
HEADROOM = 1.5
BATCH = 16
_KEPT_EXPONENT = ("add", "concat", "max_pool", "average_pool")  # what they read and what they give share one


@dataclass(frozen=True)
class Preprocessing:
    """What a network wants of a picture: (pixel / 255 - mean) / spread, a channel each."""

    mean: tuple[float, float, float] = MEAN
    spread: tuple[float, float, float] = SPREAD

    def __call__(self, images: NDArray[np.uint8]) -> Tensor:
        """float32 (N, 3, S, S) of uint8 (N, S, S, 3)."""
        scaled = (images / 255.0 - np.array(self.mean)) / np.array(self.spread)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32))


def _blocks(graph: Graph) -> dict[int, int]:
    # Numbers of the additions that are one operation with the binary convolution which they add to its own input: addition -> convolution.
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
            for value in node.reads:
                group[root(value)] = root(i + 1)
        elif node.kind == "gate":
            group[root(node.reads[0])] = root(i + 1)
    reach: dict[int, float] = {}
    for value, most in enumerate(largest):
        reach[root(value)] = max(reach.get(root(value), 0.0), most)
    return [min(30, exponent_for(reach[root(value)] * HEADROOM)) for value in range(len(largest))]


@dataclass
class _Seen:
    """What calibration pictures made of a graph's values, and of the dot products of its binary convolutions."""

    largest: list[Floats]  # of every value, a channel each
    dots: dict[int, Floats]  # of a binary convolution, by its number: mean of its dot products, after ReLU


@torch.no_grad()
def _seen(graph: Graph, images: NDArray[np.uint8], preprocessing: Preprocessing) -> _Seen:
    largest: list[Floats] = []
    dots: dict[int, Floats] = {}
    for begin in range(0, len(images), BATCH):
        batch = images[begin : begin + BATCH]
        values = run(graph, preprocessing(batch))
        found = [value.abs().amax((0, 2, 3)).double().numpy() for value in values]
        largest = [np.maximum(a, b) for a, b in zip(largest, found, strict=True)] if largest else found
        for i, node in enumerate(graph.nodes):
            if node.kind == "binary":
                scale = np.where(node.weights["multiplier"] == 0, 1, node.weights["multiplier"]).astype(np.float64)
                mean = (values[i + 1].double().mean((0, 2, 3)).numpy() - node.weights["bias"]) / scale
                dots[i] = dots.get(i, 0.0) + mean * len(batch) / len(images)
    return _Seen(largest, dots)


@torch.no_grad()
def pooled(graph: Graph, images: NDArray[np.uint8], preprocessing: Preprocessing) -> Floats:
    """Mean over the map of the last value, float64 (N, C): the float features."""
    return np.concatenate(
        [run(graph, preprocessing(images[i : i + BATCH]))[-1].mean((2, 3)).double().numpy() for i in range(0, len(images), BATCH)]
    )


def _affine(scale: Floats, offset: Floats) -> tuple[int, NDArray[np.int32], Floats]:
    # As `fold.affine`, with multipliers of 30 bits: those of imported networks differ a thousandfold from channel to channel.
    shift = min(46, max(0, 29 - math.floor(math.log2(max(float(np.abs(scale).max()), 1e-30)))))
    return shift, np.clip(np.rint(scale * 2.0**shift), -(2**30), 2**30).astype(np.int32), np.rint(offset * 2.0**shift)


class _Writer:
    """Operations and tensors, in the order in which they run."""

    def __init__(self, exponents: list[int], dots: dict[int, Floats]) -> None:
        self.exponents, self.dots = exponents, dots
        self.operations: list[dict[str, Any]] = []
        self.tensors: Tensors = {}
        self.number = {0: 0}  # of the graph's values among those of the model file

    def append(self, value: int, op: dict[str, Any], reads: tuple[int, ...], **tensors: NDArray[Any]) -> None:
        """An operation that gives a value of the graph."""
        self.tensors |= {f"prefix.{len(self.operations)}.{name}": array for name, array in tensors.items()}
        places = [self.number[k] for k in reads]
        where = {} if places == [len(self.operations)] else {"from": places}
        self.operations.append({**op, **where, "exponent": self.exponents[value]})
        self.number[value] = len(self.operations)

    def scaled(self, node: Node, e_in: int, e_out: int) -> tuple[int, NDArray[np.int32], NDArray[np.int64]]:
        """Shift, multipliers and biases of a scale."""
        multiplier, bias = (node.weights[name].astype(np.float64) for name in ("multiplier", "bias"))
        shift, multipliers, offsets = _affine(multiplier * 2.0 ** (e_out - e_in), bias * 2.0**e_out)
        # What was 0 before, as much is behind a ReLU, keeps the sign that it gets here.
        offsets = np.where((bias < 0) & (offsets >= -(2.0 ** (shift - 1))), -(2.0**shift), offsets)
        return shift, multipliers, offsets.astype(np.int64)

    def conv(self, value: int, node: Node, e_in: int) -> None:
        """int16 weights with a unit for each channel."""
        weight, bias = node.weights["weight"].astype(np.float64), node.weights["bias"].astype(np.float64)
        flat = np.abs(weight).reshape(len(weight), -1)
        unit = np.maximum(flat.max(1) / 32767.0, flat.sum(1) / 65_000.0)  # no sum of magnitudes reaches 65,536
        unit = np.where(unit == 0, 1.0, unit)
        quantised = np.rint(weight / unit[:, None, None, None]).astype(np.int16)
        e_out = self.exponents[value]
        shift, multiplier, offsets = _affine(unit * 2.0 ** (e_out - e_in), bias * 2.0**e_out)
        channels = weight.shape[3] * node.groups
        depthwise = node.groups == channels == len(weight) > 1 and node.kernel in (1, 3) and node.stride <= 2
        op = {
            "op": "conv", "in": channels, "out": len(weight), "kernel": node.kernel, "stride": node.stride, "pad": list(node.pad),
            "depthwise": depthwise, "relu": node.relu, "shift": shift, "wide": True,
        } | ({} if depthwise else {"groups": node.groups})  # fmt: skip
        self.append(
            value,
            op,
            node.reads,
            weight=quantised[..., 0] if depthwise else quantised,
            multiplier=multiplier,
            bias=offsets.astype(np.int64),
        )

    def binary(self, value: int, node: Node, number: int, *, block: bool) -> None:
        """A binary convolution, the graph's node of that number; `block`: with the addition of what it reads, whose value this is."""
        weight, e_out = node.weights["weight"], self.exponents[value]
        multiplier, bias = (node.weights[name].astype(np.float64) for name in ("multiplier", "bias"))
        # Folded around the mean of what it is multiplied with, where its rounding matters least: scale * r + bias = scale * (r - mean) + (bias + scale * mean).
        mean = np.clip(np.rint(self.dots[number]), -weight[0].size, weight[0].size)
        shift, multipliers, offsets = affine(multiplier * 2.0**e_out, (bias + multiplier * mean) * 2.0**e_out, 30)
        while np.abs(offsets).max() > 2**29 and shift > 0:
            shift, multipliers, offsets = affine(multiplier * 2.0**e_out, (bias + multiplier * mean) * 2.0**e_out, shift - 1)
        offsets = np.clip(offsets, -(2**29), 2**29)
        own: dict[str, NDArray[Any]] = {
            "weight": pack_signs(weight < 0), "mean": mean.astype(np.int16), "multiplier": multipliers, "bias": offsets.astype(np.int32),
        }  # fmt: skip
        flags = {"relu": node.relu, "zero_pad": any(node.pad) and node.pad_value == 0, "shift": shift}
        if block:
            self.append(value, {"op": "block", "channels": len(weight), **flags}, node.reads, **own)
            return
        window = {"kernel": node.kernel, "stride": node.stride, "pad": list(node.pad), "groups": node.groups}
        self.append(value, {"op": "binary", "in": weight.shape[3] * node.groups, "out": len(weight), **window, **flags}, node.reads, **own)

    def node(self, value: int, node: Node, channels: int) -> None:
        """A node by itself."""
        e_in, e_out = self.exponents[node.reads[0]], self.exponents[value]
        if node.kind == "conv":
            self.conv(value, node, e_in)
        elif node.kind == "binary":
            self.binary(value, node, value - 1, block=False)
        elif node.kind == "scale":
            shift, multiplier, bias = self.scaled(node, e_in, e_out)
            self.append(
                value,
                {"op": "affine", "channels": channels, "relu": node.relu, "shift": shift, "wide": True},
                node.reads,
                multiplier=multiplier,
                bias=bias,
            )
        elif node.kind == "add":
            self.append(value, {"op": "add", "channels": channels, "multipliers": [1, 1], "shift": 0, "relu": node.relu}, node.reads)
        elif node.kind == "concat" and not node.relu:
            self.append(value, {"op": "concat", "channels": channels}, node.reads)
        elif node.kind == "max_pool":
            window = {"kernel": node.kernel, "stride": node.stride, "pad": list(node.pad)}
            self.append(value, {"op": "max_pool", "channels": channels, **window, "relu": node.relu}, node.reads)
        elif node.kind == "average_pool" and not node.relu:
            window = {"kernel": node.kernel, "stride": node.stride, "pad": list(node.pad)}
            self.append(value, {"op": "average_pool", "channels": channels, **window}, node.reads)
        elif node.kind == "prelu":
            # The core's activation keeps the exponent; slopes have 13 fraction bits.
            factor = 2.0 ** (e_out - e_in + SLOPE_BITS)
            slope = np.clip(np.rint(node.weights["slope"].astype(np.float64) * factor), -32768, 32767).astype(np.int16)
            none, high = np.zeros(channels, np.int16), np.full(channels, min(32767, round(factor)), np.int16)
            self.append(value, {"op": "activate", "channels": channels}, node.reads, alpha=none, beta=none, high=high, low=slope)
        else:
            raise ValueError(
                f"{node.name or node.kind}: expected an operation that the engine has, got {node.kind}{' with ReLU' if node.relu else ''}"
            )


def quantise(
    graph: Graph, images: NDArray[np.uint8], preprocessing: Preprocessing | None = None, labels: NDArray[np.int64] | None = None
) -> tuple[dict[str, Any], Tensors]:
    """Round a float graph whose last value is what the features are the mean of.

    Parameters
    ----------
    graph : folded; its mean over the last map is taken behind it.
    images : calibration pictures, uint8 (N, S, S, 3); exponents and the features' units come from them.
    preprocessing : of pictures, as the network was trained.
    labels : of the pictures, int64 (N,): then the features are whitened by the scatter within classes (3.6).

    Returns
    -------
    network, tensors : for `write_model`; a network without a cut.

    Raises
    ------
    ValueError : it holds something that the engine has not, named by the file's name for it.
    """
    preprocessing = preprocessing or Preprocessing()
    seen = _seen(graph, images, preprocessing)
    graph, factors = levelled(graph, seen.largest)
    exponents = _exponents(graph, [float((reach * factor).max()) for reach, factor in zip(seen.largest, factors, strict=True)])
    writer, blocks, sizes = _Writer(exponents, seen.dots), _blocks(graph), shapes(graph)
    # What the network reads, of what the pixels are (value 0, exponent 7).
    mean, spread = np.array(preprocessing.mean), np.array(preprocessing.spread)
    node = Node(
        "scale", (0,), weights={"multiplier": (128 / 510 / spread).astype(np.float32), "bias": ((0.5 - mean) / spread).astype(np.float32)}
    )
    shift, multiplier, bias = writer.scaled(node, INPUT_EXPONENT, exponents[0])
    writer.append(0, {"op": "affine", "channels": 3, "relu": False, "shift": shift, "wide": True}, (0,), multiplier=multiplier, bias=bias)
    inside = set(blocks.values())
    for i, node in enumerate(graph.nodes):
        if i in blocks:
            writer.binary(i + 1, graph.nodes[blocks[i]], blocks[i], block=True)
        elif i not in inside:
            writer.node(i + 1, node, sizes[i + 1][2])
    features = pooled(graph, images, preprocessing)
    unit = np.maximum(features.std(0), 0.01 * features.std())
    matrix, centre = whitening(features / unit, labels if labels is not None else np.zeros(len(features), np.int64), labels is not None)
    height, width, _ = sizes[-1]
    layer, tensors = feature_layer(features, unit, matrix, centre, exponent=exponents[-1], pixels=height * width)
    layer["relu"] = False
    network = {"image_size": graph.image_size, "prefix": writer.operations, "tail": [], "features": layer}
    return network, {**writer.tensors, **tensors}
