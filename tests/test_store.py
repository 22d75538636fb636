"""A state file and its one writer: locked, the state before kept, nothing lost whatever fails; undo, forget, rename."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference as ref
import tiny_model

from bitreplay import FormatError, Learner, Model
from bitreplay.model import write_model
from bitreplay.store import StateFile, load_sound, previous_of

SIZE = 16
QUICK: dict[str, Any] = {"capacity": 9, "threads": 1, "near_equal": 0}
KILLS = int(os.environ.get("BITREPLAY_KILLS", "50"))
LESSONS = int(os.environ.get("BITREPLAY_LESSONS", "1500"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    network, tensors = tiny_model.make_model(1, image_size=SIZE)
    return write_model(tmp_path_factory.mktemp("store") / "tiny.model", network, tensors, {"name": "tiny"})


def pictures(seed: int, count: int) -> np.ndarray:
    return tiny_model.random_images(seed, count, SIZE)


@pytest.fixture
def path(model: Model, tmp_path: Path) -> Path:
    """A state that knows a, b and c from two lessons, and was saved after each."""
    learner = Learner.new(model, **QUICK)
    learner.learn(pictures(1, 8), list("aabbabab"))
    learner.save(tmp_path / "x.state")
    with StateFile(tmp_path / "x.state") as file:
        learner.learn(pictures(2, 6), list("cccacb"))
        file.save(learner)
    return tmp_path / "x.state"


def test_undo_gives_the_very_bytes_from_before(path: Path) -> None:
    with StateFile(path) as file:
        learner, told = file.load()
        assert told is None
        before = path.read_bytes()
        learner.learn(pictures(3, 4), list("dddd"))
        file.save(learner)
        assert previous_of(path).read_bytes() == before != path.read_bytes()
        file.undo()
        assert path.read_bytes() == before
        with pytest.raises(FileNotFoundError, match="nothing can be undone"):
            file.undo()
        file.save(Learner.load(path))  # nothing has changed: nothing is kept
        assert not previous_of(path).exists()
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.state"]


def test_saving_the_same_again_keeps_what_undo_goes_back_to(path: Path) -> None:
    kept = previous_of(path).read_bytes()
    with StateFile(path) as file:
        file.save(file.load()[0])
    assert previous_of(path).read_bytes() == kept


@pytest.mark.parametrize("head", ["lda", "cwr"])
@pytest.mark.parametrize("train_blocks", [0, 1])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_forgotten_class_is_in_no_file_and_the_others_keep_their_order(
    model: Model, tmp_path: Path, name: str, train_blocks: int, head: str
) -> None:
    path = tmp_path / "x.state"
    names = {"a": "alpha-class", "b": "beta-class", "c": "gamma-class"}
    learner = Learner.new(model, train_blocks=train_blocks, head=head, **QUICK)
    for seed, labels in ((1, "aabbabab"), (2, "cccacb")):
        learner.learn(pictures(seed, len(labels)), [names[c] for c in labels])
        with StateFile(path) if path.exists() else open(os.devnull) as file:
            file.save(learner) if isinstance(file, StateFile) else learner.save(path)
    index = learner.names.index(names[name])
    core = learner._core
    rows = core.rows()[core.labels() == index].copy()
    own = [core.sums()[index], core.sums()[index].astype(np.int32)] if head == "lda" else [core.weight()[index]]
    secrets = [names[name].encode(), *(values.tobytes() for values in own), *(r.tobytes() for r in rows)]
    if train_blocks:
        secrets.append(core.tail_weight()[index].tobytes())
    others = [other for other in learner.names if other != names[name]]
    images = pictures(9, 40)
    before = learner.predict(images).probabilities[:, [learner.names.index(other) for other in others]]
    assert len(rows) > 0
    with StateFile(path) as file:
        learner, _ = file.load()
        learner.forget(names[name])
        file.save(learner, keep=False)
    for found in path.parent.iterdir():
        content = found.read_bytes()
        assert not any(secret in content for secret in secrets), found
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.state"]
    again = Learner.load(path)
    assert again.names == others
    after = again.predict(images).probabilities
    # among themselves the others keep their order, ties of rounded probabilities left out; with LDA their weights move a little
    for row in range(len(images) if head == "cwr" else 0):
        for i in range(len(others)):
            for j in range(len(others)):
                if before[row, i] > before[row, j]:
                    assert after[row, i] > after[row, j]
    again.learn(pictures(4, 6), [names[name]] * 3 + others[:1] * 3)  # it can be taught again, and learning goes on
    assert again.names == [*others, names[name]]
    assert sum(entry["replay_rows"] for entry in again.info()["classes"]) <= 9


def test_room_that_came_back_is_filled_by_later_lessons(model: Model) -> None:
    learner = Learner.new(model, **QUICK)
    learner.learn(pictures(1, 24), list("abc" * 8))
    learner.forget("b")
    core = learner._core
    assert np.bincount(core.labels()).tolist() == [3, 3]
    images = pictures(2, 7)
    live = [0, 1, 0, 0, 0, 0, 0]
    rows, labels = ref.update_memory(
        core.rows(), core.labels(), model.network.latents(images), live, capacity=9, seed=0, near=None, latent_words=core.rows().shape[1]
    )
    seen = core.seen().tolist()
    learner.learn(images, list("acaaaaa"))
    core = learner._core
    assert np.array_equal(core.rows(), rows)
    assert np.array_equal(core.labels(), labels)
    assert core.seen().tolist() == [seen[0] + 6, seen[1] + 1]
    assert np.bincount(labels).tolist() == [5, 4]


def test_the_last_class_can_be_forgotten(model: Model, tmp_path: Path) -> None:
    learner = Learner.new(model, **QUICK)
    learner.learn(pictures(1, 4), ["a"] * 4)
    learner.forget("a")
    assert learner.names == []
    assert learner.info()["replay_rows"] == 0
    with pytest.raises(ValueError, match="name: expected one of no class, since none is known, got 'a'"):
        learner.forget("a")
    learner.save(tmp_path / "x")
    learner = Learner.load(tmp_path / "x")
    learner.learn(pictures(2, 4), list("bcbc"))
    assert learner.names == ["b", "c"]


def test_renaming_changes_the_name_alone(path: Path) -> None:
    learner = Learner.load(path)
    images = pictures(5, 10)
    before = learner.predict(images)
    learner.rename("b", "bee")
    assert learner.names == ["a", "bee", "c"]
    after = learner.predict(images)
    assert np.array_equal(after.probabilities, before.probabilities)
    assert after.names == ["bee" if name == "b" else name for name in before.names]
    learner.rename("bee", "bee")
    for old, new, message in (("b", "x", "old: expected one of a, bee, c, got 'b'"), ("a", "c", "new: expected a name that is not taken"),
                              ("a", "", "new: expected names of up to 200"), ("a", "x\n", "new: expected names of up to 200"), ("a", 3, "new: expected names of up to 200")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            learner.rename(old, new)  # type: ignore[arg-type]
    assert learner.names == ["a", "bee", "c"]


def test_forgetting_and_renaming_wait_for_no_lesson(path: Path) -> None:
    learner = Learner.load(path)
    before = learner.content()
    refused: list[str] = []

    def inside(phase: str, done: int, total: int) -> None:
        for change in (lambda: learner.forget("a"), lambda: learner.rename("a", "x")):
            try:
                change()
            except RuntimeError as error:
                refused.append(str(error))

    learner.learn(pictures(3, 4), ["a"] * 4, progress=inside)
    assert len(refused) > 1
    assert all("expected one lesson at a time" in text for text in refused)
    assert learner.names == ["a", "b", "c"]
    assert learner.content() != before


def test_a_second_writer_is_told_to_wait_and_readers_are_not(path: Path) -> None:
    code = f"from bitreplay.store import StateFile\nStateFile({str(path)!r})"
    with StateFile(path) as file:
        for _ in range(2):  # the lock goes over to the file that replaces this one
            with pytest.raises(BlockingIOError, match="another process is changing it; wait for its end"):
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
        with pytest.raises(OSError, match="was changed by someone else"):
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
    assert "went back to" in told
    assert "1 lessons" in told
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
        file.save(Learner.from_content(kept))
    assert previous_of(path).read_bytes() == kept == path.read_bytes()


def test_forgetting_in_a_damaged_state_keeps_the_one_before_until_the_new_one_stands(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = previous_of(path).read_bytes()
    path.write_bytes(path.read_bytes()[:-1])
    with StateFile(path) as file:
        learner, _ = file.load()
        learner.forget("a")

        def full(*args: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space left"):
                file.save(learner, keep=False)
        assert previous_of(path).read_bytes() == kept
        file.save(learner, keep=False)
    assert not previous_of(path).exists()
    assert Learner.load(path).names == ["b"]


def test_undo_of_a_state_that_someone_replaced_is_refused(path: Path) -> None:
    with StateFile(path) as file:
        other = Learner.load(path)
        other.rename("a", "x")
        other.save(path)
        with pytest.raises(OSError, match="was changed by someone else"):
            file.undo()
    assert Learner.load(path).names == ["x", "b", "c"]


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
        assert path.read_bytes() == (learner.content() if saved else before)
        assert previous_of(path).read_bytes() in ((before,) if saved else (before, kept))
        file.save(learner)
        assert path.read_bytes() == learner.content()
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
    Learner.new(model, **QUICK).save(path)
    code = f"""
