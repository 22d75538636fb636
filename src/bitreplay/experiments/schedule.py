"""Does the runs that have no result yet, one after the other in this process or on Dask workers, and adds each result to the file.

Owns their order, what happens when one fails, and what of a line of results says which run it was.  Dask is imported where workers are
asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..fleet import dask_client
from .environment import commit, told_command
from .perform import Place, holds_base, perform
from .plan import Run, check_runs, split_runs
from .protocol import Protocol
from .results import NAME, Line, append_result
from .workbench import Workbench

# Ctrl-C at a terminal reaches the workers, too: ending them is this process's business.
IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class Done:
    """What came of a run: its line, or the text of its error."""

    run: Run
    line: Line | None
    error: str | None


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, ValueError | OSError) else str(error)


def _here(runs: Sequence[Run], place: Place, workbench: Workbench, threads: int | None) -> Iterator[Done]:
    """One after the other in this process."""
    broken: dict[str, str] = {}
    for run in runs:
        line, error = None, broken.get(run.base_key)
        if error is None:
            try:
                line = perform(run, place, workbench, threads)
            except Exception as caught:  # a run that fails must not take the others with it
                error = _text(caught)
                if not holds_base(run, place):  # what all of its base's runs would meet again
                    broken[run.base_key] = error
        yield Done(run, line, error)


def _on_workers(
    runs: Sequence[Run], place: Place, workbench: Workbench, threads: int | None, workers: int, scheduler: str | None
) -> Iterator[Done]:
    """As many at a time as there are workers, so that one that dies takes no waiting run with it."""
    from distributed import as_completed

    # The first run of each base makes it; they come first, so that workers need not wait for one another's.
    first = {run.base_key: run for run in reversed(runs)}
    waiting = [*(run for run in runs if first[run.base_key] is run), *(run for run in runs if first[run.base_key] is not run)]
    waiting.reverse()
    with dask_client(workers, scheduler, place.out / "workers", IGNORE_INTERRUPTS) as client:
        running: dict[Any, Run] = {}
        results = as_completed(loop=client.loop)  # type: ignore[no-untyped-call]

        def fill() -> None:
            slots = max(1, sum(client.nthreads().values())) if scheduler is not None else workers
            while waiting and len(running) < slots:
                run = waiting.pop()
                future = client.submit(perform, run, place, workbench, threads, pure=False, retries=0)
                running[future] = run
                results.add(future)  # type: ignore[no-untyped-call]

        try:
            fill()
            while running:
                future = next(results)
                run = running.pop(future)
                error = future.exception()
                line = None if error is not None else future.result()
                future.release()
                fill()
                yield Done(run, line, None if error is None else _text(error))
        finally:
            client.cancel(list(running), force=True)


def _named(run: Run, protocol: str) -> Line:
    return {
        "key": run.key,
        "protocol": protocol,
        "split": run.split,
        "base": run.base.name,
        "label": run.label,
        "series": run.series,
        "run": run.plan,
        "axes": list(run.axes),
        "method": run.method,
        "settings": run.settings,
        "seed": run.seed,
    }


def run_all(
    protocol: Protocol,
    runs: Sequence[Run],
    place: Place,
    workbench: Workbench,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    command: Sequence[str] = (),
    progress: Callable[[Done, int, int], None] | None = None,
) -> list[Done]:
    """Do the runs that have no result yet, and add each result to the file when it is there.

    Parameters
    ----------
    protocol, runs : what `read_protocol` and `plan_runs` gave.
    place : folders; results are appended to ``place.out / "results.jsonl"``.
    workbench : where bases and methods come from.
    workers : processes on this machine; 1 does all in this one.
    scheduler : address of a Dask scheduler instead; its workers must see the same folders.
    threads : of each worker; default the cores that there are, divided by `workers`.
    command : command line, for the results.
    progress : called with each run done, the number of those done and of all.

    Returns
    -------
    Runs that failed.

    Raises
    ------
    ValueError : settings that no method takes, or a results file that is none; nothing has run then.
    KeyboardInterrupt : Ctrl-C; finished runs are in the file, workers have been stopped.
    """
    place = Place(place.data.absolute(), place.out.absolute(), place.weights.absolute())
    check_runs(runs, place.weights, workbench)
    missing, done, renamed = split_runs(runs, place.out)
    file = place.out / NAME
    for run, line in renamed:
        append_result(file, {**line, **_named(run, protocol.name)})
    twins: dict[str, list[Run]] = {}
    for run in missing:
        twins.setdefault(run.key, []).append(run)
    # Runs on one base follow one another.
    order = list(dict.fromkeys(run.base_key for run in missing))
    todo = sorted((runs[0] for runs in twins.values()), key=lambda run: order.index(run.base_key))
    if threads is None and scheduler is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // workers)
    common = {"commit": commit(), "command": told_command(command)}
    count, failed = len(done) + len(renamed), []
    if not todo:
        return []
    results = (
        _here(todo, place, workbench, threads)
        if workers == 1 and scheduler is None
        else _on_workers(todo, place, workbench, threads, workers, scheduler)
    )
    for outcome in results:
        if outcome.line is None:
            failed.append(outcome)
        else:
            for run in twins[outcome.run.key]:
                append_result(file, {**_named(run, protocol.name), **outcome.line, **common})
        count += len(twins[outcome.run.key])
        if progress is not None:
            progress(outcome, count, len(runs))
    return failed
