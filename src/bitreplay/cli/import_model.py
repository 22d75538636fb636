"""``import``: a network trained elsewhere becomes a model file; what is done is `training`'s, imported when the command runs (extra ``import``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption
from .terminal import note, percent, print_json, progress, say

if TYPE_CHECKING:
    from ..training.importers.import_file import Imported

app = typer.Typer()

Triple = tuple[float, float, float]


def read_card(path: Path | None) -> dict[str, Any] | None:
    """The contents of a card; ValueError if the file holds something else."""
    if path is None:
        return None
    try:
        told = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, got something else: {error}") from error
    if not isinstance(told, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(told).__name__}")
    return told


def _triple(text: str | None, option: str) -> Triple | None:
    if text is None:
        return None
    try:
        first, second, third = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{option}: expected three numbers separated by commas, red, green, blue, got {text!r}") from None
    return first, second, third


@app.command("import")
def import_model(
    source: Annotated[
        Path,
        typer.Argument(readable=False, metavar="FILE", help="File of LCE or TensorFlow Lite (.tflite), or Larq Zoo's Keras weights (.h5)."),
    ],
    out: Annotated[Path, typer.Argument(readable=False, metavar="OUT", help="Model file to write.")],
    calibrate: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="Pictures of the kind that the network will see, some hundred: a folder, or parquet files. Default: drawn ones, which cost accuracy.",
            metavar="DIR",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the published one, or the file's.")] = None,
    card: Annotated[
        Path | None,
        typer.Option(readable=False, help="JSON file with more for the model card, such as licence and source.", metavar="FILE"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the pictures, of Keras weights, which do not tell. Default: 224.", min=32, max=1024)
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of the pixels in 0..1 that the network was trained with. Default: ImageNet's.", metavar="R,G,B")
    ] = None,
    spread: Annotated[str | None, typer.Option(help="Likewise their standard deviation.", metavar="R,G,B")] = None,
    whitening: Annotated[
        bool, typer.Option("--whitening", help="Whiten the features; needs some thousand calibration pictures in a folder a class.")
    ] = False,
    threads: Annotated[int | None, typer.Option(help="Threads for torch.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a binary network that was trained elsewhere into a model file for the device."""
    import torch

    from ..training.importers.import_file import import_file

    if threads is not None:
        torch.set_num_threads(threads)
    told, mean_rgb, spread_rgb = read_card(card), _triple(mean, "--mean"), _triple(spread, "--spread")
    if spread_rgb is not None and min(spread_rgb) <= 0:
        raise typer.BadParameter("--spread: expected numbers above 0")
    with progress() as report:
        imported = import_file(
            source, out, name=name, calibrate=calibrate, image_size=image_size, mean=mean_rgb, spread=spread_rgb, whitening=whitening,
            card=told, progress=report,
        )  # fmt: skip
    show(imported, out, as_json)


def show(imported: Imported, out: Path, as_json: bool) -> None:
    """Say what was imported."""
    for text in imported.notes:
        note(text)
    model, figures = imported.model, imported.figures
    if as_json:
        print_json({"model": model.info(), "family": imported.family, "operations": imported.operations, "figures": figures})
        return
    say(f"{out}: {model.name}, {imported.family}")
    say("operations: " + ", ".join(f"{count} {kind}" for kind, count in sorted(imported.operations.items())))
    size = model.network.image_size
    say(
        f"pictures of {size} x {size}; {model.network.latent_words * 8:,} bytes a row; {model.network.feature_count} features; no cut: the head alone learns"
    )
    same = f", {percent(figures['same_answers'])} of the answers are the same" if "same_answers" in figures else ""
    say(
        f"integers beside float, on {int(figures['pictures'])} calibration pictures: correlation of the features {figures['features_correlation']:.3f}{same}"
    )
    card_text = ", ".join(f"{key} {model.card[key]}" for key in ("licence", "source") if key in model.card)
    say(f"card: {card_text or 'no licence or source'}")
