"""A state file and its one writer: locked, the state before kept, nothing lost whatever fails."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from tiny_states import QUICK, SIZE, pictures

from bitreplay import FormatError, Learner, Model
from bitreplay.store import StateFile, load_sound, previous_of

KILLS = int(os.environ.get("BITREPLAY_KILLS", "50"))
LESSONS = int(os.environ.get("BITREPLAY_LESSONS", "1500"))


def test_a_second_writer_is_told_to_wait_and_readers_are_not(path: Path) -> None:
    code = f"from bitreplay.store import StateFile\nStateFile({str(path)!r})"
    with StateFile(path) as file:
        for _ in range(2):  # the lock goes over to the file that replaces this one
            with pytest.raises(BlockingIOError, match="another process is changing it; wait until it has finished"):
                StateFile(path)
            other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert "another process is changing it" in other.stderr
            assert Learner.load(path).names == ["a", "b", "c"]
            learner, _ = file.load()
            learner.learn(pictures(3, 4), ["a"] * 4)
            file.save(learner)
    StateFile(path).close()


def test_a_writer_without_lock_is_noticed(path: Path) -> None:
    with StateFile(path) as file:
        learner, _ = file.load()
        other = Learner.load(path)
        other.rename("a", "x")
        other.save(path)
        with pytest.raises(OSError, match="was changed in the meantime by another program"):
            file.save(learner)
    assert Learner.load(path).names == ["x", "b", "c"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_state_goes_back_to_the_one_before_and_says_so(path: Path, damage: str) -> None:
    content = path.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 4]) + content[-8:]
    path.write_bytes({"cut": content[:-1], "flip": flipped, "empty": b""}[damage])
    learner, told = load_sound(path)
    assert learner.names == ["a", "b"]
    assert told is not None
    assert f"using {path}.previous instead" in told
    assert "after 1 lesson" in told
    kept = previous_of(path).read_bytes()
    with StateFile(path) as file:
        learner, told = file.load()
        assert told is not None
        learner.learn(pictures(3, 4), ["a"] * 4)
        file.save(learner)
        assert previous_of(path).read_bytes() == kept  # never the damaged file
    assert Learner.load(path).info()["lessons"] == 2
    previous_of(path).unlink()
    path.write_bytes(flipped)
    with pytest.raises(FormatError, match="damaged"):
        load_sound(path)


@pytest.mark.parametrize("content", [b"", b"some text", "cut"])
def test_what_is_no_sound_state_is_never_kept_and_never_costs_the_sound_one(path: Path, content: bytes | str) -> None:
    kept = previous_of(path).read_bytes()
    path.write_bytes(path.read_bytes()[:-1] if content == "cut" else content)  # type: ignore[arg-type]
    with StateFile(path) as file:  # as `new --force` does: overwritten without being read
        file.save(Learner.from_bytes(kept))
    assert previous_of(path).read_bytes() == kept == path.read_bytes()


def test_a_state_of_another_model_is_no_damage(path: Path) -> None:
    with pytest.raises(FormatError, match="made for model"):
        load_sound(path, model="quicknet-32")


@pytest.mark.parametrize("call", ["link", "replace", "fsync", "chmod", "write"])
@pytest.mark.parametrize("nth", [1, 2])
def test_whatever_fails_once_the_state_is_from_before_or_after(path: Path, monkeypatch: pytest.MonkeyPatch, call: str, nth: int) -> None:
    before = path.read_bytes()
    kept = previous_of(path).read_bytes()
    with StateFile(path) as file:
        learner, _ = file.load()
        learner.learn(pictures(3, 4), ["a"] * 4)
        calls = 0
        if call == "write":
            real_open = os.fdopen

            def opened(*args: Any, **more: Any) -> Any:
                handle = real_open(*args, **more)

                class Full:
                    def __enter__(self) -> Any:
                        return self

                    def __exit__(self, *args: object) -> None:
                        handle.close()

                    def write(self, content: bytes) -> None:
                        handle.write(content[: len(content) // nth // 2])
                        raise OSError(errno.ENOSPC, "No space left on device")

                return Full()

            monkeypatch.setattr(os, "fdopen", opened)
        else:
            real = getattr(os, call)

            def failing(*args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == nth:
                    raise OSError(errno.EIO, "Input/output error")
                return real(*args, **more)

            monkeypatch.setattr(os, call, failing)
        try:
            file.save(learner)
            saved = True
        except OSError:
            saved = False
        monkeypatch.undo()
        assert path.read_bytes() == (learner.to_bytes() if saved else before)
        assert previous_of(path).read_bytes() in ((before,) if saved else (before, kept))
        file.save(learner)
        assert path.read_bytes() == learner.to_bytes()
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.state", "x.state.previous"]


def test_a_full_disk_loses_nothing(path: Path) -> None:
    """A file size limit stands for the disk: writing stops in the middle of the file."""
    before = path.read_bytes()
    code = f"""
