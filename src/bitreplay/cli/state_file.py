"""A command's state file: found, loaded, changed by this process alone, saved whole or left as it was.

Owns what a user is told about the file, and that Ctrl-C does not cut a save short.  How it is locked and replaced is `store`'s.
"""

from __future__ import annotations

import errno
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import Learner
from ..store import StateFile, load_sound
from .terminal import note


def expect_state(state: Path) -> None:
    """FileNotFoundError, which says how a state is made, unless there is one."""
    if not os.path.lexists(state):
        raise FileNotFoundError(f"{state}: no such file; create it with: bitreplay new {shlex.quote(str(state))}")


def load_state(state: Path, model: str | None, threads: int | None, *, file: StateFile | None = None) -> Learner:
    """What a state knows; `file` where it is open for change."""
    expect_state(state)
    learner, told = file.load(model=model, threads=threads) if file else load_sound(state, model=model, threads=threads)
    if told is not None:
        note(told)
    return learner


@contextmanager
def changing(state: Path) -> Iterator[StateFile]:
    """The state's file, for this process alone."""
    expect_state(state)
    check_may_write(state)
    with StateFile(state) as file:
        yield file


def check_may_write(state: Path) -> None:
    """Find out before the lesson, not after it, that the state could not be saved."""
    folder = Path(os.path.realpath(state)).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    # A rename would replace a write-protected file: whoever protected it did not mean that.
    for path, rights in ((folder, os.W_OK | os.X_OK), (state, os.W_OK)):
        if path.exists() and not os.access(path, rights):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C out of a save: it would come too late to change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def saving(state: Path) -> Iterator[None]:
    """Keep Ctrl-C out of a save, and say what failed and what became of the state."""
    with _uninterrupted():
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise  # it says all by itself
            kept = "; the state on disk is unchanged" if state.exists() else ""
            raise OSError(f"{state}: cannot be saved: {error.strerror or error}{kept}") from error
