"""The core equals tests/reference.py, bit for bit (docs/method.md, 3 to 6 and 9; the chain of equality)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference as ref
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from new_learner import new_learner
from reference.comparison import assert_same, assert_same_answers
from remembering_network import RememberingNetwork

from bitreplay import Learner, Model
from bitreplay.model import write_model

QUICK: dict[str, Any] = {"seed": 5, "threads": 2, "learning_rate": 3000 / 65536, "epochs": 3, "live_batch": 7, "replay_batch": 9}
SHAPES: list[dict[str, Any]] = [
    {"image_size": 8, "widths": (8, 16), "blocks": (1, 2), "tail_blocks": 1},
    {"image_size": 8, "widths": (12, 68), "blocks": (2, 2), "tail_blocks": 2},
    {"image_size": 16, "widths": (64, 132), "blocks": (1, 1), "tail_blocks": 0},
    {"image_size": 16, "widths": (4, 8, 72), "blocks": (1, 1, 3), "tail_blocks": 3, "stem_strides": (2, 1)},
]
FAMILY = {"relu": False, "threshold": True, "activation": True}  # of ReActNet and Bi-Real
DOWNS: list[dict[str, Any]] = [
    {"image_size": 8, "widths": (8, 16), "blocks": (1, 1), "down": {}},
    {"image_size": 16, "widths": (5, 67, 130), "blocks": (1, 1, 0), "stem_strides": (1, 1), "tail_blocks": 2, "down": FAMILY},
    {"image_size": 8, "widths": (64, 128), "blocks": (0, 1), "stem_strides": (2, 1), "down": {"relu": True, "threshold": True}},
    {"image_size": 24, "widths": (72, 40), "blocks": (1, 1), "tail_blocks": 0, "down": {"activation": True}},
]


made: dict[tuple[int, str], ref.ReferenceNetwork] = {}


def make(tmp_path: Path, seed: int, shape: dict[str, Any]) -> tuple[Model, ref.ReferenceNetwork]:
    """A tiny model, and the reference of it that every test of this file asks."""
    network, tensors = tiny_model.make_model(seed, **shape)
    reference = made.setdefault((seed, str(shape)), RememberingNetwork(network, tensors))
    return write_model(tmp_path / f"{seed}.model", network, tensors, {"name": "tiny"}), reference


def pair(model: Model, network: ref.ReferenceNetwork, **settings: Any) -> tuple[Learner, ref.ReferenceLearner]:
    ours = new_learner(model, **{**QUICK, **settings})
    return ours, ref.ReferenceLearner(network, ours.settings.for_core())


@pytest.mark.parametrize("shape", SHAPES + DOWNS + [{**shape, "features_relu": False} for shape in SHAPES[:2] + DOWNS[1:2]])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_network_equals_the_reference(tmp_path: Path, seed: int, shape: dict[str, Any]) -> None:
    model, network = make(tmp_path, seed, shape)
    images = tiny_model.random_images(seed, 9, shape["image_size"])
    latents = model.network.latents(images)
    expected = network.latents(images)
    assert np.array_equal(latents, expected.reshape(len(images), -1))
    assert np.array_equal(model.network.features_of_latents(latents), network.features(expected))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_inside_an_image_change_nothing(tmp_path: Path, threads: int) -> None:
    for shape in (SHAPES[3], DOWNS[1], {**DOWNS[3], "features_relu": False}):
        model, _ = make(tmp_path, 5, shape)
        learner = new_learner(model, threads=threads)
        images = tiny_model.random_images(5, 4, shape["image_size"])
        expected = model.network.features_of_latents(model.network.latents(images))
        assert np.array_equal(np.concatenate([learner.features(images[i : i + 1]) for i in range(len(images))]), expected)


def test_a_down_by_hand(tmp_path: Path) -> None:
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 1, 1, 0] = 255
    x = ref.input_values(image)  # 11 times -255, once 255
    assert ref.average_pool(x).reshape(-1).tolist() == [-127, -255, -255]  # -127.5 rounds up
    weight = np.zeros((2, 3, 3, 1), np.uint64)
    weight[0, 1, 1] = 7  # -1 at the centre: it agrees with the three inputs there
    # z of the 27 taps, 15 of them the pad: 27 - 2 * (11 - 3) = 11, and 27 - 2 * 11 = 5
    constants = ref.BlockConstants(mean=np.array([3, 0]), multiplier=np.array([2, -1]), bias=np.array([10, 5]), shift=1, relu=False)
    # v = rs(8 * 2 + 10, 1) = 13, and rs(-5 + 5, 1) = 0
    shortcut = np.array([[0b010], [0]], np.uint64)  # e = -127 + 255 - 255, and -127 - 255 - 255
    y = ref.down(x, weight, constants, shortcut, np.ones(2, np.int16), np.zeros(2, np.int64), shortcut_shift=0)
    assert y.tolist() == [[[[-127 + 13, -637]]]]
    one, zero = np.ones(2, np.int16), np.zeros(2, np.int64)
    down = {"op": "down", "in": 3, "out": 2, "shift": 1, "shortcut_shift": 0, "exponent": 8}
    features = {"channels": 2, "pool_shift": 0, "shift": 0, "feature_bits": 5}
    network = {"image_size": 2, "prefix": [down], "cut": {"channels": 2, "exponent": 8}, "tail": [], "features": features}
    for above in (0, 1):  # the core's values are seen between two thresholds
        tensors = {
            "prefix.0.weight": weight.reshape(2, 3, 3, 1), "prefix.0.mean": constants.mean.astype(np.int16),
            "prefix.0.multiplier": constants.multiplier.astype(np.int16), "prefix.0.bias": constants.bias.astype(np.int32),
            "prefix.0.shortcut_weight": shortcut, "prefix.0.shortcut_multiplier": one, "prefix.0.shortcut_bias": zero,
            "cut.threshold": np.array([-114, -637], np.int32) + np.int32(above), "cut.direction": np.zeros(2, np.uint8), "cut.alpha": one,
            "features.pool_multiplier": np.zeros(2, np.int32), "features.weight": np.zeros((2, 2), np.int8), "features.multiplier": one,
            "features.bias": zero,
        }  # fmt: skip
        core = write_model(tmp_path / "down.model", network, tensors, {}).network
        assert core.latents(image).tolist() == [[0b11 * above]]


def test_features_without_relu_see_what_is_negative(tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(2, image_size=8, widths=(8, 16), blocks=(1, 1), features_relu=False)
    signed = write_model(tmp_path / "signed.model", network, tensors, {}).network
    reference = ref.ReferenceNetwork(network, tensors)
    latents = reference.latents(tiny_model.random_images(3, 9, 8))
    spec = network["features"]
    q = ref.pooled(reference.tail(latents), tensors["features.pool_multiplier"], spec["pool_shift"], relu=False)
    assert (q < 0).any()
    assert (q > 0).any()
    spec["relu"] = True
    clipped = write_model(tmp_path / "clipped.model", network, tensors, {}).network
    assert np.array_equal(clipped.features_of_latents(latents), ref.ReferenceNetwork(network, tensors).features(latents))
    assert not np.array_equal(clipped.features_of_latents(latents), signed.features_of_latents(latents))
    del spec["relu"]  # true where it is not given
    again = write_model(tmp_path / "again.model", network, tensors, {}).network
    assert np.array_equal(clipped.features_of_latents(latents), again.features_of_latents(latents))


def test_shipped_network_equals_the_reference() -> None:
    from reference.files import unpack

    from bitreplay.model import _FOLDER, SHIPPED

    metadata, tensors = unpack((_FOLDER / f"{SHIPPED}.model").read_bytes(), "model", SHIPPED)
    network = ref.ReferenceNetwork(json.loads(metadata["network"]), tensors)
    images = tiny_model.random_images(1, 3, 32)
    model = Model.from_package()
    latents = model.network.latents(images)
    assert np.array_equal(latents, network.latents(images).reshape(3, -1))
    assert np.array_equal(model.network.features_of_latents(latents), network.features(latents))


def test_a_row_does_not_depend_on_its_neighbours_or_on_threads(tmp_path: Path) -> None:
    model, _ = make(tmp_path, 4, SHAPES[1])
    images = tiny_model.random_images(4, 70, 8)
    together = new_learner(model, threads=2).features(images)
    alone = np.concatenate([new_learner(model, threads=1).features(images[i : i + 1]) for i in range(len(images))])
    assert np.array_equal(together, alone)


LESSONS = [
    [0] * 12 + [1] * 9,
    [2] * 15,
    [1] * 4 + [3] * 6 + [0] * 5,
    [4],
    [4, 0, 5, 5, 5, 2] * 4,
]
HEADS: list[dict[str, Any]] = [
    {"head": "lda"},
    {"head": "lda", "shrinkage": 2**-8, "pseudo_pictures": 0},
    {"head": "lda", "shrinkage": 4.7, "pseudo_pictures": 0.3},
    {"head": "lda", "lda_features": 5, "class_priors": True},
    {"head": "cwr"},
    {"head": "cwr", "ghosts": 0, "prior_correction": False},
    {"head": "cwr", "replay_batch": 40, "live_batch": 50},
]


def frames(seed: int, count: int, size: int) -> np.ndarray:
    """Pictures of which about half are nearly others of them."""
    rng = np.random.default_rng(seed)
    images = tiny_model.random_images(seed, count, size)
    for i in np.flatnonzero(rng.random(count) < 0.5):
        images[i] = np.clip(images[rng.integers(count)] + rng.integers(-6, 7, images[i].shape), 0, 255)
    return images


@pytest.mark.parametrize(("views", "near_equal"), [(1, 0), (1, 0.1), (2, 0.1), (6, 0)])
@pytest.mark.parametrize("capacity", [0, 1, 7, 20, 1000])
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_a_learner_equals_the_reference_over_lessons(
    tmp_path: Path, head: dict[str, Any], capacity: int, views: int, near_equal: float
) -> None:
    model, network = make(tmp_path, 7, SHAPES[0])
    ours, theirs = pair(model, network, capacity=capacity, near_equal=near_equal, views=views, **head)
    counted = 0
    for number, labels in enumerate(LESSONS):
        images = frames(100 + number, len(labels), 8)
        ours.learn(images, [f"class {c}" for c in labels])
        theirs.learn(images, np.array(labels))
        assert_same(ours, theirs)
        counted += ours.info()["last_lesson"]["counted"]
    assert (counted < sum(map(len, LESSONS))) == (near_equal > 0), "the lessons show nothing of near-equal pictures"
    assert_same_answers(ours, theirs, tiny_model.random_images(1, 30, 8))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_lessons_equal_the_reference(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    model, network = make(tmp_path_factory.mktemp("model"), data.draw(st.integers(0, 5)), SHAPES[0])
    ours, theirs = pair(
        model, network, capacity=data.draw(st.integers(0, 30)), head=data.draw(st.sampled_from(["lda", "cwr"])), epochs=1,
        near_equal=data.draw(st.sampled_from([0, 2**-16, 0.05, 0.2, 0.5])), views=data.draw(st.sampled_from([1, 2])),
        seed=data.draw(st.integers(0, 2**64 - 1)),
    )  # fmt: skip
    known = 0
    for number in range(data.draw(st.integers(1, 4))):
        wished = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=20))
        labels = []
        for c in wished:  # new classes are numbered as they come
            labels.append(min(c, known))
            known = max(known, labels[-1] + 1)
        images = frames(number, len(labels), 8)
        ours.learn(images, [str(c) for c in labels])
        theirs.learn(images, np.array(labels))
    assert_same(ours, theirs)


def test_both_branches_are_mixed_by_their_weights(tmp_path: Path) -> None:
    model, network = make(tmp_path, 7, SHAPES[0])
    ours, theirs = pair(model, network, capacity=5)
    images = tiny_model.random_images(3, 12, 8)
    ours.learn(images, list("abcabcabcabc"))
    theirs.learn(images, [0, 1, 2] * 4)
    for frozen in (0, 1, 12_345, 2**20):
        theirs.mixing = (frozen, 0)
        mixed = Learner(model, ours.settings, threads=1, state=replace(ours._state(), mixing=theirs.mixing))
        assert_same(mixed, theirs)
        assert_same_answers(mixed, theirs, images)


def test_the_worked_example_of_consolidation_is_exact() -> None:
    one = 1 << 27
    cw, past = ref.consolidate(np.array([[one, -one], [0, 0]]), np.array([[2 * one, 0], [0, 2 * one]]), [90, 0], [10, 30])
    assert np.array_equal(cw, [[one, -one], [-one, one]])
    assert list(past) == [100, 30]


FAST = "neon" if platform.machine() in ("aarch64", "arm64") else "avx2"

TEACH = """
import sys
import numpy as np
from bitreplay import Learner, Settings, _engine
rng = np.random.default_rng(3)
learner = Learner(settings=Settings(capacity=10, head=sys.argv[3], views=2), threads=int(sys.argv[2]))
for lesson in range(3):
    learner.learn(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), [str(lesson)] * 8 + ["again"] * 4)
