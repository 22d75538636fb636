"""Files of JSON lines in benchmarks/results: each line tells commit, version and model of its run; report.py makes tables of them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from bitreplay import Model, __version__

RESULTS = Path(__file__).resolve().parent / "results"


def commit() -> str:
    """Short hash of the commit, with -dirty where the code that is measured differs from it."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *words], cwd=RESULTS.parents[1], capture_output=True, text=True)

    changed = git("diff", "--quiet", "HEAD", "--", "engine", "src", "benchmarks", ":!benchmarks/results").returncode
    return git("rev-parse", "--short", "HEAD").stdout.strip() + ("-dirty" if changed else "")


class Log:
    """Appends lines to a file, and prints them."""

    def __init__(self, path: Path, model: Model) -> None:
        self.path = path
        self._common = {"model": model.digest[:12], "commit": commit(), "version": __version__}

    def write(self, **values: Any) -> None:
        line = json.dumps({key: _rounded(value) for key, value in (values | self._common).items()})
        print(line, flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(float(value), 5) if isinstance(value, float) else value
