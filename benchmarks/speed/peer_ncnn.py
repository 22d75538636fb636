"""ncnn: the float and the int8 convolution (float in and out, quantised inside), MobileNetV1 in float and int8.

The int8 files hold float weights and scales; ncnn quantises the weights when it loads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ncnn
import numpy as np
from works import Layer, Loaded, conv, image, loaded_network, mobilenet, run_layers


def version() -> str:
    return ncnn.__version__


def model_path(work: str, variant: str, folder: str) -> Path:
    return Path(folder) / f"ncnn-{work}-{variant.replace(' ', '-')}.param"


def scale(values: Any) -> Any:
    return 127 / np.abs(values).max()


def write(path: Path, layers: list[Layer], x: Any, int8: bool) -> None:
    """ncnn's text file and its weights; the scales of the activations come from the one image, run in NumPy."""
    lines, weights, name = [f"Input input 0 1 input 0={x.shape[2]} 1={x.shape[1]} 2={x.shape[0]}"], [], "input"
    for i, layer in enumerate(layers):
        before, behind = layer.pad
        terms = ""
        if layer.kind == "mean":
            lines.append(f"Pooling l{i} 1 1 {name} x{i} 0=1 4=1")
        else:
            size, out = layer.weight.size, len(layer.weight)
            offset = np.zeros(out, np.float32) if layer.offset is None else layer.offset
            weights += [np.zeros(1, np.uint32), layer.weight, offset]
            if int8:
                per_output = np.array([scale(w) for w in layer.weight], np.float32)
                weights += [per_output, np.float32([scale(x)])]
                terms = " 8=2" if layer.kind == "dense" else " 8=1"
            if layer.kind == "dense":
                lines.append(f"InnerProduct l{i} 1 1 {name} x{i} 0={out} 1=1 2={size}{terms}")
            else:
                kind, group = ("ConvolutionDepthWise", f" 7={out}") if layer.kind == "depthwise" else ("Convolution", "")
                sizes = f"0={out} 1={layer.weight.shape[-1]} 3={layer.stride} 4={before} 15={behind} 14={before} 16={behind} 5=1 6={size}"
                lines.append(f"{kind} l{i} 1 1 {name} x{i} {sizes}{group}{terms} 9={int(layer.relu)}")
        name = f"x{i}"
        x = run_layers([layer], x)
    lines[-1] = lines[-1].replace(f" {name} ", " output ")
    path.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines]) + "\n")
    path.with_suffix(".bin").write_bytes(b"".join(w.tobytes() for w in weights))


def prepare(work: str, variant: str, folder: str) -> None:
    path, int8 = model_path(work, variant, folder), variant.endswith("int8")
    if work.startswith("conv"):
        write(path, [Layer("conv", conv(work).weight, pad=(1, 1))], conv(work).x, int8)
    else:
        write(path, mobilenet(), image(), int8)


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    path = model_path(work, variant, folder)
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise ValueError(f"ncnn cannot load {path.name}")
    x = conv(work).x if work.startswith("conv") else image()
    mat = ncnn.Mat(x)  # borrows the array: `call` keeps both alive
    results: list[Any] = [None, x, mat]

    def call() -> None:
        extractor = net.create_extractor()
        extractor.input("input", mat)
        results[0] = extractor.extract("output")[1]

    if work.startswith("conv"):
        return Loaded(call, lambda: np.array(results[0]), conv(work).real, 0.999)
    return loaded_network(call, lambda: np.array(results[0]), mobilenet, 0.9 if variant.endswith("int8") else 0.99)
