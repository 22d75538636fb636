"""``serve``: a page in the browser; what it does is `bitreplay.serve`'s, which is imported when the command runs (extra ``serve``)."""

from __future__ import annotations

import ipaddress
import os
from typing import Annotated

import typer

from .options import (
    CapacityOption,
    HeadOption,
    MemoryBytesOption,
    NewModelOption,
    SetOption,
    StateArgument,
    ThreadsOption,
    TrainBlocksOption,
    ViewsOption,
    make_learner,
)
from .state_file import check_may_write, saving
from .terminal import note, say

app = typer.Typer()


@app.command()
def serve(
    state: StateArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8008,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Also serve other machines, at this address of this machine (0.0.0.0: all), with TLS and a token. Default: this machine only.",
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option("--camera", metavar="NUMBER|STREAM", help="This device's own camera (0 is the first), or the address of a stream."),
    ] = None,
    model: NewModelOption = None,
    capacity: CapacityOption = None,
    memory_bytes: MemoryBytesOption = None,
    train_blocks: TrainBlocksOption = None,
    head: HeadOption = None,
    views: ViewsOption = None,
    further: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Teach and query a state on a page in the browser.

    A missing state is created, with --model, --capacity, --memory-bytes, --train-blocks, --head, --views and --set as in `new`.
    """
    from ..serve.server import run

    if host is not None:
        _check_address(host)
    made = {"capacity": capacity, "train_blocks": train_blocks, "head": head, "views": views}
    if not os.path.lexists(state):
        check_may_write(state)
        learner = make_learner(model, memory_bytes, threads, further, **made)
        with saving(state):
            learner.save(state)
        note(f"{state}: created")
    elif given := [name for name, value in (made | {"model": model, "memory_bytes": memory_bytes, "set": further}).items() if value]:
        raise ValueError(
            f"{state}: exists already, and --{given[0].replace('_', '-')} is for a new state; leave it out, or name another file"
        )
    check_may_write(state)
    run(
        state,
        host=host,
        port=port,
        threads=threads,
        camera=camera,
        ready=lambda address: say(f"{state}: teach it at {address} ; press Ctrl-C to stop"),
        told=note,
    )


def _check_address(host: str) -> None:
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
    except ValueError:
        raise typer.BadParameter(f"--host: expected an address of this machine, such as 0.0.0.0 or 192.0.2.7, got {host!r}") from None
