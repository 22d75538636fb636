"""An imported network's operations one by one: integers as the reference computes them beside float, on the same integers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from reference.network import operation, run_operations

from bitreplay.training.importers.graph import Graph, Node, dot_products, each, run_node
from bitreplay.training.importers.quantise import Preprocessing, Quantised, blocks_of

Ints = NDArray[np.int64]


def _integers(value: torch.Tensor, exponent: int) -> Ints:
    # Rounded so that what is negative stays negative: the signs are the float value's.
    exact = value.permute(0, 2, 3, 1).double().numpy() * 2.0**exponent
    return np.clip(np.where(exact < 0, np.minimum(np.rint(exact), -1), np.rint(exact)), -32768, 32767).astype(np.int64)


def _floats(value: Ints, exponent: int) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray((value * 2.0**-exponent).transpose(0, 3, 1, 2), np.float32))


def _operations_of(quantised: Quantised, value: int) -> tuple[list[int], list[int]]:
    # Numbers of the operations that make a value (some take two), and of what the first of them reads.
    last = quantised.places[value] - 1
    first = last
    while first not in quantised.places.values():  # what the one before gives stands for no value of the graph
        first -= 1
    op = quantised.network["prefix"][first]
    return list(range(first, last + 1)), op.get("from", [first])


def worst_units(quantised: Quantised, images: NDArray[np.uint8], preprocessing: Preprocessing) -> dict[str, float]:
    """By kind of node, how far an operation is from what the float node makes of the same integers, in units of its result; and of the dot products' signs.

    Every operation is fed with the float network's own values, rounded.
    """
    graph: Graph = quantised.graph
    blocks = blocks_of(graph)
    float_values: dict[int, torch.Tensor] = {0: preprocessing(images)}
    for i, _, given in each(graph, float_values[0]):
        float_values[i + 1] = given
    number = {place: value for value, place in quantised.places.items()}
    found: dict[str, float] = {"differing signs": 0.0}
    for value, node in enumerate(graph.nodes, 1):
        if value not in quantised.places:
            continue
        operations, places = _operations_of(quantised, value)
        reads = [number[place] for place in places]
        integers = [_integers(float_values[v], quantised.exponents[v]) for v in reads]
        own: Ints = integers[0]
        for j, k in enumerate(operations):
            own = operation(quantised.network["prefix"][k], [own] if j else integers, quantised.tensors, f"prefix.{k}")
        given = [_floats(x, quantised.exponents[v]) for x, v in zip(integers, reads, strict=True)]
        fused = value - 1 in blocks and quantised.network["prefix"][operations[-1]]["op"] == "block"
        conv: Node | None = graph.nodes[blocks[value - 1]] if fused else node if node.kind == "binary" else None
        if conv is not None:
            found["differing signs"] += float((dot_products(conv, given[0]) != dot_products(conv, float_values[conv.reads[0]])).sum())
        expected = run_node(conv, given) + given[0] if conv is not None and conv is not node else run_node(node, given)
        exact = expected.permute(0, 2, 3, 1).double().numpy() * 2.0 ** quantised.exponents[value]
        kind = "block" if conv is not None and conv is not node else node.kind
        found[kind] = max(found.get(kind, 0.0), float(np.abs(own - np.clip(exact, -32768, 32767)).max()))
    return found


def integer_values(quantised: Quantised, images: NDArray[np.uint8]) -> Ints:
    """The last value as the reference computes it from pictures, (N, H, W, C)."""
    pixels = 2 * images.astype(np.int64) - 255
    return run_operations(pixels, quantised.network["prefix"], quantised.tensors, "prefix")
