"""The exported integer network agrees with the float one, for every binary family (docs/method.md, 3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")
from new_learner import new_learner  # noqa: E402
from tiny_runs import CONFIG, RECIPE  # noqa: E402

from bitreplay import Model  # noqa: E402
from bitreplay.training.checkpoint import CHECKPOINT  # noqa: E402
from bitreplay.training.export import export_model, load_network  # noqa: E402
from bitreplay.training.pretrain import pretrain  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork, NetworkConfig  # noqa: E402

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
    learner = new_learner(model, capacity=30)
    from bitreplay.datasets.image_sets import read_split

    train, valid = read_split(pictures, "train", 16), read_split(pictures, "valid", 16)
    assert train is not None
    assert valid is not None
    for c in range(3):
        rows = train.labels == c
        learner.learn(train.images[rows], [train.names[c]] * int(rows.sum()))
    found = np.array(learner.predict(valid.images).names)
    assert np.mean(found == np.array(valid.names)[valid.labels]) > 0.8
