"""The commands `experiment` and `report` on a protocol of one's own, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from fake_training import FakeWorkbench

from bitreplay import cli
from bitreplay.training import workbench


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, run in `tmp_path` with the stand-in."""
    monkeypatch.setattr(workbench, "TorchWorkbench", FakeWorkbench)
    monkeypatch.chdir(tmp_path)

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.stderr
        return result.stdout, result.stderr

    return run


TOML = """
name = "colours"
[data]
set = "folder"
image_size = 8
valid = 0.3
[stream]
kind = "nc"
groups = [["green", "red"], ["blue"], ["white"]]
[base]
weights = "some"
[[runs]]
label = "all"
method = "mean"
settings = { at_once = true }
[[runs]]
label = "mean"
method = "mean"
seeds = 2
[[runs]]
label = "fails"
method = "mean"
seeds = 2
settings = { fails_on_seed = 1 }
"""


def test_the_commands_on_a_protocol(command: Any, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    dry, _ = command("experiment", "mine.toml", "--data", "nowhere", "--dry-run")
    assert "5 of 5 runs to do" in dry
    assert not (tmp_path / "bitreplay-runs").exists()

    words = ("experiment", "mine.toml", "--data", pictures)
    out, err = command(*words, "--only", "mean", "--only", "all", "--threads", 1)
    assert "1/3  some, all, seed 0: 100.0 % in 0 s" in out
    assert out.endswith(f"{Path('bitreplay-runs/results.jsonl')}: 3 of 3 runs\n")
    out, err = command(*words, code=1)
    assert "note: some, fails, seed 1 failed: RuntimeError: this method fails" in err
    assert err.splitlines()[-1].startswith("error: 1 of 5 runs failed; the others are in bitreplay-runs/results.jsonl")
    assert "all" not in out
    dry, _ = command(*words, "--dry-run")
    assert "1 of 5 runs to do" in dry
    assert "7 of 9 runs to do" not in command(*words, "--dry-run", "--seeds", 3)[0]
    command(*words, "--split", "valid", "--only", "mean", "--seeds", 1)

    (tmp_path / "docs.md").write_text("# Ours\n\n<!-- table: final colours-some -->\nold\n<!-- end -->\nrest\n")
    out, _ = command("report", "bitreplay-runs", "--split", "test", "--against", "all", "--embed", "docs.md", "--out", "shown")
    assert "docs.md: final colours-some" in out
    text = (tmp_path / "docs.md").read_text()
    assert "| mean | 100.00 ± 0.00 | 0.00 |" in text
    assert "old" not in text
    assert text.endswith("<!-- end -->\nrest\n")
    assert "| mean | +0.00 | 1 |" in (tmp_path / "shown" / "report.md").read_text()
    both = command("report", "bitreplay-runs")[0]
    assert "from 5 runs" in both
    assert "must not be compared" in (tmp_path / "bitreplay-report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("experiment", "nothing.toml", "--data", "."), "error: nothing.toml: no such file, and none of the shipped protocols: "),
        (("experiment", "cifar10-nc5", "--data", "nowhere"), "error: nowhere: expected a folder with cifar10, found none"),
        (("experiment", "cifar10-nc5", "--data", ".", "--split", "both"), "error: split: expected one of test, valid, got 'both'"),
        (("experiment", "cifar10-nc5", "--data", ".", "--only", "x"), "error: only: expected labels out of "),
        (("report", "nowhere"), "error: nowhere: No such file or directory"),
    ],
)
def test_what_the_commands_refuse(command: Any, words: tuple[str, ...], message: str) -> None:
    assert command(*words, code=1)[1].splitlines()[-1].startswith(message)


def test_without_dask_workers_are_refused_with_a_word_how_to_get_it(
    command: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    monkeypatch.setitem(sys.modules, "distributed", None)
    _, err = command("experiment", "mine.toml", "--data", pictures, "--workers", 2, code=1)
    assert err.splitlines()[-1] == 'error: distributed is not installed; pip install "bitreplay[train]"'


def test_a_missing_set_is_said_once_for_each_run(command: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(TOML)
    (tmp_path / "empty").mkdir()
    _, err = command("experiment", "mine.toml", "--data", "empty", "--only", "all", code=1)
    assert "expected a subfolder per class with pictures in it" in err
