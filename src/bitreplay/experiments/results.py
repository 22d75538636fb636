"""The file of results: one JSON object a line, one line a finished run.

Owns how lines are written (whole, synced, one writer at a time) and read.  A line that was cut off by a crash is passed over and
removed by the next write, so that its run is done again; of several lines with the same key and label the last one counts.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

NAME = "results.jsonl"

Line = dict[str, Any]


def _parse(path: Path, content: bytes) -> list[Line]:
    lines = []
    for number, piece in enumerate(content.split(b"\n")[:-1], 1):  # what follows the last line end was cut off
        if not piece.strip():
            continue
        try:
            line = json.loads(piece)
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: expected a result as JSON, got {piece[:60]!r}; remove the line") from error
        if not isinstance(line, dict) or "key" not in line or "label" not in line:
            raise ValueError(f"{path}: line {number}: expected a result with key and label, got {piece[:60]!r}; remove the line")
        lines.append(line)
    return lines


def read_results(path: Path) -> list[Line]:
    """Lines of a results file, or of ``results.jsonl`` in a folder; the last of those with the same key and label.

    Raises
    ------
    ValueError : a line other than a cut-off last one is no result.
    OSError : the file cannot be read.
    """
    file = path / NAME if path.is_dir() else path
    found: dict[tuple[str, str], Line] = {}
    for line in _parse(file, file.read_bytes()):
        found.pop((line["key"], line["label"]), None)  # the place of the last one, too
        found[line["key"], line["label"]] = line
    return list(found.values())


def read_all(paths: Iterable[Path]) -> list[Line]:
    """Lines of several results files, in their order."""
    return [line for path in paths for line in read_results(path)]


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def append_result(path: Path, line: Line) -> None:
    """Add a line: whole and on the disk when this returns."""
    text = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
    with _locked(path) as file:
        # A line that was cut off would spoil this one.
        end = file.seek(0, os.SEEK_END)
        keep = end
        while keep:
            start = max(0, keep - 65536)
            file.seek(start)
            place = file.read(keep - start).rfind(b"\n")
            if place >= 0:
                keep = start + place + 1
                break
            keep = start
        if keep != end:
            file.truncate(keep)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
