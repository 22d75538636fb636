"""States for the commands: new, and taught three colours."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import run, write_lesson


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "a state.state"
    run("new", path, "--capacity", 20)
    return path


@pytest.fixture
def taught(state: Path, tmp_path: Path) -> Path:
    run("learn", state, write_lesson(tmp_path / "lesson", ["blue", "green", "red"]))
    return state
