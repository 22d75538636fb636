"""``predict``: names what pictures show, and scores it where subfolders name the classes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from .. import metrics
from .options import JsonOption, ModelOption, StateArgument, ThreadsOption
from .pictures import class_pictures, flat_pictures, read_picture
from .state_file import load_state
from .terminal import console, percent, print_json, progress, say
from .wording import listed

PREDICT_BATCH = 128
WIDEST_CONFUSION = 20
CONFUSIONS_LISTED = 20

app = typer.Typer()


@app.command()
def predict(
    state: StateArgument,
    sources: Annotated[
        list[Path],
        typer.Argument(
            readable=False, metavar="IMAGE|DIR...", help="Pictures, folders of pictures, or folders with one subfolder per class."
        ),
    ],
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            metavar="1|2|6",
            help="Views of each picture to look at. 2: its mirror image too; 6: also enlarged parts of both. Each view takes as long as a picture. "
            "Default: as many as were learned from.",
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            "--reject",
            metavar="SHARE",
            help='Say "unknown" when unsure. SHARE of the pictures of known things may be rejected, such as 0.1. Default: never.',
        ),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Name what pictures show, with accuracy and confusions where subfolders name the classes."""
    learner = load_state(state, model, threads)
    if not learner.names:
        raise ValueError(f"{state}: knows no class yet; teach it with: bitreplay learn {shlex.quote(str(state))} DIR")
    pictures: list[tuple[Path, str | None]] = []
    for source in sources:
        if not source.is_dir():
            pictures.append((source, None))
        else:
            pictures += class_pictures(source) or [(path, None) for path in flat_pictures(source)]
    names: list[str] = []
    probabilities: list[float] = []
    rejected: list[bool] = []
    with progress() as report:
        for start in range(0, len(pictures), PREDICT_BATCH):
            batch = np.stack([read_picture(path, learner.image_size) for path, _ in pictures[start : start + PREDICT_BATCH]])
            prediction = learner.predict(batch, views=views, reject=reject)
            names += prediction.names
            rejected += prediction.unknown.tolist()
            columns = [learner.names.index(name) for name in prediction.names]
            probabilities += prediction.probabilities[np.arange(len(columns)), columns].tolist()
            report("pictures", len(names), len(pictures))

    result: dict[str, Any] = {"state": str(state)}
    result["images"] = [
        {"file": str(path), **({} if label is None else {"class": label}), "name": name, "probability": probability}
        | ({} if reject is None else {"unknown": unknown})
        for (path, label), name, probability, unknown in zip(pictures, names, probabilities, rejected, strict=True)
    ]
    labelled = [(label, name) for (_, label), name in zip(pictures, names, strict=True) if label is not None]
    if labelled:
        result.update(_score(labelled, list(learner.names)))
        if reject is not None:
            taught = [row["unknown"] for row in result["images"] if row.get("class") in learner.names]
            others = [not row["unknown"] for row in result["images"] if "class" in row and row["class"] not in learner.names]
            result["false_rejects"] = {"count": sum(taught), "of": len(taught)}
            result["false_accepts"] = {"count": sum(others), "of": len(others)}
    if as_json:
        print_json(result)
        return
    for row in result["images"]:
        if "class" not in row:
            guess = f"{row['name']} ({percent(row['probability'])})"
            say(f"{row['file']}: {f'unknown; closest to {guess}' if row.get('unknown') else guess}")
    if labelled:
        say(f"accuracy {percent(result['accuracy'])} ({result['right']} of {result['total']} pictures)")
        _print_confusion(result["confusion"])
        if result["unknown"]:
            say(f"unknown to the state, counted as errors: {listed(result['unknown'])}")
        for kind, what in (
            ("false_rejects", "pictures of known classes called unknown"),
            ("false_accepts", "pictures of other classes not called unknown"),
        ):
            if result.get(kind, {}).get("of"):
                say(f"{what}: {result[kind]['count']} of {result[kind]['of']}")


def _score(labelled: list[tuple[str, str]], known: list[str]) -> dict[str, Any]:
    """Accuracy and confusion of (true name, predicted name) pairs; classes that the state does not know come last."""
    unknown = sorted({truth for truth, _ in labelled} - set(known))
    number = {name: i for i, name in enumerate(known + unknown)}
    counts = metrics.confusion_matrix([number[truth] for truth, _ in labelled], [number[name] for _, name in labelled], len(number))
    right = int(counts.trace())
    return {
        "accuracy": right / len(labelled),
        "right": right,
        "total": len(labelled),
        "unknown": unknown,
        "confusion": {"classes": known + unknown, "counts": counts.tolist()},
    }


def _print_confusion(confusion: dict[str, Any]) -> None:
    """Print the table, or the most frequent confusions where it would be too wide to read."""
    names, counts = confusion["classes"], np.array(confusion["counts"])
    shown = [i for i in range(len(names)) if counts[i].any() or counts[:, i].any()]
    if len(shown) <= WIDEST_CONFUSION:
        table = Table(title="rows: true class; columns: predicted class", title_justify="left")
        table.add_column("")
        for column in shown:
            table.add_column(Text(names[column]), justify="right")
        table.add_column("right", justify="right")
        for row in (i for i in shown if counts[i].any()):
            cells = [Text(str(counts[row, column] or "·"), style="bold" if row == column else "") for column in shown]
            table.add_row(Text(names[row]), *cells, Text(percent(counts[row, row] / counts[row].sum())))
    else:
        table = Table(title="most frequent confusions", title_justify="left")
        for head in ("true class", "predicted class"):
            table.add_column(head)
        table.add_column("pictures", justify="right")
        wrong = counts - np.diag(counts.diagonal())
        for flat in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_LISTED]:
            row, column = divmod(int(flat), len(names))
            if wrong[row, column]:
                table.add_row(Text(names[row]), Text(names[column]), str(wrong[row, column]))
    console().print(table)
