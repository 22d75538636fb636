"""``fetch``: downloads published weights, checks and imports them (extra ``import``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .import_model import show
from .options import JsonOption
from .terminal import note, progress

app = typer.Typer()


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="quicknet, quicknet-small, quicknet-large or birealnet, as Larq Zoo publishes them.")
    ],
    out: Annotated[Path | None, typer.Argument(readable=False, metavar="OUT", help="Model file to write. Default: NAME.model.")] = None,
    calibrate: Annotated[Path | None, typer.Option(readable=False, help="Calibration pictures, as for import.", metavar="DIR")] = None,
    image_size: Annotated[int, typer.Option(help="Side of the pictures; these networks were trained at 224.", min=32, max=1024)] = 224,
    cache: Annotated[Path | None, typer.Option(readable=False, help="Folder for downloads. Default: the system's.", metavar="DIR")] = None,
    mirror: Annotated[str | None, typer.Option(help="Another place of the same releases.", metavar="URL")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for torch.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Download a published binary network, check it and import it."""
    from ..training.importers.published import named

    found = named(name)
    import torch

    from ..training.importers.fetch import cached_file
    from ..training.importers.import_file import import_file

    if threads is not None:
        torch.set_num_threads(threads)
    note(f"{found.url}, {found.card()['licence']}; published top-1 {found.top1} %")
    source = cached_file(found, cache, mirror)
    target = out or Path(f"{name}.model")
    with progress() as report:
        imported = import_file(source, target, calibrate=calibrate, image_size=image_size, progress=report)
    show(imported, target, as_json)
