"""Networks of LCE and TensorFlow Lite: a flatbuffer becomes a float graph.

Reads what LCE's converter writes of a classifier of pictures, in files of before and after August 2020.  What it does not understand it refuses by the
operation's name and number.  Needs the package ``tflite``, the schema of the format; TensorFlow is not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from .graph import Floats, Graph, Node, Pad

_DTYPES = {0: np.float32, 2: np.int32}  # of constants
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}
_MOST_TENSORS, _MOST_VALUES = 20_000, 1 << 27
_SAME, _VALID = 0, 1
_DEAD = (
    "SOFTMAX",
    "RESHAPE",
    "SQUEEZE",
    "LceQuantize",
)  # nothing of them is left: the classifier's scores, shapes, signs that the next node takes itself


class _File:
    """Tensors and operations of a flatbuffer, checked."""

    def __init__(self, content: bytes, where: str) -> None:
        import tflite

        self.where = where
        try:
            model = tflite.Model.GetRootAs(content, 0)
            if model.SubgraphsLength() != 1:
                raise FormatError(f"{where}: expected one graph, got {model.SubgraphsLength()}")
            self.model, self.graph = model, model.Subgraphs(0)
            if self.graph.TensorsLength() > _MOST_TENSORS or self.graph.OperatorsLength() > _MOST_TENSORS:
                raise FormatError(f"{where}: expected at most {_MOST_TENSORS} tensors and operations")
            self.names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if not name.startswith("_")}
            self.shapes = [self._shape(i) for i in range(self.graph.TensorsLength())]
        except (struct.error, IndexError, TypeError, AttributeError, ValueError, OverflowError, MemoryError) as error:
            raise FormatError(f"{where}: not a sound TensorFlow Lite file") from error

    def _shape(self, number: int) -> tuple[int, ...]:
        tensor = self.graph.Tensors(number)
        shape = tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))
        size = 1
        for length in shape:
            size *= max(length, 0)
        if size > _MOST_VALUES or len(shape) > 8:
            raise FormatError(f"{self.where}: tensor {number}: expected at most {_MOST_VALUES} values")
        return shape

    def name(self, number: int) -> str:
        """Of a tensor, as the file has it."""
        return str((self.graph.Tensors(number).Name() or b"").decode("utf-8", "replace"))[:80]

    def constant(self, number: int) -> NDArray[Any] | None:
        """Values of a tensor that the file holds, or None of one that is computed."""
        if not 0 <= number < len(self.shapes):
            return None
        tensor = self.graph.Tensors(number)
        if not 0 < tensor.Buffer() < self.model.BuffersLength():
            return None
        buffer = self.model.Buffers(tensor.Buffer())
        if not buffer.DataLength():
            return None
        if tensor.Type() not in _DTYPES:
            raise FormatError(f"{self.where}: tensor {self.name(number)!r}: expected float32 or int32 values, got type {tensor.Type()}")
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), _DTYPES[tensor.Type()])
        size = int(np.prod(self.shapes[number], dtype=np.int64))
        if values.size != size:
            raise FormatError(f"{self.where}: tensor {self.name(number)!r}: expected {size} values, got {values.size}")
        return values.reshape(self.shapes[number])


class _Operation:
    """One operation of the file and what it asks for."""

    def __init__(self, file: _File, number: int) -> None:
        self.file, self.number = file, number
        self.operator = file.graph.Operators(number)
        code = file.model.OperatorCodes(self.operator.OpcodeIndex())
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = code.CustomCode()
        self.kind = custom.decode("ascii", "replace") if builtin == 32 and custom else str(file.names.get(builtin, builtin))
        self.inputs = [int(self.operator.Inputs(i)) for i in range(self.operator.InputsLength())]
        self.outputs = [int(self.operator.Outputs(i)) for i in range(self.operator.OutputsLength())]
        if (
            len(self.outputs) != 1
            or not self.inputs
            or any(n >= len(file.shapes) for n in (*self.inputs, *self.outputs))
            or self.outputs[0] < 0
        ):
            raise self.refused("expected one result of inputs that there are")

    def refused(self, why: str) -> FormatError:
        """The error that names this operation and its place."""
        name = self.file.name(self.outputs[0]) if self.outputs and 0 <= self.outputs[0] < len(self.file.shapes) else ""
        return FormatError(f"{self.file.where}: operation {self.number}, {self.kind} {name!r}: {why}")

    def options(self, kind: str) -> Any:
        """Its options, of a type of the schema."""
        import tflite

        table = self.operator.BuiltinOptions()
        if table is None:
            raise self.refused("expected options")
        options = getattr(tflite, kind)()
        options.Init(table.Bytes, table.Pos)
        return options

    def custom(self) -> dict[str, Any]:
        """Its options, of one that is LCE's own: a flexbuffer's map."""
        from flatbuffers import flexbuffers

        content = bytes(self.operator.CustomOptions(i) for i in range(self.operator.CustomOptionsLength()))
        try:
            found = flexbuffers.Loads(content)
        except Exception as error:  # a library's own errors, of bytes that anybody may have written
            raise self.refused("expected options of LCE") from error
        if not isinstance(found, dict):
            raise self.refused("expected options of LCE")
        return {(key.decode() if isinstance(key, bytes) else str(key)): value for key, value in found.items()}

    def relu(self, code: int) -> bool:
        """Whether a fused activation is ReLU."""
        name = _ACTIVATIONS.get(code, str(code))
        if name not in ("none", "relu"):
            raise self.refused(f"expected no activation or ReLU, got {name}")
        return name == "relu"

    def stride(self, height: int, width: int) -> int:
        """The one stride."""
        if height != width or not 1 <= height <= 4:
            raise self.refused(f"expected one stride from 1 to 4, got {height} x {width}")
        return int(height)

    def pad(self, padding: int, kernel: int, stride: int) -> Pad:
        """What TensorFlow pads: with SAME as little as gives ceil(side / stride), the odd one at the end."""
        if padding == _VALID:
            return (0, 0, 0, 0)
        if padding != _SAME:
            raise self.refused(f"expected padding SAME or VALID, got {padding}")
        _, height, width, _ = self.map(0)
        both = []
        for side in (height, width):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            both.append((total // 2, total - total // 2))
        return (both[0][0], both[1][0], both[0][1], both[1][1])

    def map(self, i: int) -> tuple[int, ...]:
        """Shape (N, H, W, C) of an input."""
        shape = self.file.shapes[self.inputs[i]] if i < len(self.inputs) and self.inputs[i] >= 0 else ()
        if len(shape) != 4 or min(shape) < 1:
            raise self.refused(f"expected a map (N, H, W, C), got {shape}")
        return shape

    def needed(self, i: int, dims: int | None = None) -> NDArray[Any]:
        """A constant input."""
        values = self.file.constant(self.inputs[i]) if i < len(self.inputs) else None
        if values is None or (dims is not None and values.ndim != dims):
            raise self.refused(f"expected input {i} to be in the file")
        return values

    def optional(self, i: int, channels: int, missing: float) -> Floats:
        """A constant for each channel, or one that is missing."""
        if i >= len(self.inputs) or self.inputs[i] < 0:
            return np.full(channels, missing, np.float32)
        return self.by_channel(self.needed(i), channels)

    def by_channel(self, values: NDArray[Any], channels: int) -> Floats:
        """One value for each channel, or for all of them."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size not in (1, channels) or values.size != values.shape[-1] * (values.ndim > 0) + (values.ndim == 0):
            raise self.refused(f"expected a value for each of {channels} channels, got shape {values.shape}")
        return np.ascontiguousarray(np.broadcast_to(flat, channels))


