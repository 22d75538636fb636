"""Networks that are graphs (docs/method.md, 3.8 to 3.11): the core equals the reference, and a network without a cut learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graph_model
import numpy as np
import pytest
import reference as ref
import tiny_model
from new_learner import new_learner
from reference.comparison import assert_same
from reference.files import pack
from remembering_network import RememberingNetwork

from bitreplay import FormatError, Learner, Model
from bitreplay.model import write_model


def made(tmp_path: Path, seed: int, **shape: Any) -> tuple[Model, ref.ReferenceNetwork]:
    network, tensors = graph_model.make_graph(seed, **shape)
    return write_model(tmp_path / "g.model", network, tensors, {"name": "graph"}), RememberingNetwork(network, tensors)


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_graph_equals_the_reference(tmp_path: Path, seed: int, cut: bool) -> None:
    model, reference = made(tmp_path, seed, cut=cut)
    images = tiny_model.random_images(seed + 100, 5, model.network.image_size)
    latents = model.network.latents(images)
    assert np.array_equal(latents, reference.latents(images))
    features = model.network.features_of_latents(latents)
    assert np.array_equal(features, reference.features(latents))
    for threads in (1, 3):  # inside a picture, too
        assert np.array_equal(new_learner(model, threads=threads).features(images[:1]), features[:1])


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("head", ["lda", "cwr"])
def test_a_network_without_a_cut_keeps_its_features(tmp_path: Path, head: str, views: int) -> None:
    model, reference = made(tmp_path, 3)
    network = model.network
    assert (network.latent_words, network.latent_bits) == (-(-network.feature_count // 8), 8 * network.feature_count)
    values = {"capacity": 12, "head": head, "views": views, "epochs": 2, "near_equal": 0.02}
    ours = new_learner(model, threads=2, **values)
    theirs = ref.ReferenceLearner(reference, ours.settings.for_core())
    for lesson in range(3):
        images = tiny_model.random_images(lesson, 9, network.image_size)
        images[4] = images[3] ^ 1  # near-equal
        names = [str((i + lesson) % 4) for i in range(len(images))]
        ours.learn(images, names)
        theirs.learn(images, names)
        assert_same(ours, theirs)
        ours = Learner.from_bytes(ours.to_bytes(), threads=2)
    with pytest.raises(ValueError, match="train_blocks: expected at most 0"):
        new_learner(model, capacity=10, train_blocks=1)


def test_a_chain_takes_no_more_memory_than_its_widest_pair(tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(1, image_size=16, widths=(8, 16), blocks=(1, 2))
    model = write_model(tmp_path / "t.model", network, tensors, {})
    for op_number, op in enumerate(network["prefix"]):
        op["from"] = [op_number]  # as it is without
    graph = write_model(tmp_path / "u.model", network, tensors, {})
    assert graph.network.scratch_bytes == model.network.scratch_bytes
    images = tiny_model.random_images(4, 3, 16)
    assert np.array_equal(graph.network.latents(images), model.network.latents(images))


def damaged(change: Any, **shape: Any) -> bytes:
    network, tensors = graph_model.make_graph(2, **shape)
    network = json.loads(json.dumps(network))
    change(network, tensors)
    return pack("model", {"network": json.dumps(network), "card": "{}"}, tensors)


def set_from(values: Any) -> Any:
    def change(network: dict[str, Any], tensors: dict[str, Any]) -> None:
        network["prefix"][3]["from"] = values

    return change


def many(network: dict[str, Any], tensors: dict[str, Any]) -> None:
    network["prefix"] = [{"op": "max_pool", "channels": 3, "kernel": 1, "stride": 1}] * 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_from([4]), r"prefix\[3\]\.from: expected 1 to 8 numbers of values before it"),
        (set_from([-1]), r"prefix\[3\]\.from: expected"),
        (set_from([]), r"prefix\[3\]\.from: expected"),
        (set_from([0] * 9), r"prefix\[3\]\.from: expected"),
        (set_from("0"), r"prefix\[3\]\.from: expected"),
        (set_from([1.5]), r"prefix\[3\]\.from: expected"),
        (set_from([2**40]), r"prefix\[3\]\.from: expected"),
        (many, "expected a list of at most 512 operations"),
        (lambda network, tensors: network["prefix"][1].update(op="lstm"), r"prefix\[1\]\.op: expected conv, block, pool"),
        (lambda network, tensors: network["prefix"][0].update(pad=[0, 0, 0]), r"prefix\[0\]"),
        (lambda network, tensors: network["prefix"].insert(0, {"op": "max_pool", "channels": 3, "kernel": 7, "stride": 1, "pad": [7, 0, 0, 0]}), r"prefix\[0\]\.pad"),
        (lambda network, tensors: network.update(tail=[{"op": "block"}]), "network.tail"),
    ],
    ids=range(12),
)  # fmt: skip
def test_graphs_that_do_not_hold_together_are_refused(change: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Model(damaged(change), "m")


def test_a_value_that_nothing_reads_is_refused(tmp_path: Path) -> None:
    network = {
        "image_size": 8, "tail": [], "features": {"channels": 3, "pool_shift": 20, "shift": 8, "feature_bits": 5},
        "prefix": [{"op": "max_pool", "channels": 3, "kernel": 2, "stride": 1}, {"op": "max_pool", "channels": 3, "kernel": 3, "stride": 1, "from": [0]}],
    }  # fmt: skip
    tensors = {
        "features.pool_multiplier": np.ones(3, np.int32), "features.weight": np.eye(3, dtype=np.int8), "features.multiplier": np.ones(3, np.int16),
        "features.bias": np.zeros(3, np.int64),
    }  # fmt: skip
    with pytest.raises(FormatError, match="operation 0 of the prefix is read by none"):
        write_model(tmp_path / "m", network, tensors, {})
    network["prefix"][1]["from"] = [1]
    write_model(tmp_path / "m", network, tensors, {})
