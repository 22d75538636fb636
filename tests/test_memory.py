"""Every byte that `info` names is a byte that the core allocates, and a limit in bytes is kept at the highest moment."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from new_learner import new_learner, settings_of

from bitreplay import Learner, Model, _engine
from bitreplay.model import write_model

SIZE = 8
HEADS = pytest.mark.parametrize("head", ["lda", "cwr"])
VIEWS = pytest.mark.parametrize("views", [1, 6])


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    path = tmp_path_factory.mktemp("memory") / "tiny.model"
    write_model(path, network, tensors, {"name": "tiny"})
    return path


@pytest.fixture(scope="session")
def model(model_file: Path) -> Model:
    return Model.load(model_file)


@pytest.fixture(scope="session")
def pixel_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A latent row of one word: four bits."""
    network, tensors = tiny_model.make_model(1, image_size=4, widths=(4,), blocks=(1,), stem_strides=(2, 2))
    return write_model(tmp_path_factory.mktemp("memory") / "pixel.model", network, tensors, {})


@pytest.fixture(autouse=True, scope="module")
def _only_ours() -> Iterator[None]:
    """What other files left must not go while these tests count, nor be looked through each time that they collect."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_garbage() -> None:
    gc.collect()  # learners of earlier tests must not go while this one counts


def current() -> int:
    return int(_engine.memory()[0])


def peak_of(action: Callable[[], object]) -> int:
    """Bytes that the core holds at the highest moment of `action`, above those it held before."""
    before = current()
    _engine.reset_memory_peak()
    action()
    return int(_engine.memory()[1]) - before


def assert_needs(used: int, promised: int, *, exact: bool) -> None:
    """To the byte, but where a tail is trained: how many rows are held back from it is found in the lesson."""
    assert used <= promised
    assert used == promised or (not exact and used > 0.6 * promised)


def pictures(count: int, size: int = SIZE) -> np.ndarray:
    return tiny_model.random_images(count, count, size)


def names(count: int, classes: int, first: int = 0) -> list[str]:
    return [str(first + i % classes) for i in range(count)]


def test_the_core_forgets_nothing_and_keeps_nothing(model_file: Path) -> None:
    before = current()
    learner = new_learner(model_file, capacity=9, threads=3)
    learner.learn(pictures(7), names(7, 3))
    learner.predict(pictures(3))
    assert current() > before
    del learner
    gc.collect()
    assert current() == before


@HEADS
@VIEWS
@pytest.mark.parametrize("capacity", [0, 1, 9, 500])
def test_info_names_what_is_kept(model_file: Path, tmp_path: Path, capacity: int, head: str, views: int) -> None:
    before = current()
    learner = new_learner(model_file, capacity=capacity, head=head, views=views)
    width = learner.model.network.feature_count
    row = learner.model.network.latent_words * 8 + (width if views > 1 else 0)  # tiny: whole words of features

    def check(classes: int) -> None:
        sizes = learner.info()["bytes"]
        assert sizes["kept"] == current() - before
        assert sizes["kept"] == sizes["network"] + sizes["head"] + sizes["replay_rows"] + sizes["replay_counts"]
        if head == "lda":  # a sum and a count a class, half a moment, a row; weights and a bias a class
            assert sizes["head"] == classes * (width + 1) * 8 + width * (width + 1) // 2 * 4 + width * 4 + classes * (width * 2 + 8)
        else:
            assert sizes["head"] == classes * (width * 4 + 4)
        assert sizes["replay_rows"] == capacity * row
        assert sizes["replay_counts"] == capacity * 2 + classes * 8  # a label a row, a count a class
        assert sizes["replay_row"] == row + 2

    check(0)
    learner.learn(pictures(7), names(7, 3))
    check(3)
    learner.learn(pictures(20), names(20, 5))
    check(5)
    learner.predict(pictures(4))
    check(5)
    with pytest.raises(ValueError, match="stop"):
        learner.learn(pictures(3), names(3, 3, first=10), progress=lambda *_: (_ for _ in ()).throw(ValueError("stop")))
    check(5)
    learner.save(tmp_path / "s")
    del learner
    gc.collect()
    assert current() == before
    learner = Learner.load(tmp_path / "s")
    check(5)


def test_a_row_of_8192_bits_costs_1024_bytes_and_at_most_16(tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(1, image_size=16, widths=(128,), blocks=(0,), tail_blocks=0)
    model = write_model(tmp_path / "m", network, tensors, {})
    assert model.network.latent_bits == 8192

    def bytes_with(capacity: int) -> int:
        gc.collect()
        before = current()
        learner = new_learner(model, capacity=capacity)
        sizes = learner.info()["bytes"]
        assert sizes["replay_row"] * capacity + sizes["head"] == current() - before
        return current() - before

    cost = bytes_with(1001) - bytes_with(1000)
    assert 1024 <= cost <= 1024 + 16


@HEADS
@VIEWS
@pytest.mark.parametrize("threads", [1, 2, 16])
@pytest.mark.parametrize("train_blocks", [0, 1])
@pytest.mark.parametrize(("capacity", "live"), [(0, 1), (0, 40), (3, 1), (10, 10), (300, 4), (40, 12)])
def test_the_peak_of_a_lesson_is_the_formula(
    model: Model, capacity: int, live: int, train_blocks: int, threads: int, head: str, views: int
) -> None:
    if train_blocks and not capacity:
        return  # refused: tests/test_tail.py
    learner = new_learner(model, capacity=capacity, threads=threads, train_blocks=train_blocks, head=head, views=views)
    for classes in (1, 3, 3, 12):
        stored = learner.info()["replay_rows"]
        labels = names(live, min(classes, live))
        after = len({*learner.names, *labels})
        peak = peak_of(partial(learner.learn, pictures(live), labels))
        assert_needs(peak, learner._core.footprint(capacity, stored, live, after, threads)["lesson"], exact=not train_blocks)


@HEADS
@pytest.mark.parametrize(("threads", "views"), [(1, 1), (2, 6), (16, 1)])
@pytest.mark.parametrize(
    ("capacity", "lesson_images", "max_classes", "train_blocks"),
    [(0, 1, 1, 0), (5, 4, 3, 0), (6, 30, 12, 0), (200, 10, 2, 0), (3, 2, 40, 0), (5, 4, 3, 1), (200, 10, 2, 1), (16, 30, 12, 1)],
)
def test_the_learning_peak_is_reached_and_never_passed(
    model: Model, capacity: int, lesson_images: int, max_classes: int, train_blocks: int, threads: int, head: str, views: int
) -> None:
    without = current() - model.network.bytes
    learner = new_learner(
        model, capacity=capacity, lesson_images=lesson_images, max_classes=max_classes, threads=threads, train_blocks=train_blocks,
        head=head, views=views, near_equal=0,
    )  # fmt: skip
    promised = learner.info()["bytes"]["learning_peak"]
    peaks = []
    images = pictures(lesson_images)
    for first in range(0, max_classes, lesson_images):  # open all classes
        labels = [str(min(first + i, max_classes - 1)) for i in range(lesson_images)]
        peaks.append(current() - without + peak_of(partial(learner.learn, images, labels)))
    while learner.info()["replay_rows"] < capacity:
        peaks.append(current() - without + peak_of(lambda: learner.learn(images, names(lesson_images, max_classes))))
    assert len(learner.names) == max_classes
    assert max(peaks) <= promised
    # Nothing is left to grow: the next full lesson is the most that this learner can need.
    sizes = learner.info()["bytes"]
    assert sizes["learning_peak"] == promised
    kept = current() - without
    lesson = peak_of(lambda: learner.learn(images, names(lesson_images, max_classes)))
    assert kept == sizes["kept"]
    assert_needs(lesson, sizes["lesson"], exact=not train_blocks)
    assert_needs(kept + lesson, promised, exact=not train_blocks)


def test_without_a_limit_the_peak_is_that_of_1024_images_of_known_classes(model: Model) -> None:
    learner = new_learner(model, capacity=6, threads=1)
    learner.learn(pictures(6), names(6, 3))
    info = learner.info()
    assert info["lesson_images"] == 1024
    images = np.resize(pictures(64), (1024, SIZE, SIZE, 3))
    peak = peak_of(lambda: learner.learn(images, names(1024, 3)))
    assert peak == info["bytes"]["lesson"]
    assert info["bytes"]["learning_peak"] == info["bytes"]["kept"] + peak


@HEADS
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("train_blocks", [0, 1])
@pytest.mark.parametrize("classes", [3, 900])
def test_predicting_needs_what_info_says(model: Model, train_blocks: int, threads: int, classes: int, head: str) -> None:
    learner = new_learner(model, capacity=classes, max_classes=classes, threads=threads, train_blocks=train_blocks, near_equal=0, head=head)
    learner.learn(np.resize(pictures(64), (2 * classes, SIZE, SIZE, 3)), names(2 * classes, classes))
    promised = learner.info()["bytes"]["predicting"]
    images = np.resize(pictures(64), (600, SIZE, SIZE, 3))
    assert peak_of(lambda: learner.predict(images)) == promised
    assert peak_of(lambda: learner.predict(images[:5])) == learner._core.prediction_bytes(5, 1, threads) <= promised
    for views in (2, 6):
        more = learner._core.prediction_bytes(256, views, threads)
        assert peak_of(partial(learner.predict, images, views=views)) == more >= promised


def within(model: Model, memory_bytes: int, threads: int | None = None, **values: Any) -> Learner:
    return Learner.within_memory(memory_bytes, model, settings_of(values), threads=threads)


def least(model: Model, **values: Any) -> int:
    """The fewest bytes for these settings, as the error says."""
    with pytest.raises(ValueError, match="memory_bytes: expected at least") as error:
        within(model, 1, **values)
    found = re.search(r"at least (\d+) ", str(error.value))
    assert found
    return int(found[1])


@settings(max_examples=20, deadline=None)
@given(
    lesson_images=st.integers(1, 12),
    max_classes=st.integers(1, 6),
    threads=st.sampled_from([1, 2, 7, 40]),
    extra=st.integers(0, 3000),
    seed=st.integers(0, 1000),
    head=st.sampled_from(["lda", "cwr"]),
    views=st.sampled_from([1, 2]),
)
def test_a_limit_in_bytes_is_kept_and_used(
    model: Model, lesson_images: int, max_classes: int, threads: int, extra: int, seed: int, head: str, views: int
) -> None:
    gc.collect()
    values: dict[str, Any] = {"lesson_images": lesson_images, "max_classes": max_classes, "threads": threads, "head": head, "views": views}
    limit = least(model, **values) + extra
    without = current() - model.network.bytes
    learner = within(model, limit, seed=seed, **values)
    capacity = learner.settings.capacity
    _engine.reset_memory_peak()
    rng = np.random.default_rng(seed)
    for _ in range(2 * (capacity + max_classes) // lesson_images + 2):
        labels = [str(c) for c in rng.integers(0, max_classes, lesson_images)]
        learner.learn(pictures(lesson_images), labels)
        assert _engine.memory()[1] - without <= limit
    learner.learn(pictures(lesson_images), names(lesson_images, max_classes))
    assert _engine.memory()[1] - without <= limit
    more = new_learner(model, capacity=capacity + 1, **values)
    assert more._peak_bytes(capacity + 1) > limit  # one more row would not have fitted


def test_too_small_a_limit_says_what_it_takes(model: Model) -> None:
    values: dict[str, Any] = {"lesson_images": 10, "max_classes": 4, "threads": 2}
    bytes_needed = least(model, **values)
    assert within(model, bytes_needed, **values).settings.capacity == 0
    with pytest.raises(ValueError, match=rf"lessons of 10 images and 4 classes, got {bytes_needed - 1}; allow more"):
        within(model, bytes_needed - 1, **values)
    assert least(model, **{**values, "lesson_images": 11}) > bytes_needed
    assert least(model, **{**values, "max_classes": 5}) > bytes_needed
    assert least(model, max_classes=4, threads=2) == least(model, max_classes=4, threads=2, lesson_images=1024)


FILL = """
import json, sys
import numpy as np
from new_learner import settings_of
from bitreplay import Learner, _engine
path, limit, values = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
learner = Learner.within_memory(limit, path, settings_of(values), threads=3)
rng = np.random.default_rng(0)
while learner.info()["replay_rows"] < learner.settings.capacity:
    images = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    learner.learn(images, [str(i % 4) for i in range(20)])
