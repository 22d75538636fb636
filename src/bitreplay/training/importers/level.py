"""Channels of a float graph brought to one reach, so that int16 with one exponent a value serves each of them.

A channel may be scaled by any positive number as long as whatever it is added to is scaled alike: signs, maxima and ReLU do not see it, and what makes
and what reads the channel can take the factor into its weights.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..fold import HEADROOM, exponent_for
from .graph import Graph, Node

MOST = 2.0**10  # a channel that hardly reaches anywhere is not blown up further
# Units of the result that one more agreeing tap of a binary convolution may be worth in a channel that is scaled: finer steps than a tap are never made, and
# the largest multiplier of a convolution sets the shift of them all.
MOST_STEP = 128.0

Floats = NDArray[np.float64]
_ALIKE = ("add", "max_pool", "average_pool", "prelu")  # channel by channel they keep the scale


class _Channels:
    """Which channels of which values must be scaled alike."""

    def __init__(self, widths: list[int]) -> None:
        self.first = np.concatenate([[0], np.cumsum(widths)])
        self.parent = np.arange(self.first[-1])

    def of(self, value: int) -> NDArray[np.int64]:
        """Numbers of a value's channels."""
        return np.arange(self.first[value], self.first[value + 1])

    def root(self, channel: int) -> int:
        """The number that stands for all that are alike."""
        while self.parent[channel] != channel:
            self.parent[channel] = self.parent[self.parent[channel]]
            channel = int(self.parent[channel])
        return channel

    def join(self, some: NDArray[np.int64], others: NDArray[np.int64]) -> None:
        """Channel by channel."""
        for a, b in zip(some.tolist(), others.tolist(), strict=True):
            self.parent[self.root(a)] = self.root(b)

    def roots(self, value: int) -> NDArray[np.int64]:
        """Of a value's channels."""
        return np.array([self.root(channel) for channel in self.of(value).tolist()])


def _rescaled(node: Node, read: list[Floats], own: Floats) -> Node:
    # The node on inputs that were scaled by `read`, giving its output scaled by `own`.
    weights = dict(node.weights)
    if node.kind == "conv":
        inputs = read[0].reshape(node.groups, 1, -1)  # of each group
        by_output = np.repeat(inputs, len(own) // node.groups, axis=1).reshape(len(own), 1, 1, -1)
        weights["weight"] = (weights["weight"] * own[:, None, None, None] / by_output).astype(np.float32)
        weights["bias"] = (weights["bias"] * own).astype(np.float32)
    elif node.kind in ("binary", "scale"):
        before = read[0] if node.kind == "scale" else 1.0
        weights["multiplier"] = (weights["multiplier"] * own / before).astype(np.float32)
        weights["bias"] = (weights["bias"] * own).astype(np.float32)
    return replace(node, weights=weights)


def levelled(graph: Graph, largest: list[Floats]) -> tuple[Graph, list[Floats]]:
    """Scale the channels of all values but the input.

    Parameters
    ----------
    graph : folded.
    largest : of every value the largest magnitude in each channel, float64 (C,).

    Returns
    -------
    The graph that gives values scaled by factors, and the factors, of each value float64 (C,).
    """
    channels = _Channels([len(reach) for reach in largest])
    fixed: list[NDArray[np.int64]] = [channels.of(0)]
    for i, node in enumerate(graph.nodes):
        if node.kind in _ALIKE:
            for value in node.reads:
                channels.join(channels.of(value), channels.of(i + 1))
        elif node.kind == "concat":
            channels.join(np.concatenate([channels.of(value) for value in node.reads]), channels.of(i + 1))
        elif node.kind == "select":
            taken = np.array(node.channels)
            channels.join(channels.of(node.reads[0])[taken[taken >= 0]], channels.of(i + 1)[taken >= 0])
        elif node.kind == "gate":
            channels.join(channels.of(node.reads[0]), channels.of(i + 1))
            fixed.append(channels.of(node.reads[1]))
        elif node.kind == "sigmoid":
            fixed += [channels.of(node.reads[0]), channels.of(i + 1)]
        elif node.kind == "sign":
            fixed.append(channels.of(i + 1))
    roots = [channels.roots(value) for value in range(len(largest))]
    reach = np.zeros(len(channels.parent))
    for own, most in zip(roots, largest, strict=True):
        np.maximum.at(reach, own, most)
    unscaled = {channels.root(channel) for part in fixed for channel in part.tolist()}
    # Values whose channels meet share one exponent: all their channels reach as far as the farthest.
    factors = []
    highest = _highest(graph, roots, reach)
    limit = np.full(len(reach), MOST)
    for i, node in enumerate(graph.nodes):
        if node.kind == "binary":
            step = np.abs(node.values("multiplier")) * 2.0 ** exponent_for(highest[i + 1] * HEADROOM)
            np.minimum.at(limit, roots[i + 1], MOST_STEP / np.maximum(step, 1e-30))
    for value, own in enumerate(roots):
        target = 32767.0 / HEADROOM * 2.0 ** -exponent_for(highest[value] * HEADROOM)  # what the exponent has room for
        factor = np.maximum(np.minimum(target / np.maximum(reach[own], 1e-30), limit[own]), 1.0)
        factors.append(np.where([root in unscaled for root in own.tolist()], 1.0, factor))
    nodes = tuple(_rescaled(node, [factors[v] for v in node.reads], factors[i + 1]) for i, node in enumerate(graph.nodes))
    return replace(graph, nodes=nodes), factors


def _highest(graph: Graph, roots: list[NDArray[np.int64]], reach: Floats) -> list[float]:
    # Of each value the farthest reach of any channel of a value that it shares channels with, directly or by others.
    group = list(range(len(roots)))

    def top(value: int) -> int:
        while group[value] != value:
            value = group[value]
        return value

    owner: dict[int, int] = {}
    for value, own in enumerate(roots):
        for root in set(own.tolist()):
            group[top(value)] = top(owner.setdefault(root, value))
    most: dict[int, float] = {}
    for value, own in enumerate(roots):
        most[top(value)] = max(most.get(top(value), 0.0), float(reach[own].max()))
    return [most[top(value)] for value in range(len(roots))]
