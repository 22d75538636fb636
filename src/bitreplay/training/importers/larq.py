"""Weights that Larq Zoo publishes (Keras files, ``.h5``) as float graphs: QuickNet Small, QuickNet, QuickNet Large (v1.0) and Bi-Real Net (v0.3).

The architectures are written after larq-zoo 2.4; how many layers and channels there are is read from the weights themselves.  Needs h5py; neither Larq nor
TensorFlow.  The file may come from an enemy: what does not fit is a `FormatError`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from .graph import MOST_NODES, NO_PAD, Graph, Node, Pad, same_pad, shape_of
from .keras import Layer, keras_layers

_EPSILON, _KERAS_EPSILON = 1e-5, 1e-3
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

Floats = NDArray[np.float64]


class _Layers:
    """The layers of a file that have weights, in its order, taken one after another."""

    def __init__(self, layers: list[Layer], where: str) -> None:
        self._layers, self._next, self.where = layers, 0, where

    def next_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a weight of the next layer, or None."""
        layer = self._layers[self._next] if self._next < len(self._layers) else None
        return layer.weights[name].shape if layer is not None and name in layer.weights else None

    def take(self, name: str, *shape: int) -> tuple[str, Floats]:
        """The one weight of the next layer, -1 in its shape for any length; and the layer's name."""
        found = self.next_shape(name)
        if found is None or len(found) != len(shape) or any(want not in (-1, got) for want, got in zip(shape, found, strict=True)):
            raise self.refused(f"{name} {shape}".replace("-1", "any"))
        layer = self._layers[self._next]
        self._next += 1
        return layer.name, layer.weights[name].astype(np.float64)

    def norm(self, channels: int, epsilon: float) -> dict[str, NDArray[Any]]:
        """The next layer, a batch norm with or without scale and offset, as multiplier and bias."""
        if self.next_shape("moving_mean") != (channels,):
            raise self.refused(f"a batch norm of {channels} channels")
        weights = {name: value.astype(np.float64) for name, value in self._layers[self._next].weights.items()}
        if any(value.shape != (channels,) for value in weights.values()) or not (weights["moving_variance"] >= 0).all():
            raise self.refused(f"a batch norm of {channels} channels")
        self._next += 1
        scale = weights.get("gamma", np.ones(channels)) / np.sqrt(weights["moving_variance"] + epsilon)
        bias = weights.get("beta", np.zeros(channels)) - scale * weights["moving_mean"]
        return {"multiplier": scale.astype(np.float32), "bias": bias.astype(np.float32)}

    def dense(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """The classifier, if the file ends with one; nothing may come behind it."""
        if self._next == len(self._layers):
            return None
        layer = self._layers[self._next]
        kernel, bias = layer.weights.get("kernel"), layer.weights.get("bias")
        if kernel is None or bias is None or kernel.ndim != 2 or bias.shape != kernel.shape[1:] or self._next + 1 != len(self._layers):
            raise self.refused("a dense layer at the end")
        return np.ascontiguousarray(kernel.T), bias

    def refused(self, expected: str) -> FormatError:
        """The error that names the next layer."""
        if self._next >= len(self._layers):
            return FormatError(f"{self.where}: expected {expected} behind layer {self._next - 1}, where the file ends")
        layer = self._layers[self._next]
        shapes = {name: value.shape for name, value in layer.weights.items()}
        return FormatError(f"{self.where}: layer {self._next} {layer.name!r}: expected {expected}, got {shapes}")


class _Builder:
    """The nodes so far."""

    def __init__(self, side: int) -> None:
        self.nodes: list[Node] = []
        self.shapes = [(side, side, 3)]

    def add(self, kind: str, *reads: int, **settings: Any) -> int:
        """Another node; returns the value that it gives.  Without `reads` it reads the last one."""
        node = Node(kind, reads or (len(self.nodes),), **settings)
        self.shapes.append(shape_of(node, [self.shapes[v] for v in node.reads]))
        self.nodes.append(node)
        if len(self.nodes) > MOST_NODES:
            raise ValueError(f"expected at most {MOST_NODES} operations")
        return len(self.nodes)

    def same(self, value: int, kernel: int, stride: int) -> Pad:
        """Padding SAME of a window on a value."""
        height, width, _ = self.shapes[value]
        return same_pad(height, width, kernel, stride)

    def conv(self, layers: _Layers, channels: int, out: int, kernel: int, stride: int, *, value: int | None = None) -> int:
        """A convolution without bias."""
        value = len(self.nodes) if value is None else value
        name, weight = layers.take("kernel", kernel, kernel, channels, out)
        weights = {"weight": weight.transpose(3, 0, 1, 2).astype(np.float32), "bias": np.zeros(weight.shape[3], np.float32)}
        return self.add("conv", value, name=name, weights=weights, kernel=kernel, stride=stride, pad=self.same(value, kernel, stride))

    def depthwise(self, layers: _Layers, channels: int, kernel: int, stride: int) -> int:
        """A depth-wise convolution without bias."""
        name, weight = layers.take("depthwise_kernel", kernel, kernel, channels, 1)
        weights = {"weight": weight.transpose(2, 0, 1, 3).astype(np.float32), "bias": np.zeros(channels, np.float32)}
        pad = self.same(len(self.nodes), kernel, stride)
        return self.add("conv", name=name, weights=weights, kernel=kernel, stride=stride, pad=pad, groups=channels)

    def norm(self, weights: dict[str, NDArray[Any]], *, relu: bool = False) -> int:
        """A batch norm."""
        return self.add("scale", name="batch norm", weights=weights, relu=relu)


def read_larq(content: bytes, where: str, image_size: int = 224) -> tuple[Graph, str]:
    """Read Larq Zoo's weights.

    Parameters
    ----------
    content : the file, as ``save_weights`` of Keras 2 writes it.
    where : what messages call it.
    image_size : side of the pictures, which the weights do not tell.

    Returns
    -------
    The graph, and the network's family.

    Raises
    ------
    FormatError : it is not sound, or holds another network; the message names the first layer that does not fit.
    """
    try:
        layers = _Layers(keras_layers(content, where), where)
        b = _Builder(image_size)
        first = layers.next_shape("kernel")
        family, build = ("Bi-Real Net", _birealnet) if first is not None and first[:1] == (7,) else ("QuickNet", _quicknet)
        build(layers, b)
        classifier = layers.dense()
    except FormatError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, IndexError) as error:
        raise FormatError(f"{where}: not a sound file of Keras weights ({type(error).__name__}: {str(error)[:200]})") from error
    channels = b.shapes[-1][2]
    if classifier is not None and classifier[0].shape[1] != channels:
        raise FormatError(f"{where}: expected a classifier of {channels} features, got {classifier[0].shape[1]}")
    return Graph(tuple(b.nodes), image_size, classifier), family


