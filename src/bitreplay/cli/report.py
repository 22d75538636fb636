"""``report``: makes tables and plots from results; what is done is `experiments`', imported when the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import say
from .wording import count

app = typer.Typer()


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(readable=False, metavar="RESULTS...", help="Folders or files of results that experiment wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", readable=False, help="Folder for report.md and its plots.", metavar="DIR")] = Path(
        "bitreplay-report"
    ),
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Show differences from this label, seed by seed; may be repeated.", metavar="LABEL"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only runs with this label; may be repeated.", metavar="LABEL")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Only runs on this split: test or valid.")] = None,
    embed: Annotated[
        list[Path] | None,
        typer.Option(
            "--embed",
            readable=False,
            help="Markdown file in which to fill the marks <!-- table: NAME --> ... <!-- end -->; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Also draw the plots as SVG.")] = False,
) -> None:
    """Make tables and plots from results."""
    from ..experiments.markdown import embed as fill
    from ..experiments.report import write_report
    from ..experiments.results import read_all

    lines = [line for line in read_all(results) if split in (None, line["split"]) and (not only or line["label"] in only)]
    file, tables = write_report(lines, out, against=against or (), svg=svg)
    for path in embed or ():
        text, written = fill(path.read_text(encoding="utf-8"), tables)
        if not written:
            raise ValueError(f"{path}: expected a mark for one of the tables, such as <!-- table: {next(iter(tables))} -->, found none")
        path.write_text(text, encoding="utf-8")
        say(f"{path}: {', '.join(written)}")
    say(f"{file}: {count(len(tables), 'table')} from {count(len(lines), 'run')}")
