"""The operations of a model file, of the nodes of a float graph: the rounding of weights, multipliers and biases (docs/method.md, 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model import Tensors
from ..fold import INPUT_EXPONENT, SLOPE_BITS, affine, pack_signs
from .graph import Graph, Node

Floats = NDArray[np.float64]

_WIDE_BITS = 29  # multipliers up to 2^30: those of imported networks differ a thousandfold from channel to channel
_MOST_SHIFT = 46
_MOST_BLOCK_SHIFT, _MOST_BLOCK_BIAS = 30, 2.0**29  # of binary convolutions
_MOST_ERROR = (
    4.0  # units of the result that the rounding of a binary convolution's multipliers may cost; more: it is written in two operations
)
_MOST_SUM = 65_000.0  # of magnitudes of weights; the engine asks for less than 65,536
_MOST_CHANNELS, _MOST_BINARY, _MOST_CONCAT = 2048, 1024, 8
_KINDS = ("conv", "binary", "scale", "add", "concat", "max_pool", "average_pool", "prelu", "sign", "select")
_WITH_RELU = ("conv", "binary", "scale", "add", "max_pool")
_MOST_KERNEL = {"conv": 7, "binary": 3, "max_pool": 7, "average_pool": 1024}


def wide_affine(scale: Floats, offset: Floats) -> tuple[int, NDArray[np.int32], NDArray[np.int64]]:
    """Shift F, multipliers up to 2^30 and offsets in units 2^-F, as `fold.affine` has them with 16 bits."""
    largest = max(float(np.abs(scale).max()), 1e-30)
    shift = min(_MOST_SHIFT, max(0, _WIDE_BITS - math.floor(math.log2(largest))))
    multipliers = np.clip(np.rint(scale * 2.0**shift), -(2**30), 2**30).astype(np.int32)
    return shift, multipliers, np.clip(np.rint(offset * 2.0**shift), -(2.0**60), 2.0**60).astype(np.int64)


@dataclass(frozen=True)
class Dots:
    """What calibration pictures made of a binary convolution's dot products, after ReLU where it has one: float64 (C,) each."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class _Binary:
    flags: dict[str, Any]
    tensors: dict[str, NDArray[Any]]
    error: float  # that rounding of the multipliers makes at most, in units of the result


