"""A float network as a graph of a few kinds of node: shapes, and what each node gives.

Every reader makes one of these; `simplify` folds it, `quantise` rounds it.  Owns no file format and no rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Array = NDArray[np.float32]
Shape = tuple[int, int, int]  # H, W, C
Pad = tuple[int, int, int, int]  # top, left, bottom, right

MOST_VALUES = 1 << 26  # of one value, as in the engine
MOST_NODES = 1024
NO_PAD: Pad = (0, 0, 0, 0)
WINDOWED = ("conv", "binary", "max_pool", "average_pool")
READS = {"add": 2, "gate": 2, "concat": 0}  # how many values, if not one; 0: two or more


def same_pad(height: int, width: int, kernel: int, stride: int) -> Pad:
    """TensorFlow's padding SAME: as little as gives ceil(side / stride), the odd one at the end."""
    totals = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in (height, width)]
    return totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2


@dataclass(frozen=True)
class Node:
    """One operation on values (N, H, W, C).

    Parameters
    ----------
    kind : what it does:

        * "binary": the signs of its input (0 counts as +1) through weights of +1 and -1, then ReLU where asked for, times `multiplier`, plus `bias`;
        * "conv": plus `bias`; "scale": times `multiplier`, plus `bias`; "prelu": times `slope` where negative; "sign": -1 or +1; "sigmoid";
        * "add", "concat", "gate": of two values the sum, the channels one behind the other, the product with a map of one pixel;
        * "max_pool", "average_pool": of the taps inside the map;
        * "select": the channels whose numbers are in `channels`, 0 for -1.

    reads : numbers of the values that it reads: 0 is the graph's input, i + 1 what node i gives.
    name : what messages call it: its place and its name in the file.
    tensor : the number of its result in the file, or -1.
    weights : "weight" (out, k, k, in / groups), float32, or int8 of a binary convolution; "multiplier", "bias", "slope" float32 (C,).
    kernel, stride, pad, groups : of windows.
    pad_value : what a binary convolution sees outside the map, +1 or 0.
    relu : whether the result, of a binary convolution the dot product, is cut off at 0.
    channels : of "select".
    """

    kind: str
    reads: tuple[int, ...]
    name: str = ""
    tensor: int = -1
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    kernel: int = 1
    stride: int = 1
    pad: Pad = NO_PAD
    groups: int = 1
    pad_value: int = 0
    relu: bool = False
    channels: tuple[int, ...] = ()

    def values(self, name: str) -> NDArray[np.float64]:
        """One of its weights as float64."""
        return self.weights[name].astype(np.float64)


@dataclass(frozen=True)
class Graph:
    """A network: nodes in an order in which they can run, and the side of its square RGB input.

    Parameters
    ----------
    nodes : the last one gives the result: features, the mean of which over the map a classifier reads, if there is one.
    image_size : side S of the input (N, S, S, 3).
    classifier : weight (classes, C) and bias (classes,) of what follows, kept to check an import.
    pooled_relu : whether the mean over the map is one of max(x, 0).
    """

    nodes: tuple[Node, ...]
    image_size: int
    classifier: tuple[Array, Array] | None = None
    pooled_relu: bool = False

    def readers(self) -> list[list[int]]:
        """Of each value the nodes that read it."""
        found: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for i, node in enumerate(self.nodes):
            for value in dict.fromkeys(node.reads):
                found[value].append(i)
        return found

    def shapes(self) -> list[Shape]:
        """(H, W, C) of every value.

        Raises
        ------
        ValueError : a node does not fit what it reads, or gives too much; the message names it.
        """
        found: list[Shape] = [(self.image_size, self.image_size, 3)]
        for node in self.nodes:
            found.append(shape_of(node, [found[v] for v in node.reads]))
        return found

    def kept(self, replaced: dict[int, Node], instead: dict[int, int] | None = None) -> Graph:
        """The graph with some nodes replaced and some values by others, without what then nothing reads.

        Parameters
        ----------
        replaced : new nodes, by the number of the node whose place they take; they read old values.
        instead : old value -> an earlier or later old value that takes its place.
        """
        stand_in = instead or {}

        def final(value: int) -> int:
            while value in stand_in:
                value = stand_in[value]
            return value

        nodes = [replaced.get(i, node) for i, node in enumerate(self.nodes)]
        needed, stack = {0}, [final(len(nodes))]
        while stack:
            value = stack.pop()
            if value not in needed:
                needed.add(value)
                stack += [final(v) for v in nodes[value - 1].reads]
        order = [i for i in range(len(nodes)) if i + 1 in needed]
        number = {0: 0} | {old + 1: new + 1 for new, old in enumerate(order)}
        return replace(self, nodes=tuple(replace(nodes[i], reads=tuple(number[final(v)] for v in nodes[i].reads)) for i in order))


def _window(node: Node, shape: Shape) -> tuple[int, int]:
    height, width, _ = shape
    top, left, bottom, right = node.pad
    out = (height + top + bottom - node.kernel) // node.stride + 1, (width + left + right - node.kernel) // node.stride + 1
    if min(out) < 1 or max(node.pad) >= max(node.kernel, 2):
        raise ValueError(f"{node.name}: expected a window that fits a map of {height} x {width}, got {node.kernel} with pad {node.pad}")
    return out


