"""The command line ``bitreplay``: folders and files in, tables and exit codes out; a file a command, or a few that belong together.

Owns the list of commands; what is learned and stored is `learner`'s.  Results go to standard output, progress, notes and errors to
standard error.  Exit codes: 0, 1 error ("error: " and the library's own text), 2 usage, 130 Ctrl-C.

Needs the extra ``demo``: where Typer or Rich is missing, importing this package ends the program with a line that says so.  What needs
another extra, or is slow to load, is imported when a command runs.
"""

from __future__ import annotations

import sys
from importlib import metadata
from typing import Annotated

from ..extras import missing_extra

try:
    import typer

    from . import (
        demo,
        experiment,
        export,
        export_c,
        fetch,
        import_model,
        info,
        learn,
        merge,
        new,
        predict,
        pretrain,
        report,
        serve,
        soft_labels,
    )
    from .terminal import Commands
except ModuleNotFoundError as _error:
    if missing_extra(_error.name) is None:
        raise
    raise SystemExit(f"error: {missing_extra(_error.name)}") from None

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a binary neural network new things from a few pictures: on the device, in bounded memory.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitreplay {metadata.version('bitreplay')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


# In the order in which the help shows them.
for _commands in (
    new,
    learn,
    merge,
    serve,
    predict,
    info,
    export_c,
    demo,
    pretrain,
    soft_labels,
    export,
    import_model,
    fetch,
    experiment,
    report,
):
    app.add_typer(_commands.app)


def main() -> None:
    """Run the command line; the entry point of ``bitreplay``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    app(prog_name="bitreplay")
