"""ONNX files of the float and int8 works, for ONNX Runtime and OpenVINO; int8 by ONNX Runtime's own static quantisation (QDQ)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from works import IMAGE_SIZE, Layer, conv, generator, image, mobilenet, normal


def write_graph(path: Path, layers: list[Layer], shape: tuple[int, ...]) -> None:
    nodes, initializers, x = [], [], "input"

    def store(values: Any) -> str:
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(values), f"w{len(initializers)}"))
        return initializers[-1].name

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [f"x{len(nodes)}"], **attributes))
        return f"x{len(nodes) - 1}"

    for layer in layers:
        if layer.kind == "mean":
            x = add("Flatten", add("GlobalAveragePool", x))
        elif layer.kind == "dense":
            x = add("Gemm", x, store(layer.weight), store(layer.offset), transB=1)
        else:
            before, behind = ([v] * 2 for v in layer.pad)
            group = len(layer.weight) if layer.kind == "depthwise" else 1
            inputs = [x, store(layer.weight)] + ([] if layer.offset is None else [store(layer.offset)])
            x = add("Conv", *inputs, pads=before + behind, strides=[layer.stride] * 2, group=group)
            x = add("Relu", x) if layer.relu else x
    nodes[-1].output[0] = "output"
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def quantise(source: Path, path: Path, samples: list[Any]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return {"input": samples.pop()} if samples else None

    logging.disable(logging.WARNING)
    inferred = path.with_suffix(".inferred.onnx")
    quant_pre_process(source, inferred, skip_symbolic_shape=True)
    unsigned, signed = QuantType.QUInt8, QuantType.QInt8
    quantize_static(inferred, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=unsigned, weight_type=signed)
    inferred.unlink()


def write_mobilenet(path: Path, int8: bool) -> None:
    target = path.with_suffix(".float.onnx") if int8 else path
    write_graph(target, mobilenet(), (3, IMAGE_SIZE, IMAGE_SIZE))
    if int8:
        rng = generator("calibration")
        quantise(target, path, [image()[None], *(normal(rng, 1, 3, IMAGE_SIZE, IMAGE_SIZE) for _ in range(3))])


def conv_scales(work: str) -> tuple[float, Any, float]:
    """Steps of the int8 values of input, weights (per output channel) and output."""
    data = conv(work)
    return np.abs(data.x).max() / 127, np.abs(data.weight).max((1, 2, 3)) / 127, np.abs(data.real()).max() / 127


def write_conv(path: Path, work: str, int8: bool) -> None:
    """One convolution; int8: the operator alone, unsigned bytes in and out, nothing around it."""
    data = conv(work)
    if not int8:
        write_graph(path, [Layer("conv", data.weight, pad=(1, 1))], data.x.shape)
        return
    step_x, step_w, step_y = conv_scales(work)
    weight = np.rint(data.weight / step_w[:, None, None, None]).astype(np.int8)
    values = {
        "sx": np.float32(step_x), "zx": np.uint8(128), "w": weight, "sw": step_w.astype(np.float32), "zw": np.zeros(len(weight), np.int8),
        "sy": np.float32(step_y), "zy": np.uint8(128),
    }  # fmt: skip
    node = helper.make_node("QLinearConv", ["input", *values], ["output"], pads=[1] * 4)
    inputs = [helper.make_tensor_value_info("input", TensorProto.UINT8, [1, *data.x.shape])]
    outputs = [helper.make_tensor_value_info("output", TensorProto.UINT8, [1, *data.x.shape])]
    initializers = [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()]
    graph = helper.make_graph([node], "graph", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
