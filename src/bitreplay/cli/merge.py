"""``merge``: takes over what other devices were taught."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import ModelOption, StateArgument, ThreadsOption
from .state_file import changing, expect_state, load_state, saving
from .terminal import progress, say
from .wording import PHASES, count_classes, listed

app = typer.Typer()


@app.command()
def merge(
    state: StateArgument,
    others: Annotated[
        list[Path], typer.Argument(readable=False, metavar="OTHER...", help="States of other devices that use the same model.")
    ],
    model: ModelOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes on this machine that share the work.")] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do the work instead, such as tcp://HOST:8786."),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Add what other devices were taught; their states stay as they are."""
    for other in others:
        expect_state(other)
        if other.samefile(state):
            raise ValueError(f"{other}: this is the state itself; give the state of another device")
    with changing(state) as file:
        learner = load_state(state, model, threads, file=file)
        known = set(learner.names)
        with progress() as report:
            equal = learner.merge_files(
                *others,
                workers=workers,
                scheduler=scheduler,
                progress=lambda phase, done, total: report(PHASES.get(phase, phase), done, total),
            )
        with saving(state):
            file.save(learner)
    opened = [name for name in learner.names if name not in known]
    say(f"{state}: now knows {count_classes(learner.names)}{'; new: ' + listed(opened) if opened else ''}")
    if not equal:
        say(
            "The trained tails differed: the one that saw the most pictures is kept, and the heads were trained again on the merged memory."
        )
