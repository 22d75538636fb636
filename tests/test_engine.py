"""The core equals tests/reference.py, bit for bit (docs/method.md, 3 to 6; the chain of equality)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference as ref
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from bitreplay import Learner, Model
from bitreplay.model import write_model

SETTINGS = {
    "learning_rate": 3000,
    "epochs": 3,
    "min_steps": 20,
    "live_batch": 7,
    "replay_batch": 9,
    "ghosts": 8,
    "prior": True,
    "pull": 200,
    "class_means": True,
}
SHAPES = [
    {"image_size": 8, "widths": (8, 16), "blocks": (1, 2), "tail_blocks": 1},
    {"image_size": 8, "widths": (12, 68), "blocks": (2, 2), "tail_blocks": 2},
    {"image_size": 16, "widths": (64, 132), "blocks": (1, 1), "tail_blocks": 0},
    {"image_size": 16, "widths": (4, 8, 72), "blocks": (1, 1, 3), "tail_blocks": 3, "stem_strides": (2, 1)},
]


def make(tmp_path: Path, seed: int, shape: dict) -> tuple[Model, ref.ReferenceNetwork]:
    network, tensors = tiny_model.make_model(seed, **shape)
    return write_model(tmp_path / f"{seed}.model", network, tensors, {"name": "tiny"}), ref.ReferenceNetwork(network, tensors)


def learner_pair(model: Model, network: ref.ReferenceNetwork, capacity: int, **changes: object) -> tuple[Learner, ref.ReferenceLearner]:
    values = {**SETTINGS, **changes}
    ours = Learner.new(
        model,
        capacity=capacity,
        seed=5,
        threads=2,
        learning_rate=values["learning_rate"] / 65536,
        epochs=values["epochs"],
        min_steps=values["min_steps"],
        live_batch=values["live_batch"],
        replay_batch=values["replay_batch"],
        ghosts=values["ghosts"],
        prior_correction=values["prior"],
        pull=values["pull"] / 256,
        class_means=values["class_means"],
    )
    return ours, ref.ReferenceLearner(network, capacity, 5, values)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_network_equals_the_reference(tmp_path: Path, seed: int, shape: dict) -> None:
    model, network = make(tmp_path, seed, shape)
    images = tiny_model.random_images(seed, 9, shape["image_size"])
    latents = model.network.latents(images)
    expected = network.latents(images)
    assert np.array_equal(latents, expected.reshape(len(images), -1))
    assert np.array_equal(model.network.features_of_latents(latents), network.features(expected))


def test_shipped_network_equals_the_reference() -> None:
    from bitreplay.container import unpack
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
    together = Learner.new(model, threads=2).features(images)
    alone = np.concatenate([Learner.new(model, threads=1).features(images[i : i + 1]) for i in range(len(images))])
    assert np.array_equal(together, alone)


LESSONS = [
    [0] * 12 + [1] * 9,
    [2] * 15,
    [1] * 4 + [3] * 6 + [0] * 5,
    [4],
    [4, 0, 5, 5, 5, 2] * 4,
]


@pytest.mark.parametrize("capacity", [0, 1, 7, 20, 1000])
@pytest.mark.parametrize(
    "changes", [{}, {"ghosts": 0, "prior": False, "pull": 0}, {"replay_batch": 40, "live_batch": 50}, {"class_means": False}]
)
def test_a_learner_equals_the_reference_over_lessons(tmp_path: Path, capacity: int, changes: dict) -> None:
    model, network = make(tmp_path, 7, SHAPES[0])
    ours, theirs = learner_pair(model, network, capacity, **changes)
    for number, labels in enumerate(LESSONS):
        images = tiny_model.random_images(100 + number, len(labels), 8)
        ours.learn(images, [f"class {c}" for c in labels])
        theirs.learn(images, np.array(labels))
        assert np.array_equal(ours._core.weight(), theirs.weight)
        assert np.array_equal(ours._core.past_count(), theirs.past_count)
        assert np.array_equal(ours._core.seen(), theirs.seen)
        assert np.array_equal(ours._core.feature_sums(), theirs.sums)
        assert np.array_equal(ours._core.labels(), theirs.labels)
        assert np.array_equal(ours._core.rows(), theirs.rows.reshape(ours._core.rows().shape))
    images = tiny_model.random_images(1, 30, 8)
    best, p = theirs.predict(images)
    prediction = ours.predict(images)
    assert prediction.names == [f"class {c}" for c in best]
    assert np.array_equal(prediction.probabilities, p.astype(np.float32) / 2**15)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_random_lessons_equal_the_reference(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    model, network = make(tmp_path_factory.mktemp("model"), data.draw(st.integers(0, 5)), SHAPES[0])
    ours, theirs = learner_pair(model, network, data.draw(st.integers(0, 30)), min_steps=1, epochs=1)
    known = 0
    for number in range(data.draw(st.integers(1, 4))):
        wished = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=20))
        labels = []
        for c in wished:  # new classes are numbered as they come
            labels.append(min(c, known))
            known = max(known, labels[-1] + 1)
        images = tiny_model.random_images(number, len(labels), 8)
        ours.learn(images, [str(c) for c in labels])
        theirs.learn(images, np.array(labels))
    assert np.array_equal(ours._core.weight(), theirs.weight)
    assert np.array_equal(ours._core.rows(), theirs.rows.reshape(ours._core.rows().shape))
    assert np.array_equal(ours._core.labels(), theirs.labels)


def test_the_worked_example_of_consolidation_is_exact() -> None:
    one = 1 << 27
    cw, past = ref.consolidate(
        np.array([[one, -one], [0, 0]]), np.array([[2 * one, 0], [0, 2 * one]]), np.array([90, 0]), np.array([10, 30])
    )
    assert np.array_equal(cw, [[one, -one], [-one, one]])
    assert list(past) == [100, 30]


def test_the_core_consolidates_the_worked_example_exactly() -> None:
    from bitreplay import _engine

    one = 1 << 27
    cw, past = _engine.consolidate(
        np.array([one, -one], np.int32),
        np.array([2 * one, 0, 0, 2 * one], np.int32),
        np.array([90, 0], np.uint32),
        np.array([10, 30], np.uint32),
    )
    assert cw.tolist() == [one, -one, -one, one]
    assert past.tolist() == [100, 30]


TEACH = """
import sys
import numpy as np
from bitreplay import Learner, _engine
rng = np.random.default_rng(3)
learner = Learner.new(capacity=10, threads=int(sys.argv[2]), min_steps=20)
for lesson in range(3):
    learner.learn(rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8), [str(lesson)] * 8 + ["again"] * 4)
learner.save(sys.argv[1])
print(_engine.isa())
"""


def test_every_instruction_set_and_number_of_threads_writes_the_same_state(tmp_path: Path) -> None:
    def teach(isa: str, threads: int) -> bytes:
        path = tmp_path / f"{isa}{threads}"
        environment = {**os.environ, "BITREPLAY_ISA": isa}
        result = subprocess.run([sys.executable, "-c", TEACH, str(path), str(threads)], env=environment, capture_output=True, text=True)
        if "not available on this processor" in result.stderr:
            pytest.skip("this processor has no AVX2")
        assert result.returncode == 0, result.stderr
        assert result.stdout.split() == [isa]
        return path.read_bytes()

    first = teach("scalar", 1)
    assert first == teach("avx2", 1) == teach("avx2", 2) == teach("scalar", 2)


def test_an_unknown_instruction_set_is_an_error() -> None:
    code = "from bitreplay import _engine; print(_engine.isa())"
    result = subprocess.run([sys.executable, "-c", code], env={**os.environ, "BITREPLAY_ISA": "sse9"}, capture_output=True, text=True)
    assert result.returncode != 0
    assert "expected scalar or avx2" in result.stderr
