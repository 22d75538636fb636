"""The twin's methods: the papers' arithmetic, the laws every method obeys, and the link to the engine's rows (docs/papers.md)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the twin is tested where torch is installed (extra train)")

from bitreplay.datasets.image_sets import ImageSet  # noqa: E402
from bitreplay.training.export import Integers  # noqa: E402
from bitreplay.training.first_experience import Base, BaseSettings, make_base  # noqa: E402
from bitreplay.training.layers import BinaryConv2d, QuickNetBlock, ShiftedBlock  # noqa: E402
from bitreplay.training.methods import METHODS, check_settings, make_method  # noqa: E402
from bitreplay.training.methods.quantized_latent_replay import quantized_block  # noqa: E402
from bitreplay.training.parts.head import CwrHead, consolidate  # noqa: E402
from bitreplay.training.parts.memory import ReplayMemory  # noqa: E402
from bitreplay.training.parts.steps import minibatches  # noqa: E402
from bitreplay.training.parts.tail import Latents, Tail  # noqa: E402
from bitreplay.training.quantizers import affine_quantize, fake_quantize  # noqa: E402
from bitreplay.training.small_maps import small_conv  # noqa: E402
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


# -- the head ------------------------------------------------------------------------------------------------------------------


def test_classes_without_rows_are_dropped_and_the_present_ones_load_their_weights() -> None:
    head = CwrHead(3, 4)
    head.cw[:2] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    head.past[:2] = 5
    head.begin(np.array([1, 2, 2]))
    assert torch.equal(head.tw[1], head.cw[1])
    assert float(head.tw[[0, 2, 3]].detach().abs().sum()) == 0
    with torch.no_grad():
        head.tw += 1.0
    head.end()
    assert torch.equal(head.cw[0], torch.tensor([1.0, 2.0, 3.0])), "a class that was absent keeps its weights"
    assert head.past.tolist() == [5, 6, 2, 0]
    assert set(head.predict(torch.randn(50, 3)).tolist()) <= {0, 1, 2}, "a class never seen is never named"


def test_the_softmax_runs_over_what_it_says() -> None:
    x, y = torch.ones(2, 3), torch.tensor([1, 1])
    for softmax, count in (("all", 4), ("present", 1), ("ghosts", 9)):
        head = CwrHead(3, 4, softmax)
        head.begin(np.array([1, 1]))
        assert float(head.loss(x, y).detach()) == pytest.approx(np.log(count), abs=1e-6)
    head = CwrHead(3, 4, "present", prior=True)
    head.begin(np.array([0, 1, 1, 1]))
    # Shares 1/4 and 3/4 of a minibatch as it is: with equal weights the loss is that of the shares themselves.
    loss = head.loss(torch.ones(4, 3), torch.tensor([0, 1, 1, 1]))
    assert float(loss.detach()) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-6)


def test_consolidation_ignores_an_experience_without_rows() -> None:
    cw, past = torch.randn(3, 4), torch.tensor([1.0, 0.0, 2.0])
    new, counts = consolidate(cw, torch.randn(3, 4), past, torch.zeros(3))
    assert torch.equal(new, cw)
    assert torch.equal(counts, past)


# -- memory and steps ------------------------------------------------------------------------------------------------------------


def test_the_memory_is_bounded_balanced_and_keeps_rows_with_their_labels() -> None:
    memory = ReplayMemory(30, np.random.default_rng(0))
    for first in range(0, 8, 2):
        labels = np.repeat([first, first + 1], 40).astype(np.int64)
        memory.offer(labels[:, None] * 10 + np.arange(80)[:, None] % 2 * 0, labels)
        counts = np.bincount(memory.labels)
        present = counts[counts > 0]
        assert len(memory) == 30
        assert present.max() - present.min() <= 1
        assert memory.rows is not None
        assert np.array_equal(memory.rows[:, 0], memory.labels * 10)


def test_the_reservoir_keeps_early_and_late_rows_alike() -> None:
    kept = np.zeros(10)
    for seed in range(200):
        memory = ReplayMemory(20, np.random.default_rng(seed))
        for experience in range(10):
            memory.offer(np.full((50, 1), experience), np.zeros(50, np.int64))
        assert memory.rows is not None
        kept += np.bincount(memory.rows[:, 0], minlength=10)
    assert kept.sum() == 4000
    assert abs(kept - 400).max() < 5 * np.sqrt(400)


def test_pellegrinis_policy_overwrites_a_share_that_falls_with_the_experiences() -> None:
    memory = ReplayMemory(60, np.random.default_rng(0), "random")
    for i in range(1, 5):
        memory.offer(np.full((100, 1), i), np.full(100, i, np.int64))
        assert len(memory) == 60
        assert int((memory.labels == i).sum()) == 60 // i
        assert memory.rows is not None
        assert np.array_equal(memory.rows[:, 0], memory.labels)


def test_an_epoch_passes_once_over_the_live_rows() -> None:
    seen, replayed = [], []
    for done, live, drawn in minibatches(103, 30, 10, 7, 2, np.random.default_rng(0)):
        assert 0 <= done < 1
        assert len(live) == 10
        assert len(drawn) == len(set(drawn)) == 7
        seen.append(live)
        replayed.append(drawn)
    assert len(seen) == 20
    for epoch in range(2):
        assert len(set(np.concatenate(seen[10 * epoch : 10 * epoch + 10]))) == 100
    counts = np.bincount(np.concatenate(replayed), minlength=30)
    assert counts.max() - counts.min() <= 2, "replayed rows go round"
    assert [len(live) for _, live, _ in minibatches(4, 0, 10, 7, 1, np.random.default_rng(0))] == [4]


# -- the papers' quantiser -----------------------------------------------------------------------------------------------------


def test_the_affine_quantiser_is_the_papers() -> None:
    x = torch.tensor([-1.0, -0.4, 0.0, 0.26, 1.0, 3.0])
    assert torch.allclose(affine_quantize(x, 2, -1.0, 1.0), torch.tensor([-1.0, -1 / 3, 1 / 3, 1 / 3, 1.0, 1.0]))  # 1.5 rounds to even: 2
    assert torch.equal(affine_quantize(torch.full((3,), 0.3), 8), torch.full((3,), 0.3)), "a range of one value"
    assert affine_quantize(x, 32) is x
    spread = torch.randn(10_000)
    for bits in (4, 8, 16):
        error = (affine_quantize(spread, bits) - spread).abs().max()
        assert float(error) <= 0.5001 * float(spread.max() - spread.min()) / (2**bits - 1) + 1e-6
    torch.manual_seed(0)
    some = torch.full((20_000,), 0.3)
    drawn = affine_quantize(some, 1, 0.0, 1.0, stochastic=True)
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.02)


def test_gradients_pass_the_quantiser_with_their_own_width() -> None:
    x = torch.randn(50, requires_grad=True)
    g = torch.randn(50)
    fake_quantize(x, 3, 5).backward(g)
    assert x.grad is not None
    assert torch.equal(x.grad, affine_quantize(g, 5))


@pytest.mark.parametrize(
    "block", [QuickNetBlock(16), ShiftedBlock(16, 16), ShiftedBlock(16, 16, dual=True)], ids=["quick", "react", "bireal"]
)
def test_a_quantised_block_at_full_width_is_the_block(block: Any) -> None:
    torch.manual_seed(0)
    for parameter in (p for p in block.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(6, 16, 4, 4)
    plain, quantised = block.train()(x), quantized_block(block, x, 32, 32)
    assert torch.allclose(plain, quantised, atol=1e-5)
    coarse = quantized_block(block, x, 3, 3)
    assert not torch.allclose(plain, coarse, atol=1e-2)


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


# -- the fast convolution ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_the_matrix_product_is_the_convolution(exact: bool) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(24, 40)
    s = torch.randn(5, 24, 4, 4).sign()
    results = []
    for product in (None, lambda a, b: small_conv(a, b, exact=exact)):
        layer.product = product
        layer.zero_grad()
        x = s.clone().requires_grad_()
        y = layer(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        assert layer.weight.grad is not None
        results.append((y.detach(), x.grad, layer.weight.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    for plain, fast in zip(results[0][1:], results[1][1:], strict=True):
        assert plain is not None
        assert fast is not None
        assert float((plain - fast).abs().max()) <= (1e-5 if exact else 2e-2) * float(plain.abs().max())


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
