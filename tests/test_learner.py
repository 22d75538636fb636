"""Laws of the learner: a lesson is applied whole or not at all, the same input gives the same bytes, bad input is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitreplay import Cancelled, Learner, Model
from bitreplay.model import write_model
from bitreplay.settings import Settings

SIZE = 8
QUICK: dict[str, Any] = {"live_batch": 7, "replay_batch": 9, "epochs": 10, "near_equal": 0}
HEADS = ("lda", "cwr")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    return write_model(tmp_path_factory.mktemp("learner") / "tiny.model", network, tensors, {"name": "tiny"})


@pytest.fixture(params=HEADS)
def taught(model: Model, request: pytest.FixtureRequest) -> Learner:
    """A learner that knows a (6 images) and b (5), with a full memory of 8 rows."""
    learner = Learner.new(model, capacity=8, seed=3, threads=2, head=request.param, **QUICK)
    learner.learn(pictures(1, 11), ["a"] * 6 + ["b"] * 5)
    return learner


def pictures(seed: int, count: int, size: int = SIZE) -> np.ndarray:
    return tiny_model.random_images(seed, count, size)


def state(learner: Learner, folder: Path) -> bytes:
    """Everything that is known, as the state file holds it."""
    path = folder / "state-to-compare"
    learner.save(path)
    return path.read_bytes()


# -- nothing changes unless a lesson ends well ----------------------------------------------------------------------------


def test_reading_changes_nothing(taught: Learner, tmp_path: Path) -> None:
    before = state(taught, tmp_path)
    images = pictures(2, 5)
    copy = images.copy()
    first = taught.predict(images)
    taught.features(images)
    taught.info()
    taught.names.append("not a class")
    second = taught.predict(images)
    assert state(taught, tmp_path) == before
    assert np.array_equal(images, copy)
    assert first.names == second.names
    assert np.array_equal(first.probabilities, second.probabilities)


class StopError(Exception):
    pass


def cancelling(moment: int) -> dict[str, Callable[..., object]]:
    calls = iter(range(10_000))
    return {"cancel": lambda: next(calls) == moment}


def raising(error: type[BaseException], moment: int) -> dict[str, Callable[..., object]]:
    calls = iter(range(10_000))

    def progress(*_: object) -> None:
        if next(calls) == moment:
            raise error

    return {"progress": progress}


def interrupting(moment: int) -> dict[str, Callable[..., object]]:
    """Send Ctrl-C's signal from inside the lesson, and let it go on."""
    calls = iter(range(10_000))

    def cancel() -> bool:
        if next(calls) == moment:
            signal.raise_signal(signal.SIGINT)
        return False

    return {"cancel": cancel}


LESSON = (pictures(9, 9), ["c", "a", "c", "d", "a", "b", "d", "d", "c"])


def moments(learner: Learner) -> list[tuple[str, int, int]]:
    """The progress of LESSON on a learner like this one, which learns it."""
    calls: list[tuple[str, int, int]] = []
    learner.learn(*LESSON, progress=lambda *call: calls.append(call))
    return calls


def test_progress_tells_two_phases_from_nothing_to_all(taught: Learner) -> None:
    calls = moments(taught)
    if taught.settings.head == "lda":
        assert calls == [("latents", 0, 9), ("latents", 9, 9), ("train", 0, 1), ("train", 1, 1)]
    else:
        rows = 9 + 8  # live and replayed
        assert calls == [("latents", 0, rows), ("latents", rows, rows), ("train", 0, 20), ("train", 16, 20), ("train", 20, 20)]


@pytest.mark.parametrize("moment", range(5))
@pytest.mark.parametrize(
    ("way", "error"),
    [
        (cancelling, Cancelled),
        (lambda moment: raising(StopError, moment), StopError),
        (lambda moment: raising(KeyboardInterrupt, moment), KeyboardInterrupt),
        (lambda moment: raising(MemoryError, moment), MemoryError),
        (interrupting, KeyboardInterrupt),
    ],
    ids=["cancel", "progress raises", "KeyboardInterrupt", "MemoryError", "SIGINT"],
)
def test_a_lesson_that_is_given_up_leaves_no_trace(
    taught: Learner, tmp_path: Path, moment: int, way: Callable[[int], dict[str, Callable[..., object]]], error: type[BaseException]
) -> None:
    before = state(taught, tmp_path)
    if taught.settings.head == "lda":  # reports four times
        moment = min(moment, 3)
    with pytest.raises(error):
        taught.learn(*LESSON, **way(moment))
    assert state(taught, tmp_path) == before
    assert taught.names == ["a", "b"]
    assert taught.info()["lessons"] == 1
    # and what is learned next is what would have been learned without the attempt
    same = Learner.load(tmp_path / "state-to-compare", threads=1)
    taught.learn(*LESSON)
    same.learn(*LESSON)
    assert state(taught, tmp_path) == state(same, tmp_path) != before


