"""Networks of LCE and TensorFlow Lite: what each operation of a file means, as nodes of a float graph.

Reads what LCE's converter writes of a classifier of pictures, in files of before August 2020 (float inputs to LceBconv2d) and after (LceQuantize), and
float or quantised networks of TensorFlow Lite without anything binary.  What it does not understand it refuses by the operation's name and place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from .flatbuffer import FLOAT, INT32, QUANTISED, File, Operation, sound
from .graph import MOST_NODES, NO_PAD, Array, Graph, Node, Pad, shape_of

_PIXEL = 255.0


class _Builder:
    """The nodes so far, and which value each tensor of the file is."""

    def __init__(self, file: File, source: int) -> None:
        self.file, self.nodes = file, list[Node]()
        self.values = {source: 0}
        _, side, _, channels = file.shapes[source]
        self.shapes = [(side, side, channels)]
        self.padded: dict[int, Pad] = {}  # values that a PAD of zeros stands behind, for whoever reads them
        self.pads: dict[int, tuple[int, Pad]] = {}  # tensors of a PAD: value and pad

    def add(self, op: Operation, kind: str, reads: Iterable[int], **settings: Any) -> int:
        """Another node; returns the value that it gives."""
        if len(self.nodes) >= MOST_NODES:
            raise FormatError(f"{self.file.where}: expected at most {MOST_NODES} operations")
        node = Node(kind, tuple(reads), name=op.place, **settings)
        try:
            self.shapes.append(shape_of(node, [self.shapes[v] for v in node.reads]))
        except ValueError as error:
            raise FormatError(f"{self.file.where}: {error}") from error
        self.nodes.append(node)
        return len(self.nodes)

    def read(self, op: Operation, i: int) -> int:
        """The value that is input i."""
        number = op.inputs[i] if i < len(op.inputs) else -1
        if number in self.pads:
            raise op.refused("expected a PAD only before a convolution with padding VALID")
        if number not in self.values:
            raise op.refused(f"expected input {i} to be computed before it")
        return self.values[number]

    def window(self, op: Operation, pad: Pad) -> tuple[int, Pad]:
        """As `read` of input 0 of a convolution, with the PAD in front of it."""
        number = op.inputs[0]
        if number in self.pads and pad == NO_PAD:
            return self.pads[number]
        return self.read(op, 0), pad

    def active(self, op: Operation, value: int, activation: str) -> int:
        """Put ReLU or ReLU6 behind a value: min(max(x, 0), 6) = max(0, 6 - max(0, 6 - x))."""
        if activation == "none":
            return value
        channels = self.shapes[value][2]
        one, none = np.ones(channels, np.float32), np.zeros(channels, np.float32)
        if activation == "relu":
            return self.add(op, "scale", (value,), weights={"multiplier": one, "bias": none}, relu=True)
        below = {"multiplier": -one, "bias": none + 6}
        return self.add(op, "scale", (self.add(op, "scale", (value,), weights=below, relu=True),), weights=below, relu=True)

    def finish(self, op: Operation, value: int) -> None:
        """A value is what the operation gives; its shape must be the file's."""
        number = op.outputs[0]
        shape, (height, width, channels) = self.file.shapes[number], self.shapes[value]
        packed = self.file.types[number] == INT32
        wanted = (1, height, width, -(-channels // 32) if packed else channels)
        if shape not in (wanted, (1, channels), (channels,), (1, 1, channels)) or (len(shape) < 4 and (height, width) != (1, 1)):
            raise op.refused(f"expected a result of shape {wanted}, got {shape}")
        if number in self.values or number in self.pads:
            raise op.refused("expected a result that no other operation gives")
        self.values[number] = value
        if value and self.nodes[value - 1].name == op.place and not packed:
            self.nodes[value - 1] = _numbered(self.nodes[value - 1], number)


def _numbered(node: Node, tensor: int) -> Node:
    return Node(**{**vars(node), "tensor": tensor})


def _conv(op: Operation, b: _Builder) -> int:
    weight = np.asarray(op.needed(1, 4), np.float32)
    options = op.options("Conv2DOptions")
    op.plain(options.DilationHFactor(), options.DilationWFactor())
    out, height, width, channels = weight.shape
    kernel, stride = op.square(height, width), op.stride(options.StrideH(), options.StrideW())
    groups, rest = divmod(op.map(0)[2], max(channels, 1))
    if rest or groups < 1 or out % groups:
        raise op.refused(f"expected weights for {op.map(0)[2]} channels, got {channels}")
    source, pad = b.window(op, op.pad(options.Padding(), kernel, stride))
    weights = {"weight": weight, "bias": op.optional(2, out, 0.0)}
    value = b.add(op, "conv", (source,), weights=weights, kernel=kernel, stride=stride, pad=pad, groups=groups)
    return b.active(op, value, op.activation(options.FusedActivationFunction()))


def _depthwise(op: Operation, b: _Builder) -> int:
    weight = np.asarray(op.needed(1, 4), np.float32)
    options = op.options("DepthwiseConv2DOptions")
    op.plain(options.DilationHFactor(), options.DilationWFactor())
    one, height, width, out = weight.shape
    kernel, stride, channels = op.square(height, width), op.stride(options.StrideH(), options.StrideW()), op.map(0)[2]
    if out % channels or one != 1:
        raise op.refused(f"expected a multiple of {channels} channels, got {out}")
    source, pad = b.window(op, op.pad(options.Padding(), kernel, stride))
    weights = {"weight": np.ascontiguousarray(weight.transpose(3, 1, 2, 0)), "bias": op.optional(2, out, 0.0)}
    value = b.add(op, "conv", (source,), weights=weights, kernel=kernel, stride=stride, pad=pad, groups=channels)
    return b.active(op, value, op.activation(options.FusedActivationFunction()))


def _dense(op: Operation, b: _Builder) -> int:
    weight = np.asarray(op.needed(1, 2), np.float32)
    options = op.options("FullyConnectedOptions")
    if options.WeightsFormat() != 0 or b.shapes[b.read(op, 0)][:2] != (1, 1):
        raise op.refused(f"expected one row of features, as behind a mean over the map, got {b.shapes[b.read(op, 0)]}")
    weights = {"weight": weight[:, None, None, :], "bias": op.optional(2, len(weight), 0.0)}
    return b.active(op, b.add(op, "conv", (b.read(op, 0),), weights=weights), op.activation(options.FusedActivationFunction()))


def _signs(op: Operation, channels_in: int) -> tuple[NDArray[np.int8], int]:
    # Weights -1 (bit 1) and +1, (out, k, k, in / groups), and groups.
    packed = op.needed(1, 4)
    words = packed.shape[3]
    if packed.dtype != np.int32 or not 1 <= channels_in <= 1 << 16 or words < 1:
        raise op.refused(f"expected weights packed to 32 a word, and channels_in, got {packed.dtype} and {channels_in}")
    groups, rest = (1, 0) if -(-channels_in // 32) == words else divmod(channels_in, 32 * words)
    if rest or groups < 1:
        raise op.refused(f"expected weights of {channels_in} channels, got {words} words of 32")
    each = channels_in // groups
    bits = np.unpackbits(np.ascontiguousarray(packed.astype("<i4")).view(np.uint8), axis=-1, bitorder="little")[..., :each]
    return (1 - 2 * bits.astype(np.int8)), groups


def _binary(op: Operation, b: _Builder) -> int:
    options = op.custom()
    op.plain(options.get("dilation_height_factor", 1), options.get("dilation_width_factor", 1))
    weight, groups = _signs(op, options.get("channels_in", 0))
    out, height, width, inner = weight.shape
    kernel, stride = op.square(height, width), op.stride(options.get("stride_height", 1), options.get("stride_width", 1))
    source, pad = b.window(op, op.pad_of_sizes(kernel, stride))
    outside = 1 if op.inputs[0] in b.pads else options.get("pad_values", 0)  # the sign of a PAD's 0 is +1
    if outside not in (0, 1):
        raise op.refused(f"expected a pad of 0 or 1, got {outside}")
    activation = op.activation(options.get("fused_activation_function", 0))
    if activation == "relu6":
        raise op.refused("expected no activation or ReLU inside, got ReLU6")
    multiplier, bias = op.optional(2, out, 1.0), op.optional(3, out, 0.0)
    relu, thresholds = activation == "relu", op.inputs[4] if len(op.inputs) > 4 else -1
    if (
        op.file.types[op.outputs[0]] == INT32
    ):  # signs: -1 where more taps differ than the threshold says, that is where the dot product is small
        if thresholds < 0:
            raise op.refused("expected thresholds for a result of signs")
        differing = op.needed(4)
        if differing.dtype != np.int32 or differing.size != out:
            raise op.refused(f"expected a whole threshold for each of {out} channels")
        multiplier, relu = np.ones(out, np.float32), False
        # differing > t  <=>  reach - 2 differing < reach - 2t; beyond +-reach nothing changes.
        reach = kernel * kernel * inner
        bias = 2.0 * np.clip(differing.reshape(-1).astype(np.float64), -reach - 1, reach + 1).astype(np.float32) - np.float32(reach)
    weights = {"weight": weight, "multiplier": multiplier, "bias": bias}
    return b.add(
        op, "binary", (source,), weights=weights, kernel=kernel, stride=stride, pad=pad, groups=groups, pad_value=outside, relu=relu
    )


def _pool(kind: str) -> Callable[[Operation, _Builder], int]:
    def read(op: Operation, b: _Builder) -> int:
        options = op.options("Pool2DOptions")
        kernel, (height, width, _) = op.square(options.FilterHeight(), options.FilterWidth()), op.map(0)
        whole = kind == "average_pool" and kernel == height == width
        stride = 1 if whole else op.stride(options.StrideH(), options.StrideW())
        pad = NO_PAD if whole else op.pad(options.Padding(), kernel, stride)
        value = b.add(op, kind, (b.read(op, 0),), kernel=kernel, stride=stride, pad=pad)
        return b.active(op, value, op.activation(options.FusedActivationFunction()))

    return read


def _binary_pool(op: Operation, b: _Builder) -> int:
    # The largest sign is the sign of the largest.
    options = op.custom()
    kernel = op.square(options.get("filter_height", 0), options.get("filter_width", 0))
    stride = op.stride(options.get("stride_height", 0), options.get("stride_width", 0))
    return b.add(op, "max_pool", (b.read(op, 0),), kernel=kernel, stride=stride, pad=op.pad_of_sizes(kernel, stride))


def _mean(op: Operation, b: _Builder) -> int:
    height, width, _ = op.map(0)
    if sorted(axis % 4 for axis in op.whole(1)) != [1, 2] or height != width:
        raise op.refused(f"expected a mean over the whole of a square map, got axes {op.whole(1)} of {height} x {width}")
    return b.add(op, "average_pool", (b.read(op, 0),), kernel=height)


def _negated(op: Operation, b: _Builder, value: int) -> int:
    channels = b.shapes[value][2]
    return b.add(op, "scale", (value,), weights={"multiplier": -np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)})


def _arithmetic(op: Operation, b: _Builder) -> int:
    activation = op.activation(
        op.options({"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[op.kind]).FusedActivationFunction()
    )
    if len(op.inputs) != 2:
        raise op.refused(f"expected two inputs, got {len(op.inputs)}")
    constants = [op.file.constant(i) for i in op.inputs]
    if constants[0] is None and constants[1] is None:
        one, other = b.read(op, 0), b.read(op, 1)
        if op.kind == "MUL":
            maps = (one, other) if b.shapes[other][:2] == (1, 1) else (other, one)
            return b.active(op, b.add(op, "gate", maps), activation)
        return b.active(op, b.add(op, "add", (one, _negated(op, b, other) if op.kind == "SUB" else other)), activation)
    place = 0 if constants[0] is None else 1
    value, own = b.read(op, place), constants[1 - place]
    if own is None:
        raise op.refused("expected a value that is computed")
    by_channel = op.by_channel(own, b.shapes[value][2])
    one_each, none = np.ones_like(by_channel), np.zeros_like(by_channel)
    if op.kind == "MUL":
        weights = {"multiplier": by_channel, "bias": none}
    elif op.kind == "ADD":
        weights = {"multiplier": one_each, "bias": by_channel}
    else:
        weights = {"multiplier": one_each, "bias": -by_channel} if place == 0 else {"multiplier": -one_each, "bias": by_channel}
    return b.active(op, b.add(op, "scale", (value,), weights=weights), activation)


def _relu(op: Operation, b: _Builder) -> int:
    return b.active(op, b.read(op, 0), "relu6" if op.kind == "RELU6" else "relu")


def _prelu(op: Operation, b: _Builder) -> int:
    value = b.read(op, 0)
    return b.add(op, "prelu", (value,), weights={"slope": op.by_channel(op.needed(1), b.shapes[value][2])})


def _concat(op: Operation, b: _Builder) -> int:
    options = op.options("ConcatenationOptions")
    if options.Axis() not in (-1, 3):
        raise op.refused(f"expected channels one behind the other, got axis {options.Axis()}")
    reads = [b.read(op, i) for i in range(len(op.inputs))]
    value = b.add(op, "concat", reads) if len(reads) > 1 else reads[0]
    return b.active(op, value, op.activation(options.FusedActivationFunction()))


def _split(op: Operation, b: _Builder) -> None:
    axis, value = op.whole(0), b.read(op, 1)
    channels, parts = b.shapes[value][2], len(op.outputs)
    if axis not in ([-1], [3]) or channels % parts:
        raise op.refused(f"expected {channels} channels in equal parts, got axis {axis} and {parts} parts")
    each = channels // parts
    for part, number in enumerate(op.outputs):
        if number in b.values or number in b.pads:
            raise op.refused("expected a result that no other operation gives")
        b.values[number] = b.add(op, "select", (value,), channels=tuple(range(part * each, (part + 1) * each)), tensor=number)


def _pad(op: Operation, b: _Builder) -> int | None:
    amounts, value = op.whole(1), b.read(op, 0)
    if len(amounts) != 8 or min(amounts) < 0 or any(amounts[:2]):
        raise op.refused(f"expected a pad of a map, got {amounts}")
    (top, bottom), (left, right), (before, behind) = amounts[2:4], amounts[4:6], amounts[6:]
    channels = b.shapes[value][2]
    if before + behind == 0 and max(amounts) < 64:
        b.pads[op.outputs[0]] = (value, (top, left, bottom, right))
        return None
    if any(amounts[2:6]) or before + behind + channels > 1 << 16:
        raise op.refused(f"expected a pad of the map or of the channels, got {amounts}")
    return b.add(op, "select", (value,), channels=(-1,) * before + tuple(range(channels)) + (-1,) * behind)


def _same(op: Operation, b: _Builder) -> int:
    return b.read(op, 0)


def _reshape(op: Operation, b: _Builder) -> int:
    value = b.read(op, 0)
    height, width, channels = b.shapes[value]
    if (height, width) != (1, 1) and op.file.shapes[op.outputs[0]] != (1, height, width, channels):
        raise op.refused(f"expected one row of features, got a map {b.shapes[value]}: features that keep their place are not understood")
    return value


_READERS: dict[str, Callable[[Operation, _Builder], int | None]] = {
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _dense, "LceBconv2d": _binary, "LceBMaxPool2d": _binary_pool,
    "LceQuantize": _same, "LceDequantize": lambda op, b: b.add(op, "sign", (b.read(op, 0),)), "MAX_POOL_2D": _pool("max_pool"),
    "AVERAGE_POOL_2D": _pool("average_pool"), "MEAN": _mean, "ADD": _arithmetic, "SUB": _arithmetic, "MUL": _arithmetic, "RELU": _relu, "RELU6": _relu,
    "PRELU": _prelu, "LOGISTIC": lambda op, b: b.add(op, "sigmoid", (b.read(op, 0),)), "CONCATENATION": _concat, "SPLIT": _split, "PAD": _pad,
    "RESHAPE": _reshape, "SQUEEZE": _reshape, "QUANTIZE": _same, "DEQUANTIZE": _same,
}  # fmt: skip


def read_tflite(content: bytes, where: str) -> tuple[Graph, tuple[float, float] | None]:
    """Read a file of LCE or TensorFlow Lite.

    Parameters
    ----------
    content : the file.
    where : what messages call it.

    Returns
    -------
    graph : as the file has it.
    pixels : of a file that takes uint8 or int8 pictures, the mean and the spread of pixels in 0..1 that it reads them with; else None.

    Raises
    ------
    FormatError : it is not sound, or holds an operation that is not understood; the message names it and its place.
    """
    file = File(content, where)
    with sound(where):
        if file.graph.InputsLength() != 1 or file.graph.OutputsLength() != 1:
            raise FormatError(f"{where}: expected one input and one result")
        source, result = int(file.graph.Inputs(0)), int(file.graph.Outputs(0))
        if not (0 <= source < len(file.tensors) and 0 <= result < len(file.tensors)):
            raise FormatError(f"{where}: expected an input and a result among {len(file.tensors)} tensors")
        shape = file.shapes[source]
        if len(shape) != 4 or shape[0] != 1 or shape[1] != shape[2] or shape[3] != 3 or not 8 <= shape[1] <= 1024:
            raise FormatError(f"{where}: expected one square RGB picture of 8 to 1024 pixels, got {shape}")
        return _graph_of(file, source, result, shape[1]), _pixels(file, source)


def _pixels(file: File, source: int) -> tuple[float, float] | None:
    kind = file.types[source]
    if kind == FLOAT:
        return None
    if kind not in QUANTISED:
        raise FormatError(f"{file.where}: tensor {source}: expected pictures of float32, uint8 or int8, got type {kind}")
    scale, zero = file.unit(source)
    first = zero if kind == 3 else zero + 128
    return first / _PIXEL, 1.0 / (_PIXEL * scale)


def _graph_of(file: File, source: int, result: int, side: int) -> Graph:
    b, ended = _Builder(file, source), False
    for number in range(file.graph.OperatorsLength()):
        op = Operation(file, number)
        if ended:
            raise op.refused("expected nothing behind a SOFTMAX")
        if op.kind == "SOFTMAX":
            b.values[op.outputs[0]], ended = b.read(op, 0), True
            continue
        if op.kind not in _READERS:
            raise op.refused(f"not understood; understood are {', '.join([*_READERS, 'SOFTMAX'])}")
        if len(op.outputs) != 1 and op.kind != "SPLIT":
            raise op.refused(f"expected one result, got {len(op.outputs)}")
        value = _READERS[op.kind](op, b)
        if value is not None:
            b.finish(op, value)
    if not b.nodes or b.values.get(result) is None:
        raise FormatError(f"{file.where}: expected a result that an operation gives")
    return _ended(b, b.values[result], side)


def _ended(b: _Builder, value: int, side: int) -> Graph:
    # The graph up to a value; a dense layer at its end, which reads one row of features, is the classifier.
    nodes, classifier = b.nodes[:value], None
    last = nodes[-1] if nodes else None
    if (
        last is not None
        and last.kind == "conv"
        and not last.relu
        and last.kernel == 1
        and last.groups == 1
        and b.shapes[last.reads[0]][:2] == (1, 1)
    ):
        weight: Array = np.asarray(last.weights["weight"], np.float32)[:, 0, 0]
        classifier = (weight, np.asarray(last.weights["bias"], np.float32))
        nodes = nodes[: last.reads[0]]
    if not nodes:
        raise FormatError(f"{b.file.where}: expected operations before the classifier")
    return Graph(tuple(nodes), side, classifier).kept({})
