"""Arguments and options that several commands take, each with one name and one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model that the state was taught on; needed only if it is neither shipped nor in the state.", metavar="FILE|NAME"
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of threads; does not change the result. Default: all cores.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed for all of the learner's random choices.")]
# readable=False, as for every path in a command: the library opens the file and says, in its own words, what is wrong.
StateArgument = Annotated[Path, typer.Argument(readable=False, metavar="STATE", help="State file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
