"""Larq Zoo's Keras weights: layers in their order become the networks that they were saved from (docs/import.md)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="imports need torch (extra import)")
h5py = pytest.importorskip("h5py", reason="imports need h5py (extra import)")
from keras_file import birealnet, quicknet, save  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from bitreplay import FormatError  # noqa: E402
from bitreplay.training.importers import keras  # noqa: E402
from bitreplay.training.importers.graph import pooled, run  # noqa: E402
from bitreplay.training.importers.import_file import import_file  # noqa: E402
from bitreplay.training.importers.larq import read_larq  # noqa: E402
from bitreplay.training.importers.simplify import simplify  # noqa: E402


def normed(x: torch.Tensor, layer: dict[str, NDArray[np.float32]], epsilon: float) -> torch.Tensor:
    t = {name: torch.from_numpy(values) for name, values in layer.items()}
    return torch.nn.functional.batch_norm(x, t["moving_mean"], t["moving_variance"], t.get("gamma"), t.get("beta"), eps=epsilon)


def conv(x: torch.Tensor, weight: NDArray[np.float32], stride: int = 1, outside: float = 0.0, groups: int = 1) -> torch.Tensor:
    """TensorFlow's SAME."""
    kernel = torch.from_numpy(weight.transpose(3, 2, 0, 1).copy())
    total = max((-(-x.shape[2] // stride) - 1) * stride + weight.shape[0] - x.shape[2], 0)
    a, b = total // 2, total - total // 2
    return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (a, b, a, b), value=outside), kernel, stride=stride, groups=groups)


def signs(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, -1.0, 1.0)


def test_quicknet_is_what_larq_zoo_computes(tmp_path: Path) -> None:
    layers = quicknet()
    graph, family = read_larq(save(tmp_path / "x.h5", layers), "x.h5", 32)
    assert family == "QuickNet"
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3, 32, 32)).astype(np.float32))
    a = normed(conv(x, layers[0]["kernel"], 2), layers[1], 1e-3).relu()
    a = normed(conv(a, layers[2]["depthwise_kernel"].transpose(0, 1, 3, 2), 2, groups=4), layers[3], 1e-3)
    a = normed(conv(a, layers[4]["kernel"]), layers[5], 1e-3)
    sign = [np.where(layer["kernel"] < 0, -1, 1).astype(np.float32) if "kernel" in layer else None for layer in layers]
    a = a + normed(conv(signs(a), sign[6], outside=1.0).relu(), layers[7], 1e-5)
    a = torch.nn.functional.max_pool2d(a.relu(), 2, 1)
    a = normed(conv(conv(a, layers[8]["depthwise_kernel"].transpose(0, 1, 3, 2), 2, groups=16), layers[9]["kernel"]), layers[10], 1e-5)
    for i in (11, 13):
        a = a + normed(conv(signs(a), sign[i], outside=1.0).relu(), layers[i + 1], 1e-5)
    expected = a.relu().mean((2, 3))
    for g in (graph, simplify(graph)):
        last = run(g, x)
        found = pooled(g, last)
        assert torch.allclose(found, expected, atol=1e-4)
    assert graph.classifier is not None
    assert np.array_equal(graph.classifier[0], layers[15]["kernel"].T)


def test_bi_real_net_is_what_larq_zoo_computes(tmp_path: Path) -> None:
    layers = birealnet()
    graph, family = read_larq(save(tmp_path / "x.h5", layers), "x.h5", 32)
    assert family == "Bi-Real Net"
    x = torch.from_numpy(np.random.default_rng(2).normal(size=(3, 3, 32, 32)).astype(np.float32))
    a = normed(conv(x, layers[0]["kernel"], 2), layers[1], 1e-3)
    a = torch.nn.functional.max_pool2d(torch.nn.functional.pad(a, (0, 1, 0, 1), value=-torch.inf), 3, 2)

    def binary(a: torch.Tensor, weight: NDArray[np.float32], stride: int = 1) -> torch.Tensor:
        return conv(signs(a), np.where(weight < 0, -1, 1).astype(np.float32) * np.abs(weight).mean((0, 1, 2)), stride)

    for i in (2, 4):
        a = a + normed(binary(a, layers[i]["kernel"]), layers[i + 1], 1e-3)
    shortcut = normed(conv(torch.nn.functional.avg_pool2d(a, 2), layers[7]["kernel"]), layers[9], 1e-3)
    a = normed(binary(a, layers[6]["kernel"], 2), layers[8], 1e-3) + shortcut
    assert torch.allclose(pooled(simplify(graph), run(simplify(graph), x)), a.mean((2, 3)), atol=1e-4)


def test_keras_weights_become_a_model(tmp_path: Path) -> None:
    save(tmp_path / "x.h5", quicknet())
    found = import_file(tmp_path / "x.h5", tmp_path / "x.model", image_size=64)
    assert found.operations == {"affine": 1, "conv": 5, "block": 3, "max_pool": 1}
    assert found.model.network.image_size == 64
    assert found.figures["same_answers"] > 0.8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers.pop(1), r"layer 1 'layer_1': expected a batch norm of 4 channels"),
        (lambda layers: layers.insert(9, layers[6]), r"layer 9 'layer_9': expected kernel \(1, 1, 16, any\)"),
        (lambda layers: layers.append(layers[0]), r"layer 15 'layer_15': expected a dense layer at the end"),
        (lambda layers: layers[15].update(kernel=np.zeros((7, 5), np.float32)), "expected a classifier of 32 features, got 7"),
        (lambda layers: layers[0]["kernel"].fill(np.nan), "layer 'layer_0': expected finite weights"),
        (lambda layers: layers.clear(), "expected the 3 x 3 convolution of QuickNet's stem behind layer -1, where the file ends"),
    ],
)
def test_other_networks_are_refused_by_their_first_strange_layer(tmp_path: Path, change: object, message: str) -> None:
    layers = quicknet()
    change(layers)  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        read_larq(save(tmp_path / "x.h5", layers), "x.h5", 32)


def test_a_file_cut_short_is_a_format_error(tmp_path: Path) -> None:
    content = save(tmp_path / "x.h5", quicknet())
    for length in (8, 100, 1000, len(content) // 2, len(content) - 1000):
        with pytest.raises(FormatError, match=r"x\.h5: "):
            read_larq(content[:length], "x.h5", 32)


def test_a_reader_that_hangs_or_crashes_is_a_format_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = save(tmp_path / "x.h5", quicknet())
    with pytest.raises(FormatError, match=r"x\.h5: .* took more than 0\.001 seconds"):
        keras.keras_layers(content, "x.h5", 0.001)
    monkeypatch.setattr(keras, "__file__", str(tmp_path / "keras.py"))
    (tmp_path / "keras_child.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    with pytest.raises(FormatError, match="the HDF5 library failed on it"):
        keras.keras_layers(content, "x.h5")


def test_what_a_file_claims_to_hold_is_bounded(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("a")
        group.create_dataset("a/kernel:0", shape=(1 << 15, 1 << 15), dtype="f4", chunks=(1024, 1024))  # nothing is stored
        group.attrs["weight_names"], file.attrs["layer_names"] = [b"a/kernel:0"], [b"a"]
    with pytest.raises(FormatError, match="expected weights of about the file's size"):
        read_larq((tmp_path / "x.h5").read_bytes(), "x.h5", 32)