def test_a_cancel_that_never_says_yes_changes_nothing_of_the_result(taught: Learner, tmp_path: Path) -> None:
    state(taught, tmp_path)
    other = Learner.load(tmp_path / "state-to-compare")
    asked = []
    taught.learn(*LESSON, progress=lambda *_: "ignored", cancel=lambda: bool(asked.append(1)))
    other.learn(*LESSON)
    assert len(asked) == (4 if taught.settings.head == "lda" else 5)
    assert state(taught, tmp_path) == state(other, tmp_path)


def test_predict_and_save_inside_a_lesson_see_the_state_before_it(taught: Learner, tmp_path: Path) -> None:
    before = state(taught, tmp_path)
    images = pictures(2, 4)
    expected = taught.predict(images)
    seen = []
    taught.learn(*LESSON, progress=lambda *_: seen.append((taught.predict(images), state(taught, tmp_path))))
    assert len(seen) == (4 if taught.settings.head == "lda" else 5)
    for prediction, content in seen:
        assert content == before
        assert prediction.names == expected.names
        assert np.array_equal(prediction.probabilities, expected.probabilities)


NESTED = """
import sys
import numpy as np
from bitreplay import Learner
rng = np.random.default_rng(1)
learner = Learner.new(sys.argv[1], capacity=8, threads=1, head=sys.argv[2])
images = rng.integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
learner.learn(images[:4], ["a"] * 4)
errors = []
def progress(phase, done, total):
    try:
        learner.learn(images, [str(i) for i in range(64)])
    except RuntimeError as error:
        errors.append(str(error))
learner.learn(images[:4], ["b"] * 4, progress=progress)
assert len(errors) >= 4 and "lesson" in errors[0], errors
assert learner.names == ["a", "b"] and learner.info()["lessons"] == 2
"""