class Writer:
    """Operations and tensors, in the order in which they run.

    Parameters
    ----------
    exponents : of every value of the graph.
    dots : of binary convolutions, by their numbers.
    """

    def __init__(self, exponents: list[int], dots: dict[int, Dots]) -> None:
        self.exponents, self._dots = exponents, dots
        self.operations: list[dict[str, Any]] = []
        self.tensors: Tensors = {}
        self.places = {0: 0}  # of the graph's values among those of the model file

    def _append(self, value: int, op: dict[str, Any], reads: tuple[int, ...], **tensors: NDArray[Any]) -> None:
        # An operation that gives a value of the graph, of values of the graph.
        self.tensors |= {f"prefix.{len(self.operations)}.{name}": array for name, array in tensors.items()}
        places = [self.places[k] for k in reads]
        where = {} if places == [len(self.operations)] else {"from": places}
        self.operations.append({**op, **where, "exponent": self.exponents[value]})
        self.places[value] = len(self.operations)

    def start(self, node: Node) -> None:
        """What the graph reads, of the pixels."""
        shift, multiplier, bias = self._scaled(node, INPUT_EXPONENT, self.exponents[0])
        op = {"op": "affine", "channels": 3, "relu": False, "shift": shift, "wide": True}
        self._append(0, op, (0,), multiplier=multiplier, bias=bias)

    def _scaled(self, node: Node, e_in: int, e_out: int) -> tuple[int, NDArray[np.int32], NDArray[np.int64]]:
        bias = node.values("bias")
        shift, multipliers, offsets = wide_affine(node.values("multiplier") * 2.0 ** (e_out - e_in), bias * 2.0**e_out)
        # What was 0 before, as much is behind a ReLU, keeps the sign that it gets here.
        return shift, multipliers, np.where((bias < 0) & (offsets >= -(1 << shift >> 1)), -(1 << shift), offsets)

    def _conv(self, value: int, node: Node, e_in: int) -> None:
        weight, bias = node.values("weight"), node.values("bias")
        flat = np.abs(weight).reshape(len(weight), -1)
        unit = np.maximum(flat.max(1) / 32767.0, flat.sum(1) / _MOST_SUM)
        unit = np.where(unit == 0, 1.0, unit)
        quantised = np.rint(weight / unit[:, None, None, None]).astype(np.int16)
        e_out = self.exponents[value]
        shift, multiplier, offsets = wide_affine(unit * 2.0 ** (e_out - e_in), bias * 2.0**e_out)
        channels = weight.shape[3] * node.groups
        depthwise = node.groups == channels == len(weight) > 1 and node.kernel in (1, 3) and node.stride <= 2
        op = {
            "op": "conv",
            "in": channels,
            "out": len(weight),
            **_window(node),
            "depthwise": depthwise,
            "relu": node.relu,
            "shift": shift,
            "wide": True,
        }
        if node.groups > 1 and not depthwise:
            op["groups"] = node.groups
        self._append(value, op, node.reads, weight=quantised[..., 0] if depthwise else quantised, multiplier=multiplier, bias=offsets)

    def _binary(self, node: Node, number: int, e_out: int) -> _Binary:
        multiplier, bias = node.values("multiplier") * 2.0**e_out, node.values("bias") * 2.0**e_out
        seen = self._dots[number]
        # Folded around the mean of what it is multiplied with, where rounding matters least: scale * r + bias = scale * (r - mean) + (bias + scale * mean).
        mean = np.rint(seen.mean)
        offset = bias + multiplier * mean
        most = max(0, min(_MOST_BLOCK_SHIFT, math.floor(math.log2(_MOST_BLOCK_BIAS / max(float(np.abs(offset).max()), 1.0)))))
        shift, multipliers, offsets = affine(multiplier, offset, most)
        tensors: dict[str, NDArray[Any]] = {
            "weight": pack_signs(node.weights["weight"] < 0), "mean": mean.astype(np.int16), "multiplier": multipliers,
            "bias": np.clip(offsets, -_MOST_BLOCK_BIAS, _MOST_BLOCK_BIAS).astype(np.int32),
        }  # fmt: skip
        reach = np.maximum(seen.high - mean, mean - seen.low)
        error = float((np.abs(multipliers / 2.0**shift - multiplier) * reach).max())
        return _Binary({"relu": node.relu, "zero_pad": any(node.pad) and node.pad_value == 0, "shift": shift}, tensors, error)

    def block(self, value: int, node: Node, number: int) -> None:
        """A binary convolution, the graph's node of that number, with the addition of what it reads, whose value this is."""
        found = self._binary(node, number, self.exponents[value])
        if found.error > _MOST_ERROR:
            self._apart(number + 1, node, found)
            op = {"op": "add", "channels": len(node.weights["weight"]), "multipliers": [1, 1], "shift": 0, "relu": False}
            self._append(value, op, (number + 1, node.reads[0]))
            return
        self._append(value, {"op": "block", "channels": len(node.weights["weight"]), **found.flags}, node.reads, **found.tensors)

    def _alone(self, value: int, node: Node, found: _Binary) -> None:
        weight = node.weights["weight"]
        op = {"op": "binary", "in": weight.shape[3] * node.groups, "out": len(weight), **_window(node), **found.flags}
        self._append(value, op | ({"groups": node.groups} if node.groups > 1 else {}), node.reads, **found.tensors)

    def _apart(self, value: int, node: Node, found: _Binary) -> None:
        # The dot products as they are (exponent 0), and then multipliers of 30 bits: where those of 16 bits are too coarse for the channels that differ most.
        channels = len(node.weights["weight"])
        plain: dict[str, NDArray[Any]] = {
            "mean": np.zeros(channels, np.int16),
            "multiplier": np.ones(channels, np.int16),
            "bias": np.zeros(channels, np.int32),
        }
        self._alone(value, node, _Binary({**found.flags, "shift": 0}, {**found.tensors, **plain}, 0.0))
        self.operations[-1]["exponent"] = 0
        shift, multiplier, bias = self._scaled(node, 0, self.exponents[value])
        op = {"op": "affine", "channels": channels, "relu": False, "shift": shift, "wide": True}
        self._append(value, op, (value,), multiplier=multiplier, bias=bias)

    def _prelu(self, value: int, node: Node, channels: int) -> None:
        slope = np.clip(np.rint(node.values("slope") * 2.0**SLOPE_BITS), -32768, 32767).astype(np.int16)
        none, high = np.zeros(channels, np.int16), np.full(channels, 1 << SLOPE_BITS, np.int16)
        self._append(value, {"op": "activate", "channels": channels}, node.reads, alpha=none, beta=none, high=high, low=slope)

    def _sign(self, value: int, node: Node, channels: int) -> None:
        # x * 2^20 + 2^19 saturates to 32767 or -32768; half a unit more is +-32767.5, which is brought to +-1.
        op = {"op": "affine", "channels": channels, "relu": False, "wide": True}
        self._append(
            value,
            {**op, "shift": 0},
            node.reads,
            multiplier=np.full(channels, 1 << 20, np.int32),
            bias=np.full(channels, 1 << 19, np.int64),
        )
        unit = np.full(channels, 2.0 ** self.exponents[value] / 32767.5)
        shift, multiplier, bias = wide_affine(unit, unit / 2)
        self._append(value, {**op, "shift": shift}, (value,), multiplier=multiplier, bias=bias)

    def _select(self, value: int, node: Node, given: int) -> None:
        # A convolution that copies.
        weight = np.zeros((len(node.channels), 1, 1, given), np.float32)
        for i, channel in enumerate(node.channels):
            if channel >= 0:
                weight[i, 0, 0, channel] = 1.0
        bias = np.zeros(len(node.channels), np.float32)
        self._conv(value, Node("conv", node.reads, node.name, weights={"weight": weight, "bias": bias}), self.exponents[node.reads[0]])

    def node(self, value: int, node: Node, given: int, channels: int) -> None:
        """A node by itself.

        Parameters
        ----------
        value : number of the value that it gives.
        given, channels : channels of what it reads first and of what it gives.
        """
        e_in = self.exponents[node.reads[0]]
        op: dict[str, Any] = {"op": node.kind, "channels": channels}
        match node.kind:
            case "conv":
                self._conv(value, node, e_in)
            case "binary":
                found = self._binary(node, value - 1, self.exponents[value])
                (self._apart if found.error > _MOST_ERROR else self._alone)(value, node, found)
            case "scale":
                shift, multiplier, bias = self._scaled(node, e_in, self.exponents[value])
                own = {"op": "affine", "channels": channels, "relu": node.relu, "shift": shift, "wide": True}
                self._append(value, own, node.reads, multiplier=multiplier, bias=bias)
            case "add":
                self._append(value, {**op, "multipliers": [1, 1], "shift": 0, "relu": node.relu}, node.reads)
            case "concat":
                self._append(value, op, node.reads)
            case "max_pool":
                self._append(value, {**op, **_window(node), "relu": node.relu}, node.reads)
            case "average_pool":
                self._append(value, {**op, **_window(node)}, node.reads)
            case "prelu":
                self._prelu(value, node, channels)
            case "sign":
                self._sign(value, node, channels)
            case "select":
                self._select(value, node, given)


