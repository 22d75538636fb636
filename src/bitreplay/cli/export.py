"""``export``: writes a trained network as a model file; what is done is `training`'s, imported when the command runs (extra ``train``)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .import_model import read_card
from .options import JsonOption
from .terminal import print_json, print_table, progress, say

app = typer.Typer()


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(readable=False, metavar="CHECKPOINT", help="What pretrain wrote: a checkpoint, or FOLDER/NAME of weights.")
    ],
    out: Annotated[Path, typer.Argument(readable=False, metavar="OUT", help="Model file to write.")],
    data: Annotated[
        Path,
        typer.Option(readable=False, help="Data set for calibration and measurement: the one the network was trained on.", metavar="DIR"),
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    card: Annotated[
        Path | None, typer.Option(readable=False, help="JSON file with the contents of the model card.", metavar="FILE")
    ] = None,
    whitening: Annotated[bool, typer.Option(help="Whiten the features.")] = True,
    cache: Annotated[Path | None, typer.Option(readable=False, help="Folder for decoded pictures.", metavar="DIR")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads for torch.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Fold and calibrate a trained network and write the integer model file for the device."""
    import torch

    from ..training.export import export_model

    if threads is not None:
        torch.set_num_threads(threads)
    told = read_card(card)
    with progress() as report:
        figures = export_model(checkpoint, out, data=data, cache=cache, name=name, card=told, whitening=whitening, progress=report)
    if as_json:
        print_json(figures)
    elif figures:
        print_table(str(out), ("", "measured"), list(figures.items()))
    else:
        say(f"{out}: written; not measured, since the data set has no pictures for that")
