"""Classes open as they are named, are told apart, and share the replay memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from new_learner import new_learner
from tiny_lessons import QUICK, SIZE, pictures

from bitreplay import Learner, Model


def test_new_names_open_classes_in_the_order_in_which_they_appear(taught: Learner) -> None:
    taught.learn(pictures(5, 6), ["z", "b", "ä kettle", "z", "Z", "a"])
    assert taught.names == ["a", "b", "z", "ä kettle", "Z"]
    assert [c["name"] for c in taught.info()["classes"]] == taught.names
    assert [c["samples"] for c in taught.info()["classes"]] == [7, 6, 2, 1, 1]


def test_names_that_look_odd_are_names(model: Model, tmp_path: Path) -> None:
    names = ["a b", "0", "a/b", '"', "\\", "日本語", "👩‍🚀", "x" * 200, "null", "e\u0301", "é"]
    learner = new_learner(model, capacity=5, **QUICK)
    learner.learn(pictures(1, len(names)), names)
    learner.save(tmp_path / "s")
    assert Learner.load(tmp_path / "s").names == names


def coloured(colour: tuple[int, int, int], count: int) -> np.ndarray:
    noise = np.random.default_rng(sum(colour)).integers(-20, 21, (count, SIZE, SIZE, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def test_lessons_of_one_class_teach_it_first_and_later(model: Model) -> None:
    learner = new_learner(model, capacity=30, threads=1)
    colours = {"night": (10, 10, 20), "snow": (240, 240, 250), "red": (240, 20, 20)}
    for number, (name, colour) in enumerate(colours.items(), 1):
        learner.learn(coloured(colour, 12), [name] * 12)
        assert learner.names == list(colours)[:number]
        for known in learner.names:  # the pictures of earlier lessons too
            # a tiny random network: most of them, not all
            assert learner.predict(coloured(colours[known], 12)).names.count(known) >= 8
    assert learner.predict(coloured((10, 10, 20), 1)).probabilities.shape == (1, 3)


def test_one_class_only_is_certain(model: Model) -> None:
    learner = new_learner(model, capacity=0, **QUICK)
    learner.learn(pictures(1, 1), ["only"])
    prediction = learner.predict(pictures(2, 3))
    assert prediction.names == ["only"] * 3
    assert np.array_equal(prediction.probabilities, np.ones((3, 1), np.float32))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacity=st.integers(0, 25),
    seed=st.integers(0, 2**64 - 1),
    lessons=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=15), min_size=1, max_size=5),
)
def test_memory_is_full_balanced_and_holds_what_was_taught(model: Model, capacity: int, seed: int, lessons: list[list[int]]) -> None:
    learner = new_learner(model, capacity=capacity, seed=seed, threads=1, near_equal=0)
    offered: dict[tuple[str, bytes], int] = {}
    taught: dict[str, int] = {}
    for number, classes in enumerate(lessons):
        names = [f"class {c}" for c in classes]
        images = pictures(number, len(names))
        learner.learn(images, names)
        for name, latent in zip(names, model.network.latents(images), strict=True):
            offered[name, latent.tobytes()] = offered.get((name, latent.tobytes()), 0) + 1
            taught[name] = taught.get(name, 0) + 1
        info = learner.info()
        assert {c["name"]: c["samples"] for c in info["classes"]} == taught
        stored = {c["name"]: c["replay_rows"] for c in info["classes"]}
        assert info["replay_rows"] == sum(stored.values()) == min(capacity, sum(taught.values()))
        for name, count in stored.items():
            assert min(taught[name], max(stored.values()) - 1) <= count <= taught[name]
        rows: dict[tuple[str, bytes], int] = {}
        for row, label in zip(learner._core["rows"], learner._core["labels"], strict=True):
            key = (learner.names[label], row.tobytes())
            rows[key] = rows.get(key, 0) + 1
        assert all(count <= offered.get(key, 0) for key, count in rows.items())


def test_capacity_is_shared_within_one_row_once_every_class_has_enough(model: Model) -> None:
    learner = new_learner(model, capacity=20, threads=1, **QUICK)
    for number, name in enumerate("abcdef"):
        learner.learn(pictures(number, 25), [name] * 25)
        counts = [c["replay_rows"] for c in learner.info()["classes"]]
        assert sum(counts) == 20
        assert max(counts) - min(counts) <= 1