import sys, numpy as np
from bitreplay.store import StateFile
rng = np.random.default_rng(int(sys.argv[1]))
with StateFile({str(path)!r}) as file:
    learner, told = file.load()
    print("ready", told, flush=True)
    while True:
        learner.learn(rng.integers(0, 256, (6, {SIZE}, {SIZE}, 3), dtype=np.uint8), [str(c) for c in rng.integers(0, 4, 6)])
        file.save(learner)
        print(learner.info()["lessons"], flush=True)
"""
    rng = random.Random(5)
    told_least = 0
    for number in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", code, str(number)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready None\n"
            time.sleep(rng.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
            said = [int(line) for line in child.stdout.read().split() if line.isdigit()]
        lessons = Learner.load(path).info()["lessons"]
        if said:
            # what was said to be saved is there; at most the lesson in flight came on top
            assert said[-1] <= lessons <= said[-1] + 1
        assert lessons >= told_least
        told_least = lessons
        kept = previous_of(path)
        if kept.exists():
            assert lessons - 1 <= Learner.load(kept).info()["lessons"] <= lessons
    assert told_least > 0
    StateFile(path).close()  # removes what the killed ones left
    assert {p.name for p in tmp_path.iterdir()} <= {"x.state", "x.state.previous"}


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_names_come_and_go_and_neither_memory_nor_file_grows(model: Model, tmp_path: Path) -> None:
    """BITREPLAY_LESSONS lessons, 1,500 where it is not set: the last fifth adds less than 1 MB."""
    path = tmp_path / "x.state"
    learner = Learner.new(model, **{**QUICK, "capacity": 12, "max_classes": 20})
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
