"""Weights in shards: what training goes on from, here and elsewhere, and the ones in the repository."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")
from tiny_runs import CONFIG, FLOATS, RECIPE, labelled, same  # noqa: E402

from bitreplay import Model  # noqa: E402
from bitreplay.training.checkpoint import CHECKPOINT  # noqa: E402
from bitreplay.training.pretrain import pretrain  # noqa: E402
from bitreplay.training.soft_labels import SoftLabels  # noqa: E402
from bitreplay.training.weights import load_weights, network_of, save_weights, weight_files  # noqa: E402
from bitreplay.training.zoo.network import NetworkConfig  # noqa: E402

WEIGHTS = Path(__file__).parents[2] / "weights"


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
    told, tensors, _ = load_weights(WEIGHTS / name)
    config = told["config"]
    network_of(config, tensors)
    model = Model.from_package(name)
    assert NetworkConfig.from_dict(model.card["config"]) == NetworkConfig.from_dict(config)
    assert model.network.feature_count == config["widths"][-1]


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
