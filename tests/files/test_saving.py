"""A save is whole or not at all, whatever fails; links and modes stay."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sealed_files import Shelf

import bitreplay.disk
import bitreplay.model
from bitreplay import Learner


@pytest.fixture
def saved(shelf: Shelf, tmp_path: Path) -> tuple[Learner, Path, bytes]:
    """A learner with a lesson more than the file at the path holds, and that file's bytes."""
    path = tmp_path / "folder" / "state"
    path.parent.mkdir()
    path.write_bytes(shelf.state_bytes)
    learner = Learner.load(path)
    learner.learn(shelf.images, ["d"] * 6)
    return learner, path, shelf.state_bytes


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("function", ["open", "fsync", "chmod", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()]
)
def test_a_save_that_fails_leaves_the_old_file(
    saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    learner, path, old = saved
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with monkeypatch.context() as patch:
        patch.setattr(bitreplay.disk.os, function, failing(error))
        with pytest.raises(type(error)) as caught:
            learner.save(path)
    if isinstance(error, OSError):
        assert caught.value.errno == error.errno
        assert caught.value.filename == str(path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
    learner.save(path)  # and when there is room again, it is saved
    assert Learner.load(path).names == ["a", "b", "c", "d"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_the_old_file(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, old = saved
    real = os.fdopen

    def full(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    with monkeypatch.context() as patch:
        patch.setattr(bitreplay.disk.os, "fdopen", full)
        with pytest.raises(OSError, match="No space left") as caught:
            learner.save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_a_folder_that_cannot_be_synced_leaves_one_whole_file(
    saved: tuple[Learner, Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, path, _ = saved
    learner.save(tmp_path / "elsewhere")
    real, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, "Invalid argument")  # what some file systems say of folders
        real(descriptor)

    monkeypatch.setattr(bitreplay.disk.os, "fsync", second_fails)
    learner.save(path)  # the file is in place: nothing has failed that the caller could repair
    assert len(calls) == 2
    assert path.read_bytes() == (tmp_path / "elsewhere").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_the_file_is_synced_before_it_is_renamed(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, _ = saved
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def recorded_replace(source: str, target: Path) -> None:
        assert Path(source).parent == path.parent  # the same file system
        assert Learner.load(source).names == ["a", "b", "c", "d"]  # whole already
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(bitreplay.disk.os, "fsync", recorded_fsync)
    monkeypatch.setattr(bitreplay.disk.os, "replace", recorded_replace)
    learner.save(path)
    assert steps == ["file", "rename", "folder"]


def test_a_file_that_may_not_be_written_stays(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, old = saved
    path.chmod(0o444)
    if os.geteuid() == 0:  # root may write everything: say what another user would hear
        monkeypatch.setattr(bitreplay.disk.os, "access", lambda name, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match="state"):
        learner.save(path)
    assert path.read_bytes() == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert [p.name for p in path.parent.iterdir()] == ["state"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(saved: tuple[Learner, Path, bytes]) -> None:
    learner, path, old = saved
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            learner.save(path)
        assert path.read_bytes() == old
    finally:
        path.parent.chmod(0o755)


def test_a_path_that_cannot_be_a_file_is_an_error(saved: tuple[Learner, Path, bytes], tmp_path: Path) -> None:
    learner, path, old = saved
    for target, error in [(path.parent, IsADirectoryError), (tmp_path / "none" / "s", FileNotFoundError), (path / "s", NotADirectoryError)]:
        with pytest.raises(error) as caught:
            learner.save(target)
        assert str(target) in str(caught.value)
        assert ".partial" not in str(caught.value).partition("->")[0]  # the caller's path, not ours
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


def test_saving_through_a_link_keeps_the_link(saved: tuple[Learner, Path, bytes], tmp_path: Path) -> None:
    learner, path, old = saved
    first, second = tmp_path / "link", tmp_path / "link to link"
    first.symlink_to(path)
    second.symlink_to(first)
    learner.save(second)
    assert first.is_symlink()
    assert second.is_symlink()
    assert not path.is_symlink()
    assert path.read_bytes() != old
    assert Learner.load(second).names == ["a", "b", "c", "d"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "link to link"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o777])
def test_saving_keeps_the_mode_of_the_file(saved: tuple[Learner, Path, bytes], mode: int) -> None:
    learner, path, _ = saved
    path.chmod(mode)
    learner.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_new_files_have(saved: tuple[Learner, Path, bytes], mask: int) -> None:
    learner, path, _ = saved
    before = os.umask(mask)
    try:
        learner.save(path.parent / "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((path.parent / "new").stat().st_mode) == 0o666 & ~mask


def test_a_relative_path_and_a_long_name_can_be_saved(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, _ = saved
    monkeypatch.chdir(path.parent)
    learner.save("here")
    name = "n" * 255  # the longest that file systems take
    learner.save(name)
    assert (path.parent / "here").read_bytes() == (path.parent / name).read_bytes()
