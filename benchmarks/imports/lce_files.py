"""Files and tensors of larq-compute-engine, for `operations.py`.  Runs in the environment "lce" of benchmarks/speed/install_peers.sh.

    lce_files.py rewrite OLD NEW             a file of before August 2020 as LCE 0.16 reads it: LceQuantize put in, paddings renumbered
    lce_files.py network NAME SIZE NEW       a network of Larq Zoo with random weights, converted; also NEW.h5, its weights
    lce_files.py tensors FILE PICTURES OUT   what LCE makes of every value for float pictures (N, H, W, C) in PICTURES (.npy), as OUT (.npz)
    lce_files.py answers FILE PICTURES OUT   its result alone (.npy)

In OUT `t<number>` is a tensor of FILE, `sum<number>` the dot products of the binary convolution whose result has that number: a second
convolution with multiplier 1 and bias 0, without activation, that reads the same signs.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

NETWORKS = (
    "QuickNetSmall",
    "QuickNet",
    "QuickNetLarge",
    "BiRealNet",
    "BinaryResNetE18",
    "BinaryDenseNet28",
    "RealToBinaryNet",
    "MeliusNet22",
)
FLOAT, INT32 = 0, 2


def custom(model: Any, operator: Any) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return (code.customCode or b"").decode()


def add_tensor(model: Any, like: Any, **changes: Any) -> int:
    tensor = copy.deepcopy(like)
    tensor.quantization = None
    for name, value in {"buffer": 0, **changes}.items():
        setattr(tensor, name, value)
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def add_constant(model: Any, values: np.ndarray, name: str) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer, tensor.name = np.array(values.shape, np.int32), FLOAT, len(model.buffers) - 1, name.encode()
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def options_of(operator: Any) -> dict[str, Any]:
    return {str(k): v for k, v in flexbuffers.Loads(bytes(operator.customOptions)).items()}


def set_options(operator: Any, options: dict[str, Any]) -> None:
    operator.customOptions = np.frombuffer(flexbuffers.Dumps(options), np.uint8)


def rewritten(model: Any) -> Any:
    graph = model.subgraphs[0]
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version = 32, 32, b"LceQuantize", 1
    model.operatorCodes.append(code)
    signs: dict[int, int] = {}
    operators = []
    for operator in graph.operators:
        if custom(model, operator) == "LceBconv2d":
            source = int(operator.inputs[0])
            if source not in signs:
                like = graph.tensors[source]
                shape = np.array([*like.shape[:3], -(-int(like.shape[3]) // 32)], np.int32)
                signs[source] = add_tensor(model, like, shape=shape, shapeSignature=None, type=INT32, name=like.name + b"/signs")
                quantize = schema.OperatorT()
                quantize.opcodeIndex = len(model.operatorCodes) - 1
                quantize.inputs, quantize.outputs = np.array([source], np.int32), np.array([signs[source]], np.int32)
                operators.append(quantize)
            operator.inputs = np.array([signs[source], *operator.inputs[1:]], np.int32)
            options = options_of(operator)
            # TfLitePadding had SAME 1 and VALID 2; the schema has 0 and 1.
            set_options(operator, {**options, "padding": {1: 0, 2: 1}[options["padding"]]})
        operators.append(operator)
    graph.operators = operators
    return model


def opened(model: Any) -> tuple[Any, list[str]]:
    # Every computed float value becomes a result, and for each binary convolution its dot products.
    graph = model.subgraphs[0]
    operators, outputs, names = [], [], []
    for operator in graph.operators:
        operators.append(operator)
        result = int(operator.outputs[0])
        if graph.tensors[result].type == FLOAT:
            outputs.append(result)
            names.append(f"t{result}")
        if custom(model, operator) == "LceBconv2d":
            twin = copy.deepcopy(operator)
            channels = int(graph.tensors[int(operator.inputs[1])].shape[0])
            like = graph.tensors[result]
            shape = np.array([*like.shape[:3], channels], np.int32)
            sums = add_tensor(model, like, shape=shape, shapeSignature=None, type=FLOAT, name=like.name + b"/sums")
            ones = add_constant(model, np.ones(channels, np.float32), f"ones{result}")
            zeros = add_constant(model, np.zeros(channels, np.float32), f"zeros{result}")
            twin.inputs = np.array([operator.inputs[0], operator.inputs[1], ones, zeros, -1], np.int32)
            twin.outputs = np.array([sums], np.int32)
            set_options(twin, {**options_of(operator), "fused_activation_function": 0})
            operators.append(twin)
            outputs.append(sums)
            names.append(f"sum{result}")
    graph.operators, graph.outputs = operators, np.array(outputs, np.int32)
    for signature in model.signatureDefs or []:
        signature.outputs = []
    model.signatureDefs = None
    return model, names


def predicted(content: bytes, pictures: np.ndarray, reference: bool) -> list[np.ndarray]:
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    found = Interpreter(content, num_threads=1, use_reference_bconv=reference, use_indirect_bgemm=not reference).predict(pictures)
    return found if isinstance(found, list) else [found]


def network(name: str, size: int) -> Any:
    import larq_zoo
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)
    place = larq_zoo.sota if name.startswith("QuickNet") else larq_zoo.literature
    model = getattr(place, name)(weights=None, input_shape=(size, size, 3))
    rng = np.random.default_rng(0)
    smooth = rng.normal(size=(8, size // 8, size // 8, 3))
    batch = (np.repeat(np.repeat(smooth, 8, 1), 8, 2) + 0.5 * rng.normal(size=(8, size, size, 3))).astype(np.float32)
    norms = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    for layer in norms:
        layer.momentum = 0.5
        if layer.scale:
            layer.gamma.assign(rng.uniform(0.3, 1.0, layer.gamma.shape))
        if layer.center:
            layer.beta.assign(0.3 * rng.normal(size=layer.beta.shape))
    for layer in model.layers:  # slopes of PReLU as training leaves them
        if isinstance(layer, tf.keras.layers.PReLU):
            layer.alpha.assign(rng.uniform(0.0, 0.5, layer.alpha.shape))
    for _ in range(6):  # batch norms that fit their inputs, as after training
        model(batch, training=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("rewrite", "network", "tensors", "answers"))
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--reference", action="store_true", help="LCE's plain kernel of binary convolutions in place of its fast one")
    given = parser.parse_args()
    task, arguments = given.task, given.arguments
    if task == "network":
        import larq_compute_engine

        name, size, out = arguments
        model = network(name, int(size))
        model.save_weights(Path(out).with_suffix(".h5"))
        Path(out).write_bytes(larq_compute_engine.convert_keras_model(model))
        return
    source = flatbuffer_utils.read_model(arguments[0])
    if task == "rewrite":
        flatbuffer_utils.write_model(rewritten(source), arguments[1])
        return
    pictures = np.load(arguments[1]).astype(np.float32)
    if task == "answers":
        np.save(arguments[2], predicted(Path(arguments[0]).read_bytes(), pictures, given.reference)[0])
        return
    model, names = opened(source)
    results = predicted(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), pictures, given.reference)
    np.savez(arguments[2], **dict(zip(names, results, strict=True)))


if __name__ == "__main__":
    main()
