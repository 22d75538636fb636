"""``new``: makes an empty state."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from typing import Annotated

import typer

from .. import Learner
from ..store import StateFile
from .options import SeedOption, StateArgument
from .state_file import check_may_write, saving
from .terminal import say

app = typer.Typer()


@app.command()
def new(
    state: StateArgument,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Model file, or the name of a shipped backbone. Default: quicknet-32.", metavar="FILE|NAME"),
    ] = None,
    capacity: Annotated[int | None, typer.Option("--capacity", min=0, help="Maximum number of rows in the replay memory.")] = None,
    memory_bytes: Annotated[
        int | None,
        typer.Option("--memory-bytes", min=1, help="Instead of --capacity: bytes for everything that learning keeps or needs at its peak."),
    ] = None,
    lesson_images: Annotated[
        int | None,
        typer.Option("--lesson-images", min=1, help="Maximum pictures in a lesson. Default: no limit; 1024 with --memory-bytes."),
    ] = None,
    max_classes: Annotated[
        int | None, typer.Option("--max-classes", min=1, help="Maximum number of classes the state can ever know.")
    ] = None,
    train_blocks: Annotated[
        int,
        typer.Option(
            "--train-blocks",
            min=0,
            help="Blocks behind the cut that lessons train too, counted from the last. Worthwhile from a few hundred replay rows.",
        ),
    ] = 0,
    head: Annotated[
        str,
        typer.Option(
            "--head", metavar="lda|cwr", help="How pictures are classified: from exact sums (lda), or by the papers' trained head (cwr)."
        ),
    ] = "lda",
    views: Annotated[
        int,
        typer.Option(
            "--views",
            metavar="1|2|6",
            help="Views of each picture to learn from and predict with. 2: its mirror image too; 6: also enlarged parts of both.",
        ),
    ] = 1,
    lda_features: Annotated[
        int,
        typer.Option("--lda-features", min=0, metavar="N", help="Number of features that lda uses, the most informative first. 0: all."),
    ] = 0,
    class_priors: Annotated[
        bool,
        typer.Option("--class-priors", help="Weight each class by its share of the pictures. Default: all classes are equally likely."),
    ] = False,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that --memory-bytes reserves memory for. Default: all cores.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing state.")] = False,
) -> None:
    """Make an empty state: nothing learned yet."""
    if capacity is not None and memory_bytes is not None:
        raise typer.BadParameter("give --capacity or --memory-bytes, not both")
    if os.path.lexists(state) and not force:
        raise ValueError(f"{state}: already exists; use --force to overwrite it")
    if state.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(state))
    check_may_write(state)
    limits = {"max_classes": max_classes} if max_classes is not None else {}
    learner = Learner.new(
        model,
        capacity=capacity,
        memory_bytes=memory_bytes,
        lesson_images=lesson_images,
        seed=seed,
        threads=threads,
        train_blocks=train_blocks,
        head=head,
        lda_features=lda_features,
        class_priors=class_priors,
        views=views,
        **limits,
    )
    with StateFile(state) if state.exists() else nullcontext() as file, saving(state):
        learner.save(state) if file is None else file.save(learner)
    info = learner.info()
    say(f"{state}: {info['capacity']} replay rows, {state.stat().st_size:,} bytes; model {info['model']['name']}")