def _square(op: _Operation, height: int, width: int) -> int:
    if height != width:
        raise op.refused(f"expected a square window, got {height} x {width}")
    return int(height)


def _conv(op: _Operation) -> Node:
    weight = np.asarray(op.needed(1, 4), np.float32)
    options = op.options("Conv2DOptions")
    if options.DilationHFactor() != 1 or options.DilationWFactor() != 1:
        raise op.refused("expected no dilation")
    out, kernel, _, channels = weight.shape
    groups, rest = divmod(op.map(0)[3], channels)
    if rest or groups < 1 or out % groups:
        raise op.refused(f"expected weights for {op.map(0)[3]} channels, got {channels}")
    stride = op.stride(options.StrideH(), options.StrideW())
    return Node(
        "conv", (), weights={"weight": weight, "bias": op.optional(2, out, 0.0)}, kernel=_square(op, kernel, weight.shape[2]), stride=stride,
        pad=op.pad(options.Padding(), kernel, stride), groups=groups, relu=op.relu(options.FusedActivationFunction()),
    )  # fmt: skip


def _depthwise(op: _Operation) -> Node:
    weight = np.asarray(op.needed(1, 4), np.float32)
    options = op.options("DepthwiseConv2DOptions")
    if options.DilationHFactor() != 1 or options.DilationWFactor() != 1:
        raise op.refused("expected no dilation")
    _, kernel, _, out = weight.shape
    channels = op.map(0)[3]
    if out % channels or weight.shape[0] != 1:
        raise op.refused(f"expected a multiple of {channels} channels, got {out}")
    stride = op.stride(options.StrideH(), options.StrideW())
    return Node(
        "conv", (), weights={"weight": weight.transpose(3, 1, 2, 0).copy(), "bias": op.optional(2, out, 0.0)}, kernel=_square(op, kernel, weight.shape[2]),
        stride=stride, pad=op.pad(options.Padding(), kernel, stride), groups=channels, relu=op.relu(options.FusedActivationFunction()),
    )  # fmt: skip


