"""One state that is taught and asked at the same time.

Owns the writer, the last committed state, and the rule that a change is saved before anybody sees it.  Knows no HTTP.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..learner import Learner, Prediction
from ..store import StateFile

T = TypeVar("T")


@dataclass(frozen=True)
class _Shown:
    # What is asked: one learner that nobody changes, when it came, and what to tell of how it was found.
    reader: Learner
    revision: int
    note: str | None


def _reader(learner: Learner) -> Learner:
    reader = learner.copy()
    reader.replay_accuracy()  # looks at every remembered row, and keeps what it saw, before anybody asks
    return reader


class BusyError(RuntimeError):
    """Another change is being made."""


class Session:
    """A state file that this process holds: changes one at a time, answers always.

    Predictions read the last committed state and never wait for a lesson.  Every change is on disk before it is seen; what cannot be saved
    has not happened.

    Parameters
    ----------
    path : the state file.
    threads : for the network; default as many as the process may use.

    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._file = StateFile(path)
        try:
            self._writer, told = self._file.load(threads=threads)
            self._shown = _Shown(_reader(self._writer), 0, told)
        except BaseException:
            self._file.close()
            raise
        self._threads = threads
        self._change = threading.Lock()
        self._progress: dict[str, Any] | None = None
        self._stop = self._closed = False

    def close(self) -> None:
        """Give the change at hand up, and let others write the file."""
        self.give_up()
        with self._change:
            self._file.close()

    def give_up(self) -> None:
        """Begin to end: the change at hand is given up, and no other is taken on."""
        self._closed = True

    def cancel(self) -> None:
        """Give up the lesson or merge that is being made, if there is one: nothing of it stays."""
        self._stop = True

    @property
    def told(self) -> str | None:
        """What the user should know of how the state was found, or None."""
        return self._shown.note

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self._shown.reader.image_size

    def predict(self, images: NDArray[np.uint8], *, reject: float | None = None) -> tuple[list[str], Prediction]:
        """Known names and the prediction, of one and the same state."""
        reader = self._shown.reader
        return reader.names, reader.predict(images, reject=reject)

    def status(self) -> dict[str, Any]:
        """What `Learner.info` says of the last committed state, and what is going on."""
        shown, progress = self._shown, self._progress  # of one moment, whatever is committed meanwhile
        reader = shown.reader
        info, accuracy = reader.info(), reader.replay_accuracy()
        for entry in info["classes"]:
            entry["replay_accuracy"] = accuracy[entry["name"]]
        return {
            "revision": shown.revision,
            "busy": progress,
            "can_undo": self._file.previous.exists(),
            "note": shown.note,
            "image_size": reader.image_size,
            "trains_tail": reader.settings.train_blocks > 0,
            **info,
        }

    def content(self) -> bytes:
        """The last committed state as a file."""
        return self._shown.reader.to_bytes()

    def teach(self, images: NDArray[np.uint8], labels: list[str]) -> float:
        """Learn one lesson; returns the seconds it took.  BusyError while another change is made."""

        def lesson(learner: Learner) -> float:
            began = time.perf_counter()
            learner.learn(images, labels, progress=self._report("learning"), cancel=self._is_given_up)
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
            try:
                self._file.undo()
            except FileNotFoundError:
                raise
            except BaseException:
                self._take_from_disk()
                raise
            self._take_from_disk()

    def replace(self, content: bytes) -> None:
        """Take over another state file whole; FormatError where it is none."""
        with self._held("replacing"):
            self._save(Learner.from_bytes(content, threads=self._threads), keep=True)

    def merge(self, content: bytes) -> bool:
        """Take over what another device was taught, given its state file; returns whether the tails were equal.

        FormatError where it is none, ValueError where it does not fit.
        """
        other = Learner.from_bytes(content, threads=self._threads)
        return self._changed("merging", lambda learner: learner.merge(other, progress=self._report("merging"), cancel=self._is_given_up))

    def _changed(self, what: str, change: Callable[[Learner], T], *, keep: bool = True) -> T:
        with self._held(what):
            result = change(self._writer)  # all of it or nothing
            self._save(self._writer, keep=keep)
            return result

    def _report(self, what: str) -> Callable[[str, int, int], None]:
        def report(phase: str, done: int, total: int) -> None:
            self._progress = {"what": what, "phase": phase, "done": done, "total": total}

        return report

    def _save(self, learner: Learner, *, keep: bool) -> None:
        try:
            reader = _reader(learner)  # before it is saved: behind that nothing may fail
            self._file.save(learner, keep=keep)
        except BaseException:
            self._take_from_disk()
            raise
        self._writer, self._shown = learner, _Shown(reader, self._shown.revision + 1, None)

    def _take_from_disk(self) -> None:
        # What is on disk is the truth, however far a change came.
        try:
            writer, note = self._file.load(threads=self._threads)
            shown = _Shown(_reader(writer), self._shown.revision + 1, note)
        except (OSError, ValueError, MemoryError):
            writer, shown = self._shown.reader.copy(), self._shown  # not even that can be read: what was known before
        self._writer, self._shown = writer, shown

    def _is_given_up(self) -> bool:
        return self._stop or self._closed

    def _held(self, what: str) -> _Held:
        return _Held(self, what)


class _Held:
    # The right to change; not waited for.
    def __init__(self, session: Session, what: str) -> None:
        self._session, self._what = session, what

    def __enter__(self) -> None:
        if self._session._closed or not self._session._change.acquire(blocking=False):
            raise BusyError("another change is being made, or the server is stopping; wait until it has finished")
        self._session._stop = False
        self._session._progress = {"what": self._what, "phase": "", "done": 0, "total": 0}

    def __exit__(self, *_: object) -> None:
        self._session._progress = None
        self._session._change.release()
