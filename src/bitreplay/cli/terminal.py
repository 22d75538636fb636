"""How commands speak: results on standard output, progress, notes and errors on standard error, exceptions as messages and exit codes.

Knows no command.  Exit codes: 0, 1 error ("error: " and the library's own text), 2 usage, 130 Ctrl-C.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from .. import Cancelled
from ..extras import missing_extra

WIDTH_OFF_TERMINAL = 140


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command: an error with 1, anything else with its own code."""
    typer.echo(f"error: {message}" if code == 1 else message, err=True)
    raise typer.Exit(code)


def note(message: str) -> None:
    """Mention what the user may want to know."""
    typer.echo(f"note: {message}", err=True)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


class Commands(TyperGroup):
    """The one place where exceptions become messages and exit codes, however the commands are called."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("interrupted: nothing was changed", 130)
        except BrokenPipeError:
            raise  # Typer ends quietly: whoever read our output has gone
        except ModuleNotFoundError as error:
            message = missing_extra(error.name)
            if message is None:
                raise
            fail(message)
        except MemoryError:
            fail("not enough memory")
        except (ValueError, OSError, Cancelled) as error:
            fail(_text(error))


def console() -> Console:
    """Where tables go."""
    # Off a terminal there is no width to keep to: a table in a log must not lose its columns.
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OFF_TERMINAL)


def say(text: str) -> None:
    """Print a line of the result."""
    typer.echo(text)


def percent(share: float) -> str:
    """A share, 0..1, as people read it."""
    return f"{100 * share:.1f} %"


def print_json(value: object) -> None:
    """Print a result for programs."""
    typer.echo(json.dumps(value, indent=2))


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows; columns of whole numbers are set right."""
    table = Table(title=Text(title), title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if rows and all(isinstance(row[number], int) for row in rows) else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    console().print(table)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error; yields a function to be called with (phase, done, total)."""
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield report