import resource, signal
from bitreplay.store import StateFile
import numpy as np
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with StateFile({str(path)!r}) as file:
    learner, _ = file.load()
    learner.learn(np.zeros((4, {SIZE}, {SIZE}, 3), np.uint8), ["a"] * 4)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2}, -1))
    try:
        file.save(learner)
    except OSError as error:
        print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "too large" in done.stdout
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.state", "x.state.previous"]


def test_killed_at_any_moment_the_state_is_a_whole_one(model: Model, tmp_path: Path) -> None:
    """kill -9 while learning and saving: BITREPLAY_KILLS times, 50 where it is not set."""
    path = tmp_path / "x.state"
    new_learner(model, **QUICK).save(path)
    code = f"""
import os, sys, numpy as np
from bitreplay.store import StateFile
for seed in sys.stdin:  # each process that is to be killed begins here, with everything imported
    if child := os.fork():
        os.waitpid(child, 0)
        print("dead", flush=True)
    else:
        break
rng = np.random.default_rng(int(seed))
with StateFile({str(path)!r}) as file:
    learner, told = file.load()
    print("ready", told, os.getpid(), flush=True)
    while True:
        learner.learn(rng.integers(0, 256, (6, {SIZE}, {SIZE}, 3), dtype=np.uint8), [str(c) for c in rng.integers(0, 4, 6)])
        file.save(learner)
        os.write(1, b"%d\\n" % learner.info()["lessons"])  # in one piece, or not at all
"""
    rng = random.Random(5)
    told_least = 0
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for number in range(KILLS):
            print(number, file=nursery.stdin, flush=True)
            ready = re.fullmatch(r"ready None (\d+)\n", nursery.stdout.readline())
            assert ready
            time.sleep(rng.uniform(0, 0.05))
            os.kill(int(ready[1]), signal.SIGKILL)
            said = [int(line) for line in iter(nursery.stdout.readline, "dead\n")]
            lessons = Learner.load(path).info()["lessons"]
            if said:
                # what was said to be saved is there; at most the lesson in flight came on top
                assert said[-1] <= lessons <= said[-1] + 1
            assert lessons >= told_least
            told_least = lessons
            kept = previous_of(path)
            if kept.exists():
                assert lessons - 1 <= Learner.load(kept).info()["lessons"] <= lessons
        nursery.stdin.close()
    assert told_least > 0
    StateFile(path).close()  # removes what the killed ones left
    assert {p.name for p in tmp_path.iterdir()} <= {"x.state", "x.state.previous"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_names_come_and_go_and_neither_memory_nor_file_grows(model: Model, tmp_path: Path) -> None:
    """BITREPLAY_LESSONS lessons, 1,500 where it is not set: the last fifth adds less than 1 MB."""
    path = tmp_path / "x.state"
    learner = new_learner(model, **{**QUICK, "capacity": 12, "max_classes": 20})
    learner.save(path)
    rng = np.random.default_rng(3)
    names = [f"name-{i}" for i in range(20)]
    pool = pictures(7, 60)
    sizes: dict[tuple[int, int], set[int]] = {}  # of the file, by classes and rows
    resident = []
    with StateFile(path) as file:
        for number in range(LESSONS):
            if learner.names and rng.random() < 0.2:
                learner.forget(str(rng.choice(learner.names)))
            taught = [names[i] for i in rng.integers(0, 20, 4)]
            learner.learn(pool[rng.integers(0, 60, 4)], taught)
            if number % 5 == 0:
                file.save(learner)
                key = len(learner.names), int(learner.info()["replay_rows"])
                sizes.setdefault(key, set()).add(path.stat().st_size - len("".join(learner.names)))
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    last = resident[-LESSONS // 5 :]
    assert max(last) - last[0] <= 1_000_000
    # names and counts of lessons are text, padded to 8 bytes
    assert any(rows == 12 for _, rows in sizes)
    assert all(max(found) - min(found) <= 16 for found in sizes.values()), sizes
