"""onnxruntime-training, whose last version is 1.19.2: the step of the head from artifacts that it makes out of an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.training.api import CheckpointState, Module, Optimizer
from works import Loaded, head


def version() -> str:
    return ort.__version__


def prepare(work: str, variant: str, folder: str) -> None:
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.training import artifacts

    weight = numpy_helper.from_array(head().weight, "weight")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1024])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 50])]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "weight"], ["logits"], transB=1)], "head", inputs, outputs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    target = Path(folder) / "onnxruntime-training"
    target.mkdir(exist_ok=True)
    loss, optimizer = artifacts.LossType.CrossEntropyLoss, artifacts.OptimType.SGD
    artifacts.generate_artifacts(model, requires_grad=["weight"], loss=loss, optimizer=optimizer, artifact_directory=str(target))


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    data, files = head(), Path(folder) / "onnxruntime-training"
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    state = CheckpointState.load_checkpoint(str(files / "checkpoint"))
    module = Module(str(files / "training_model.onnx"), state, str(files / "eval_model.onnx"), session_options=options)
    optimizer = Optimizer(str(files / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(data.rate)
    module.train()
    labels = data.labels.astype(np.int64)

    def step() -> None:
        module(data.x, labels)
        optimizer.step()
        module.lazy_reset_grad()

    def update() -> Any:
        return state.parameters["weight"].data - data.weight

    return Loaded(step, update, data.update, 0.9999)
