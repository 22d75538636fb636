"""``demo``: runs `bitreplay.demo`, which is imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import SeedOption, ThreadsOption
from .terminal import console, fail

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option(readable=False, help="Folder for the plot, the state and example pictures.", metavar="DIR")] = Path(
        "bitreplay-demo"
    ),
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Teach ten handwritten digits, two per lesson, and compare with learning all at once. Needs no network and no files."""
    from ..demo import run_demo

    try:
        run_demo(out, seed=seed, threads=threads, console=console())
    except KeyboardInterrupt:
        fail("interrupted", 130)