@pytest.mark.parametrize("head", HEADS)
def test_a_lesson_inside_a_lesson_is_refused(model: Model, tmp_path: Path, head: str) -> None:
    (tmp_path / "m").write_bytes(model.content or b"")
    result = subprocess.run([sys.executable, "-c", NESTED, str(tmp_path / "m"), head], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_a_lesson_from_another_thread_is_refused_while_one_runs(taught: Learner) -> None:
    errors: list[BaseException] = []

    def other_lesson() -> None:
        try:
            taught.learn(pictures(4, 2), ["x", "y"])
        except BaseException as error:
            errors.append(error)

    def progress(phase: str, done: int, total: int) -> None:
        if (phase, done) == ("train", 0):  # the maps of weights are made: new classes do no harm to memory, only to the result
            thread = threading.Thread(target=other_lesson)
            thread.start()
            thread.join()

    taught.learn(*LESSON, progress=progress)
    assert [type(e) for e in errors] == [RuntimeError]
    assert taught.names == ["a", "b", "c", "d"]
    assert taught.info()["lessons"] == 2


# -- the same input, the same bytes -----------------------------------------------------------------------------------------

LESSONS = [["a"] * 5, ["b", "c"] * 4, ["c"], ["d", "a", "e"] * 3, ["b"] * 6]


def teach(learner: Learner, first: int, last: int) -> None:
    for number in range(first, last):
        learner.learn(pictures(50 + number, len(LESSONS[number])), LESSONS[number])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("capacity", [0, 5, 12, 1000])
def test_stopping_between_lessons_cannot_be_seen(model: Model, tmp_path: Path, capacity: int, head: str) -> None:
    settings = {**QUICK, "capacity": capacity, "seed": 2**64 - 1, "head": head}
    never = Learner.new(model, threads=2, **settings)
    teach(never, 0, len(LESSONS))
    expected = state(never, tmp_path)
    stopped = Learner.new(model, threads=1, **settings)
    for number in range(len(LESSONS)):
        teach(stopped, number, number + 1)
        stopped.save(tmp_path / "s")
        content = (tmp_path / "s").read_bytes()
        stopped = Learner.load(tmp_path / "s", threads=1 + number % 3)
        stopped.save(tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == content
        assert stopped.info()["lessons"] == number + 1
    assert state(stopped, tmp_path) == expected
    images = pictures(1, 20)
    assert np.array_equal(never.predict(images).probabilities, stopped.predict(images).probabilities)


def test_a_learner_that_knows_nothing_can_be_saved_and_taught_later(model: Model, tmp_path: Path) -> None:
    new = Learner.new(model, capacity=5, **QUICK)
    new.save(tmp_path / "new")
    loaded = Learner.load(tmp_path / "new")
    assert loaded.names == []
    teach(new, 0, 2)
    teach(loaded, 0, 2)
    assert state(new, tmp_path) == state(loaded, tmp_path)


def test_settings_and_model_come_back(model: Model, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "capacity": 7, "seed": 9, "lesson_images": 20, "max_classes": 6, "head": "cwr", "lda_features": 5, "class_priors": True, "views": 6, "shrinkage": 0.25, "pseudo_pictures": 2,
        "near_equal": 0.375, "learning_rate": 0.125, "epochs": 2, "live_batch": 4, "replay_batch": 5, "ghosts": 0, "prior_correction": False,
        "train_blocks": 1, "forward_bits": 9, "gradient_bits": 7, "weight_bits": 16, "weight_step": 3, "parameter_step": 8,
        "held_back": 0.25, "tail_epochs": 3, "tail_passes": 6, "tail_replay_batch": 9, "tail_noise": 3, "tail_mirror": False,
        "tail_distillation": False, "tail_prior": 0.25,
    }  # fmt: skip
    assert not any(value == Settings().to_dict()[name] for name, value in values.items())
    lda, cwr = values | {"head": "lda"}, values | {"lda_features": 0, "class_priors": False}
    for number, chosen in enumerate((lda, cwr)):
        Learner.new(model, **chosen).save(tmp_path / f"{number}")
        loaded = Learner.load(tmp_path / f"{number}")
        assert loaded.settings.to_dict() == chosen
        assert loaded.model.digest == model.digest


def test_every_input_that_should_matter_does(model: Model, tmp_path: Path) -> None:
    images, labels = pictures(5, 8), ["a", "b"] * 4

    def learned(images: np.ndarray, labels: list[str], **changes: object) -> bytes:
        learner = Learner.new(model, threads=1, **{"capacity": 4, "seed": 1, **QUICK, **changes})
        learner.learn(images, labels)
        return state(learner, tmp_path)

    for head in HEADS:
        base = learned(images, labels, head=head)
        assert learned(images.copy(), list(labels), head=head) == base
        assert learned(np.asfortranarray(images), np.array(labels), head=head) == base
        assert learned(np.concatenate([images, images], axis=2)[:, :, :SIZE], tuple(labels), head=head) == base
        frozen = images.copy()
        frozen.flags.writeable = False
        assert learned(frozen, labels, head=head) == base
        others = [
            learned(images[::-1], labels, head=head),
            learned(255 - images, labels, head=head),
            learned(images, labels[::-1], head=head),
            learned(images, labels, seed=2, head=head),
            learned(images, labels, capacity=5, head=head),
            *[
                learned(images, labels, head=head, **{name: value})
                for name, value in [("views", 2), ("shrinkage", 2), ("near_equal", 0.5), ("learning_rate", 0.06), ("ghosts", 7)]
            ],
        ]
        assert len({base, *others}) == len(others) + 1


def test_prediction_does_not_depend_on_the_batch(taught: Learner) -> None:
    images = pictures(3, 300)  # more than the core gets at once
    together = taught.predict(images)
    assert together.probabilities.shape == (300, 2)
    assert together.probabilities.dtype == np.float32
    for i in (0, 1, 255, 256, 299):
        alone = taught.predict(images[i : i + 1])
        assert alone.names == [together.names[i]]
        assert np.array_equal(alone.probabilities[0], together.probabilities[i])


def test_probabilities_are_what_prediction_says(taught: Learner) -> None:
    prediction = taught.predict(pictures(3, 200))
    scaled = prediction.probabilities * 2**15
    assert np.array_equal(scaled, np.rint(scaled))
    assert np.abs(scaled.sum(axis=1) - 2**15).max() <= 1  # half a unit a class
    assert len(set(prediction.names)) == 2
    for name, p in zip(prediction.names, prediction.probabilities, strict=True):
        assert p[taught.names.index(name)] == p.max()


# -- classes ----------------------------------------------------------------------------------------------------------------


def test_new_names_open_classes_in_the_order_in_which_they_appear(taught: Learner) -> None:
    taught.learn(pictures(5, 6), ["z", "b", "ä kettle", "z", "Z", "a"])
    assert taught.names == ["a", "b", "z", "ä kettle", "Z"]
    assert [c["name"] for c in taught.info()["classes"]] == taught.names
    assert [c["samples"] for c in taught.info()["classes"]] == [7, 6, 2, 1, 1]


def test_names_that_look_odd_are_names(model: Model, tmp_path: Path) -> None:
    names = ["a b", "0", "a/b", '"', "\\", "日本語", "👩‍🚀", "x" * 200, "null", "e\u0301", "é"]
    learner = Learner.new(model, capacity=5, **QUICK)
    learner.learn(pictures(1, len(names)), names)
    learner.save(tmp_path / "s")
    assert Learner.load(tmp_path / "s").names == names


def coloured(colour: tuple[int, int, int], count: int) -> np.ndarray:
    noise = np.random.default_rng(sum(colour)).integers(-20, 21, (count, SIZE, SIZE, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def test_lessons_of_one_class_teach_it_first_and_later(model: Model) -> None:
    learner = Learner.new(model, capacity=30, threads=1)
    colours = {"night": (10, 10, 20), "snow": (240, 240, 250), "red": (240, 20, 20)}
    for number, (name, colour) in enumerate(colours.items(), 1):
        learner.learn(coloured(colour, 12), [name] * 12)
        assert learner.names == list(colours)[:number]
        for known in learner.names:  # the pictures of earlier lessons too
            # a tiny random network: most of them, not all
            assert learner.predict(coloured(colours[known], 12)).names.count(known) >= 8
    assert learner.predict(coloured((10, 10, 20), 1)).probabilities.shape == (1, 3)


def test_one_class_only_is_certain(model: Model) -> None:
    learner = Learner.new(model, capacity=0, **QUICK)
    learner.learn(pictures(1, 1), ["only"])
    prediction = learner.predict(pictures(2, 3))
    assert prediction.names == ["only"] * 3
    assert np.array_equal(prediction.probabilities, np.ones((3, 1), np.float32))


# -- the replay memory ----------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    capacity=st.integers(0, 25),
    seed=st.integers(0, 2**64 - 1),
    lessons=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=15), min_size=1, max_size=5),
)
def test_memory_is_full_balanced_and_holds_what_was_taught(model: Model, capacity: int, seed: int, lessons: list[list[int]]) -> None:
    learner = Learner.new(model, capacity=capacity, seed=seed, threads=1, near_equal=0)
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
        for row, label in zip(learner._core.rows(), learner._core.labels(), strict=True):
            key = (learner.names[label], row.tobytes())
            rows[key] = rows.get(key, 0) + 1
        assert all(count <= offered.get(key, 0) for key, count in rows.items())


def test_capacity_is_shared_within_one_row_once_every_class_has_enough(model: Model) -> None:
    learner = Learner.new(model, capacity=20, threads=1, **QUICK)
    for number, name in enumerate("abcdef"):
        learner.learn(pictures(number, 25), [name] * 25)
        counts = [c["replay_rows"] for c in learner.info()["classes"]]
        assert sum(counts) == 20
        assert max(counts) - min(counts) <= 1


# -- bad input: a clear error, and nothing lost ---------------------------------------------------------------------------------

GOOD = pictures(1, 3)
BAD_IMAGES = [
    (GOOD.tolist(), TypeError, r"images: expected a numpy array, got list"),
    (None, TypeError, r"images: expected a numpy array, got NoneType"),
    (GOOD.astype(np.float32), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got float32 \(3, 8, 8, 3\); scale to 0\.\.255"),
    (GOOD.astype(np.int8), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got int8 \(3, 8, 8, 3\)"),
    (GOOD > 3, ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got bool"),
    (GOOD[0], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(8, 8, 3\)"),
    (GOOD[None], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(1, 3, 8, 8, 3\)"),
    (GOOD[..., :1], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 8, 8, 1\)"),
    (GOOD.transpose(0, 3, 1, 2), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 3, 8, 8\)"),
    (pictures(1, 3, 9), ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 9, 9, 3\); bring them to 8 x 8 RGB"),
    (GOOD[:, :7], ValueError, r"images: expected uint8 \(N, 8, 8, 3\), got uint8 \(3, 7, 8, 3\)"),
    (GOOD[:0], ValueError, r"images: expected at least one, got none"),
]


@pytest.mark.parametrize(("images", "error", "message"), BAD_IMAGES, ids=[str(i) for i in range(len(BAD_IMAGES))])
def test_images_that_do_not_fit_are_refused(taught: Learner, tmp_path: Path, images: object, error: type[Exception], message: str) -> None:
    before = state(taught, tmp_path)
    with pytest.raises(error, match=message):
        taught.learn(images, ["a", "new", "b"])
    with pytest.raises(error, match=message):
        taught.predict(images)
    with pytest.raises(error, match=message):
        taught.features(images)
    assert state(taught, tmp_path) == before


BAD_LABELS = [
    ("abc", TypeError, "labels: expected a sequence of names, got one str"),
    (["a", "b"], ValueError, "labels: expected 3, one an image, got 2"),
    (["a"] * 4, ValueError, "labels: expected 3, one an image, got 4"),
    ([], ValueError, "labels: expected 3, one an image, got 0"),
    (["a", "b", 7], TypeError, r"labels: expected names \(str\), got int 7"),
    (["a", "b", None], TypeError, r"labels: expected names \(str\), got NoneType None"),
    ([b"a", b"b", b"c"], TypeError, r"labels: expected names \(str\), got bytes b'a'"),
    (np.array([0, 1, 2]), TypeError, r"labels: expected names \(str\), got int"),
    (["a", "", "b"], ValueError, "labels: expected names .*, got ''"),
    (["a", "two\nlines", "b"], ValueError, r"labels: expected names of up to 200 characters .*, got 'two\\nlines'"),
    (["a", "\x00", "b"], ValueError, r"labels: expected names of up to 200 characters .*, got '\\x00'"),
    (["a", "\x1b[31mred", "b"], ValueError, r"labels: expected names of up to 200 characters .*, got '\\x1b\[31mred'"),
    (["a", "\x85", "b"], ValueError, "labels: expected names of up to 200 characters .*"),
    (["a", "\ud800", "b"], ValueError, r"labels: expected names of up to 200 characters .*, got '\\ud800'"),
    (None, TypeError, "labels: expected a sequence of names, got NoneType"),
    (5, TypeError, "labels: expected a sequence of names, got int"),
]


@pytest.mark.parametrize(("labels", "error", "message"), BAD_LABELS, ids=[str(i) for i in range(len(BAD_LABELS))])
def test_labels_that_are_no_names_are_refused(
    taught: Learner, tmp_path: Path, labels: object, error: type[Exception], message: str
) -> None:
    before = state(taught, tmp_path)
    with pytest.raises(error, match=message):
        taught.learn(GOOD, labels)
    assert state(taught, tmp_path) == before
    assert taught.names == ["a", "b"]


def test_more_classes_than_fit_are_refused(model: Model, tmp_path: Path) -> None:
    learner = Learner.new(model, capacity=5, max_classes=3, **QUICK)
    learner.learn(pictures(1, 2), ["a", "b"])
    before = state(learner, tmp_path)
    with pytest.raises(ValueError, match=r"labels: expected at most 3 classes in all, got 4; .*larger max_classes"):
        learner.learn(pictures(2, 3), ["c", "a", "d"])
    assert state(learner, tmp_path) == before
    learner.learn(pictures(2, 3), ["c", "a", "b"])
    assert learner.names == ["a", "b", "c"]


def test_more_images_than_a_lesson_takes_are_refused(model: Model, tmp_path: Path) -> None:
    learner = Learner.new(model, capacity=5, lesson_images=4, **QUICK)
    before = state(learner, tmp_path)
    with pytest.raises(ValueError, match=r"images: expected at most 4 a lesson, got 5; .*lesson_images"):
        learner.learn(pictures(1, 5), ["a"] * 5)
    assert state(learner, tmp_path) == before
    learner.learn(pictures(1, 4), ["a"] * 4)
    assert learner.info()["classes"][0]["samples"] == 4


def test_predicting_before_learning_is_refused(model: Model) -> None:
    with pytest.raises(ValueError, match="predict: expected a learner that knows a class, got one that knows none; call learn"):
        Learner.new(model).predict(GOOD)


WHOLE = "expected a whole number from"
BAD_SETTINGS = [
    ({"threads": 0}, ValueError, r"threads: expected .*got 0"),
    ({"threads": -1}, ValueError, r"threads: expected .*got -1"),
    ({"threads": 1.5}, ValueError, r"threads: expected .*got 1.5"),
    ({"threads": True}, ValueError, r"threads: expected .*got True"),
    ({"threads": 2**31}, ValueError, r"threads: expected .*got 2147483648"),
    ({"capacity": -1}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got -1"),
    ({"capacity": 2**24 + 1}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got 16777217"),
    ({"capacity": True}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got True"),
    ({"capacity": 10.0}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got 10.0"),
    ({"capacity": "10"}, ValueError, f"capacity: {WHOLE} 0 to 16777216, got '10'"),
    ({"capacity": 10, "memory_bytes": 10**6}, ValueError, "capacity: expected capacity or memory_bytes, got both"),
    ({"memory_bytes": 0}, ValueError, r"memory_bytes: expected at least \d+ .*, got 0; allow more, or lower lesson_images or max_classes"),
    ({"memory_bytes": -5}, ValueError, r"memory_bytes: expected at least \d+ .*, got -5"),
    ({"memory_bytes": 1e6}, ValueError, r"memory_bytes: expected .*, got 1000000.0"),
    ({"memory_bytes": "4 MB"}, ValueError, r"memory_bytes: expected .*, got '?4 MB"),
    ({"memory_bytes": 10**6, "max_classes": 0}, ValueError, f"max_classes: {WHOLE} 1 to 65535, got 0"),
    ({"seed": -1}, ValueError, f"seed: {WHOLE} 0 to 18446744073709551615, got -1"),
    ({"seed": 2**64}, ValueError, f"seed: {WHOLE} 0 to"),
    ({"max_classes": 65_536}, ValueError, f"max_classes: {WHOLE} 1 to 65535, got 65536"),
    ({"lesson_images": 0}, ValueError, f"lesson_images: {WHOLE} 1 to 16777216, or None, got 0"),
    ({"lesson_images": False}, ValueError, f"lesson_images: {WHOLE} .*got False"),
    ({"learning_rate": 0}, ValueError, r"learning_rate: expected .* to 4, got 0"),
    ({"learning_rate": 4.1}, ValueError, r"learning_rate: expected .* to 4, got 4.1"),
    ({"learning_rate": float("nan")}, ValueError, r"learning_rate: expected .* to 4, got nan"),
    ({"learning_rate": float("inf")}, ValueError, r"learning_rate: expected .* to 4, got inf"),
    ({"learning_rate": 10**400}, ValueError, r"learning_rate: expected .* to 4"),
    ({"learning_rate": True}, ValueError, r"learning_rate: expected .* to 4, got True"),
    ({"learning_rate": "0.1"}, ValueError, r"learning_rate: expected .* to 4, got '0.1'"),
    ({"epochs": 0}, ValueError, f"epochs: {WHOLE} 1 to 10000, got 0"),
    ({"head": "knn"}, ValueError, "head: expected lda or cwr, got 'knn'"),
    ({"head": None}, ValueError, "head: expected lda or cwr, got None"),
    *[({"views": views}, ValueError, f"views: expected 1, 2 or 6, got {views!r}") for views in (0, 3, 7, True, "2", 2.5)],
    ({"shrinkage": 0}, ValueError, r"shrinkage: expected 0\.00390625 to 64, got 0"),
    ({"shrinkage": 64.1}, ValueError, r"shrinkage: expected .* to 64, got 64\.1"),
    ({"pseudo_pictures": -1}, ValueError, "pseudo_pictures: expected 0 to 1000, got -1"),
    ({"pseudo_pictures": float("nan")}, ValueError, "pseudo_pictures: expected 0 to 1000, got nan"),
    ({"near_equal": 0.51}, ValueError, r"near_equal: expected 0 to 0\.5, got 0\.51"),
    ({"held_back": 0.6}, ValueError, r"held_back: expected 0 to 0\.5, got 0\.6"),
    ({"near_equal": True}, ValueError, r"near_equal: expected 0 to 0\.5, got True"),
    ({"class_means": True}, TypeError, "class_means"),
    ({"live_batch": 0}, ValueError, f"live_batch: {WHOLE} 1 to .*got 0"),
    ({"replay_batch": 4097}, ValueError, f"replay_batch: {WHOLE} 1 to .*got 4097"),
    ({"ghosts": -1}, ValueError, f"ghosts: {WHOLE} 0 to 1024, got -1"),
    ({"tail_passes": 0}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 0"),
    ({"tail_passes": 10_001}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 10001"),
    ({"tail_passes": 2.0}, ValueError, f"tail_passes: {WHOLE} 1 to 10000, got 2.0"),
    ({"tail_prior": 1.1}, ValueError, r"tail_prior: expected 0 to 1, got 1.1"),
    ({"tail_prior": float("nan")}, ValueError, r"tail_prior: expected 0 to 1, got nan"),
    ({"tail_distillation": 1}, ValueError, "tail_distillation: expected True or False, got 1"),
    ({"prior_correction": 1}, ValueError, "prior_correction: expected True or False, got 1"),
    ({"lda_features": -1}, ValueError, f"lda_features: {WHOLE} 0 to"),
    ({"lda_features": 10_000}, ValueError, "lda_features: expected at most the [0-9]+ features of the model"),
    ({"head": "cwr", "lda_features": 3}, ValueError, "lda_features: expected 0 with head cwr, got 3"),
    ({"head": "cwr", "class_priors": True}, ValueError, "class_priors: expected False with head cwr, got True"),
    ({"class_priors": 1}, ValueError, "class_priors: expected True or False, got 1"),
    ({"learning_rte": 0.1}, TypeError, "learning_rte"),
]


@pytest.mark.parametrize(("values", "error", "message"), BAD_SETTINGS, ids=[str(v[0])[:60] for v in BAD_SETTINGS])
def test_settings_out_of_range_are_refused(model: Model, values: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Learner.new(model, **values)


@pytest.mark.parametrize(
    "values",
    [
        {"seed": 0}, {"seed": 2**64 - 1}, {"head": "cwr", "learning_rate": 2**-16}, {"head": "cwr", "learning_rate": 4},
        {"head": "cwr", "ghosts": 1024}, {"shrinkage": 2**-8}, {"shrinkage": 64}, {"pseudo_pictures": 0}, {"pseudo_pictures": 1000},
        {"near_equal": 0.5}, {"near_equal": 2**-16}, {"views": 6},
        {"train_blocks": 1, "held_back": 0}, {"train_blocks": 1, "held_back": 0.5}, {"train_blocks": 1, "tail_passes": 1}, {"train_blocks": 1, "tail_passes": 10_000},
    ],
    ids=str,
)  # fmt: skip
def test_settings_at_the_end_of_their_range_work(model: Model, tmp_path: Path, values: dict) -> None:
    learner = Learner.new(model, **{"capacity": 3, **QUICK, **values})
    learner.learn(pictures(1, 4), ["a", "b"] * 2)
    learner.learn(pictures(2, 4), ["a", "b"] * 2)
    before = state(learner, tmp_path)
    assert state(Learner.load(tmp_path / "state-to-compare"), tmp_path) == before


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.model"):
        Learner.new(tmp_path / "none.model")
    with pytest.raises(ValueError, match=r"model: expected one of .*got 'no such'"):
        Model.from_package("no such")


# -- what importing costs -------------------------------------------------------------------------------------------------------


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_brings_nothing_that_learning_does_not_need() -> None:
    loaded = set(run("import sys, bitreplay; print(*sys.modules)").split())
    assert {"bitreplay", "numpy"} <= loaded
    heavy = {
        "torch", "PIL", "typer", "click", "rich", "starlette", "matplotlib", "sklearn", "scipy", "pyarrow", "lightning",
        "lightning_fabric", "safetensors", "http.server", "asyncio",
    }  # fmt: skip
    assert not heavy & loaded


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc to read resident memory from")
def test_the_shipped_backbone_fits_in_45_mb() -> None:
    code = "from bitreplay import Learner; l = Learner.new(); print(next(x for x in open('/proc/self/status') if x.startswith('VmRSS')))"
    name, size, unit = run(code).split()
    assert (name, unit) == ("VmRSS:", "kB")
    assert int(size) <= 45_000