def _signs(weight: Floats) -> NDArray[np.int8]:
    # (out, k, k, in) of Keras' (k, k, in, out); the sign of 0 is +1.
    return np.where(weight < 0, -1, 1).astype(np.int8).transpose(3, 0, 1, 2)


def _quicknet(layers: _Layers, b: _Builder) -> None:
    first = layers.next_shape("kernel")
    if first is None or len(first) != 4:
        raise layers.refused("the 3 x 3 convolution of QuickNet's stem")
    quarter = first[3]
    b.conv(layers, 3, quarter, 3, 2)
    b.norm(layers.norm(quarter, _KERAS_EPSILON), relu=True)
    b.depthwise(layers, quarter, 3, 2)
    b.norm(layers.norm(quarter, _KERAS_EPSILON))
    value = b.conv(layers, quarter, -1, 1, 1)
    value = b.norm(layers.norm(b.shapes[value][2], _KERAS_EPSILON))
    while True:
        channels = b.shapes[value][2]
        if layers.next_shape("kernel") == (3, 3, channels, channels):
            name, weight = layers.take("kernel", 3, 3, channels, channels)
            norm = layers.norm(channels, _EPSILON)
            weights = {"weight": _signs(weight), **norm}
            conv = b.add("binary", value, name=name, weights=weights, kernel=3, pad=(1, 1, 1, 1), pad_value=1, relu=True)
            value = b.add("add", conv, value, name=f"behind {name}")
        elif layers.next_shape("depthwise_kernel") == (3, 3, channels, 1):
            _relu(b)
            b.add("max_pool", name="max-pool", kernel=2)
            b.depthwise(layers, channels, 3, 2)
            value = b.conv(layers, channels, -1, 1, 1)
            value = b.norm(layers.norm(b.shapes[value][2], _EPSILON))
        else:
            break
    _relu(b)


def _relu(b: _Builder) -> int:
    channels = b.shapes[-1][2]
    weights = {"multiplier": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
    return b.add("scale", name="relu", weights=weights, relu=True)


def _birealnet(layers: _Layers, b: _Builder) -> None:
    shape = layers.next_shape("kernel") or ()
    b.conv(layers, 3, -1, 7, 2)
    value = b.norm(layers.norm(int(shape[-1]), _KERAS_EPSILON))
    value = b.add("max_pool", name="max-pool", kernel=3, stride=2, pad=b.same(value, 3, 2))
    while (found := layers.next_shape("kernel")) is not None and len(found) == 4:
        channels, out = b.shapes[value][2], found[3]
        name, weight = layers.take("kernel", 3, 3, channels, -1)
        halved = out != channels
        shortcut_name, shortcut_weight = layers.take("kernel", 1, 1, channels, out) if halved else ("", np.zeros(0))
        norm, stride = layers.norm(out, _KERAS_EPSILON), 2 if halved else 1
        magnitude = np.abs(weight).mean((0, 1, 2)).astype(np.float32)
        weights = {"weight": _signs(weight), "multiplier": norm["multiplier"] * magnitude, "bias": norm["bias"]}
        pad = b.same(value, 3, stride)
        conv = b.add("binary", value, name=name, weights=weights, kernel=3, stride=stride, pad=pad, pad_value=0)
        shortcut = value
        if halved:
            pooled = b.add("average_pool", value, name="average-pool", kernel=2, stride=2, pad=b.same(value, 2, 2))
            own = {"weight": shortcut_weight.transpose(3, 0, 1, 2).astype(np.float32), "bias": np.zeros(out, np.float32)}
            b.add("conv", pooled, name=shortcut_name, weights=own, pad=NO_PAD)
            shortcut = b.norm(layers.norm(out, _KERAS_EPSILON))
        value = b.add("add", conv, shortcut, name=f"behind {name}")
