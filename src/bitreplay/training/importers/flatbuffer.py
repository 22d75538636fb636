"""TensorFlow Lite's flatbuffer: tensors, constants and operations, each checked before it is used.

Knows the container (through the package ``tflite``, which is the schema; TensorFlow is not needed), not what an operation means: that is `tflite`'s.
The bytes may come from an enemy: whatever does not fit is a `FormatError`, and constants may not grow beyond a multiple of the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import FormatError
from .graph import NO_PAD, Array, Pad, same_pad

MOST_TENSORS = 16_384
MOST_DIMENSIONS = 8
MOST_INPUTS = 256
SHARED = 4  # how often, on average, the bytes of a file may be read as constants
_DTYPES: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 2: np.dtype("<i4"), 3: np.dtype("u1"), 4: np.dtype("<i8"), 9: np.dtype("i1")}
FLOAT, INT32, UINT8, INT64, INT8 = 0, 2, 3, 4, 9
QUANTISED = (UINT8, INT8)
_CUSTOM = 32
_SAME, _VALID = 0, 1
_ACTIVATIONS = {0: "none", 1: "relu", 3: "relu6"}

# What reading a hostile flatbuffer may end in.
_UNSOUND = (
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
    AssertionError,
)


@contextmanager
def sound(where: str) -> Iterator[None]:
    """Errors of reading become FormatError; ours pass."""
    try:
        yield
    except FormatError:
        raise
    except _UNSOUND as error:
        raise FormatError(f"{where}: not a sound TensorFlow Lite file ({type(error).__name__}: {str(error)[:200]})") from error


class File:
    """A TensorFlow Lite file of one graph.

    Parameters
    ----------
    content : its bytes.
    where : what messages call it.
    """

    def __init__(self, content: bytes, where: str) -> None:
        import tflite

        self.where, self._room = where, SHARED * len(content) + (1 << 16)
        self._constants: dict[int, NDArray[Any] | None] = {}
        with sound(where):
            if len(content) < 16 or content[4:8] != b"TFL3":
                raise FormatError(f"{where}: expected a TensorFlow Lite file, which has TFL3 as its bytes 4 to 7")
            self.model = tflite.Model.GetRootAs(content, 0)
            if self.model.SubgraphsLength() != 1:
                raise FormatError(f"{where}: expected one graph, got {self.model.SubgraphsLength()}")
            self.graph = self.model.Subgraphs(0)
            tensors, operators = self.graph.TensorsLength(), self.graph.OperatorsLength()
            if max(tensors, operators) > MOST_TENSORS:
                raise FormatError(f"{where}: expected at most {MOST_TENSORS} tensors and operations, got {tensors} and {operators}")
            self.names = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
            self.tensors = [self.graph.Tensors(i) for i in range(tensors)]
            self.shapes = [self._shape(i) for i in range(tensors)]
            self.types = [int(tensor.Type()) for tensor in self.tensors]

    def _shape(self, number: int) -> tuple[int, ...]:
        length = self.tensors[number].ShapeLength()
        if length > MOST_DIMENSIONS:
            raise FormatError(f"{self.where}: tensor {number}: expected at most {MOST_DIMENSIONS} dimensions, got {length}")
        return tuple(int(self.tensors[number].Shape(i)) for i in range(length))

    def name(self, number: int) -> str:
        """Of a tensor, as the file has it; what cannot be printed is left out."""
        text = (self.tensors[number].Name() or b"").decode("utf-8", "replace")[:120]
        return "".join(c if c.isprintable() else "?" for c in text)

    def unit(self, number: int) -> tuple[float, float]:
        """Scale and zero point of a quantised tensor with one of each: value = scale * (q - zero point)."""
        scale, zero = self._units(number)
        if scale.size != 1:
            raise FormatError(f"{self.where}: tensor {number} {self.name(number)!r}: expected one scale, got {scale.size}")
        return float(scale[0]), float(zero[0])

    def _units(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found = self.tensors[number].Quantization()
        if found is None or not 1 <= found.ScaleLength() <= 1 << 16:
            raise FormatError(f"{self.where}: tensor {number} {self.name(number)!r}: expected a scale")
        scale = np.array([found.Scale(i) for i in range(found.ScaleLength())], np.float64)
        zero = np.array([found.ZeroPoint(i) for i in range(found.ZeroPointLength())], np.float64)
        zero = zero if zero.size == scale.size else np.zeros_like(scale) if zero.size == 0 else np.resize(zero, scale.size)
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            raise FormatError(f"{self.where}: tensor {number} {self.name(number)!r}: expected scales above 0")
        return scale, zero

    def constant(self, number: int) -> NDArray[Any] | None:
        """Values of a tensor that the file holds, None of one that is computed; float32 of quantised ones, or int32, int64."""
        if not 0 <= number < len(self.tensors):
            return None
        if number not in self._constants:
            self._constants[number] = self._constant(number)
        return self._constants[number]

    def _constant(self, number: int) -> NDArray[Any] | None:
        place = self.tensors[number].Buffer()
        if not 0 < place < self.model.BuffersLength():
            return None
        buffer = self.model.Buffers(place)
        length = buffer.DataLength()
        if not length:
            return None
        here = f"{self.where}: tensor {number} {self.name(number)!r}"
        self._room -= length
        if self._room < 0:
            raise FormatError(f"{here}: expected constants of about the file's size")
        if self.types[number] not in _DTYPES:
            raise FormatError(f"{here}: expected values of float32, int8, uint8, int32 or int64, got type {self.types[number]}")
        dtype, shape = _DTYPES[self.types[number]], self.shapes[number]
        expected = dtype.itemsize
        for side in shape:
            expected *= max(side, 0)  # Python's integers: no overflow
        if expected != length:
            raise FormatError(f"{here}: expected {expected} bytes for {shape}, got {length}")
        values = np.frombuffer(buffer.DataAsNumpy().tobytes(), dtype).reshape(shape)
        if self.types[number] == FLOAT and not np.isfinite(values).all():
            raise FormatError(f"{here}: expected finite values")
        quantised = self.types[number] in QUANTISED or (self.types[number] == INT32 and self._scaled(number))
        return self._real(number, values) if quantised else values

    def _scaled(self, number: int) -> bool:
        found = self.tensors[number].Quantization()
        return found is not None and found.ScaleLength() > 0

    def _real(self, number: int, values: NDArray[Any]) -> Array:
        scale, zero = self._units(number)
        axis = self.tensors[number].Quantization().QuantizedDimension() if scale.size > 1 else 0
        along = np.ones(max(values.ndim, 1), int)
        if scale.size > 1:
            if not 0 <= axis < values.ndim or values.shape[axis] != scale.size:
                raise FormatError(f"{self.where}: tensor {number} {self.name(number)!r}: expected a scale for each of its channels")
            along[axis] = scale.size
        return np.asarray((values - zero.reshape(along)) * scale.reshape(along), np.float32).reshape(values.shape)


class Operation:
    """One operation of a file and what it asks for."""

    def __init__(self, file: File, number: int) -> None:
        self.file, self.number = file, number
        self._table = file.graph.Operators(number)
        index = self._table.OpcodeIndex()
        if index >= file.model.OperatorCodesLength():
            raise FormatError(f"{file.where}: operation {number}: expected one of {file.model.OperatorCodesLength()} codes, got {index}")
        code = file.model.OperatorCodes(index)
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        custom = (code.CustomCode() or b"")[:80].decode("ascii", "replace")
        self.kind = custom if builtin == _CUSTOM and custom.isprintable() and custom else str(file.names.get(builtin, builtin))
        self.inputs: list[int] = []
        self.outputs: list[int] = []
        if self._table.InputsLength() > MOST_INPUTS or self._table.OutputsLength() > MOST_INPUTS:
            raise self.refused(f"expected at most {MOST_INPUTS} inputs and results")
        self.inputs = [int(self._table.Inputs(i)) for i in range(self._table.InputsLength())]
        self.outputs = [int(self._table.Outputs(i)) for i in range(self._table.OutputsLength())]
        if not self.inputs or not self.outputs:
            raise self.refused("expected inputs and a result")
        for place in (*self.inputs, *self.outputs):
            if not -1 <= place < len(file.tensors) or (place < 0 and place in self.outputs):
                self.outputs = []
                raise self.refused(f"expected numbers of {len(file.tensors)} tensors, got {place}")

    @property
    def place(self) -> str:
        """What messages call it."""
        name = self.file.name(self.outputs[0]) if self.outputs else ""
        return f"operation {self.number}, {self.kind} {name!r}"

    def refused(self, why: str) -> FormatError:
        """The error that names this operation and its place."""
        return FormatError(f"{self.file.where}: {self.place}: {why}")

    def options(self, kind: str) -> Any:
        """Its options, of a type of the schema."""
        import tflite

        table = self._table.BuiltinOptions()
        if table is None or self._table.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, kind):
            raise self.refused(f"expected {kind}")
        options = getattr(tflite, kind)()
        options.Init(table.Bytes, table.Pos)
        return options

    def custom(self) -> dict[str, int]:
        """Its options, of one that is LCE's own: a flexbuffer's map of whole numbers."""
        from flatbuffers import flexbuffers

        if not 3 <= self._table.CustomOptionsLength() <= 4096:
            raise self.refused("expected options of LCE")
        try:
            found = flexbuffers.Loads(self._table.CustomOptionsAsNumpy().tobytes())
        except Exception as error:  # a library's own errors, of bytes that anybody may have written
            raise self.refused("expected options of LCE") from error
        if not isinstance(found, dict):
            raise self.refused("expected options of LCE")
        return {str(key): int(value) for key, value in found.items() if isinstance(value, int)}

    def activation(self, code: int) -> str:
        """Name of a fused activation."""
        name = _ACTIVATIONS.get(code)
        if name is None:
            raise self.refused(f"expected no activation, ReLU or ReLU6 inside, got activation {code} of the schema")
        return name

    def stride(self, height: int, width: int) -> int:
        """The one stride."""
        if height != width or not 1 <= height <= 4:
            raise self.refused(f"expected one stride from 1 to 4, got {height} x {width}")
        return int(height)

    def square(self, height: int, width: int) -> int:
        """The side of a window."""
        if height != width or height < 1:
            raise self.refused(f"expected a square window, got {height} x {width}")
        return int(height)

    def plain(self, height: int, width: int) -> None:
        """Refuse dilation."""
        if (height, width) != (1, 1):
            raise self.refused(f"expected no dilation, got {height} x {width}")

    def pad(self, padding: int, kernel: int, stride: int) -> Pad:
        """What TensorFlow pads."""
        if padding == _VALID:
            return NO_PAD
        if padding != _SAME:
            raise self.refused(f"expected padding SAME or VALID, got {padding}")
        height, width, _ = self.map(0)
        return same_pad(height, width, kernel, stride)

    def pad_of_sizes(self, kernel: int, stride: int) -> Pad:
        """As `pad`, where the numbering changed between releases: the sizes tell (where they agree, there is nothing to pad)."""
        same = self.file.shapes[self.outputs[0]][1:2] == (-(-self.map(0)[0] // stride),)
        return self.pad(_SAME if same else _VALID, kernel, stride)

    def map(self, i: int) -> tuple[int, int, int]:
        """(H, W, C) of an input."""
        shape = self.file.shapes[self.inputs[i]] if i < len(self.inputs) and self.inputs[i] >= 0 else ()
        if len(shape) not in (2, 4) or min(shape) < 1 or shape[0] != 1:
            raise self.refused(f"expected a map (1, H, W, C) as input {i}, got {shape}")
        return (shape[1], shape[2], shape[3]) if len(shape) == 4 else (1, 1, shape[1])

    def needed(self, i: int, dims: int | None = None) -> NDArray[Any]:
        """A constant input."""
        values = self.file.constant(self.inputs[i]) if i < len(self.inputs) else None
        if values is None or (dims is not None and values.ndim != dims):
            raise self.refused(f"expected input {i} to be in the file" + ("" if dims is None else f", with {dims} dimensions"))
        return values

    def whole(self, i: int) -> list[int]:
        """A constant input of at most 64 whole numbers."""
        values = self.needed(i)
        if values.dtype.kind != "i" or values.size > 64:
            raise self.refused(f"expected a few whole numbers as input {i}")
        return [int(v) for v in values.reshape(-1)]

    def optional(self, i: int, channels: int, missing: float) -> Array:
        """A constant for each channel, or one that is missing."""
        if i >= len(self.inputs) or self.inputs[i] < 0:
            return np.full(channels, missing, np.float32)
        return self.by_channel(self.needed(i), channels)

    def by_channel(self, values: NDArray[Any], channels: int) -> Array:
        """One value for each channel, or for all of them."""
        flat = np.asarray(values, np.float32).reshape(-1)
        if flat.size not in (1, channels) or (values.ndim > 0 and values.shape[-1] != flat.size):
            raise self.refused(f"expected a value for each of {channels} channels, got shape {values.shape}")
        return np.ascontiguousarray(np.broadcast_to(flat, channels))
