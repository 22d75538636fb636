"""Every command in the docs is run, in the order of its page; where it takes hours or a camera, its options are looked up.

A block of commands is fenced with ``sh``.  A comment in the line before it says where it is not simply run:
`<!-- options only: why -->`: each command's options must be in its ``--help``; `<!-- by hand: why -->`: it needs what a test has not.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from real_pictures import DATA

pytest.importorskip("typer", reason="the commands need Typer (extra demo)")
pytest.importorskip("uvicorn", reason="serving needs uvicorn (extra serve)")
from new_learner import new_learner
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/*.md"))
COLOURS = {"mug": (30, 60, 200), "spoon": (200, 200, 210), "fork": (180, 60, 40), "plate": (60, 160, 60)}
helps: dict[str, subprocess.CompletedProcess[str]] = {}  # of each command that was asked for its options
BLOCK = re.compile(r"(?:<!-- (options only|by hand): ([^>]+) -->\n)?```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    how: str
    why: str
    commands: list[str]


def blocks(page: Path) -> list[Block]:
    return [Block(how, why, text.strip().splitlines()) for how, why, text in BLOCK.findall(page.read_text())]


def pictures(folder: Path, names: list[str], count: int, first: int = 0) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng(first + i).integers(-30, 31, (64, 64, 3))
            Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: pictures, another device's state, the repository."""
    place = tmp_path_factory.mktemp("stock")
    pictures(place / "lesson-1", ["mug", "spoon"], 10)
    pictures(place / "lesson-2", ["fork"], 10)
    pictures(place / "test", ["mug", "spoon", "plate"], 3, first=100)
    pictures(place / "PICTURES" / "train", ["mug", "spoon", "fork"], 12)
    pictures(place / "PICTURES" / "valid", ["mug", "spoon", "fork"], 4, first=100)
    for name in ("photo.jpg", "a.jpg", "b.jpg"):
        Image.open(place / "lesson-1" / "mug" / "0.png").save(place / name)
    for name in ("benchmarks", "weights", "docs"):
        (place / name).symlink_to(ROOT / name)
    canteen = new_learner(capacity=300)
    canteen.learn(np.full((10, 32, 32, 3), 90, np.uint8), ["plate"] * 10)
    canteen.save(place / "canteen.state")
    if (DATA / "cifar10").is_dir():
        (place / "CIFAR10_FOLDER").symlink_to(DATA / "cifar10")
    return place


@pytest.fixture
def folder(stock: Path, tmp_path: Path) -> Path:
    """A folder of one's own with all that."""
    return shutil.copytree(stock, tmp_path / "a folder", symlinks=True)


class Shell:
    """Runs the commands of one page; a server stays until the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = folder.parent / "bin"
        scripts.mkdir()
        for name, words in (("python", ""), ("bitreplay", "-m bitreplay ")):
            (scripts / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            (scripts / name).chmod(0o755)
        home = {"HOME": str(folder.parent / "home"), "XDG_STATE_HOME": "", "BITREPLAY_TOKEN": "a-token-for-the-tests", "COLUMNS": "200"}
        self.environment = os.environ | home | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
        self.server: subprocess.Popen[bytes] | None = None

    def output(self, words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-euc", words], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=600)

    def run(self, command: str) -> None:
        words = command.split("  #")[0].strip().replace("192.0.2.7", "localhost")
        if words.startswith("bitreplay serve"):
            self.serve(words)
        elif words.startswith("curl") and not shutil.which("curl"):
            print(f"no curl here: {words}")
        else:
            done = self.output(words)
            assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            assert not (words.startswith("curl") and '"error"' in done.stdout), done.stdout

    def serve(self, words: str) -> None:
        self.stop()
        self.server = subprocess.Popen(["bash", "-c", f"exec {words}"], cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                urllib.request.urlopen("http://localhost:8008/", timeout=5).close()
                return
            except OSError as error:
                if not isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    return  # it answers, with TLS
            time.sleep(0.05)
            assert self.server.poll() is None, words
        raise AssertionError(f"{words}: does not answer")

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(20) == 0
            self.server = None

    def check_options(self, command: str) -> None:
        words = re.split(r"\s(?:>|&&|#)\s?", command)[0].replace('"', "").split()
        asked = " ".join([*words[:2], "--help"])
        if asked not in helps:
            helps[asked] = self.output(asked)
        done = helps[asked]
        if missing := re.search(r"No module named '(\w+)'|error: (\w+) is not installed", done.stderr):
            print(f"not looked up, {missing[1] or missing[2]} is not here: {command}")
            return
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        for option in (word for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", done.stdout), f"{command}: {option} is not an option"


@pytest.fixture
def shell(folder: Path) -> Iterator[Shell]:
    made = Shell(folder)
    yield made
    made.stop()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem)
def test_commands_of(page: Path, shell: Shell) -> None:
    for block in blocks(page):
        for command in block.commands:
            if block.how == "by hand" or re.search(r"\bpip install\b", command):
                continue  # installing is what CI does, word for word
            if block.how == "options only":
                shell.check_options(command)
            elif "CIFAR10_FOLDER" in command and not (shell.folder / "CIFAR10_FOLDER").exists():
                print(f"no CIFAR-10 here: {command}")
            else:
                if re.search(r"bitreplay (pretrain|export|experiment|report)", command):
                    pytest.importorskip("torch", reason="training needs torch (extra train)")
                shell.run(command)


def test_python_of_the_pages_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [(page, code) for page in PAGES for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert found
    for page, code in found:
        exec(compile(code, str(page), "exec"), {})
        said = re.search(r"print\(.*\)\s+# (.*)", code)
        assert said
        assert capsys.readouterr().out.strip() == said[1]


def test_no_command_of_a_page_is_left_out() -> None:
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        left = re.findall(r"^    (?:bitreplay|python3?|pip|curl|cmake|git|sudo) .*", text, re.MULTILINE)
        assert not left, f"{page.name}: fence these with sh: {left}"
