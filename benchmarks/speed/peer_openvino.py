"""OpenVINO: its BinaryConvolution in graphs written by hand (no front end makes it), and MobileNetV1 read from ONNX.

The graphs read and give float NCHW, as OpenVINO's models do (NHWC at the ends was no faster).  "bf16" in a variant leaves the precision
of the float layers to OpenVINO, which takes bfloat16 where the processor has it; otherwise it is float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset8 as op
from works import Layer, Loaded, conv, image, loaded_network, mobilenet, quicknet

AGREEMENT = {"int8": 0.9, "bf16": 0.9}
KEEP: list[Any] = []  # an ov.Tensor over a NumPy array, and a Constant over that, only borrow the memory


def version() -> str:
    return ov.__version__.split("-")[0]


def constant(values: Any) -> Any:
    return op.constant(np.ascontiguousarray(values, np.float32))


def per_channel(values: Any) -> Any:
    return constant(values.reshape(1, -1, 1, 1))


def binary_convolution(x: Any, sign: Any) -> Any:
    """Sign of x, then the 3x3 convolution with +1 around; a weight's bit is 1 for +1, the first in the lowest bit."""
    zero, one = np.zeros((1, 1, 1, 1), np.float32), np.ones((1, 1, 1, 1), np.float32)
    thresholds = np.zeros((1, sign.shape[1], 1, 1), np.float32)
    bits = op.fake_quantize(x, thresholds, thresholds, zero, one, 2)
    packed = np.packbits(sign.reshape(-1) > 0, bitorder="little")
    tensor = ov.Tensor(packed, ov.Shape(list(sign.shape)), ov.Type.u1)
    KEEP.extend((packed, tensor))
    return op.binary_convolution(bits, ov.op.Constant(tensor), [1, 1], [1, 1], [1, 1], [1, 1], "xnor-popcount", 1.0, "explicit")


def affine(x: Any, scale: Any, offset: Any) -> Any:
    x = x if scale is None else op.multiply(x, per_channel(scale))
    return x if offset is None else op.add(x, per_channel(offset))


def block(x: Any, sign: Any, scale: Any, offset: Any) -> Any:
    return op.add(affine(op.relu(binary_convolution(x, sign)), scale, offset), x)


def walk(layers: list[Layer], x: Any) -> Any:
    for layer in layers:
        before, behind = ([v] * 2 for v in layer.pad)
        if layer.relu and layer.kind in ("maxpool", "mean"):
            x = op.relu(x)
        if layer.kind == "maxpool":
            x = op.max_pool(x, [1, 1], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        elif layer.kind == "mean":
            x = op.reduce_mean(x, np.array([2, 3]), False)
        elif layer.kind == "dense":
            x = op.add(op.matmul(x, constant(layer.weight), False, True), constant(layer.offset[None]))
        elif layer.kind == "block":
            x = block(x, layer.weight, layer.scale, layer.offset)
        else:
            if layer.kind == "conv":
                x = op.convolution(x, constant(layer.weight), [layer.stride] * 2, before, behind, [1, 1])
            else:
                x = op.group_convolution(x, constant(layer.weight[:, None]), [layer.stride] * 2, before, behind, [1, 1])
            x = affine(x, layer.scale, layer.offset)
            x = op.relu(x) if layer.relu else x
    return x


def model_path(work: str, variant: str, folder: str) -> Path:
    kind = "onnx" if variant.startswith("MobileNetV1") else "xml"
    return Path(folder) / f"openvino-{work}-{variant.replace(' ', '-')}.{kind}"


def prepare(work: str, variant: str, folder: str) -> None:
    path = model_path(work, variant, folder)
    if variant.startswith("MobileNetV1"):
        from onnx_models import write_mobilenet  # not needed to run: onnx stays out of the memory figures

        write_mobilenet(path, int8=variant.endswith("int8"))
        return
    data = conv(work) if work.startswith("conv") else None
    x = start = op.parameter([1, *(data.x if data else image()).shape], np.float32)
    if data is None:
        x = walk(quicknet(work), x)
    elif "block" in variant:
        x = block(x, data.sign, data.scale, data.offset)
    else:
        x = binary_convolution(x, data.sign)
    ov.serialize(ov.Model([op.result(x)], [start], work), path)


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if "bf16" not in variant:
        config["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = ov.Core().compile_model(model_path(work, variant, folder), "CPU", config)
    request = compiled.create_infer_request()
    data = conv(work) if work.startswith("conv") else None
    x = (data.x if data else image())[None]
    KEEP.append(x)
    request.set_input_tensor(ov.Tensor(x))

    def output() -> Any:
        return request.get_output_tensor().data[0]

    if data is not None:
        expected, agreement = (data.block, 0.999999) if "block" in variant else (data.dots, 1)
        return Loaded(request.infer, output, expected, agreement)
    layers = mobilenet if variant.startswith("MobileNetV1") else lambda: quicknet(work)
    return loaded_network(request.infer, output, layers, AGREEMENT.get(variant.split()[-1], 0.99))
