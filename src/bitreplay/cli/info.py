"""``info``: shows what a state or a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..disk import label_of
from ..model import Model
from .options import JsonOption, ModelOption
from .state_file import load_state
from .terminal import print_json, print_table, say
from .wording import count, count_classes

app = typer.Typer()


@app.command()
def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            readable=False, metavar="STATE|MODEL", help="State or model file, or the name of a shipped backbone. Default: quicknet-32."
        ),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
) -> None:
    """Show what a state or model holds: classes, counts, and memory to the byte."""
    shipped = file is None or (not file.exists() and str(file) in Model.shipped_names())
    is_model = shipped or (file is not None and file.is_file() and label_of(file)[0] == "model")
    if file is None or shipped:
        values = Model.open(None if file is None else str(file)).info()
    else:
        values = Model.load(file).info() if is_model else load_state(file, model, None).info()
        values["bytes"] = {**values["bytes"], "file": file.stat().st_size}
    if as_json:
        print_json(values)
        return
    about = values if is_model else values["model"]
    print_table("model", ("", "value"), [(key, about[key]) for key in about if key not in ("bytes", "card")])
    if is_model:
        print_table("card", ("", "value"), list(values["card"].items()))
    else:
        rows = [(entry["name"], entry["samples"], entry["replay_rows"]) for entry in values["classes"]]
        print_table("classes", ("class", "pictures learned", "replay rows"), rows)
        taken = f"{values['replay_rows']:,} of {values['capacity']:,} replay rows used"
        say(f"{count(values['lessons'], 'lesson')}, {count_classes([row[0] for row in rows])}, {taken}")
    print_table("bytes", ("what", "bytes"), list(values["bytes"].items()))
