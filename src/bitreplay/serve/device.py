"""One state that is taught and asked at the same time.

Owns the writer, the last committed state, and the rule that a change is saved before anybody sees it.  Knows no HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..learner import Learner, Prediction
from ..store import StateFile

T = TypeVar("T")


class BusyError(RuntimeError):
    """Another change is being made."""


class Device:
    """A state file that this process holds: changes one at a time, answers always.

    Predictions read the last committed state and never wait for a lesson.  Every change is on disk before it is seen; what cannot be saved
    has not happened.

    Parameters
    ----------
    path : the state file.
    threads : for the network; default as many as the process may use.

    Attributes
    ----------
    told : what the user should know of how the state was found, or None.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._file = StateFile(path)
        try:
            self._writer, self.told = self._file.load(threads=threads)
        except BaseException:
            self._file.close()
            raise
        self._threads = threads
        self._publish()
        self._change = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._revision = 0

    def close(self) -> None:
        """Wait for the change at hand, and let others write the file."""
        with self._change:
            self._file.close()

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self._reader.image_size

    def predict(self, images: NDArray[np.uint8], *, reject: float | None = None) -> tuple[list[str], Prediction]:
        """Known names and the prediction, of one and the same state."""
        reader = self._reader
        return reader.names, reader.predict(images, reject=reject)

    def status(self) -> dict[str, Any]:
        """What `Learner.info` says of the last committed state, and what is going on."""
        reader = self._reader
        info, recall = reader.info(), reader.recall()
        for entry in info["classes"]:
            entry["recall"] = recall[entry["name"]]
        return {
            "revision": self._revision,
            "busy": self._progress,
            "can_undo": self._file.previous.exists(),
            "note": self.told,
            "image_size": reader.image_size,
            "trains_tail": reader.settings.train_blocks > 0,
            **info,
        }

    def content(self) -> bytes:
        """The last committed state as a file."""
        return self._reader.content()

    def teach(self, images: NDArray[np.uint8], labels: list[str]) -> float:
        """Learn one lesson; returns the seconds it took.  BusyError while another change is made."""

        def lesson(learner: Learner) -> float:
            began = time.perf_counter()
            learner.learn(images, labels, progress=self._report("learning"))
            return time.perf_counter() - began

        return self._changed("learning", lesson)

    def forget(self, name: str) -> None:
        """Forget a class, in the state and in what `undo` would go back to."""
        self._changed("forgetting", lambda learner: learner.forget(name), keep=False)

    def rename(self, old: str, new: str) -> None:
        """Call a class by another name."""
        self._changed("renaming", lambda learner: learner.rename(old, new))

    def undo(self) -> None:
        """Go back to the state before the last change; FileNotFoundError where none is kept."""
        with self._held("undoing"):
            self._file.undo()
            self._writer, _ = self._file.load(threads=self._threads)
            self._commit()

    def replace(self, content: bytes) -> None:
        """Take over another state file whole; FormatError where it is none."""
        with self._held("replacing"):
            learner = Learner.from_content(content, threads=self._threads)
            self._file.save(learner)
            self._writer = learner
            self._commit()

    def _changed(self, what: str, change: Callable[[Learner], T], *, keep: bool = True) -> T:
        with self._held(what):
            result = change(self._writer)
            try:
                self._file.save(self._writer, keep=keep)
            except BaseException:
                self._writer = self._reader.copy()  # what is not on disk has not happened
                raise
            self._commit()
            return result

    def merge(self, content: bytes) -> bool:
        """Take over what another device was taught, given its state file; returns whether the tails were equal.

        FormatError where it is none, ValueError where it does not fit.
        """
        other = Learner.from_content(content, threads=self._threads)
        return self._changed("merging", lambda learner: learner.merge(other, progress=self._report("merging")))

    def _report(self, what: str) -> Callable[[str, int, int], None]:
        def report(phase: str, done: int, total: int) -> None:
            self._progress = {"what": what, "phase": phase, "done": done, "total": total}

        return report

    def _publish(self) -> None:
        reader = self._writer.copy()
        reader.recall()  # looks at every remembered row, and keeps what it saw, before anybody asks
        self._reader = reader

    def _commit(self) -> None:
        self._publish()
        self._revision += 1
        self.told = None

    def _held(self, what: str) -> _Held:
        return _Held(self, what)


class _Held:
    # The right to change; not waited for.
    def __init__(self, device: Device, what: str) -> None:
        self._device, self._what = device, what

    def __enter__(self) -> None:
        if not self._device._change.acquire(blocking=False):
            raise BusyError("another change is being made; wait for its end")
        self._device._progress = {"what": self._what, "phase": "", "done": 0, "total": 0}

    def __exit__(self, *_: object) -> None:
        self._device._progress = None
        self._device._change.release()
