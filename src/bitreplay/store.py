"""A state file and its one writer: locked while it is open for change, the state before the last change kept beside it.

Owns the two files, STATE and STATE.previous (docs/formats.md); what is in them is `state`'s.  Readers need no lock: a file is replaced as a
whole, so they see a state from before or after a change.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from .disk import remove_partials, replace_file, sync_folder
from .errors import DamagedError
from .learner import Learner
from .model import Model

try:
    import fcntl
except ImportError:  # Windows: nobody keeps a second writer out
    fcntl = None  # type: ignore[assignment]

PREVIOUS = ".previous"


def previous_of(path: Path) -> Path:
    """Where the state before the last change of the state at `path` is kept."""
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + PREVIOUS)


def load_sound(path: Path, *, model: Model | str | Path | None = None, threads: int | None = None) -> tuple[Learner, str | None]:
    """Read a state, or, where the file is damaged, the state before its last change.

    Returns
    -------
    The learner, and what to tell the user where it is not that of the file itself.

    Raises
    ------
    FormatError, OSError : as `Learner.load`, where there is no sound state before it either.
    """
    try:
        return Learner.load(path, model=model, threads=threads), None
    except DamagedError as error:
        kept = previous_of(path)
        try:
            learner = Learner.load(kept, model=model, threads=threads)
        except (ValueError, OSError):
            raise error from None
        lessons = learner.info()["lessons"]
        after = "1 lesson" if lessons == 1 else f"{lessons} lessons"
        return learner, f"{error}; using {kept} instead, the state before the last change, after {after}"


class StateFile:
    """A state file that this process alone may change, until `close`; a context manager.  Keeps the state before the last change for `undo`.

    Parameters
    ----------
    path : a state file that is there.

    Raises
    ------
    BlockingIOError : another process has it open for change.
    OSError : it cannot be opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.realpath(path))
        self.previous = previous_of(self.path)
        self._sound: bool | None = None  # whether the file at `path` is, as far as is known: only a sound one is worth keeping
        self._descriptor = self._acquire()
        self._stamp = _stamp(self._descriptor)
        remove_partials(self.path)

    def _acquire(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                lock(descriptor, self.path)
                # Whoever held the lock may have replaced the file meanwhile: the lock that counts is that of the file that is there.
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def load(self, *, model: Model | str | Path | None = None, threads: int | None = None) -> tuple[Learner, str | None]:
        """Read it, as `load_sound`."""
        learner, told = load_sound(self.path, model=model, threads=threads)
        self._sound = told is None
        return learner, told

    def _is_sound(self) -> bool:
        if self._sound is None:
            try:
                Learner.load(self.path)
                self._sound = True
            except ValueError:
                self._sound = False
        return self._sound

    def save(self, learner: Learner, *, keep: bool = True) -> None:
        """Replace the file by what the learner knows.

        Parameters
        ----------
        learner : what to write.
        keep : whether the file as it was, if it is sound, becomes STATE.previous; else that is removed first, so that neither holds what is
            to go (after the change where STATE is damaged: then it is all there is).

        Raises
        ------
        OSError : it cannot be written; STATE is as it was, and STATE.previous is sound or gone.
        """
        content = learner.to_bytes()
        self._check_ours()
        sound = self._is_sound()
        if keep and sound and self.path.read_bytes() == content:
            return  # nothing has changed: what was kept before stays worth more
        if not keep and sound:
            self._forget_previous()
        self._replace(content, keep=keep and sound)
        if not keep:
            self._forget_previous()

    def undo(self) -> None:
        """Make STATE.previous the state again, byte for byte; it is gone then.

        Raises
        ------
        FileNotFoundError : none is kept.
        FormatError : it is not sound.
        OSError : it cannot be written; nothing has changed.
        """
        if not self.previous.exists():
            raise FileNotFoundError(
                f"{self.previous}: no such file, so nothing can be undone; only the last change can, and not after forgetting or undoing"
            )
        self._check_ours()
        content = self.previous.read_bytes()
        Learner.from_bytes(content)
        self._replace(content, keep=False)
        self._forget_previous()

    def _check_ours(self) -> None:
        now = os.fstat(self._descriptor)
        if not (os.path.samestat(now, os.stat(self.path)) and _stamp(self._descriptor) == self._stamp):
            raise OSError(errno.EBUSY, "was changed in the meantime by another program, which did not take the lock", str(self.path))

    def _replace(self, content: bytes, *, keep: bool) -> None:
        taken: list[int] = []

        def hold(descriptor: int) -> None:
            taken.append(os.dup(descriptor))
            lock(taken[0], self.path)

        try:
            replace_file(self.path, content, previous=self.previous if keep else None, before=hold)
        except BaseException:
            for descriptor in taken:
                os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor = taken[0]
        self._stamp = _stamp(self._descriptor)
        self._sound = True

    def _forget_previous(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.previous)
            sync_folder(self.path.parent)

    def close(self) -> None:
        """Let others change it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns


def lock(descriptor: int, path: Path) -> None:
    """Lock an open file for this process; BlockingIOError where another has it.  File systems without locks keep nobody out."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "another process is changing it; wait until it has finished"
        raise BlockingIOError(errno.EWOULDBLOCK, message, str(path)) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise
