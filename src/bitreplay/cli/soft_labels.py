"""``soft-labels``: asks a teacher once for all its answers; what is done is `training`'s, imported when the command runs (extra ``train``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from .terminal import fail, progress, say

app = typer.Typer()


@app.command("soft-labels")
def soft_labels(
    data: Annotated[
        Path, typer.Argument(readable=False, metavar="DATA", help="Data set, as for pretrain; its training pictures are used.")
    ],
    out: Annotated[Path, typer.Argument(readable=False, metavar="FILE", help="File to write; an interrupted one is continued.")],
    teacher: Annotated[
        str, typer.Option(help="efficientnet-lite0, or the checkpoint of a network that pretrain trained.", metavar="NAME|FILE")
    ] = "efficientnet-lite0",
    image_size: Annotated[
        int | None, typer.Option(help="Input side of a ready-made teacher, in pixels. Default: 160.", min=32, max=1024)
    ] = None,
    crops: Annotated[int, typer.Option(help="Crops per picture.", min=1, max=1024)] = 4,
    kept: Annotated[int, typer.Option(help="Classes to keep of each answer.", min=1, max=255)] = 5,
    smallest: Annotated[float, typer.Option(help="Smallest crop, as a share of the picture's area.", min=0.01, max=1)] = 0.35,
    stretch: Annotated[float, typer.Option(help="Largest ratio of a crop's sides.", min=1, max=4)] = 1.25,
    seed: Annotated[int, typer.Option(help="Seed for the crops.", min=0)] = 1,
    cache: Annotated[
        Path | None, typer.Option(readable=False, help="Folder for decoded pictures. Default: FILE.cache.", metavar="DIR")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for the teacher. Default: all cores.", min=1)] = None,
) -> None:
    """Collect a teacher's answers to crops of all training pictures, once, for pretrain --soft-labels."""
    from ..datasets.image_sets import cached_split
    from ..training.crops import STORED
    from ..training.soft_labels import Crops, make_soft_labels
    from ..training.teachers import READY_MADE, checkpoint_teacher

    if teacher in READY_MADE:
        seen_by = READY_MADE[teacher](image_size or 160)
    elif Path(teacher).is_file():
        if image_size is not None:
            raise typer.BadParameter("the checkpoint fixes the image size; omit --image-size")
        seen_by = checkpoint_teacher(Path(teacher))
    else:
        raise ValueError(f"teacher: expected {' or '.join(READY_MADE)}, or the checkpoint of a network, got {teacher}, which is not a file")
    pictures = cached_split(data, "train", STORED * seen_by.image_size, cache or out.with_name(out.name + ".cache"), enlarge=False)
    if pictures is None:
        raise ValueError(f"{data}: expected training pictures, found none")
    with progress() as bar:
        try:
            labels = make_soft_labels(
                pictures,
                out,
                seen_by,
                crops=Crops(crops, seed, smallest, stretch),
                kept=kept,
                threads=threads or os.cpu_count() or 1,
                progress=bar,
            )
        except KeyboardInterrupt:
            fail(f"interrupted: the labels so far are in {out}; run the same command to continue", 130)
    say(f"{out}: {labels.complete} crops of {labels.header.count:,} pictures, answered by {seen_by.name}")
