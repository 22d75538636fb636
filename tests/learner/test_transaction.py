"""A lesson is applied whole or not at all: reading, giving up, a lesson inside a lesson."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_lessons import HEADS, pictures, state

from bitreplay import Cancelled, Learner, Model


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
from bitreplay import Learner, Settings
rng = np.random.default_rng(1)
learner = Learner(sys.argv[1], Settings(capacity=8, head=sys.argv[2]), threads=1)
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


class Batches:
    """Pictures by slices; fails at one of them, where asked to."""

    def __init__(self, images: np.ndarray, fails_at: int | None = None) -> None:
        self.images, self.fails_at, self.asked = images, fails_at, []

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, some: slice) -> np.ndarray:
        self.asked.append((some.start, some.stop))
        if self.fails_at is not None and some.start <= self.fails_at < some.stop:
            raise OSError("no such picture")
        return self.images[some]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 150])
def test_pictures_in_batches_are_learned_as_one_lesson(taught: Learner, tmp_path: Path, count: int) -> None:
    images, labels = pictures(8, count), [str(i % 3) for i in range(count)]
    batched, whole = Batches(images), taught.copy()
    whole.learn(images, labels)
    taught.learn(batched, labels)
    assert state(taught, tmp_path) == state(whole, tmp_path)
    assert batched.asked == [(i, i + 64) for i in range(0, count - 63, 64)] + [(count // 64 * 64, count)] * (count % 64 > 0)


def test_a_picture_that_fails_ends_the_lesson(taught: Learner, tmp_path: Path) -> None:
    before = state(taught, tmp_path)
    with pytest.raises(OSError, match="no such picture"):
        taught.learn(Batches(pictures(8, 150), 140), ["a"] * 150)
    with pytest.raises(TypeError, match="images: expected a numpy array or PictureFiles, got list"):
        taught.learn([pictures(8, 1)], ["a"])
    with pytest.raises(ValueError, match="images: expected uint8"):
        taught.learn(Batches(pictures(8, 150)[:, :4]), ["a"] * 150)
    assert state(taught, tmp_path) == before
