"""``new``: makes an empty state."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import Annotated

import typer

from ..store import StateFile
from .options import (
    CapacityOption,
    HeadOption,
    LessonImagesOption,
    MaxClassesOption,
    MemoryBytesOption,
    NewModelOption,
    SeedOption,
    SetOption,
    StateArgument,
    TrainBlocksOption,
    ViewsOption,
    make_learner,
)
from .state_file import check_may_write, saving
from .terminal import say

app = typer.Typer()


@app.command()
def new(
    state: StateArgument,
    model: NewModelOption = None,
    capacity: CapacityOption = None,
    memory_bytes: MemoryBytesOption = None,
    lesson_images: LessonImagesOption = None,
    max_classes: MaxClassesOption = None,
    train_blocks: TrainBlocksOption = None,
    head: HeadOption = None,
    views: ViewsOption = None,
    seed: SeedOption = 0,
    further: SetOption = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that --memory-bytes reserves memory for. Default: all cores.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing state.")] = False,
) -> None:
    """Make an empty state: nothing learned yet."""
    if os.path.lexists(state) and not force:
        raise ValueError(f"{state}: already exists; use --force to overwrite it")
    if state.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(state))
    check_may_write(state)
    learner = make_learner(
        model, memory_bytes, threads, further, capacity=capacity, lesson_images=lesson_images, max_classes=max_classes,
        train_blocks=train_blocks, head=head, views=views, seed=seed,
    )  # fmt: skip
    with StateFile(state) if state.exists() else nullcontext() as file, saving(state):
        learner.save(state) if file is None else file.save(learner)
    info = learner.info()
    say(f"{state}: {info['capacity']} replay rows, {state.stat().st_size:,} bytes; model {info['model']['name']}")
