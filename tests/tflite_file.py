"""Small files of TensorFlow Lite and LCE, written with the schema's own builder, for tests of the importer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite
from flatbuffers import flexbuffers
from numpy.typing import NDArray

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int8": 9}
CUSTOM = 32


def packed(negative: NDArray[np.bool_]) -> NDArray[np.int32]:
    """LCE's weights: bit 1 is -1, 32 channels a word."""
    channels = negative.shape[-1]
    wide = np.zeros((*negative.shape[:-1], -(-channels // 32) * 32), np.bool_)
    wide[..., :channels] = negative
    return np.packbits(wide, axis=-1, bitorder="little").view("<i4")


@dataclass
class _Tensor:
    shape: tuple[int, ...]
    dtype: str
    name: str
    data: bytes | None = None
    scale: tuple[float, int] | None = None


@dataclass
class File:
    """A file that grows by an operation at a time; tensors go by their numbers."""

    tensors: list[_Tensor] = field(default_factory=list)
    operations: list[tuple[str, list[int], list[int], str, dict[str, Any]]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)

    def tensor(self, shape: tuple[int, ...], dtype: str = "float32", name: str = "", scale: tuple[float, int] | None = None) -> int:
        self.tensors.append(_Tensor(shape, dtype, name or f"tensor{len(self.tensors)}", None, scale))
        return len(self.tensors) - 1

    def constant(self, values: NDArray[Any], scale: tuple[float, int] | None = None) -> int:
        self.tensors.append(_Tensor(values.shape, str(values.dtype), f"constant{len(self.tensors)}", values.tobytes(), scale))
        return len(self.tensors) - 1

    def add(
        self, kind: str, inputs: list[int], shape: tuple[int, ...], options: str = "", dtype: str = "float32", name: str = "", **fields: Any
    ) -> int:
        result = self.tensor(shape, dtype, name or f"{kind.lower()}{len(self.operations)}")
        self.operations.append((kind, inputs, [result], options, fields))
        return result

    def content(self) -> bytes:
        """The file; its result is the last operation's unless `outputs` says otherwise."""
        b = flatbuffers.Builder(1024)
        kinds = sorted({operation[0] for operation in self.operations})
        buffers = [self._buffer(b, None)] + [self._buffer(b, t.data) for t in self.tensors]
        tensors = [self._tensor(b, t, i + 1 if t.data is not None else 0) for i, t in enumerate(self.tensors)]
        operations = [self._operation(b, kinds, *operation) for operation in self.operations]
        codes = [self._code(b, kind) for kind in kinds]
        ends = _numbers(b, self.outputs or self.operations[-1][2])
        starts = _numbers(b, self.inputs)
        tensor_list, operation_list = _offsets(b, tensors), _offsets(b, operations)
        tflite.SubGraphStart(b)
        tflite.SubGraphAddTensors(b, tensor_list)
        tflite.SubGraphAddInputs(b, starts)
        tflite.SubGraphAddOutputs(b, ends)
        tflite.SubGraphAddOperators(b, operation_list)
        graph = tflite.SubGraphEnd(b)
        graphs, code_list, buffer_list = _offsets(b, [graph]), _offsets(b, codes), _offsets(b, buffers)
        tflite.ModelStart(b)
        tflite.ModelAddVersion(b, 3)
        tflite.ModelAddOperatorCodes(b, code_list)
        tflite.ModelAddSubgraphs(b, graphs)
        tflite.ModelAddBuffers(b, buffer_list)
        b.Finish(tflite.ModelEnd(b), file_identifier=b"TFL3")
        return bytes(b.Output())

    def _buffer(self, b: Any, data: bytes | None) -> int:
        place = b.CreateByteVector(data) if data is not None else None
        tflite.BufferStart(b)
        if place is not None:
            tflite.BufferAddData(b, place)
        return int(tflite.BufferEnd(b))

    def _tensor(self, b: Any, tensor: _Tensor, buffer: int) -> int:
        name, shape, quantised = b.CreateString(tensor.name), _numbers(b, tensor.shape), None
        if tensor.scale is not None:
            scale = b.CreateNumpyVector(np.array([tensor.scale[0]], np.float32))
            zero = b.CreateNumpyVector(np.array([tensor.scale[1]], np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero)
            quantised = tflite.QuantizationParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, TYPES[tensor.dtype])
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, name)
        if quantised is not None:
            tflite.TensorAddQuantization(b, quantised)
        return int(tflite.TensorEnd(b))

    def _operation(
        self, b: Any, kinds: list[str], kind: str, inputs: list[int], outputs: list[int], options: str, fields: dict[str, Any]
    ) -> int:
        reads, gives = _numbers(b, inputs), _numbers(b, outputs)
        custom = b.CreateByteVector(bytes(flexbuffers.Dumps(fields))) if kind.startswith("Lce") and fields else None
        table = None
        if options:
            getattr(tflite, f"{options}Start")(b)
            for name, value in fields.items():
                getattr(tflite, f"{options}Add{name}")(b, value)
            table = getattr(tflite, f"{options}End")(b)
        tflite.OperatorStart(b)
        tflite.OperatorAddOpcodeIndex(b, kinds.index(kind))
        tflite.OperatorAddInputs(b, reads)
        tflite.OperatorAddOutputs(b, gives)
        if table is not None:
            tflite.OperatorAddBuiltinOptionsType(b, getattr(tflite.BuiltinOptions, options))
            tflite.OperatorAddBuiltinOptions(b, table)
        if custom is not None:
            tflite.OperatorAddCustomOptions(b, custom)
        return int(tflite.OperatorEnd(b))

    def _code(self, b: Any, kind: str) -> int:
        own = kind.startswith("Lce")
        name = b.CreateString(kind) if own else None
        tflite.OperatorCodeStart(b)
        code = CUSTOM if own else getattr(tflite.BuiltinOperator, kind)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
        tflite.OperatorCodeAddBuiltinCode(b, code)
        if name is not None:
            tflite.OperatorCodeAddCustomCode(b, name)
        return int(tflite.OperatorCodeEnd(b))


def _numbers(b: Any, values: Any) -> int:
    return int(b.CreateNumpyVector(np.array(values, np.int32)))


def _offsets(b: Any, places: list[int]) -> int:
    b.StartVector(4, len(places), 4)
    for place in reversed(places):
        b.PrependUOffsetTRelative(place)
    return int(b.EndVector())


def bconv_options(channels: int, **changes: int) -> dict[str, int]:
    """Options of LceBconv2d: 3 x 3, SAME, padded with +1, ReLU."""
    return {
        "channels_in": channels, "dilation_height_factor": 1, "dilation_width_factor": 1, "fused_activation_function": 1, "pad_values": 1, "padding": 0,
        "stride_height": 1, "stride_width": 1, **changes,
    }  # fmt: skip


SAME_2 = {"Padding": 0, "StrideH": 2, "StrideW": 2, "DilationHFactor": 1, "DilationWFactor": 1}
POOL_2 = {"Padding": 1, "StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2}


def small_network(seed: int = 0, *, old: bool = False) -> File:
    """A network of most of what QuickNet has, for pictures of 16 x 16: stem, blocks, a stage joined by a concatenation, classifier; `old`: of before August 2020."""
    rng = np.random.default_rng(seed)

    def floats(*shape: int, scale: float = 1.0, offset: float = 0.0) -> int:
        return file.constant((offset + scale * rng.normal(size=shape)).astype(np.float32))

    def bconv(x: int, side: int, channels: int, out: int, stride: int, pad_values: int) -> int:
        signs = x if old else file.add("LceQuantize", [x], (1, side, side, -(-channels // 32)), dtype="int32")
        weight = file.constant(packed(rng.random((out, 3, 3, channels)) < 0.5))
        options = bconv_options(channels, stride_height=stride, stride_width=stride, pad_values=pad_values, padding=1 if old else 0)
        own = (floats(out, scale=0.01, offset=0.03), floats(out, scale=0.3))
        return file.add("LceBconv2d", [signs, weight, *own, -1], (1, side // stride, side // stride, out), **options)

    file = File()
    x = file.tensor((1, 16, 16, 3), name="image")
    file.inputs = [x]
    x = file.add("CONV_2D", [x, floats(8, 3, 3, 3, scale=0.3), floats(8)], (1, 8, 8, 8), "Conv2DOptions", **SAME_2)
    depthwise = {
        "Padding": 0,
        "StrideH": 1,
        "StrideW": 1,
        "DepthMultiplier": 4,
        "DilationHFactor": 1,
        "DilationWFactor": 1,
        "FusedActivationFunction": 1,
    }
    x = file.add("DEPTHWISE_CONV_2D", [x, floats(1, 3, 3, 32, scale=0.3), floats(32)], (1, 8, 8, 32), "DepthwiseConv2DOptions", **depthwise)
    x = file.add("MUL", [x, floats(32, scale=0.2, offset=1.0)], (1, 8, 8, 32), "MulOptions")
    x = file.add("ADD", [x, floats(32)], (1, 8, 8, 32), "AddOptions")
    x = file.add("ADD", [bconv(x, 8, 32, 32, 1, 1), x], (1, 8, 8, 32), "AddOptions", name="block")
    pooled = file.add("MAX_POOL_2D", [x], (1, 4, 4, 32), "Pool2DOptions", **POOL_2)
    pooled = file.add("SUB", [pooled, floats(32)], (1, 4, 4, 32), "SubOptions")
    y = file.add("ADD", [bconv(x, 8, 32, 32, 2, 1), pooled], (1, 4, 4, 32), "AddOptions")
    x = file.add("CONCATENATION", [pooled, y], (1, 4, 4, 64), "ConcatenationOptions", Axis=3)
    x = file.add("PRELU", [x, floats(1, 1, 64, scale=0.2)], (1, 4, 4, 64))
    x = file.add("ADD", [bconv(x, 4, 64, 64, 1, 1 if old else 0), x], (1, 4, 4, 64), "AddOptions", FusedActivationFunction=1)
    x = file.add("MEAN", [x, file.constant(np.array([1, 2], np.int32))], (1, 64), "ReducerOptions")
    x = file.add("FULLY_CONNECTED", [x, floats(10, 64), floats(10)], (1, 10), "FullyConnectedOptions")
    file.add("SOFTMAX", [x], (1, 10), "SoftmaxOptions", Beta=1.0)
    return file
