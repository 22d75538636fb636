"""Folding of a float graph: scales into what stands before them, so that each node is one operation of a model file."""

from __future__ import annotations

from dataclasses import replace

from .graph import Graph, Node


def _scaled(node: Node, scale: Node) -> Node | None:
    # `scale` behind `node`, as one node; None where they cannot be one.
    multiplier, bias = scale.weights["multiplier"], scale.weights["bias"]
    if node.kind == "conv" and not node.relu:
        weight = node.weights["weight"] * multiplier[:, None, None, None]
        return replace(node, weights={"weight": weight, "bias": node.weights["bias"] * multiplier + bias}, relu=scale.relu)
    if node.kind == "scale" and not node.relu:
        own = {"multiplier": node.weights["multiplier"] * multiplier, "bias": node.weights["bias"] * multiplier + bias}
        return replace(node, weights=own, relu=scale.relu)
    if node.kind == "binary" and not scale.relu:  # its own ReLU comes before its multiplier
        own = {"multiplier": node.weights["multiplier"] * multiplier, "bias": node.weights["bias"] * multiplier + bias}
        return replace(node, weights={**node.weights, **own})
    return None


def simplify(graph: Graph) -> Graph:
    """Fold scales, each into the node before it, where nothing else reads that."""
    nodes, dead, instead = list(graph.nodes), set[int](), dict[int, int]()
    readers = graph.readers()
    for i, node in enumerate(graph.nodes):
        if node.kind != "scale" or node.reads[0] == 0:
            continue
        before = node.reads[0] - 1
        while before + 1 in instead:
            before = instead[before + 1] - 1
        if readers[node.reads[0]] != [i]:
            continue
        together = _scaled(nodes[before], node)
        if together is not None:
            nodes[before] = replace(together, name=node.name)
            dead.add(i)
            instead[i + 1] = before + 1
    return replace(graph, nodes=tuple(nodes)).without(dead, instead)


def live(graph: Graph, value: int) -> Graph:
    """The part of the graph that a value is made from, with that value last."""
    needed, stack = set[int](), [value]
    while stack:
        number = stack.pop()
        if number > 0 and number not in needed:
            needed.add(number)
            stack += graph.nodes[number - 1].reads
    return graph.without({i for i in range(len(graph.nodes)) if i + 1 not in needed}, {})
