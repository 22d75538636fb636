"""``export-c``: writes a model or a state as C source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import c_source
from ..model import Model
from .terminal import say

app = typer.Typer()


@app.command("export-c")
def export_c(
    file: Annotated[str, typer.Argument(metavar="MODEL|STATE", help="Name of a shipped backbone, or a model or state file.")],
    out: Annotated[Path, typer.Argument(readable=False, metavar="OUT.c", help="C file to write.")],
    symbol: Annotated[str | None, typer.Option(help="Name of the array. Default: device_model or device_state.")] = None,
) -> None:
    """Write a model or a state as C source, for a device without a file system."""
    source = Model.from_package(file) if file in Model.shipped_names() else Path(file)
    name, size = c_source.export_c(source, out, symbol)
    say(f"{out}: {name}, {size:,} bytes")
