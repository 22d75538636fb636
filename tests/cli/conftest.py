"""States for the commands: new, and taught three colours."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def state(tmp_path: Path) -> Path:
    from colour_lessons import run  # needs the extra demo: without it the tests are skipped, file by file

    path = tmp_path / "a state.state"
    run("new", path, "--capacity", 20)
    return path


@pytest.fixture
def taught(state: Path, tmp_path: Path) -> Path:
    from colour_lessons import run, write_lesson

    run("learn", state, write_lesson(tmp_path / "lesson", ["blue", "green", "red"]))
    return state
