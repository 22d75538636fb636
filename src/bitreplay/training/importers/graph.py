"""A float network as a graph of a few kinds of node, and what each node gives.

Every reader makes one of these; `simplify` folds it, `quantise` rounds it.  Owns no file format and no rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float32]
Pad = tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class Node:
    """One operation on values (N, H, W, C).

    Parameters
    ----------
    kind : "conv", "binary", "scale", "add", "concat", "gate", "max_pool", "average_pool", "prelu", "sigmoid" or "dense".
        binary: the signs of its input (0 counts as +1) through weights of +1 and -1, ReLU where asked for, times `multiplier`, plus `bias`.
        conv, dense: plus `bias`.  scale: times `multiplier`, plus `bias`.  average_pool: the mean of the taps inside the map.
    reads : numbers of the values that it reads: 0 is the graph's input, i + 1 what node i gives.
    name : what the file calls its result.
    weights : "weight" (out, k, k, in / groups), of dense (out, in); "multiplier", "bias", "slope" (C,).
    kernel, stride, pad, groups : of windows; `pad_value` is what a binary convolution sees outside the map, +1 or 0.
    relu : whether the result, of a binary convolution the dot product, is cut off at 0.
    """

    kind: str
    reads: tuple[int, ...]
    name: str = ""
    weights: dict[str, Floats] = field(default_factory=dict)
    kernel: int = 1
    stride: int = 1
    pad: Pad = (0, 0, 0, 0)
    groups: int = 1
    pad_value: int = 0
    relu: bool = False


@dataclass(frozen=True)
class Graph:
    """A network: nodes in an order in which they can run, and the side of its square RGB input.

    `features` is the value whose mean over the map is what a classifier reads, or the last one; `classifier` what follows it, kept to check an import.
    """

    nodes: tuple[Node, ...]
    image_size: int
    classifier: tuple[Floats, Floats] | None = None  # weight (classes, C), bias (classes,)

    def readers(self) -> list[list[int]]:
        """Of each value the nodes that read it."""
        found: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for i, node in enumerate(self.nodes):
            for value in dict.fromkeys(node.reads):
                found[value].append(i)
        return found

    def without(self, dead: set[int], instead: dict[int, int]) -> Graph:
        """The graph without some nodes, whose results others stand in for: value numbers of `instead`, followed to their ends."""

        def final(value: int) -> int:
            while value in instead:
                value = instead[value]
            return value

        kept = [i for i in range(len(self.nodes)) if i not in dead]
        number = {0: 0} | {old + 1: new + 1 for new, old in enumerate(kept)}
        nodes = tuple(replace(self.nodes[i], reads=tuple(number[final(v)] for v in self.nodes[i].reads)) for i in kept)
        return replace(self, nodes=nodes)


def _padded(x: Tensor, pad: Pad, value: float) -> Tensor:
    top, left, bottom, right = pad
    return functional.pad(x, (left, right, top, bottom), value=value) if any(pad) else x


def _convolved(x: Tensor, node: Node, weight: Floats, outside: float) -> Tensor:
    kernel = torch.from_numpy(np.ascontiguousarray(weight.transpose(0, 3, 1, 2)))
    return functional.conv2d(_padded(x, node.pad, outside), kernel, stride=node.stride, groups=node.groups)


def _by_channel(values: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(1, -1, 1, 1)


def run_node(node: Node, read: list[Tensor]) -> Tensor:
    """What a node gives, float32 (N, C, H, W), of what it reads."""
    x, weights = read[0], node.weights
    if node.kind == "binary":
        signs = torch.where(x < 0, -1.0, 1.0)
        dots = _convolved(signs, node, weights["weight"], float(node.pad_value))
        return (dots.relu() if node.relu else dots) * _by_channel(weights["multiplier"]) + _by_channel(weights["bias"])
    if node.kind == "conv":
        y = _convolved(x, node, weights["weight"], 0.0) + _by_channel(weights["bias"])
    elif node.kind == "scale":
        y = x * _by_channel(weights["multiplier"]) + _by_channel(weights["bias"])
    elif node.kind == "add":
        y = x + read[1]
    elif node.kind == "concat":
        y = torch.cat(read, 1)
    elif node.kind == "gate":
        y = x * read[1]
    elif node.kind == "max_pool":
        y = functional.max_pool2d(_padded(x, node.pad, -torch.inf), node.kernel, node.stride)
    elif node.kind == "average_pool":
        total = functional.avg_pool2d(_padded(x, node.pad, 0.0), node.kernel, node.stride)
        y = total / functional.avg_pool2d(_padded(torch.ones_like(x[:1, :1]), node.pad, 0.0), node.kernel, node.stride)
    elif node.kind == "prelu":
        y = torch.where(x < 0, x * _by_channel(weights["slope"]), x)
    elif node.kind == "sigmoid":
        y = torch.sigmoid(x)
    else:
        raise ValueError(f"node {node.name or node.kind}: expected a kind that there is, got {node.kind}")
    return y.relu() if node.relu else y


@torch.no_grad()
def run(graph: Graph, x: Tensor) -> list[Tensor]:
    """Every value, float32 (N, C, H, W): the input x, then what each node gives."""
    values = [x]
    for node in graph.nodes:
        values.append(run_node(node, [values[k] for k in node.reads]))
    return values


def shapes(graph: Graph) -> list[tuple[int, int, int]]:
    """(H, W, C) of every value."""
    blank = torch.zeros((1, 3, graph.image_size, graph.image_size))
    return [(int(v.shape[2]), int(v.shape[3]), int(v.shape[1])) for v in run(graph, blank)]
