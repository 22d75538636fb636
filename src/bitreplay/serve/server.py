"""Runs the application on this machine's own address until Ctrl-C."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from .app import make_app
from .device import Device


def run(path: Path, *, port: int, threads: int | None, ready: Callable[[str], object], told: Callable[[str], object]) -> None:
    """Serve the page of a state.

    Parameters
    ----------
    path : the state file, which is this process's until it ends.
    port : of 127.0.0.1; 0 takes a free one.
    threads : for the network.
    ready : called with the address when it answers.
    told : called with what the user should know of the state.

    Raises
    ------
    OSError : the port is taken, or another process is changing the state.
    FormatError : the state is not sound.
    """
    device = Device(path, threads)
    if device.told is not None:
        told(device.told)
    try:
        with socket.create_server(("127.0.0.1", port)) as listening:
            number = listening.getsockname()[1]
            config = uvicorn.Config(make_app(device), log_level="warning", access_log=False, timeout_keep_alive=5, limit_concurrency=256)
            ready(f"http://localhost:{number}")
            with contextlib.suppress(KeyboardInterrupt):  # raised again once everything has ended well
                uvicorn.Server(config).run(sockets=[listening])
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"port {port}") if error.filename is None else error from None
    finally:
        device.close()
