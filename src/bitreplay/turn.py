"""Whose turn it is with one learner, when several threads use it; and what a forked process may still do with it.

Knows nothing of learners beyond what it says in its messages.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turn:
    """One thread at a time, in the order in which they came: ``with turn:`` to ask, ``with turn.change("learn"):`` to change.

    A lock alone would not do: a thread that asks in a loop takes a lock again before the one that waits to teach has woken.  The thread
    whose turn it is may ask once more, from a lesson's progress; it may not change anything inside of a change.

    Attributes
    ----------
    changing : whether a change is being made.
    """

    def __init__(self) -> None:
        self.changing = False
        self._free = threading.Condition()
        self._waiting: deque[object] = deque()
        self._owner: int | None = None
        self._depth = 0  # how many times the owner has it
        self._torn = False  # forked in the middle of another thread's change
        _turns.add(self)

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return
        if self._torn:
            raise RuntimeError(
                "learner: expected one that no other thread was teaching when this process was forked, got one forked in the middle of a lesson; "
                "load its state file in the child, or fork between lessons"
            )
        place = object()
        try:
            with self._free:
                self._waiting.append(place)
                try:
                    self._free.wait_for(lambda: self._owner is None and self._waiting[0] is place)
                    self._owner, self._depth = me, 1
                finally:  # Ctrl-C, too, makes room for the next
                    self._waiting.remove(place)
                    self._free.notify_all()
        except BaseException:
            if self._owner == me:
                self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            with self._free:
                self._owner = None
                self._free.notify_all()

    @contextmanager
    def change(self, what: str) -> Iterator[None]:
        """Have the turn to change something, whose name messages begin with; RuntimeError inside of a change."""
        with self:
            if self.changing:
                raise RuntimeError(
                    f"{what}: expected one lesson at a time, got another from inside a lesson's progress; call it after that lesson has ended"
                )
            self.changing = True
            try:
                yield
            finally:
                self.changing = False

    def forked(self) -> None:
        """Go on in a forked process, where no thread but this one is left."""
        self._free = threading.Condition()
        self._waiting.clear()
        if self._owner is not None and self._owner != threading.get_ident():
            self._torn = self.changing
            self._owner, self._depth, self.changing = None, 0, False


_turns: weakref.WeakSet[Turn] = weakref.WeakSet()


def _forked() -> None:
    for turn in list(_turns):
        turn.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