learner.learn(images, [str(i % 4) for i in range(20)])
print(_engine.isa(), learner.settings.capacity, _engine.memory()[1])
"""


@pytest.mark.parametrize(
    "values",
    [{}, {"views": 6}, {"head": "cwr"}, {"train_blocks": 1}, {"train_blocks": 1, "gradient_bits": 8, "weight_bits": 16, "live_batch": 20}],
    ids=str,
)
def test_a_limit_in_bytes_gives_one_capacity_on_every_instruction_set(model: Model, model_file: Path, values: dict[str, Any]) -> None:
    values = {"lesson_images": 20, "max_classes": 4, "near_equal": 0, "held_back": 0, **values}
    limit = least(model, threads=3, **values) + 40_000
    capacities = {}
    for isa in ("scalar", "avx2", "avx512", "neon"):
        result = subprocess.run(
            [sys.executable, "-c", FILL, str(model_file), str(limit), json.dumps(values)],
            env={**os.environ, "BITREPLAY_ISA": isa, "PYTHONPATH": str(Path(__file__).parent)}, capture_output=True, text=True,
        )  # fmt: skip
        if "BITREPLAY_ISA" in result.stderr:  # not of this processor
            continue
        assert result.returncode == 0, result.stderr
        ran, capacity, peak = result.stdout.split()
        assert ran == isa
        assert int(peak) <= limit
        capacities[isa] = int(capacity)
    assert "scalar" in capacities
    assert len(set(capacities.values())) == 1, capacities
    assert min(capacities.values()) > 10


def test_more_bytes_than_any_memory_can_use_give_the_largest_memory(pixel_model: Model) -> None:
    learner = within(pixel_model, 2**40, lesson_images=1, max_classes=1, threads=1)
    assert learner.settings.capacity == 2**24