def _binary(op: _Operation) -> Node:
    options = op.custom()

    def number(name: str, missing: int) -> int:
        value = options.get(name, missing)
        if not isinstance(value, int):
            raise op.refused(f"expected a whole number as {name}")
        return value

    if number("dilation_height_factor", 1) != 1 or number("dilation_width_factor", 1) != 1:
        raise op.refused("expected no dilation")
    packed = op.needed(1, 4)
    channels = number("channels_in", 0)
    if packed.dtype != np.int32 or not 1 <= channels <= 32 * packed.shape[3] or channels <= 32 * (packed.shape[3] - 1):
        raise op.refused(f"expected weights of 32 channels a word for {channels} channels")
    groups, rest = divmod(op.map(0)[3] if op.file.graph.Tensors(op.inputs[0]).Type() == 0 else channels, channels)
    bits = np.unpackbits(np.ascontiguousarray(packed).view(np.uint8), axis=-1, bitorder="little")[..., :channels]
    weight = np.where(bits, np.float32(-1), np.float32(1))
    out, kernel = weight.shape[:2]
    stride = op.stride(number("stride_height", 1), number("stride_width", 1))
    pad_value = number("pad_values", 0)
    if rest or pad_value not in (0, 1):
        raise op.refused("expected channels that fit, and a pad of 0 or 1")
    # The numbering of paddings changed; the sizes tell.
    pad = op.pad(_SAME if op.file.shapes[op.outputs[0]][1:2] == (-(-op.map(0)[1] // stride),) else _VALID, kernel, stride)
    thresholds = op.inputs[4] if len(op.inputs) > 4 else -1
    if op.file.graph.Tensors(op.outputs[0]).Type() == 2 and thresholds >= 0:
        # A result of bits: -1 where more bits differ than the threshold says, that is where the dot product is below it.
        reach = np.float32(kernel * kernel * channels)
        multiplier, bias, relu = np.ones(out, np.float32), 2.0 * np.asarray(op.needed(4), np.float32) - reach, False
    else:
        multiplier, bias = op.optional(2, out, 1.0), op.optional(3, out, 0.0)
        relu = op.relu(number("fused_activation_function", 0))
    return Node(
        "binary", (), weights={"weight": weight, "multiplier": multiplier, "bias": bias}, kernel=_square(op, kernel, weight.shape[2]), stride=stride,
        pad=pad, groups=groups, pad_value=pad_value, relu=relu,
    )  # fmt: skip


def _pool(kind: str) -> Callable[[_Operation], Node]:
    def read(op: _Operation) -> Node:
        options = op.options("Pool2DOptions")
        kernel, stride = _square(op, options.FilterHeight(), options.FilterWidth()), options.StrideH()
        whole = kind == "average_pool" and kernel == op.map(0)[1] == op.map(0)[2]
        stride = 1 if whole else op.stride(stride, options.StrideW())
        pad = (0, 0, 0, 0) if whole else op.pad(options.Padding(), kernel, stride)
        return Node(kind, (), kernel=kernel, stride=stride, pad=pad, relu=op.relu(options.FusedActivationFunction()))

    return read


def _binary_pool(op: _Operation) -> Node:
    options = op.custom()
    kernel, stride = (
        _square(op, options["filter_height"], options["filter_width"]),
        op.stride(options["stride_height"], options["stride_width"]),
    )
    same = op.file.shapes[op.outputs[0]][1:2] == (-(-op.map(0)[1] // stride),)
    return Node("max_pool", (), kernel=kernel, stride=stride, pad=op.pad(_SAME if same else _VALID, kernel, stride))


def _mean(op: _Operation) -> Node:
    _, height, width, _ = op.map(0)
    if sorted(np.asarray(op.needed(1)).reshape(-1).tolist()) != [1, 2] or height != width:
        raise op.refused("expected a mean over the whole map")
    return Node("average_pool", (), kernel=height)


def _sum(op: _Operation) -> Node:
    kind = {"ADD": "AddOptions", "SUB": "SubOptions", "MUL": "MulOptions"}[op.kind]
    relu = op.relu(op.options(kind).FusedActivationFunction())
    constants = [op.file.constant(i) for i in op.inputs]
    channels = op.file.shapes[op.outputs[0]][-1] if op.file.shapes[op.outputs[0]] else 1
    if len(constants) != 2 or (constants[0] is not None and op.kind == "SUB"):
        raise op.refused("expected two values, not a constant less another")
    if constants[0] is None and constants[1] is None:
        if op.kind == "SUB":
            raise op.refused("expected a constant to be taken off")
        return Node("add" if op.kind == "ADD" else "gate", (), relu=relu)
    own = op.by_channel(constants[1] if constants[1] is not None else np.asarray(constants[0]), channels)
    one, none = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    multiplier, bias = (own, none) if op.kind == "MUL" else (one, own if op.kind == "ADD" else -own)
    return Node("scale", (), weights={"multiplier": multiplier, "bias": bias}, relu=relu)


def _relu(op: _Operation) -> Node:
    channels = op.map(0)[3]
    return Node("scale", (), weights={"multiplier": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}, relu=True)


def _prelu(op: _Operation) -> Node:
    return Node("prelu", (), weights={"slope": op.by_channel(op.needed(1), op.map(0)[3])})


def _concat(op: _Operation) -> Node:
    options = op.options("ConcatenationOptions")
    if options.Axis() not in (-1, 3):
        raise op.refused(f"expected channels one behind the other, got axis {options.Axis()}")
    return Node("concat", (), relu=op.relu(options.FusedActivationFunction()))


_READERS: dict[str, Callable[[_Operation], Node]] = {
    "CONV_2D": _conv, "DEPTHWISE_CONV_2D": _depthwise, "LceBconv2d": _binary, "LceBMaxPool2d": _binary_pool, "MAX_POOL_2D": _pool("max_pool"),
    "AVERAGE_POOL_2D": _pool("average_pool"), "MEAN": _mean, "ADD": _sum, "SUB": _sum, "MUL": _sum, "RELU": _relu, "PRELU": _prelu,
    "CONCATENATION": _concat, "LOGISTIC": lambda op: Node("sigmoid", ()),
}  # fmt: skip


def read_tflite(content: bytes, where: str) -> Graph:
    """Read a file of LCE or TensorFlow Lite.

    Parameters
    ----------
    content : the file.
    where : what messages call it.

    Returns
    -------
    The graph up to what its classifier takes the mean of, and the classifier if it is one dense layer.

    Raises
    ------
    FormatError : it is not sound, or holds an operation that is not understood; the message names it.
    """
    file = _File(content, where)
    try:
        return _graph_of(file)
    except (struct.error, IndexError, KeyError, TypeError, AttributeError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where}: not a sound TensorFlow Lite file: {error}") from error


def _graph_of(file: _File) -> Graph:
    if file.graph.InputsLength() != 1 or file.graph.OutputsLength() != 1:
        raise FormatError(f"{file.where}: expected one input and one result")
    source = int(file.graph.Inputs(0))
    shape = file.shapes[source]
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or not 8 <= shape[1] <= 1024:
        raise FormatError(f"{file.where}: expected square RGB pictures of 8 to 1024 pixels, got {shape}")
    values: dict[int, int] = {source: 0}  # of tensors
    nodes: list[Node] = []
    classifier: tuple[Floats, Floats] | None = None
    for number in range(file.graph.OperatorsLength()):
        op = _Operation(file, number)
        read = [i for i in op.inputs if i >= 0 and file.constant(i) is None]
        if classifier is not None and op.kind != "SOFTMAX":
            raise op.refused("expected nothing behind the classifier")
        if not read or any(i not in values for i in read):
            raise op.refused("expected inputs that were computed before it")
        if op.kind in _DEAD:
            values[op.outputs[0]] = values[read[0]]
        elif op.kind == "FULLY_CONNECTED":
            weight = np.asarray(op.needed(1, 2), np.float32)
            classifier = (weight, op.optional(2, len(weight), 0.0))
            values[op.outputs[0]] = values[read[0]]
        elif op.kind in _READERS:
            nodes.append(replace(_READERS[op.kind](op), reads=tuple(values[i] for i in read), name=file.name(op.outputs[0])))
            values[op.outputs[0]] = len(nodes)
        else:
            raise op.refused(f"not understood; it can be one of {', '.join([*_READERS, *_DEAD, 'FULLY_CONNECTED'])}")
    if not nodes:
        raise FormatError(f"{file.where}: expected at least one operation")
    return Graph(tuple(nodes), shape[1], classifier)
