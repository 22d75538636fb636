"""The program, run in this process, and lessons of coloured pictures for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bitreplay
from bitreplay import cli

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from PIL import Image

COLOURS = {"blue": (20, 40, 230), "green": (30, 200, 40), "red": (240, 20, 30)}
PICTURES = 12
MODELS = Path(bitreplay.__file__).parent / "models"


def draw(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    light = np.random.default_rng(seed).integers(
        -90, 91, (size[1] // 4 + 1, size[0] // 4 + 1, 1)
    )  # in squares: no two pictures are near-equal
    squares = light.repeat(4, axis=0).repeat(4, axis=1)[: size[1], : size[0]]
    return Image.fromarray(np.clip(np.array(colour) + squares, 0, 255).astype(np.uint8))


def write_lesson(folder: Path, names: list[str], first_seed: int = 0) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(PICTURES):
            draw(COLOURS[name], first_seed + number).save(folder / name / f"{number:02}.png")
    return folder


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a command that must end with `code`."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result.stdout, result.stderr


def assert_refused(state: Path, *words: object, code: int = 1) -> str:
    """The command fails with one message, without a traceback, and changes no byte of the state nor its folder."""
    before, beside = state.read_bytes(), sorted(state.parent.iterdir())
    out, err = run(*words, code=code)
    assert out == ""
    assert "Traceback" not in err
    assert state.read_bytes() == before
    assert sorted(state.parent.iterdir()) == beside
    if code == 1:
        last = err.splitlines()[-1]
        assert last.startswith("error: ")
        return last
    return err
