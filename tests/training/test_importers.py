"""Networks trained elsewhere: files are read as they mean, folded without change, rounded within a unit, and refused by name (docs/import.md)."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="imports need torch (extra import)")
pytest.importorskip("tflite", reason="imports need tflite (extra import)")
from imported_operations import integer_values, worst_units  # noqa: E402
from tflite_file import POOL_2, File, bconv_options, packed, small_network  # noqa: E402

from bitreplay import FormatError, Model  # noqa: E402
from bitreplay.model import write_model  # noqa: E402
from bitreplay.training.importers.drawn import drawn_pictures  # noqa: E402
from bitreplay.training.importers.graph import Graph, Node, each, pooled, run  # noqa: E402
from bitreplay.training.importers.import_file import import_file  # noqa: E402
from bitreplay.training.importers.level import levelled  # noqa: E402
from bitreplay.training.importers.quantise import Preprocessing, blocks_of, calibrate, quantise  # noqa: E402
from bitreplay.training.importers.simplify import simplify  # noqa: E402
from bitreplay.training.importers.tflite import read_tflite  # noqa: E402

PLAIN = Preprocessing()


def batch(count: int = 4, side: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, 3, side, side)).astype(np.float32))


def one(
    kind: str,
    inputs: list[np.ndarray],
    shape: tuple[int, ...],
    options: str = "",
    given_shape: tuple[int, ...] = (1, 16, 16, 3),
    **fields: int,
) -> Graph:
    """The graph of a file with one operation on its input."""
    file = File()
    file.inputs = [file.tensor(given_shape)]
    file.add(kind, [*file.inputs, *(file.constant(values) for values in inputs)], shape, options, **fields)
    return read_tflite(file.content(), "x.tflite")[0]


@pytest.mark.parametrize("old", [False, True])
def test_a_file_becomes_blocks_and_its_classifier(old: bool) -> None:
    graph, pixels = read_tflite(small_network(old=old).content(), "x.tflite")
    assert pixels is None
    assert graph.classifier is not None
    assert graph.classifier[0].shape == (10, 64)
    kinds = "conv conv scale scale scale binary add max_pool scale binary add concat prelu binary add scale average_pool"
    assert [node.kind for node in graph.nodes] == kinds.split()
    assert [node.pad_value for node in graph.nodes if node.kind == "binary"] == [1, 1, 1 if old else 0]
    assert graph.nodes[0].pad == (0, 0, 1, 1)  # SAME of a 3 x 3 window with stride 2 on an even map
    folded = simplify(graph)
    assert [node.kind for node in folded.nodes] == "conv conv scale binary add max_pool scale binary add concat prelu binary add".split()
    assert folded.pooled_relu
    assert len(blocks_of(folded)) == 2
    x = batch()
    *_, (_, _, last) = each(graph, x)
    assert torch.allclose(pooled(folded, run(folded, x)), last[..., 0, 0], atol=1e-5)


def test_a_binary_convolution_is_what_lce_says() -> None:
    """Bit 1 is -1, 0 counts as +1, the pad is +1 or counts for nothing, ReLU comes before multiplier and bias."""
    weight = np.ones((1, 3, 3, 3), np.bool_)
    weight[0, 1, 1] = False  # -1 but for the middle
    file = File()
    file.inputs = [file.tensor((1, 16, 16, 3))]
    signs = file.add("LceQuantize", file.inputs, (1, 16, 16, 1), dtype="int32")
    own = [file.constant(packed(weight)), file.constant(np.array([2.0], np.float32)), file.constant(np.array([0.5], np.float32))]
    file.add("LceBconv2d", [signs, *own, -1], (1, 16, 16, 1), **bconv_options(3, fused_activation_function=0))
    graph, _ = read_tflite(file.content(), "x.tflite")
    y = run(graph, torch.zeros(1, 3, 16, 16))
    assert torch.all(y == 2 * (3 - 24) + 0.5)  # zeros are +1, and so is the pad
    outside = replace(graph, nodes=(replace(graph.nodes[0], pad_value=0),))
    y = run(outside, torch.full((1, 3, 16, 16), -1.0))[0, 0]
    assert y[0, 0] == 2 * (-3 + 9) + 0.5
    assert y[5, 5] == 2 * (-3 + 24) + 0.5
    cut_off = replace(graph, nodes=(replace(graph.nodes[0], relu=True),))
    assert torch.all(run(cut_off, torch.zeros(1, 3, 16, 16)) == 0.5)


def test_thresholds_give_signs() -> None:
    """A result of signs: -1 where more taps differ than the threshold says."""
    rng = np.random.default_rng(1)
    file = File()
    file.inputs = [file.tensor((1, 16, 16, 3))]
    signs = file.add("LceQuantize", file.inputs, (1, 16, 16, 1), dtype="int32")
    bits = rng.random((40, 3, 3, 3)) < 0.5
    thresholds = rng.integers(-1, 28, 40).astype(np.int32)
    options = bconv_options(3, fused_activation_function=0)
    y = file.add(
        "LceBconv2d", [signs, file.constant(packed(bits)), -1, -1, file.constant(thresholds)], (1, 16, 16, 2), dtype="int32", **options
    )
    file.add("LceDequantize", [y], (1, 16, 16, 40))
    x = batch(1)
    found = run(read_tflite(file.content(), "x.tflite")[0], x)[0].numpy()
    positive = np.pad(x[0].numpy().transpose(1, 2, 0) >= 0, ((1, 1), (1, 1), (0, 0)), constant_values=True)
    differing = sum((positive[i : i + 16, j : j + 16, None] == bits[None, None, :, i, j]).sum(-1) for i in range(3) for j in range(3))
    assert np.array_equal(found, np.where(differing > thresholds, -1, 1).transpose(2, 0, 1))


def test_relu6_pad_split_and_groups() -> None:
    x = batch()
    assert torch.allclose(run(one("RELU6", [], (1, 16, 16, 3)), 9 * x), (9 * x).clamp(0, 6), atol=1e-5)
    rng = np.random.default_rng(0)
    file = File()
    file.inputs = [file.tensor((1, 16, 16, 3))]
    amounts = file.constant(np.array([[0, 0], [1, 0], [2, 1], [0, 0]], np.int32))
    padded = file.add("PAD", [*file.inputs, amounts], (1, 17, 19, 3))
    weight = rng.normal(size=(8, 3, 3, 3)).astype(np.float32)
    valid = {"Padding": 1, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    y = file.add("CONV_2D", [padded, file.constant(weight), -1], (1, 15, 17, 8), "Conv2DOptions", **valid)
    axis = file.constant(np.array(3, np.int32))
    halves = [file.tensor((1, 15, 17, 4)), file.tensor((1, 15, 17, 4))]
    file.operations.append(("SPLIT", [axis, y], halves, "SplitOptions", {"NumSplits": 2}))
    parts = [rng.normal(size=(2, 1, 1, 4)).astype(np.float32) for _ in halves]
    own = [
        file.add("CONV_2D", [h, file.constant(p), -1], (1, 15, 17, 2), "Conv2DOptions", **valid) for h, p in zip(halves, parts, strict=True)
    ]
    y = file.add("CONCATENATION", own, (1, 15, 17, 4), "ConcatenationOptions", Axis=3)
    file.add("PAD", [y, file.constant(np.array([[0, 0], [0, 0], [0, 0], [2, 1]], np.int32))], (1, 15, 17, 7))
    graph, _ = read_tflite(file.content(), "x.tflite")
    folded = simplify(graph)
    assert [(node.kind, node.groups) for node in folded.nodes] == [("conv", 1), ("conv", 2), ("select", 1)]
    first = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (2, 1, 1, 0)), torch.from_numpy(weight.transpose(0, 3, 1, 2).copy()))
    second = torch.nn.functional.conv2d(first, torch.from_numpy(np.concatenate(parts).transpose(0, 3, 1, 2).copy()), groups=2)
    expected = torch.nn.functional.pad(second, (0, 0, 0, 0, 2, 1))
    for g in (graph, folded):
        assert torch.allclose(run(g, x), expected, atol=1e-4)


def test_a_quantised_file_tells_how_it_reads_pixels() -> None:
    file = File()
    file.inputs = [file.tensor((1, 16, 16, 3), "uint8", scale=(1 / 128, 128))]
    weight = np.random.default_rng(0).integers(0, 256, (4, 1, 1, 3)).astype(np.uint8)
    bias = np.array([10, -20, 0, 5], np.int32)
    own = [file.constant(weight, (0.02, 120)), file.constant(bias, (0.02 / 128, 0))]
    fields = {"Padding": 0, "StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
    file.add("CONV_2D", [*file.inputs, *own], (1, 16, 16, 4), "Conv2DOptions", dtype="uint8", **fields)
    graph, pixels = read_tflite(file.content(), "x.tflite")
    assert pixels == pytest.approx((128 / 255, 128 / 255))
    images = np.random.default_rng(1).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    found = run(graph, Preprocessing((pixels[0],) * 3, (pixels[1],) * 3)(images)).permute(0, 2, 3, 1).numpy()
    exact = ((images.astype(int) - 128) @ (weight[:, 0, 0].astype(int) - 120).T + bias) * 0.02 / 128
    assert np.allclose(found, exact, atol=1e-4)


def test_scaled_channels_mean_the_same() -> None:
    graph = simplify(read_tflite(small_network().content(), "x.tflite")[0])
    images = drawn_pictures(8, 16)
    seen = calibrate(graph, images, PLAIN)
    scaled, factors = levelled(graph, seen.largest)
    assert max(float(f.max()) for f in factors) > 2
    assert (factors[0] == 1).all()
    x = PLAIN(images)
    plain = {i: y for i, _, y in each(graph, x)}
    for i, _, y in each(scaled, x):
        expected = plain[i] * torch.from_numpy(factors[i + 1]).float().reshape(1, -1, 1, 1)
        assert torch.allclose(y, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_integers_are_within_units_of_float_and_the_core_is_the_reference(tmp_path: Path) -> None:
    graph = simplify(read_tflite(small_network().content(), "x.tflite")[0])
    images = drawn_pictures(32, 16)
    quantised, seen = quantise(graph, images, PLAIN)
    worst = worst_units(quantised, images, PLAIN)
    assert worst.pop("differing signs") == 0
    assert worst.pop("conv") < 4  # weights are rounded too
    assert worst.pop("block") < 4
    assert max(worst.values()) <= 2
    model = write_model(tmp_path / "x.model", quantised.network, quantised.tensors, {})
    rows = model.network.latents(images)
    from reference.network import ReferenceNetwork

    assert np.array_equal(rows, ReferenceNetwork(quantised.network, quantised.tensors).latents(images))
    assert integer_values(quantised, images[:1]).shape == (1, 4, 4, 64)
    own = quantised.features(model.network.features_of_latents(rows))
    assert np.corrcoef(own.reshape(-1), seen.features.reshape(-1))[0, 1] > 0.99


def test_a_channel_that_differs_most_does_not_coarsen_the_others() -> None:
    """Where 16-bit multipliers would cost units, the convolution and its multipliers are two operations."""
    graph = simplify(read_tflite(small_network().content(), "x.tflite")[0])
    i = next(i for i, node in enumerate(graph.nodes) if node.kind == "binary")
    multiplier = graph.nodes[i].weights["multiplier"].copy()
    multiplier[3] *= 3000
    nodes = list(graph.nodes)
    nodes[i] = replace(nodes[i], weights={**nodes[i].weights, "multiplier": multiplier})
    images = drawn_pictures(16, 16)
    quantised, _ = quantise(replace(graph, nodes=tuple(nodes)), images, PLAIN)
    kinds = [op["op"] for op in quantised.network["prefix"]]
    assert kinds.count("block") == 0 or "add" in kinds
    assert worst_units(quantised, images[:4], PLAIN)["differing signs"] == 0
    assert max(value for kind, value in worst_units(quantised, images[:4], PLAIN).items() if kind != "conv") < 5


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (lambda f: f.add("TANH", f.inputs, (1, 16, 16, 3), name="here"), r"operation 0, TANH 'here': not understood"),
        (
            lambda f: f.add("MAX_POOL_2D", f.inputs, (1, 8, 8, 3), "Pool2DOptions", **{**POOL_2, "FilterWidth": 3}),
            "square window, got 2 x 3",
        ),
        (lambda f: f.add("MAX_POOL_2D", f.inputs, (1, 9, 9, 3), "Pool2DOptions", **POOL_2), r"expected a result of shape \(1, 8, 8, 3\)"),
        (lambda f: f.add("ADD", [f.inputs[0], f.tensor((1, 16, 16, 3))], (1, 16, 16, 3), "AddOptions"), "input 1 to be computed before it"),
        (lambda f: f.add("RELU", [99], (1, 16, 16, 3)), "numbers of 2 tensors, got 99"),
        (lambda f: f.add("RELU", f.inputs, (1, 1 << 20, 1 << 20, 3)), "expected a result of shape"),
        (lambda f: f.add("ADD", f.inputs * 3, (1, 16, 16, 3), "AddOptions"), "expected two inputs, got 3"),
        (lambda f: f.add("LOGISTIC", f.inputs, (1, 16, 16, 3), name="gate"), "operation 0, LOGISTIC 'gate': the engine has no sigmoid"),
    ],
)
def test_what_is_not_understood_is_refused_by_name_and_place(tmp_path: Path, file: object, message: str) -> None:
    built = File()
    built.inputs = [built.tensor((1, 16, 16, 3), name="image")]
    file(built)  # type: ignore[operator]
    (tmp_path / "x.tflite").write_bytes(built.content())
    with pytest.raises(ValueError, match=message):
        import_file(tmp_path / "x.tflite", tmp_path / "x.model")
    assert not (tmp_path / "x.model").exists()


def test_a_cycle_is_refused() -> None:
    file = File()
    file.inputs = [file.tensor((1, 16, 16, 3))]
    second = len(file.tensors) + 1
    first = file.add("RELU", [second], (1, 16, 16, 3))
    file.add("RELU", [first], (1, 16, 16, 3))
    with pytest.raises(FormatError, match=r"operation 0, RELU .*: expected input 0 to be computed before it"):
        read_tflite(file.content(), "x.tflite")


CONTENT = small_network().content()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_format_error(data: st.DataObject) -> None:
    content = bytearray(CONTENT)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 4))
        if data.draw(st.booleans()):
            content[at] = data.draw(st.integers(0, 255))
        else:
            content[at : at + 4] = struct.pack(
                "<I", data.draw(st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, len(content), 1 << 16]))
            )
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    try:
        graph, _ = read_tflite(bytes(content), "x.tflite")
    except FormatError:
        return
    assert graph.shapes()[0] == (graph.image_size, graph.image_size, 3)


def test_import_file_says_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "small.tflite").write_bytes(CONTENT)
    found = import_file(tmp_path / "small.tflite", tmp_path / "x.model", card={"licence": "MIT"})
    assert found.operations["concat"] == 1
    assert found.figures["same_answers"] > 0.9
    assert any("drawn pictures" in note for note in found.notes)
    assert not any("licence" in note for note in found.notes)
    model = Model.load(tmp_path / "x.model")
    assert model.name == "small"
    assert model.card["pictures"]["size"] == 16
    assert model.network.latent_words * 8 == 64
    again = import_file(tmp_path / "small.tflite", tmp_path / "y.model", card={"licence": "MIT"})
    assert again.model.digest == model.digest


def test_unfit_graphs_name_their_node() -> None:
    node = Node("add", (0, 0), name="operation 7, ADD 'x'")
    graph = Graph((node, Node("concat", (0, 1), name="join"), Node("add", (0, 2), name="operation 9, ADD 'y'")), 16)
    with pytest.raises(ValueError, match="operation 9, ADD 'y': expected two maps of one shape"):
        graph.shapes()
