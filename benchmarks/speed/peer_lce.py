"""larq-compute-engine: the binary convolution (alone, or with ReLU, batch norm and shortcut) and larq-zoo's QuickNets.

Variants: "indirect" (its indirect bgemm, the fastest it has on x86) and "default"; on x86 both are portable C++.
"""

from __future__ import annotations

from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from works import QUICKNETS, Loaded, conv, image

NAMES = {"quicknetsmall": "QuickNetSmall", "quicknet": "QuickNet", "quicknetlarge": "QuickNetLarge"}


def version() -> str:
    return package_version("larq-compute-engine")


def model_path(work: str, variant: str, folder: str) -> Path:
    return Path(folder) / f"lce-{work}{'-block' if 'block' in variant else ''}.tflite"


def conv_model(work: str, block: bool) -> Any:
    import larq
    import tensorflow as tf

    data, layers = conv(work), tf.keras.layers
    c, height, width = data.x.shape
    x = tf.keras.Input((height, width, c), batch_size=1)
    convolution = larq.layers.QuantConv2D(
        c, 3, padding="same", pad_values=1.0, use_bias=False, input_quantizer="ste_sign", kernel_quantizer="ste_sign"
    )
    y = convolution(x)
    if block:
        norm = layers.BatchNormalization(epsilon=0.0)
        y = layers.Add()([norm(layers.ReLU()(y)), x])
        norm.set_weights([data.scale, data.offset, np.zeros(c), np.ones(c)])
    convolution.set_weights([data.sign.transpose(2, 3, 1, 0)])
    return tf.keras.Model(x, y)


def prepare(work: str, variant: str, folder: str) -> None:
    import larq_compute_engine as lce

    path = model_path(work, variant, folder)
    if work in QUICKNETS:
        import larq_zoo
        import tensorflow as tf

        tf.keras.utils.set_random_seed(0)
        model = getattr(larq_zoo.sota, NAMES[work])(weights=None, input_shape=(224, 224, 3))
        for layer in model.layers:
            if isinstance(layer, tf.keras.layers.BatchNormalization):
                layer.momentum = 0.5
                if "add" in layer.outbound_nodes[0].outbound_layer.name:  # small steps: a flipped sign stays one
                    layer.set_weights([0.2 * w if i == 0 else w for i, w in enumerate(layer.get_weights())])
        batch = np.stack([image(str(i)).transpose(1, 2, 0) for i in range(4)])
        for _ in range(5):  # batch norms that fit their inputs, as after training
            model(batch, training=True)
        model = tf.keras.Model(model.input, model.layers[-2].output)  # without the softmax
        pair = (image(), image("another"))
        np.save(path.with_suffix(".npy"), np.stack([model(x.transpose(1, 2, 0)[None]).numpy() for x in pair]))
    else:
        model = conv_model(work, "block" in variant)
    path.write_bytes(lce.convert_keras_model(model))


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    from larq_compute_engine.tflite.python.interpreter import Interpreter

    path = model_path(work, variant, folder)
    indirect = variant.startswith("indirect")
    # The object inside: its predict sets the input, runs and copies the output, without the loop in Python around it.
    interpreter = Interpreter(path.read_bytes(), num_threads=threads, use_indirect_bgemm=indirect).interpreter
    data = conv(work) if work.startswith("conv") else None
    x = np.ascontiguousarray((data.x if data else image()).transpose(1, 2, 0)[None])
    results: list[Any] = [None]

    def call() -> None:
        results[0] = interpreter.predict([x])[0]

    if data is None:
        kept = path.with_suffix(".npy")
        return Loaded(call, lambda: results[0], lambda: np.load(kept)[0], 0.99, lambda: np.load(kept)[1])
    expected, agreement = (data.block, 0.999999) if "block" in variant else (data.dots, 1)
    return Loaded(call, lambda: results[0][0].transpose(2, 0, 1), expected, agreement)