def refuse_missing(graph: Graph) -> None:
    """Refuse what the engine has not, before the calibration; ValueError names it by its place in the file."""
    shapes = graph.shapes()
    for i, node in enumerate(graph.nodes):
        _fits(node, shapes[node.reads[0]][2], shapes[i + 1][2])


def _fits(node: Node, given: int, channels: int) -> None:
    if node.kind not in _KINDS:
        raise ValueError(f"{node.name}: the engine has no {node.kind}")
    if max(given, channels) > _MOST_CHANNELS:
        raise ValueError(f"{node.name}: expected at most {_MOST_CHANNELS} channels, got {given} and {channels}")
    if node.kernel > _MOST_KERNEL.get(node.kind, node.kernel) or (node.kind == "binary" and (node.kernel == 2 or node.stride > 2)):
        raise ValueError(f"{node.name}: the engine has no {node.kind} of kernel {node.kernel} and stride {node.stride}")
    if node.kind == "concat" and len(node.reads) > _MOST_CONCAT:
        raise ValueError(f"{node.name}: expected at most {_MOST_CONCAT} maps, got {len(node.reads)}")
    if node.relu and node.kind not in _WITH_RELU:
        raise ValueError(f"{node.name}: the engine has no ReLU inside {node.kind}")
    if node.kind == "binary" and max(given, channels) > _MOST_BINARY:
        raise ValueError(f"{node.name}: expected at most {_MOST_BINARY} channels, got {given} and {channels}")
    if node.kind == "binary" and node.groups > 1 and node.weights["weight"].shape[3] % 64:
        raise ValueError(f"{node.name}: expected groups of a multiple of 64 channels, got {node.weights['weight'].shape[3]}")


def _window(node: Node) -> dict[str, Any]:
    return {"kernel": node.kernel, "stride": node.stride, "pad": list(node.pad)}