def _channels_of(node: Node, read: list[Shape]) -> int:
    given, weights = read[0][2], node.weights
    if node.kind in ("conv", "binary"):
        out, height, width, inner = weights["weight"].shape
        if (height, width) != (node.kernel, node.kernel) or inner * node.groups != given or out % node.groups:
            raise ValueError(f"{node.name}: expected weights for {given} channels, got {weights['weight'].shape} in {node.groups} groups")
        return int(out)
    if node.kind == "select":
        if not node.channels or max(node.channels) >= given:
            raise ValueError(f"{node.name}: expected some of {given} channels")
        return len(node.channels)
    return sum(shape[2] for shape in read) if node.kind == "concat" else given


def shape_of(node: Node, read: list[Shape]) -> Shape:
    """Shape of what a node gives, by the shapes of what it reads; ValueError if they do not fit."""
    wanted = READS.get(node.kind, 1)
    if len(read) != wanted if wanted else len(read) < 2:
        raise ValueError(f"{node.name}: expected {wanted or 'at least two'} values to read, got {len(read)}")
    height, width, _ = read[0]
    if node.kind in WINDOWED:
        height, width = _window(node, read[0])
    if node.kind == "add" and read[0] != read[1]:
        raise ValueError(f"{node.name}: expected two maps of one shape, got {read[0]} and {read[1]}")
    if node.kind == "gate" and read[1] != (1, 1, read[0][2]):
        raise ValueError(f"{node.name}: expected a factor for each of {read[0][2]} channels, got a map {read[1]}")
    if node.kind == "concat" and len({shape[:2] for shape in read}) != 1:
        raise ValueError(f"{node.name}: expected maps of one size, got {read}")
    channels = _channels_of(node, read)
    for name in ("multiplier", "bias", "slope"):
        if name in node.weights and node.weights[name].shape != (channels,):
            raise ValueError(f"{node.name}: expected a {name} for each of {channels} channels, got {node.weights[name].shape}")
    if height * width * channels > MOST_VALUES:
        raise ValueError(f"{node.name}: expected at most {MOST_VALUES} values, got {height} x {width} x {channels}")
    return height, width, channels


def _padded(x: Tensor, pad: Pad, value: float) -> Tensor:
    top, left, bottom, right = pad
    return functional.pad(x, (left, right, top, bottom), value=value) if any(pad) else x


def _convolved(x: Tensor, node: Node, outside: float) -> Tensor:
    kernel = torch.from_numpy(np.array(node.weights["weight"].transpose(0, 3, 1, 2), np.float32))
    return functional.conv2d(_padded(x, node.pad, outside), kernel, stride=node.stride, groups=node.groups)


def _by_channel(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32)).reshape(1, -1, 1, 1)


def dot_products(node: Node, x: Tensor) -> Tensor:
    """Of a binary convolution the whole numbers before ReLU, multiplier and bias."""
    return _convolved(torch.where(x < 0, -1.0, 1.0), node, float(node.pad_value))


def _average(node: Node, x: Tensor) -> Tensor:
    total = functional.avg_pool2d(_padded(x, node.pad, 0.0), node.kernel, node.stride)
    if not any(node.pad):
        return total
    return total / functional.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), node.pad, 0.0), node.kernel, node.stride)


def _selected(node: Node, x: Tensor) -> Tensor:
    numbers = torch.tensor(node.channels)
    return x[:, numbers.clamp(min=0)] * (numbers >= 0).float().reshape(1, -1, 1, 1)


@torch.no_grad()
def run_node(node: Node, read: list[Tensor]) -> Tensor:
    """What a node gives, float32 (N, C, H, W), of what it reads."""
    x, weights = read[0], node.weights
    if node.kind == "binary":
        dots = dot_products(node, x)
        return (dots.relu() if node.relu else dots) * _by_channel(weights["multiplier"]) + _by_channel(weights["bias"])
    match node.kind:
        case "conv":
            y = _convolved(x, node, 0.0) + _by_channel(weights["bias"])
        case "scale":
            y = x * _by_channel(weights["multiplier"]) + _by_channel(weights["bias"])
        case "add":
            y = x + read[1]
        case "concat":
            y = torch.cat(read, 1)
        case "gate":
            y = x * read[1]
        case "max_pool":
            y = functional.max_pool2d(_padded(x, node.pad, -math.inf), node.kernel, node.stride)
        case "average_pool":
            y = _average(node, x)
        case "prelu":
            y = torch.where(x < 0, x * _by_channel(weights["slope"]), x)
        case "sign":
            y = torch.where(x < 0, -1.0, 1.0)
        case "sigmoid":
            y = torch.sigmoid(x)
        case "select":
            y = _selected(node, x)
        case _:
            raise ValueError(f"{node.name}: expected a kind of node that there is, got {node.kind}")
    return y.relu() if node.relu else y


def each(graph: Graph, x: Tensor) -> Iterator[tuple[int, list[Tensor], Tensor]]:
    """Run a graph on float32 (N, 3, S, S).

    Yields
    ------
    The number of a node, what it reads and what it gives, node by node.

    Notes
    -----
    A value is let go when its last reader has run, so memory is that of the widest cut through the graph.
    """
    last = {value: i for i, node in enumerate(graph.nodes) for value in node.reads}
    values = {0: x}
    for i, node in enumerate(graph.nodes):
        read = [values[v] for v in node.reads]
        values[i + 1] = run_node(node, read)
        yield i, read, values[i + 1]
        for value in {v for v in node.reads if last[v] == i}:
            del values[value]


def run(graph: Graph, x: Tensor) -> Tensor:
    """The last value for float32 (N, 3, S, S); float32 (N, C, H, W)."""
    *_, (_, _, result) = each(graph, x)
    return result


def pooled(graph: Graph, last: Tensor) -> Tensor:
    """The features, float32 (N, C), of the last value."""
    return (last.relu() if graph.pooled_relu else last).mean((2, 3))
