"""A float network teaches a binary one with soft labels (docs/method.md, 2.5)."""

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
from bitreplay.datasets.image_sets import cached_split  # noqa: E402
from bitreplay.training.checkpoint import CHECKPOINT  # noqa: E402
from bitreplay.training.crops import STORED  # noqa: E402
from bitreplay.training.export import export_model  # noqa: E402
from bitreplay.training.layers import BinaryConv2d  # noqa: E402
from bitreplay.training.pretrain import pretrain  # noqa: E402
from bitreplay.training.recipe import Recipe  # noqa: E402
from bitreplay.training.soft_labels import Crops, make_soft_labels  # noqa: E402
from bitreplay.training.teachers import checkpoint_teacher  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork  # noqa: E402


def test_a_float_network_teaches_a_binary_one(tmp_path: Path, pictures: Path) -> None:
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
