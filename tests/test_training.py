"""Training: gradients, the binary convolution, resuming, exporting (docs/method.md, 2 and 3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")

from PIL import Image  # noqa: E402

from bitreplay import Learner, Model  # noqa: E402
from bitreplay.training.export import export_model, load_network  # noqa: E402
from bitreplay.training.layers import BinaryConv2d, ReplayCut, Transition  # noqa: E402
from bitreplay.training.pretrain import CHECKPOINT, Recipe, load_checkpoint, pretrain  # noqa: E402
from bitreplay.training.quantizers import approx_sign, ste_sign  # noqa: E402
from bitreplay.training.zoo.names import config_of, names  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork, NetworkConfig  # noqa: E402

CONFIG = NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1)
RECIPE = Recipe(epochs=3, batch_size=10, learning_rate=5e-3, warmup_steps=2, cut_start=1, cut_ramp=1, precision="32-true")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("valid", 8)):
        for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(colour, 60, (32, 32, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / split / name / f"{i}.png")
    return folder


def test_sign_is_plus_one_at_zero_and_its_gradients_are_the_stated_ones() -> None:
    values = [-2.0, -1.25, -1.2, -0.5, -0.0, 0.0, 0.5, 1.2, 1.3]
    for function, expected in (
        (ste_sign, [0, 1, 1, 1, 1, 1, 1, 1, 0]),
        (approx_sign, [0, 0, 0, 1, 2, 2, 1, 0, 0]),
    ):
        x = torch.tensor(values, requires_grad=True)
        y = function(x)
        assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
        y.sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad, torch.tensor(expected, dtype=torch.float32))


def test_binary_convolution_pads_with_plus_one_in_both_passes() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 5)
    s = torch.randn(2, 3, 6, 6).sign()
    y = layer(s)
    padded = torch.nn.functional.pad(s, (1, 1, 1, 1), value=1.0)
    weight = torch.where(layer.weight < 0, -1.0, 1.0).detach().requires_grad_()
    expected = torch.nn.functional.conv2d(padded, weight)
    assert torch.equal(y, expected)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient)
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, weight.grad, atol=1e-4)


def test_the_cut_gives_one_bit_a_value_at_full_strength_and_blends_before() -> None:
    cut = ReplayCut(4).eval()
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(cut(x).abs(), torch.full_like(x, 0.8))
    bits = cut(x)
    cut.strength = 0.25
    assert torch.allclose(cut(x), 0.75 * cut.norm(x) + 0.25 * bits, atol=1e-6)
    assert torch.equal(ReplayCut(4, binary=False).eval()(x), cut.norm(x))


def test_the_transition_halves_the_map() -> None:
    assert Transition(8, 12)(torch.randn(1, 8, 6, 6)).shape == (1, 12, 3, 3)


def test_an_interrupted_run_continues_with_the_same_result(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache = tmp_path / "cache"
    whole = pretrain(pictures, tmp_path / "whole", CONFIG, RECIPE, cache=cache)
    pretrain(pictures, tmp_path / "parts", CONFIG, RECIPE, until=1, cache=cache)
    parts = pretrain(pictures, tmp_path / "parts", CONFIG, RECIPE, cache=cache)
    assert parts["epoch"] == whole["epoch"] == 3
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name
    assert torch.equal(load_checkpoint(tmp_path / "parts" / CHECKPOINT)["model"]["head.weight"], whole["model"]["head.weight"])


def test_a_branch_may_drop_the_cut_only_before_it_began(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache)
    early = tmp_path / "early.pt"
    early.write_bytes((tmp_path / "run" / CHECKPOINT).read_bytes())
    none = pretrain(pictures, tmp_path / "none", replace(CONFIG, cut="none"), RECIPE, resume=early, cache=cache)
    assert none["config"]["cut"] == "none"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache)
    with pytest.raises(ValueError, match="branch from one before its cut_start"):
        pretrain(pictures, tmp_path / "late", replace(CONFIG, cut="none"), RECIPE, resume=tmp_path / "run" / CHECKPOINT, cache=cache)


EIGHTEEN = NetworkConfig(image_size=16, widths=(8, 16), blocks=(2, 2), stem_strides=(1,), tail_blocks=1, family="reactnet")


@pytest.mark.parametrize("config", [CONFIG, EIGHTEEN, replace(EIGHTEEN, family="birealnet", stem_strides=(1, 2))], ids=lambda c: c.family)
def test_the_exported_network_agrees_with_the_float_one_and_can_be_taught(tmp_path: Path, pictures: Path, config: NetworkConfig) -> None:
    recipe = replace(RECIPE, epochs=8, cut_start=1)
    pretrain(pictures, tmp_path / "run", config, recipe)
    figures = export_model(tmp_path / "run" / CHECKPOINT, tmp_path / "x.model", data=pictures, name="colours")
    assert figures["float_top1"] > 0.8
    assert abs(figures["float_top1"] - figures["integer_top1"]) <= 0.1
    assert figures["equal_bits"] > 0.95
    model = Model.load(tmp_path / "x.model")
    assert model.card["integer_top1"] == figures["integer_top1"]
    network, _ = load_network(tmp_path / "run" / CHECKPOINT)
    assert isinstance(network, CutNetwork)
    learner = Learner.new(model, capacity=30)
    from bitreplay.data import read_split

    train, valid = read_split(pictures, "train", 16), read_split(pictures, "valid", 16)
    assert train is not None
    assert valid is not None
    for c in range(3):
        rows = train.labels == c
        learner.learn(train.images[rows], [train.names[c]] * int(rows.sum()))
    found = np.array(learner.predict(valid.images).names)
    assert np.mean(found == np.array(valid.names)[valid.labels]) > 0.8


FLOATS = NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1, cut="none", family="residual")


def test_a_float_network_teaches_a_binary_one(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache = tmp_path / "cache"
    assert not any(isinstance(module, BinaryConv2d) for module in CutNetwork(FLOATS).modules())

    def weights(name: str, recipe: Recipe, teacher: Path | None = None, until: int | None = None) -> torch.Tensor:
        result: torch.Tensor = pretrain(pictures, tmp_path / name, CONFIG, recipe, teacher=teacher, until=until, cache=cache)["model"][
            "head.weight"
        ]
        return result

    teachers = []
    for epochs in (1, 3):
        pretrain(pictures, tmp_path / f"teacher{epochs}", FLOATS, replace(RECIPE, epochs=epochs), cache=cache)
        teachers.append(tmp_path / f"teacher{epochs}" / CHECKPOINT)
    taught = replace(RECIPE, teacher_share=0.5)
    whole = weights("whole", taught, teachers[1])
    assert not torch.equal(whole, weights("alone", RECIPE))
    assert not torch.equal(whole, weights("other", taught, teachers[0]))
    # the whole share: labels play no part, so a step is that of the cross-entropy with the teacher's answers
    assert not torch.equal(whole, weights("all", replace(RECIPE, teacher_share=1), teachers[1]))
    weights("parts", taught, teachers[1], until=1)
    for teacher, message in ((None, "expected a file"), (teachers[0], "expected the file that the run in .* began with")):
        with pytest.raises(ValueError, match=f"teacher: {message}"):
            weights("parts", taught, teacher)
    assert torch.equal(weights("parts", taught, teachers[1]), whole)
    pretrain(pictures, tmp_path / "branch", CONFIG, taught, resume=tmp_path / "alone" / CHECKPOINT, teacher=teachers[1], cache=cache)
    export_model(tmp_path / "whole" / CHECKPOINT, tmp_path / "x.model", data=pictures, name="x", cache=cache)
    card = Model.load(tmp_path / "x.model").card
    assert card["recipe"]["teacher_share"] == 0.5
    assert len(card["teacher"]) == 64


def test_teachers_that_do_not_fit_are_refused(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache, taught = tmp_path / "cache", replace(RECIPE, teacher_share=0.5)
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    teacher = tmp_path / "teacher" / CHECKPOINT
    with pytest.raises(ValueError, match="expected a binary network with a binary cut, got family residual, cut none"):
        export_model(teacher, tmp_path / "x.model", data=pictures, name="x", cache=cache)
    with pytest.raises(ValueError, match="takes pictures of 16 pixels, the network of 32"):
        pretrain(pictures, tmp_path / "big", replace(CONFIG, image_size=32), taught, teacher=teacher, cache=tmp_path / "big-cache")
    with pytest.raises(ValueError, match="expected a teacher_share above 0"):
        pretrain(pictures, tmp_path / "x", CONFIG, RECIPE, teacher=teacher, cache=cache)
    pretrain(pictures, tmp_path / "early", CONFIG, replace(RECIPE, cut_start=2), until=1, cache=cache)
    with pytest.raises(ValueError, match="stands at epoch 1, before its cut is binary"):
        pretrain(pictures, tmp_path / "x", CONFIG, taught, teacher=tmp_path / "early" / CHECKPOINT, cache=cache)
    (tmp_path / "text").write_text("no checkpoint")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for name in ("text", "other.pt"):
        with pytest.raises(ValueError, match="expected a checkpoint that pretrain wrote"):
            pretrain(pictures, tmp_path / "x", CONFIG, taught, teacher=tmp_path / name, cache=cache)
    with pytest.raises(ValueError, match="teacher_share: expected 0 to 1, got 2"):
        Recipe(teacher_share=2)
    with pytest.raises(ValueError, match='cut: expected "none" for residual'):
        replace(FLOATS, cut="binary")


def test_training_continues_from_shipped_weights(tmp_path: Path, pictures: Path) -> None:
    from bitreplay.training.weights import load_weights, save_weights

    state = pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=tmp_path / "cache")
    files = save_weights(tmp_path / "run" / CHECKPOINT, tmp_path / "weights", "colours")
    assert all(file.stat().st_size <= 6 * 2**20 for file in files)
    config, tensors = load_weights(tmp_path / "weights", "colours")
    assert NetworkConfig.from_dict(config) == NetworkConfig.from_dict(state["config"])
    for name, tensor in state["model"].items():
        assert torch.equal(tensors[name], tensor.half().float() if tensor.is_floating_point() else tensor), name
    more = replace(RECIPE, epochs=1, learning_rate=1e-6, warmup_steps=0, cut_start=0, cut_ramp=0)
    after = pretrain(pictures, tmp_path / "more", CONFIG, more, init=tmp_path / "weights" / "colours", cache=tmp_path / "cache")
    assert torch.allclose(after["model"]["prefix.0.conv.weight"], tensors["prefix.0.conv.weight"], atol=1e-3)
    with pytest.raises(ValueError, match="expected nothing-00000"):
        load_weights(tmp_path / "weights", "nothing")


@pytest.mark.parametrize("name", ["quicknet-32", "reactnet-32"])
def test_the_shipped_weights_are_those_of_the_shipped_backbone(name: str) -> None:
    from bitreplay.training.weights import load_weights

    config, tensors = load_weights(Path(__file__).parents[1] / "weights", name)
    network = CutNetwork(NetworkConfig.from_dict(config))
    network.load_state_dict(tensors)
    model = Model.from_package(name)
    assert NetworkConfig.from_dict(model.card["config"]) == NetworkConfig.from_dict(config)
    assert model.network.feature_count == config["widths"][-1]


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("size", [32, 64, 224])
def test_every_network_by_name_has_its_cut_where_it_says(name: str, size: int) -> None:
    config = config_of(name, size)
    small = replace(config, widths=tuple(8 for _ in config.widths))  # the shape of maps does not depend on widths
    network = CutNetwork(small).eval()
    with torch.no_grad():
        stream = network.stream(torch.zeros(1, 3, size, size))
    assert stream.shape[2] == size // config.shrink == {32: 4, 64: 4, 224: 14 if name.endswith("mini") else 7}[size]
    assert len(network.tail) == config.tail_blocks
    assert config_of(name, size, cut="none", tail_blocks=1).tail_blocks == 1


def test_impossible_networks_are_refused() -> None:
    for name, size, message in (("resnet", 32, "network: expected one of quicknet-small"), ("quicknet", 30, "multiple of 32")):
        with pytest.raises(ValueError, match=message):
            config_of(name, size)
    for values, message in (
        ({"family": "resnet"}, "family: expected one of"),
        ({"stem_strides": (1,)}, "stem_strides: expected 2 of 1 or 2 for quicknet"),
        ({"family": "reactnet", "tail_blocks": 4}, "tail_blocks: expected 0 to 3"),
        ({"image_size": 36}, "image_size: expected a multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            NetworkConfig(**values)
