"""Where and from what a result came: machine, versions, commit, command.

Owns what may be told of them: no names of machines, users or folders.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, _engine


def _cpu() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith(("model name", "Model")):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(threads: int | None) -> dict[str, Any]:
    """What a result may depend on, without names of machines, users or folders."""
    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": None if torch is None else str(torch.__version__),
        "bitreplay": __version__,
        "cpu": _cpu(),
        "isa": _engine.isa(),
        "threads": threads,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str | None:
    """Commit of the source tree that runs, with "-dirty" where it was changed since; None outside a repository."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # in a virtual environment inside somebody else's repository it is not tracked
        name = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no") or git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("-dirty" if changed else "")


def told_command(words: Sequence[str]) -> str:
    """A command line as typed, but for what says where or on which machine: of absolute paths the last part stays, of addresses none."""
    told = []
    for number, word in enumerate(words):
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if "://" in value:
            value = value.partition("://")[0] + "://..."
        elif value.startswith(("/", "~")) or number == 0:
            value = Path(value).name
        told.append(option + equals + value)
    return " ".join(f"'{word}'" if " " in word else word for word in told)
