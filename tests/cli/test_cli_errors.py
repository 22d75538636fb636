"""What every command refuses in the same words: usage, pictures, folders, states, and what is not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitreplay import FormatError, Learner

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from colour_lessons import MODELS, assert_refused, run


def test_usage_errors_exit_2(state: Path, tmp_path: Path) -> None:
    assert "not both" in assert_refused(state, "new", tmp_path / "b.state", "--capacity", 1, "--memory-bytes", 10**7, code=2)
    assert_refused(state, "learn", state, code=2)
    assert_refused(state, "predict", state, code=2)
    assert_refused(state, "new", tmp_path / "b.state", "--capacity", "-1", code=2)
    assert_refused(state, "new", tmp_path / "b.state", "--seed", 2**64, code=2)
    assert_refused(state, "nonsense", code=2)


def test_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert run("--version")[0] == f"bitreplay {version('bitreplay')}\n"


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "cut short"])
def test_a_broken_picture_is_named_and_nothing_is_learned(taught: Path, tmp_path: Path, content: bytes | None) -> None:
    broken = tmp_path / "lesson" / "red" / "05.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "learn", taught, tmp_path / "lesson")
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "predict", taught, tmp_path / "lesson")
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "predict", taught, broken)


def test_folders_without_pictures(taught: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "cup").mkdir(parents=True)
    (empty / "cup" / "notes.txt").write_text("no picture")
    assert f"{empty}: expected a subfolder per class" in assert_refused(taught, "learn", taught, empty)
    assert f"{empty}: expected pictures" in assert_refused(taught, "predict", taught, empty)
    flat = tmp_path / "lesson" / "red"
    assert f"{flat}: expected a subfolder per class" in assert_refused(taught, "learn", taught, flat)
    missing = tmp_path / "missing"
    for command in ("learn", "predict"):
        assert assert_refused(taught, command, taught, missing) == f"error: {missing}: No such file or directory"
    picture = flat / "00.png"
    assert assert_refused(taught, "learn", taught, picture) == f"error: {picture}: Not a directory"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_read_is_an_error(taught: Path, tmp_path: Path) -> None:
    closed = tmp_path / "lesson" / "red"
    closed.chmod(0)
    try:
        for command in ("learn", "predict"):
            assert assert_refused(taught, command, taught, tmp_path / "lesson") == f"error: {closed}: Permission denied"
    finally:
        closed.chmod(0o700)


def test_states_that_are_missing_or_damaged(taught: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    for command in ("learn", "predict"):
        message = assert_refused(taught, command, tmp_path / "no.state", lesson)
        assert f"{tmp_path / 'no.state'}: no such file; create it with: bitreplay new" in message
    assert assert_refused(taught, "info", tmp_path / "no.state").startswith(f"error: {tmp_path / 'no.state'}: ")
    whole = taught.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (b"", whole[: len(whole) // 2], bytes(flipped), b"not a state"):
        damaged = tmp_path / "damaged.state"
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="damaged") as raised:
            Learner.load(damaged)
        for words in (("info", damaged), ("learn", damaged, lesson), ("predict", damaged, lesson)):
            assert assert_refused(damaged, *words) == f"error: {raised.value}"


def test_a_model_is_no_state(taught: Path, tmp_path: Path) -> None:
    file = next(MODELS.glob("*.model"))
    with pytest.raises(FormatError) as raised:
        Learner.load(file)
    assert assert_refused(taught, "predict", file, tmp_path / "lesson") == f"error: {raised.value}"


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("PIL", ("predict", "STATE", "DIR"), "demo"),
        ("matplotlib", ("demo", "--out", "OUT"), "demo"),
        ("sklearn", ("demo", "--out", "OUT"), "demo"),
        ("torch", ("pretrain", "DIR", "OUT"), "train"),
        ("torch", ("export", "OUT", "OUT", "--data", "DIR", "--name", "n"), "train"),
        ("torch", ("soft-labels", "DIR", "OUT"), "train"),
    ],
)
def test_missing_extra_is_named(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: tuple[str, ...], extra: str
) -> None:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    paths = {"STATE": taught, "DIR": tmp_path / "lesson", "OUT": tmp_path / "out"}
    _, err = run(*(paths.get(word, word) for word in words), code=1)
    assert err == f'error: {module} is not installed; pip install "bitreplay[{extra}]"\n'


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_the_program_says_how_to_get_it(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from bitreplay.cli import main"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'error: {module} is not installed; pip install "bitreplay[demo]"\n'


def test_reader_that_goes_away_is_no_error(taught: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        words = [sys.executable, "-m", "bitreplay.cli", "predict", taught, tmp_path / "lesson", "--json"]
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr
