"""Folding of a float graph, so that each node becomes one fast operation of a model file.  What the graph computes stays the same, but for float rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .graph import NO_PAD, Graph, Node

_CUTS_OFF = ("add", "max_pool")  # kinds whose operation has a ReLU of its own
_FLOAT = np.float32


def _is_identity(node: Node) -> bool:
    return node.kind == "scale" and bool((node.weights["multiplier"] == 1).all()) and not node.weights["bias"].any()


def _behind(node: Node, scale: Node) -> Node | None:
    # `scale` behind `node`, as one node; None where they cannot be one.
    multiplier, bias = scale.values("multiplier"), scale.values("bias")
    own = {"bias": (node.values("bias") * multiplier + bias).astype(_FLOAT)} if "bias" in node.weights else {}
    if node.kind == "conv" and not node.relu:
        own["weight"] = (node.values("weight") * multiplier[:, None, None, None]).astype(_FLOAT)
        return replace(node, weights=own, relu=scale.relu)
    if node.kind == "scale" and not node.relu:
        own["multiplier"] = (node.values("multiplier") * multiplier).astype(_FLOAT)
        return replace(node, weights=own, relu=scale.relu)
    if node.kind == "binary" and not scale.relu:  # its own ReLU comes before its multiplier
        own["multiplier"] = (node.values("multiplier") * multiplier).astype(_FLOAT)
        return replace(node, weights={**node.weights, **own})
    if node.kind in _CUTS_OFF and scale.relu and _is_identity(scale):
        return replace(node, relu=True)
    return None


def _pooled(graph: Graph) -> Graph:
    # The features' own pooling takes the place of the mean over the whole map, and of a ReLU in front of it.
    last = graph.nodes[-1]
    height, width, _ = graph.shapes()[last.reads[0]]
    if last.kind == "average_pool" and last.kernel == height == width and last.pad == NO_PAD and not last.relu and last.reads[0] > 0:
        graph = graph.kept({}, {len(graph.nodes): last.reads[0]})
    last, read_by = graph.nodes[-1], graph.readers()[-1]
    if last.relu and last.kind not in ("binary", "max_pool") and not read_by:
        graph = replace(graph.kept({len(graph.nodes) - 1: replace(last, relu=False)}), pooled_relu=True)
    last = graph.nodes[-1]
    return graph.kept({}, {len(graph.nodes): last.reads[0]}) if _is_identity(last) and last.reads[0] > 0 else graph


def _scales(graph: Graph) -> Graph:
    # Scales go into the node before them, where nothing else reads that.
    readers = graph.readers()
    nodes: list[Node] = []
    number, shared = {0: 0}, {0}  # of old values among the new ones; new values that more than one node reads
    for i, node in enumerate(graph.nodes):
        value = number[node.reads[0]]
        if readers[node.reads[0]] != [i]:
            shared.add(value)
        if node.kind == "scale" and value > 0:
            if _is_identity(node) and not node.relu:
                number[i + 1] = value
                continue
            together = _behind(nodes[value - 1], node) if value not in shared else None
            if together is not None:
                nodes[value - 1] = replace(together, name=node.name, tensor=node.tensor)
                number[i + 1] = value
                continue
        nodes.append(replace(node, reads=tuple(number[v] for v in node.reads)))
        number[i + 1] = len(nodes)
    return replace(graph, nodes=tuple(nodes[: number[len(graph.nodes)]]))


def _relus(graph: Graph) -> Graph:
    # ReLU of a sum that only max-pools read is theirs: the largest of max(x, 0) is max(largest, 0).
    readers = graph.readers()
    replaced: dict[int, Node] = {}
    for i, node in enumerate(graph.nodes):
        behind = readers[i + 1]
        if node.kind == "add" and node.relu and behind and all(graph.nodes[r].kind == "max_pool" for r in behind):
            replaced[i] = replace(node, relu=False)
            replaced |= {r: replace(replaced.get(r, graph.nodes[r]), relu=True) for r in behind}
    return graph.kept(replaced)


def _grouped(graph: Graph, concat: Node) -> Node | None:
    # One convolution in groups, of a concatenation of convolutions of consecutive equal parts of one value.
    convs = [graph.nodes[v - 1] for v in concat.reads if v > 0]
    if len(convs) != len(concat.reads) or any(c.kind != "conv" or c.groups != 1 or c.reads[0] == 0 for c in convs):
        return None
    parts = [graph.nodes[c.reads[0] - 1] for c in convs]
    if any(p.kind != "select" or p.reads != parts[0].reads or len(p.channels) != len(parts[0].channels) for p in parts):
        return None
    width = sum(len(p.channels) for p in parts)
    if [n for p in parts for n in p.channels] != list(range(width)) or width != graph.shapes()[parts[0].reads[0]][2]:
        return None
    first = convs[0]
    alike = ("kernel", "stride", "pad", "relu")
    if (
        any(getattr(c, name) != getattr(first, name) for c in convs for name in alike)
        or len({c.weights["weight"].shape for c in convs}) != 1
    ):
        return None
    weights = {name: np.concatenate([c.weights[name] for c in convs]) for name in ("weight", "bias")}
    return replace(first, reads=parts[0].reads, weights=weights, groups=len(convs), name=concat.name, tensor=concat.tensor)


def simplify(graph: Graph) -> Graph:
    """Fold a graph: convolutions in groups, scales, ReLUs, and the mean over the map at its end."""
    readers = graph.readers()
    grouped: dict[int, Node] = {}
    for i, node in enumerate(graph.nodes):
        if node.kind == "concat" and all(readers[v] == [i] for v in node.reads):
            together = _grouped(graph, node)
            if together is not None:
                grouped[i] = together
    graph = graph.kept(grouped)
    graph = _scales(graph)
    return _relus(_pooled(graph))