learner.save(sys.argv[1])
print(_engine.isa())
"""


@pytest.mark.parametrize("head", ["lda", "cwr"])
def test_every_instruction_set_and_number_of_threads_writes_the_same_state(tmp_path: Path, head: str) -> None:
    def teach(isa: str, threads: int) -> bytes:
        path = tmp_path / f"{isa}{threads}"
        environment = {**os.environ, "BITREPLAY_ISA": isa}
        result = subprocess.run(
            [sys.executable, "-c", TEACH, str(path), str(threads), head], env=environment, capture_output=True, text=True
        )
        if "not available on this processor" in result.stderr:
            pytest.skip(f"this processor has no {isa}")
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [isa]
        return path.read_bytes()

    first = teach("scalar", 1)
    assert first == teach(FAST, 1) == teach(FAST, 2) == teach("scalar", 2)


@pytest.mark.parametrize("isa", ["sse9", "avx2" if FAST == "neon" else "neon"])
def test_an_unknown_instruction_set_and_one_of_another_processor_are_errors(isa: str) -> None:
    code = "from bitreplay import _engine; print(_engine.isa())"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "BITREPLAY_ISA": isa}, capture_output=True, text=True)
    assert result.returncode != 0
    assert f"expected scalar or {FAST}" in result.stderr
    assert f"got {isa}" in result.stderr
