"""Training: gradients, the binary convolution, resuming, exporting (docs/method.md, 2 and 3)."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")

from PIL import Image  # noqa: E402

from bitreplay import Learner, Model  # noqa: E402
from bitreplay.datasets.image_sets import cached_split  # noqa: E402
from bitreplay.training.checkpoint import CHECKPOINT, load_checkpoint  # noqa: E402
from bitreplay.training.crops import STORED  # noqa: E402
from bitreplay.training.export import export_model, load_network  # noqa: E402
from bitreplay.training.layers import BinaryConv2d, QuickNetBlock, ReplayCut, Transition  # noqa: E402
from bitreplay.training.packed_conv import PackedConv, use_packed  # noqa: E402
from bitreplay.training.pretrain import pretrain  # noqa: E402
from bitreplay.training.quantizers import approx_sign, ste_sign  # noqa: E402
from bitreplay.training.recipe import Recipe  # noqa: E402
from bitreplay.training.soft_labels import Crops, SoftLabels, make_soft_labels  # noqa: E402
from bitreplay.training.teachers import checkpoint_teacher  # noqa: E402
from bitreplay.training.weights import load_weights, network_of, save_weights, weight_files  # noqa: E402
from bitreplay.training.zoo.names import config_of, names  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork, NetworkConfig  # noqa: E402

WEIGHTS = Path(__file__).parents[1] / "weights"
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
    from bitreplay.datasets.image_sets import read_split

    train, valid = read_split(pictures, "train", 16), read_split(pictures, "valid", 16)
    assert train is not None
    assert valid is not None
    for c in range(3):
        rows = train.labels == c
        learner.learn(train.images[rows], [train.names[c]] * int(rows.sum()))
    found = np.array(learner.predict(valid.images).names)
    assert np.mean(found == np.array(valid.names)[valid.labels]) > 0.8


FLOATS = NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1, cut="none", family="residual")


def labelled(pictures: Path, teacher: Path, out: Path, cache: Path, crops: int = 2) -> Path:
    seen_by = checkpoint_teacher(teacher)
    data = cached_split(pictures, "train", STORED * seen_by.image_size, cache, enlarge=False)
    assert data is not None
    make_soft_labels(data, out, seen_by, crops=Crops(crops), kept=2)
    return out


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, b["model"][name]) for name, tensor in a["model"].items())


def test_a_float_network_teaches_a_binary_one(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache = tmp_path / "cache"
    assert not any(isinstance(module, BinaryConv2d) for module in CutNetwork(FLOATS).modules())
    labels = []
    for epochs in (1, 3):
        pretrain(pictures, tmp_path / f"teacher{epochs}", FLOATS, replace(RECIPE, epochs=epochs), cache=cache)
        labels.append(labelled(pictures, tmp_path / f"teacher{epochs}" / CHECKPOINT, tmp_path / f"{epochs}.labels", cache))

    def train(name: str, recipe: Recipe, soft: Path | None = None, until: int | None = None) -> dict[str, Any]:
        return pretrain(pictures, tmp_path / name, CONFIG, recipe, soft_labels=soft, until=until, cache=cache)

    taught = replace(RECIPE, soft_share=0.5)
    whole = train("whole", taught, labels[1])
    assert not same(whole, train("alone", RECIPE))
    assert not same(whole, train("other", taught, labels[0]))
    train("parts", taught, labels[1], until=1)
    for soft, message in ((None, "expected a file"), (labels[0], "expected the labels that the run began with")):
        with pytest.raises(ValueError, match=f"soft_labels: {message}"):
            train("parts", taught, soft)
    assert same(train("parts", taught, labels[1]), whole)
    longer = replace(taught, epochs=4)
    pretrain(pictures, tmp_path / "branch", CONFIG, longer, resume=tmp_path / "alone" / CHECKPOINT, soft_labels=labels[1], cache=cache)
    export_model(tmp_path / "whole" / CHECKPOINT, tmp_path / "x.model", data=pictures, name="x", cache=cache)
    card = Model.load(tmp_path / "x.model").card
    assert card["recipe"]["soft_share"] == 0.5
    assert card["teacher"]["name"] == "residual of 16 pixels"


def test_with_soft_labels_alone_the_labels_teach_the_head_and_not_the_features(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    results = []
    for turn in (0, 1):
        folder = tmp_path / f"set{turn}"
        for split in ("train", "valid"):
            for i, name in enumerate(("red", "green", "blue")):
                shutil.copytree(pictures / split / name, folder / split / f"{i}")
        shared = cached_split(folder, "train", STORED * 16, tmp_path / f"cache{turn}", enlarge=False)
        assert shared is not None
        if turn:  # the same pictures, each called something else
            meta = next((tmp_path / "cache1").glob("train-*/set.json"))
            told = json.loads(meta.read_text())
            meta.write_text(json.dumps(told | {"labels": [(label + 1) % 3 for label in told["labels"]]}))
        own = tmp_path / f"{turn}.labels"
        make_soft_labels(shared, own, checkpoint_teacher(tmp_path / "teacher" / CHECKPOINT), crops=Crops(2), kept=2)
        recipe = replace(RECIPE, epochs=1, soft_share=1.0)
        results.append(pretrain(folder, tmp_path / f"run{turn}", CONFIG, recipe, soft_labels=own, cache=tmp_path / f"cache{turn}")["model"])
    assert torch.equal(results[0]["prefix.0.conv.weight"], results[1]["prefix.0.conv.weight"])
    assert not torch.equal(results[0]["head.weight"], results[1]["head.weight"])


def test_labels_and_teachers_that_do_not_fit_are_refused(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache, taught = tmp_path / "cache", replace(RECIPE, soft_share=0.5)
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    teacher = tmp_path / "teacher" / CHECKPOINT
    with pytest.raises(ValueError, match="expected a binary network with a binary cut, got family residual, cut none"):
        export_model(teacher, tmp_path / "x.model", data=pictures, name="x", cache=cache)
    labels = labelled(pictures, teacher, tmp_path / "x.labels", cache)
    with pytest.raises(ValueError, match="expected a soft_share above 0"):
        pretrain(pictures, tmp_path / "x", CONFIG, RECIPE, soft_labels=labels, cache=cache)
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    (other / "train" / "red" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"x\.labels: made for other pictures \(digest .*, 60 pictures\) than those of .*other"):
        pretrain(other, tmp_path / "x", CONFIG, taught, soft_labels=labels)
    pretrain(pictures, tmp_path / "early", CONFIG, replace(RECIPE, cut_start=2), until=1, cache=cache)
    with pytest.raises(ValueError, match="is at epoch 1, before its cut is fully binary"):
        checkpoint_teacher(tmp_path / "early" / CHECKPOINT)
    (tmp_path / "text").write_text("no checkpoint")
    torch.save({"other": 1}, tmp_path / "other.pt")
    for name in ("text", "other.pt"):
        with pytest.raises(ValueError, match=r"expected a checkpoint that (this version's )?pretrain wrote"):
            checkpoint_teacher(tmp_path / name)
    for values, message in (
        ({"soft_share": 2}, "soft_share: expected 0 to 1, got 2"),
        ({"cooldown": -1}, "cooldown: expected 0 to 1, got -1"),
        ({"smallest": 0}, "smallest: expected a share of the picture's area above 0 and at most 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe(**values)
    with pytest.raises(ValueError, match='cut: expected "none" for residual'):
        replace(FLOATS, cut="binary")


def test_the_rate_warms_up_stays_and_cools_down() -> None:
    recipe = Recipe(epochs=10, learning_rate=1.0, warmup_steps=10, cooldown=0.5)
    assert [recipe.rate(step, 100, step) for step in (0, 4, 9, 10, 50)] == [0.1, 0.5, 1.0, 1.0, 1.0]
    assert recipe.rate(75, 100, 75) == pytest.approx(0.5)
    assert recipe.rate(99, 100, 99) < 0.001
    assert recipe.rate(60, 100, 0) == 0.1  # moments that begin anew
    assert [Recipe(cut_start=2, cut_ramp=2).strength(at) for at in (1, 2, 3, 4, 9)] == [0, 0, 0.5, 1, 1]
    assert [Recipe(cut_start=2, cut_ramp=0).strength(at) for at in (1.9, 2)] == [0, 1]


def test_a_killed_run_goes_on_within_the_epoch_bit_for_bit(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    # The process kills itself behind the n-th checkpoint that it writes; each epoch has six steps.
    script = (
        "import os, signal, sys, torch; from pathlib import Path; torch.set_num_threads(1)\n"
        "from bitreplay.training import pretrain as module\n"
        "from bitreplay.training.recipe import Recipe\n"
        "from bitreplay.training.zoo.network import NetworkConfig\n"
        "save, left = module.save_checkpoint, int(sys.argv[4])\n"
        "def killing(*args):\n"
        "    global left\n"
        "    save(*args)\n"
        "    left -= 1\n"
        "    if left == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "module.save_checkpoint = killing\n"
        f"config, recipe = {CONFIG!r}, {RECIPE!r}\n"
        "module.pretrain(Path(sys.argv[1]), Path(sys.argv[2]), config, recipe, cache=Path(sys.argv[3]), save_seconds=0)\n"
    )
    torch.set_num_threads(1)
    whole = pretrain(pictures, tmp_path / "whole", CONFIG, RECIPE, cache=cache)
    out = tmp_path / "killed"
    for checkpoints, moment in ((4, (0, 4)), (6, (1, 4))):
        done = subprocess.run([sys.executable, "-c", script, str(pictures), str(out), str(cache), str(checkpoints)], check=False)
        assert done.returncode == -signal.SIGKILL
        state = load_checkpoint(out / CHECKPOINT)
        assert (state["epoch"], state["step"]) == moment
    resumed = pretrain(pictures, out, CONFIG, RECIPE, cache=cache)
    assert same(whole, resumed)
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (tmp_path / "whole", out)]
    assert [line["loss"] for line in logs[0]] == [line["loss"] for line in logs[1]]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache)
    assert caught.value.filename == str(tmp_path / "run" / CHECKPOINT)
    monkeypatch.setattr(os, "posix_fallocate", lambda descriptor, start, size: full(descriptor))
    with pytest.raises(OSError, match="No space left") as caught:
        pretrain(pictures, tmp_path / "other", CONFIG, RECIPE, cache=tmp_path / "new")
    assert caught.value.filename.endswith("images.npy")
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["lock"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [CHECKPOINT, "log.jsonl"]
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_validation_pictures_are_matched_by_name(tmp_path: Path, pictures: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(pictures, folder)
    shutil.rmtree(folder / "valid" / "blue")  # the first by name: by position every label would be wrong
    cache = tmp_path / "cache"
    pretrain(folder, tmp_path / "run", CONFIG, replace(RECIPE, epochs=8), cache=cache)
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["valid_top1"] > 0.8
    assert export_model(tmp_path / "run" / CHECKPOINT, tmp_path / "x.model", data=folder, name="x", cache=cache)["integer_top1"] > 0.8
    (folder / "valid" / "green").rename(folder / "valid" / "gruen")
    for call in (
        lambda: pretrain(folder, tmp_path / "again", CONFIG, RECIPE, cache=cache),
        lambda: export_model(tmp_path / "run" / CHECKPOINT, tmp_path / "y.model", data=folder, name="y", cache=cache),
    ):
        with pytest.raises(ValueError, match="validation pictures: expected the classes of the training pictures, got 'gruen' as well"):
            call()


def test_pictures_are_kept_at_most_at_their_own_size_and_read_again_when_they_change(tmp_path: Path, pictures: Path) -> None:
    folder, cache = tmp_path / "set", tmp_path / "cache"
    shutil.copytree(pictures, folder)
    for most, side in ((128, 32), (24, 24)):
        data = cached_split(folder, "train", most, cache, enlarge=False)
        assert data is not None
        assert data.images.shape == (60, side, side, 3)
    again = cached_split(folder, "train", 24, cache, enlarge=False)
    assert again is not None
    assert again.digest == data.digest
    Image.new("RGB", (32, 32), "white").save(folder / "train" / "red" / "0.png")
    (folder / "train" / "yellow").mkdir()
    Image.new("RGB", (32, 32), "yellow").save(folder / "train" / "yellow" / "0.png")
    changed = cached_split(folder, "train", 24, cache, enlarge=False)
    assert changed is not None
    assert changed.names == ("blue", "green", "red", "yellow")
    assert changed.images[40].min() == 255
    assert changed.digest != data.digest


def test_training_continues_from_shipped_weights(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    state = pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache)
    place = tmp_path / "weights" / "colours"
    files = save_weights(state, place)
    assert all(file.stat().st_size <= 6 * 2**20 for file in files)
    told, tensors, _ = load_weights(place)
    assert NetworkConfig.from_dict(told["config"]) == NetworkConfig.from_dict(state["config"])
    for name, tensor in state["model"].items():
        assert torch.equal(tensors[name], tensor.half().float() if tensor.dim() > 1 else tensor), name
    more = replace(RECIPE, epochs=1, learning_rate=1e-6, warmup_steps=0, cut_start=0, cut_ramp=0)
    config = NetworkConfig.from_dict(told["config"])
    after = pretrain(pictures, tmp_path / "more", config, more, init=place, cache=cache)
    assert torch.allclose(after["model"]["prefix.0.conv.weight"], tensors["prefix.0.conv.weight"], atol=1e-3)
    # The stem's strides touch no tensor: the same weights look at pictures of twice the size.
    twice = replace(config, image_size=32, stem_strides=(2, 2))
    large = pretrain(pictures, tmp_path / "large", twice, more, init=place, cache=cache)
    assert NetworkConfig.from_dict(large["config"]) == twice
    assert torch.allclose(large["model"]["prefix.0.conv.weight"], tensors["prefix.0.conv.weight"], atol=1e-3)
    with pytest.raises(ValueError, match=r"widths: .*colours has \(8, 16\), got \(8, 24\); leave the option out"):
        pretrain(pictures, tmp_path / "wide", replace(config, widths=(8, 24)), more, init=place, cache=cache)
    with pytest.raises(ValueError, match="expected nothing-00000"):
        load_weights(tmp_path / "weights" / "nothing")


def test_a_run_goes_on_elsewhere_from_its_weights(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache, place = tmp_path / "cache", tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    labels = labelled(pictures, tmp_path / "teacher" / CHECKPOINT, tmp_path / "x.labels", cache)
    recipe = replace(RECIPE, epochs=8, soft_share=0.5)
    first = pretrain(pictures, tmp_path / "here", CONFIG, recipe, soft_labels=labels, until=4, cache=cache, checkpoint_to=place)
    told, _, soft_head = load_weights(place)
    assert (told["epoch"], told["step"], told["names"]) == (4, 0, first["names"])
    assert soft_head["weight"].shape == (3, 16)
    copy = tmp_path / "there" / "clone"
    shutil.copytree(tmp_path / "weights", copy)
    other = replace(recipe, epochs=99)  # its own recipe counts
    with pytest.raises(ValueError, match="soft_labels: expected"):
        pretrain(pictures, tmp_path / "there" / "run", CONFIG, RECIPE, resume=copy / "run", cache=cache)
    last = pretrain(pictures, tmp_path / "there" / "run", CONFIG, other, resume=copy / "run", soft_labels=labels, cache=cache)
    assert last["epoch"] == 8
    assert last["hours"] > first["hours"]
    log = [json.loads(line) for line in (tmp_path / "there" / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, 9))  # the record goes on, too
    assert log[-1]["valid_top1"] > 0.8


def test_a_run_that_warms_up_again_does_so_across_an_interruption(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache, place = tmp_path / "cache", tmp_path / "weights" / "run"
    recipe = replace(RECIPE, epochs=4, warmup_steps=20)
    pretrain(pictures, tmp_path / "here", CONFIG, recipe, until=1, cache=cache, checkpoint_to=place)

    def stop(line: dict[str, Any]) -> None:
        if line["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(pictures, tmp_path / "parts", CONFIG, recipe, resume=place, cache=cache, progress=stop)
    parts = pretrain(pictures, tmp_path / "parts", CONFIG, recipe, resume=place, cache=cache)
    whole = pretrain(pictures, tmp_path / "whole", CONFIG, recipe, resume=place, cache=cache)
    assert same(whole, parts)
    assert whole["warm"] == 18  # steps of its own moments
    with pytest.raises(ValueError, match=r"image_size: .*run has 16, got 32"):
        pretrain(pictures, tmp_path / "big", replace(CONFIG, image_size=32), recipe, resume=place, cache=cache)


def test_shards_of_two_moments_are_refused(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitreplay.training import weights as module

    monkeypatch.setattr(module, "SHARD_BYTES", 4000)
    cache, place = tmp_path / "cache", tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache, checkpoint_to=place)
    files = weight_files(place)
    assert len(files) > 2
    old = files[1].read_bytes()
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache, checkpoint_to=place)
    load_weights(place)
    new = files[1].read_bytes()
    files[1].write_bytes(old)
    with pytest.raises(ValueError, match="files are not one complete set from a single checkpoint; take all of them from one commit"):
        load_weights(place)
    files[1].write_bytes(new)
    files[-1].unlink()
    with pytest.raises(ValueError, match="not one complete set"):
        load_weights(place)
    files[1].write_bytes(new[:100])
    with pytest.raises(ValueError, match="expected weights that bitreplay wrote"):
        load_weights(place)


@pytest.mark.parametrize("name", ["quicknet-32", "reactnet-32"])
def test_the_shipped_weights_are_those_of_the_shipped_backbone(name: str) -> None:
    told, tensors, _ = load_weights(Path(__file__).parents[1] / "weights" / name)
    config = told["config"]
    network_of(config, tensors)
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


def test_the_engines_kernels_convolve_as_torch_does() -> None:
    torch.manual_seed(0)
    block = QuickNetBlock(12).to(memory_format=torch.channels_last)
    x = torch.randn(3, 12, 5, 5).contiguous(memory_format=torch.channels_last)
    results = []
    for bits in (0, 16):
        if bits:
            use_packed(block, PackedConv(2, bits))
        given = x.clone().requires_grad_()
        block.zero_grad()
        y = block(given)
        (y * torch.arange(75.0).view(3, 1, 5, 5)).sum().backward()
        assert given.grad is not None
        assert block.conv.weight.grad is not None
        results.append((y.detach(), given.grad, block.conv.weight.grad.clone(), block.norm.weight.grad))
    for plain, packed in zip(*results, strict=True):
        assert torch.allclose(plain, packed, atol=3e-4 * float(plain.abs().max()))
    reference = BinaryConv2d(4, 4)
    reference.packed = PackedConv(1, 8)
    wide = torch.tensor([1.3, 1.25, -0.0, -2.0]).view(1, 4, 1, 1).requires_grad_()
    reference.of_sign(wide).sum().backward()
    assert wide.grad is not None
    assert (wide.grad.flatten() != 0).tolist() == [False, True, True, False]


def test_weights_keep_what_fp16_cannot_hold_and_refuse_what_is_not_finite(tmp_path: Path, pictures: Path) -> None:
    state = pretrain(pictures, tmp_path / "run", CONFIG, replace(RECIPE, epochs=1), cache=tmp_path / "cache")
    variance = state["model"]["tail.0.norm.running_var"]
    variance[3] = 1e6
    save_weights(state, tmp_path / "weights" / "x")
    _, tensors, _ = load_weights(tmp_path / "weights" / "x")
    assert tensors["tail.0.norm.running_var"][3] == 1e6
    before = {file.name: file.read_bytes() for file in (tmp_path / "weights").iterdir()}
    state["model"]["tail.0.conv.weight"][0, 0, 0, 0] = 1e6  # infinite as fp16
    with pytest.raises(ValueError, match=r"x: tail\.0\.conv\.weight holds a value that is infinite or NaN; nothing is written"):
        save_weights(state, tmp_path / "weights" / "x")
    assert {file.name: file.read_bytes() for file in (tmp_path / "weights").iterdir()} == before


@pytest.mark.parametrize("name", ["quicknet-32", "quicknet-64", "reactnet-32"])
def test_the_weights_in_the_repository_are_finite(name: str) -> None:
    _, tensors, _ = load_weights(WEIGHTS / name)
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


def test_the_run_in_the_repository_can_go_on() -> None:
    told, _, soft_head = load_weights(WEIGHTS / "quicknet-64")
    labels = SoftLabels(WEIGHTS / "tiny-imagenet.labels")
    assert labels.identity == told["labels"]
    assert labels.complete >= told["crops"] > 0
    assert soft_head["weight"].shape == (labels.header.classes, told["config"]["widths"][-1])
    assert [line["epoch"] for line in told["history"]] == list(range(1, told["epoch"] + 1))


def test_weights_of_others_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.zeros(2)}, tmp_path / "other-00000.safetensors", metadata)
        with pytest.raises(
            ValueError, match=r"other-00000\.safetensors: expected weights that bitreplay wrote, got safetensors of something else"
        ):
            load_weights(tmp_path / "other")


def test_a_branch_from_the_middle_of_an_epoch(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitreplay.training import pretrain as module

    torch.set_num_threads(1)
    cache = tmp_path / "cache"
    pretrain(pictures, tmp_path / "teacher", FLOATS, replace(RECIPE, epochs=1), cache=cache)
    labels = labelled(pictures, tmp_path / "teacher" / CHECKPOINT, tmp_path / "x.labels", cache)
    save, left = module.save_checkpoint, 9  # of a run that is interrupted in its second epoch, behind step 3

    def interrupt(path: Path, state: dict[str, Any]) -> None:
        nonlocal left
        save(path, state)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache, save_seconds=0)
    middle = tmp_path / "run" / CHECKPOINT
    assert (load_checkpoint(middle)["epoch"], load_checkpoint(middle)["step"]) == (1, 3)
    # Another batch or soft labels: the epoch begins anew, with a rate above 0 throughout.
    rates: list[float] = []
    rate = Recipe.rate
    monkeypatch.setattr(Recipe, "rate", lambda self, *args: rates.append(rate(self, *args)) or rates[-1])  # type: ignore[func-returns-value]
    for name, recipe, soft, steps in (
        ("large", replace(RECIPE, batch_size=30), None, 4),
        ("soft", replace(RECIPE, soft_share=0.5), labels, 12),
        ("same", RECIPE, None, 9),
    ):
        rates.clear()
        done = pretrain(pictures, tmp_path / name, CONFIG, recipe, resume=middle, soft_labels=soft, cache=cache)
        assert (done["epoch"], len(rates)) == (3, steps)
        assert min(rates) > 0
    with pytest.raises(ValueError, match=r"epochs: expected more than the 1 that .* has been trained for, got 1"):
        pretrain(pictures, tmp_path / "nothing", CONFIG, RECIPE, resume=middle, until=1, cache=cache)
    with pytest.raises(ValueError, match="init: expected no weights to start from beside a run to resume"):
        pretrain(pictures, tmp_path / "both", CONFIG, RECIPE, resume=middle, init=tmp_path / "x", cache=cache)
    early = replace(RECIPE, cut_start=1)  # the cut began within this very epoch
    assert load_checkpoint(middle)["recipe"]["cut_start"] == early.cut_start
    with pytest.raises(ValueError, match="branch from one before its cut_start"):
        pretrain(pictures, tmp_path / "none", replace(CONFIG, cut="none"), RECIPE, resume=middle, cache=cache)


def test_a_run_goes_on_with_its_own_pictures_precision_and_labels_alone(tmp_path: Path, pictures: Path) -> None:
    torch.set_num_threads(1)
    cache = tmp_path / "cache"
    place = tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, until=1, cache=cache, checkpoint_to=place)
    other = tmp_path / "set"
    shutil.copytree(pictures, other)
    Image.new("RGB", (32, 32), "red").save(other / "train" / "red" / "more.png")
    with pytest.raises(ValueError, match="the run was trained on other pictures"):
        pretrain(other, tmp_path / "run", CONFIG, RECIPE)
    half = replace(RECIPE, precision="bf16-mixed")
    results = [
        pretrain(pictures, tmp_path / name, CONFIG, recipe, resume=place, cache=cache) for name, recipe in (("a", RECIPE), ("b", half))
    ]
    assert results[1]["recipe"]["precision"] == "32-true"
    assert same(*results)


def test_the_head_is_kept_where_the_classes_are_as_many(tmp_path: Path, pictures: Path) -> None:
    cache = tmp_path / "cache"
    place = tmp_path / "weights" / "run"
    pretrain(pictures, tmp_path / "run", CONFIG, RECIPE, cache=cache, checkpoint_to=place)
    _, tensors, _ = load_weights(place)
    still = replace(RECIPE, epochs=1, learning_rate=1e-9, cut_start=0, cut_ramp=0)
    kept = pretrain(pictures, tmp_path / "kept", CONFIG, still, init=place, cache=cache)  # CONFIG says 200 classes; the pictures have 3
    assert torch.allclose(kept["model"]["head.weight"], tensors["head.weight"], atol=1e-6)
    fewer = tmp_path / "fewer"
    shutil.copytree(pictures, fewer)
    for split in ("train", "valid"):
        shutil.rmtree(fewer / split / "red")
    assert pretrain(fewer, tmp_path / "new", CONFIG, still, init=place)["model"]["head.weight"].shape == (2, 16)
