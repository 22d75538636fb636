"""ONNX Runtime: the float and the int8 convolution (QLinearConv, bytes in and out), MobileNetV1 in float and int8 (QDQ)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from works import Loaded, conv, image, loaded_network, mobilenet


def version() -> str:
    return ort.__version__


def model_path(work: str, variant: str, folder: str) -> Path:
    return Path(folder) / f"onnxruntime-{work}-{variant.replace(' ', '-')}.onnx"


def prepare(work: str, variant: str, folder: str) -> None:
    from onnx_models import write_conv, write_mobilenet  # not needed to run: onnx stays out of the memory figures

    path = model_path(work, variant, folder)
    if work.startswith("conv"):
        write_conv(path, work, int8=variant == "int8")
    else:
        write_mobilenet(path, int8=variant.endswith("int8"))


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(model_path(work, variant, folder), options, providers=["CPUExecutionProvider"])
    x = conv(work).x if work.startswith("conv") else image()
    if variant == "int8":
        x = np.clip(np.rint(x / (np.abs(x).max() / 127)) + 128, 0, 255).astype(np.uint8)
    feed = {"input": x[None]}
    results: list[Any] = [None]

    def call() -> None:
        results[0] = session.run(None, feed)[0]

    if work.startswith("conv"):
        return Loaded(call, lambda: results[0][0], conv(work).real, 0.999)
    return loaded_network(call, lambda: results[0][0], mobilenet, 0.9 if variant.endswith("int8") else 0.99)
