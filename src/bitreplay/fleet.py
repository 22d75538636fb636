"""States of many devices, read from files, as one: here, or shared among workers (docs/method.md, 8).

Sums add in any order, so a tree of joined parts is the same as one long chain, but for what trained tails had learned (merge.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .merge import check_fits, merged_state
from .model import Model
from .settings import Settings
from .state import State, pack_state, parse_state, read_state

PART = 64  # files that one task joins

Report = Callable[[int, int], object]


def states_in(paths: Sequence[Path], model: Model | None, settings: Settings, report: Report | None = None) -> Iterator[State]:
    """The states of files, each read when it is its turn; FormatError, OSError, and ValueError for one that does not fit these settings."""
    for number, path in enumerate(paths):
        if report is not None:
            report(number, len(paths))
        state = read_state(path, model)
        model = model or state.model  # read once
        check_fits(model, settings, state, str(path))
        yield state


def _part(paths: list[str], model: bytes | None, settings: Settings) -> bytes:
    known = Model(model, "model") if model is not None else None
    return pack_state(merged_state(states_in([Path(path) for path in paths], known, settings), settings)[0])


def joined_parts(
    paths: Sequence[Path],
    model: Model | None,
    settings: Settings,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    report: Report | None = None,
) -> Iterator[State]:
    """The states of files, joined by PART on Dask workers, which must see the files under the same names.

    Parameters
    ----------
    paths : state files.
    model : the model they were taught on, where it is neither in them nor in the package.
    settings : of the learner that takes them over: each part is cut to its capacity by its seed, so nothing depends on the parts.
    workers : processes of this machine, without `scheduler`.
    scheduler : address of a Dask scheduler.
    report : called with how many files are done and how many there are.
    """
    parts = [[str(path.resolve()) for path in paths[i : i + PART]] for i in range(0, len(paths), PART)]
    content = model.content if model is not None else None
    with dask_client(workers, scheduler) as client:
        futures = [client.submit(_part, part, content, settings, pure=False) for part in parts]
        done = 0
        while futures:  # in their order, so that classes are numbered as in one process
            state = parse_state(futures.pop(0).result(), model, "part")
            model = model or state.model
            done += len(parts.pop(0))
            if report is not None:
                report(done, len(paths))
            yield state


@contextmanager
def dask_client(workers: int, scheduler: str | None, scratch: Path | None = None, preload: str | None = None) -> Iterator[Any]:
    """A client of the scheduler at an address, or of `workers` processes of this machine."""
    import dask
    from distributed import Client, LocalCluster

    # A task that kills its worker is not tried on another one; arrays are mapped files, so memory limits would count them wrongly.
    with dask.config.set({"distributed.scheduler.allowed-failures": 0, "distributed.comm.timeouts.connect": "30s"}):
        if scheduler is not None:
            with Client(scheduler, set_as_default=False) as client:  # type: ignore[no-untyped-call]
                yield client
            return
        with (
            LocalCluster(  # type: ignore[no-untyped-call]
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                dashboard_address=None,
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
                preload=preload,
                local_directory=None if scratch is None else str(scratch),
            ) as cluster,
            Client(cluster, set_as_default=False) as client,  # type: ignore[no-untyped-call]
        ):
            yield client
