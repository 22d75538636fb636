"""The float simulation's methods: the laws that each obeys, their settings, the link to the engine's rows (docs/papers.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the float simulation is tested where torch is installed (extra train)")
from bitreplay.datasets.image_sets import ImageSet  # noqa: E402
from bitreplay.training.export import Integers  # noqa: E402
from bitreplay.training.first_experience import Base, BaseSettings, make_base  # noqa: E402
from bitreplay.training.methods import METHODS, check_settings, make_method  # noqa: E402
from bitreplay.training.parts.tail import Latents, Tail  # noqa: E402
from bitreplay.training.start import Start, decode_bits  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork, NetworkConfig  # noqa: E402

QUICK = NetworkConfig(image_size=16, widths=(8, 64), blocks=(1, 3), tail_blocks=2)
REACT = NetworkConfig(image_size=16, widths=(8, 64), blocks=(1, 3), stem_strides=(2,), tail_blocks=2, family="reactnet")

# Settings that suit the miniature; every method is in here.
SETTINGS: dict[str, dict[str, Any]] = {
    "naive": {},
    "joint": {"epochs": 3},
    "cwr": {"learning_rate": 0.1},
    "ar1": {},
    "latent_replay": {"capacity": 30},
    "quantized_cwr": {"learning_rate": 0.1},
    "quantized_latent_replay": {"capacity": 30},
    "slda": {},
    "engine": {"capacity": 30},
}


def pictures(count: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    colours = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)])
    labels = rng.permutation(np.arange(count) % 4)
    images = (colours[labels][:, None, None] + rng.normal(0, 50, (count, 16, 16, 3))).clip(0, 255).astype(np.uint8)
    return ImageSet(images, labels.astype(np.int64), ("red", "green", "blue", "yellow"))


def network(config: NetworkConfig) -> CutNetwork:
    torch.manual_seed(1)
    made = CutNetwork(config)
    made.train()
    with torch.no_grad():
        for i in range(8):  # batch norms see pictures
            made(torch.from_numpy(pictures(40, i).images).permute(0, 3, 1, 2).float())
    return made.eval()


@pytest.fixture(scope="module", params=[QUICK, REACT], ids=lambda c: c.family)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")
    made = network(request.param)
    model = Integers(made, pictures(200, 50)).write(folder / "tiny.model", {"name": "tiny"})
    return Base(Start(made, model), folder / "rows", pictures(240, 51), pictures(80, 52))


def test_every_method_is_in_the_table_above() -> None:
    assert set(SETTINGS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_and_predicting_changes_nothing(base: Base, name: str) -> None:
    train, test = pictures(240, 51), pictures(80, 52)
    torch.set_num_threads(1)

    def run() -> tuple[list[np.ndarray], Any]:
        method = make_method(name, base.start, classes=4, seed=3, settings=SETTINGS[name])
        rows, found = base.rows(method.reads, "train"), []
        assert len(rows) == len(train)
        for classes in [(0, 1, 2, 3)] if method.at_once else [(0, 1), (2, 3)]:
            inside = np.flatnonzero(np.isin(train.labels, classes))
            notes = method.learn(rows[inside], train.labels[inside])
            assert isinstance(notes, dict)
            found += [method.predict(base.rows(method.reads, "test")) for _ in range(2)]
            assert np.array_equal(found[-1], found[-2])
            assert set(found[-1]) <= set(train.labels[inside]) | set(found[0])
        return found, method

    (first, method), (second, _) = run(), run()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), "the same seed gives the same result"
    right = float((first[-1] == test.labels).mean())
    assert right > (0.3 if name == "naive" else 0.4), right
    sizes = method.memory()
    assert sizes["replay_bytes"] == sizes["replay_row_bytes"] * SETTINGS[name].get("capacity", 0)


@pytest.mark.parametrize("name", METHODS)
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .*no_such"):
        check_settings(name, {"no_such": 1})
    with pytest.raises(ValueError, match="method: expected one of naive"):
        check_settings("nothing", {})


def test_wrong_values_of_settings_name_the_key(base: Base) -> None:
    for name, settings, message in (
        ("latent_replay", {"capacity": 1.5}, "capacity: expected int"),
        ("latent_replay", {"capacity": -1}, "capacity: expected 0 or more"),
        ("latent_replay", {"learning_rate": 0}, "learning_rate: expected more than 0"),
        ("latent_replay", {"optimizer": "lion"}, "optimizer: expected"),
        ("latent_replay", {"latents": "4-bit"}, "latents: expected"),
        ("latent_replay", {"norm": "group"}, "norm: expected"),
        ("latent_replay", {"policy": "first"}, "policy: expected"),
        ("latent_replay", {"softmax": "half"}, "softmax: expected"),
        ("latent_replay", {"noise": 5}, "noise: expected a share"),
        ("quantized_latent_replay", {"rounding": "up"}, "rounding: expected"),
        ("quantized_latent_replay", {"optimizer": "adam"}, "optimizer: expected one of sgd"),
        ("quantized_latent_replay", {"momentum": 0.9}, "momentum: expected 0"),
        ("quantized_cwr", {"master": "both"}, "master: expected"),
        ("engine", {"weight_bits": 7}, "weight_bits: expected 1, 8 or 16"),
    ):
        with pytest.raises(ValueError, match=message):
            check_settings(name, settings)
    with pytest.raises(ValueError, match="blocks: expected 0 to 2"):
        make_method("latent_replay", base.start, classes=4, seed=0, settings={"blocks": 3})
    with pytest.raises(ValueError, match="base: expected keys out of"):
        BaseSettings.from_dict({"weights": "x", "colour": 1})
    with pytest.raises(ValueError, match="model: expected the integer model"):
        BaseSettings(weights="x")


def test_a_replayed_row_gives_the_very_features_of_the_live_picture(base: Base) -> None:
    """METHOD trap 6: one path for live and replayed rows, 32 times smaller than float32."""
    start, images = base.start, pictures(30, 60).images
    network = start.model.network
    rows = network.latents(images)
    live = make_method("engine", start, classes=4, seed=0, settings={}).learner.features(images)  # type: ignore[attr-defined]
    assert np.array_equal(network.features_of_latents(rows), live)
    assert Latents("float", start).row_bytes == 32 * Latents("bits", start).row_bytes
    assert Latents("8-bit", start).row_bytes == 8 * Latents("bits", start).row_bytes


def test_decoded_bits_are_the_cut_of_the_float_network(base: Base) -> None:
    start, images = base.start, pictures(50, 61).images
    with torch.no_grad():
        cut = start.network.cut(start.network.stream(torch.from_numpy(images).permute(0, 3, 1, 2).float()))
    decoded = decode_bits(start.model.network.latents(images), start)
    assert decoded.shape == cut.shape
    assert torch.equal(decoded.abs(), cut.abs())
    assert float((decoded == cut).float().mean()) > 0.95
    assert torch.allclose(Tail(start)(cut), start.network.pool(start.network.tail(cut)), atol=1e-2)


def test_the_first_experience_trains_the_whole_network_and_is_kept(tmp_path: Path) -> None:
    from bitreplay.training.weights import save_weights

    made = network(QUICK)
    state = {"model": made.state_dict(), "config": QUICK.to_dict(), "recipe": {}, "names": [], "epoch": 1}
    save_weights(state, tmp_path / "tiny")
    settings = BaseSettings(weights=str(tmp_path / "tiny"), first_experience="whole", epochs=2, batch_size=20, learning_rate=0.01)
    train, test = pictures(80, 70), pictures(40, 71)
    rows = np.flatnonzero(train.labels < 2)
    first = make_base(settings, tmp_path / "base", train, test, rows, seed=1)
    assert not torch.equal(first.start.network.prefix[0].conv.weight, made.prefix[0].conv.weight)  # type: ignore[union-attr,arg-type]
    again = make_base(settings, tmp_path / "base", train, test, rows, seed=1)
    assert again.start.model.digest == first.start.model.digest
    assert np.array_equal(again.rows("features", "test"), first.rows("features", "test"))
    agree = (
        first.start.model.network.latents(test.images) == make_base(settings, tmp_path / "other", train, test, rows, 1).rows("bits", "test")
    ).all()
    assert agree, "the same seed trains the same network"


def test_weights_and_model_of_different_networks_are_refused(base: Base, tmp_path: Path) -> None:
    base.check()
    other = Integers(network(replace(base.start.network.config, blocks=(2, 3))), pictures(200, 50)).write(
        tmp_path / "other.model", {"name": "other"}
    )
    with pytest.raises(ValueError, match=r"expected the integer model of the weights, got another, other: \d+ % of the latent bits agree"):
        Base(Start(base.start.network, other), tmp_path / "rows", pictures(40, 51), pictures(40, 52)).check()
    smaller = Integers(network(replace(base.start.network.config, widths=(8, 32))), pictures(200, 50)).write(
        tmp_path / "s.model", {"name": "s"}
    )
    with pytest.raises(ValueError, match="s: maps of 32 channels from 16 pixels"):
        Base(Start(base.start.network, smaller), tmp_path / "rows", pictures(40, 51), pictures(40, 52)).check()


def test_the_sign_reset_turns_nothing_over_and_a_shadow_does(base: Base) -> None:
    """METHOD trap 1: 0 flips at 8 and at 16 bits, where a shadow that lasts turns weights over by its steps alone."""
    train = pictures(240, 51)
    rows = base.rows("bits", "train")
    flipped = {}
    for reset in (True, False):
        for bits in (8, 16):
            settings = {"capacity": 30, "learning_rate": 0.1, "weight_rate": 20.0, "epochs": 3, "weight_bits": bits, "sign_reset": reset}
            method = make_method("quantized_latent_replay", base.start, classes=4, seed=0, settings=settings)
            flipped[reset, bits] = method.learn(rows, train.labels)["flipped"]
    assert flipped[True, 8] == flipped[True, 16] == 0.0
    assert flipped[False, 8] > 0.002
    assert flipped[False, 16] > 0.002


CHANGES = [{"softmax": "present"}, {"softmax": "ghosts"}, {"prior": True}, {"forward_bits": 3}, {"gradient_bits": 3}, {"weight_bits": 3}]
CHANGES += [{"rounding": "stochastic"}, {"weight_rate": 9.0}, {"norm": "frozen"}, {"blocks": 1}, {"capacity": 5}, {"policy": "random"}]


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=str)
def test_a_setting_of_quantised_latent_replay_has_an_effect(base: Base, change: dict[str, Any]) -> None:
    train, rows = pictures(240, 51), base.rows("bits", "train")

    def weights(settings: dict[str, Any]) -> torch.Tensor:
        method: Any = make_method(
            "quantized_latent_replay", base.start, classes=4, seed=0, settings={"capacity": 20, "weight_rate": 5.0} | settings
        )
        for classes in ((0, 1), (1, 2, 3)):
            inside = np.flatnonzero(np.isin(train.labels, classes))
            method.learn(rows[inside], train.labels[inside])
        return torch.cat([method.head.cw.flatten(), *(p.detach().flatten() for p in method.tail.parameters())])

    assert torch.equal(weights({}), weights(change)) == (not change)


def test_the_range_of_p1s_gradients_is_that_of_a_float_pass(base: Base) -> None:
    train = pictures(240, 51)
    method: Any = make_method("quantized_cwr", base.start, classes=4, seed=0, settings={"learning_rate": 0.1})
    with pytest.raises(ValueError, match="call learn first"):
        method.predict(base.rows("features", "test"))
    method.learn(base.rows("features", "train"), train.labels)
    low, high = method._gradients
    assert -1 / 50 < low < -0.5 / 50
    assert 0 < high < 1 / 50
    before = method._gradients
    method.learn(base.rows("features", "train")[:60], train.labels[:60])
    assert method._gradients == before, "it is fixed on the first experience"


def test_the_penalty_of_ar1_holds_the_tail_back(base: Base) -> None:
    train, rows = pictures(240, 51), base.rows("bits", "train")
    moved = []
    for strength in (0.0, 8e5):
        method: Any = make_method(
            "ar1", base.start, classes=4, seed=0, settings={"strength": strength, "learning_rate": 0.001, "epochs": 4}
        )
        first, second = (np.flatnonzero(np.isin(train.labels, c)) for c in ((0, 1), (2, 3)))
        method.learn(rows[first], train.labels[first])
        important = torch.cat([m.flatten() for m in method._important]) > 0
        anchor = torch.cat([p.detach().flatten() for p in method.tail.trained()])
        method.learn(rows[second], train.labels[second])
        moved.append(float((torch.cat([p.detach().flatten() for p in method.tail.trained()]) - anchor)[important].norm()))
    assert moved[1] < 0.9 * moved[0]


def test_a_block_that_is_not_trained_keeps_its_statistics(base: Base) -> None:
    method: Any = make_method("latent_replay", base.start, classes=4, seed=0, settings={"capacity": 30, "blocks": 1})
    method.learn(base.rows("bits", "train"), pictures(240, 51).labels)
    old = base.start.network.tail
    assert torch.equal(method.tail.blocks[0].norm.running_mean, old[0].norm.running_mean)
    assert not torch.equal(method.tail.blocks[1].norm.running_mean, old[1].norm.running_mean)


def test_frozen_norms_and_blocks_stay_as_they_are(base: Base) -> None:
    train = pictures(240, 51)
    settings = {"capacity": 30, "blocks": 1, "norm": "frozen", "learning_rate": 0.1}
    method: Any = make_method("latent_replay", base.start, classes=4, seed=0, settings=settings)
    before = {name: value.clone() for name, value in method.tail.state_dict().items()}
    method.learn(base.rows("bits", "train"), train.labels)
    changed = {name for name, value in method.tail.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("blocks.1.") for name in changed)
    assert not any("running" in name for name in changed)
    batch: Any = make_method("latent_replay", base.start, classes=4, seed=0, settings=replace_norm(settings))
    batch.learn(base.rows("bits", "train"), train.labels)
    assert not torch.equal(batch.tail.blocks[1].norm.running_mean, method.tail.blocks[1].norm.running_mean)


def replace_norm(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"norm": "batch"}
