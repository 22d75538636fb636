"""Files on disk: read whole, replaced whole.

Owns paths, links, partial files and what lasts; what is in a file is the core's (engine/files).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import _engine
from .errors import FormatError


def read_bytes(path: Path, limit: int = 1 << 30) -> bytes:
    """Content of a file of at most `limit` bytes; FormatError when it is larger, OSError when it cannot be read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise FormatError(f"{path}: expected a plain file, got a device or a pipe")
    size = status.st_size
    if size > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes, got {size}; this is not a bitreplay file")
    return path.read_bytes()


def label_of(path: Path) -> tuple[str, str]:
    """Kind, "model", "state" or "" for another file, and digest, as the file's beginning says; OSError when it cannot be read."""
    with path.open("rb") as file:
        length = file.read(8)
        return _engine.label_of(length + file.read(min(int.from_bytes(length, "little"), _engine.MAX_HEADER)))  # type: ignore[no-any-return]


def _partial_prefix(path: Path) -> str:
    # Of the files that become `path`; its own name may be as long as a name can be.
    return f".bitreplay.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}."


def remove_partials(path: Path) -> None:
    """Remove what writers of `path` left that were killed; only for who knows that no other writer is at work."""
    for partial in path.parent.glob(f"{_partial_prefix(path)}*.partial"):
        with contextlib.suppress(OSError):
            partial.unlink()


def replace_file(
    path: Path,
    content: bytes | memoryview,
    *,
    previous: Path | None = None,
    before: Callable[[int], None] = lambda descriptor: None,
) -> None:
    """Write `content` beside `path`, sync it, and rename it over `path`; whatever fails, the old file stays as it was.

    Parameters
    ----------
    path : what to replace; a link is followed.
    content : the new file.
    previous : in the same folder: where the old file, if there is one, is kept; replaced as a whole as well.
    before : called with the new file's descriptor before it takes its place.

    Raises
    ------
    OSError : no space, no right to write, no such folder.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    try:
        descriptor, partial = tempfile.mkstemp(prefix=_partial_prefix(path), suffix=".partial", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
            os.chmod(partial, mode)
            before(file.fileno())
            if previous is not None and path.exists():
                _keep(path, previous)
            os.replace(partial, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, BlockingIOError):
            raise
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    sync_folder(path.parent)  # the new file is in place


def _keep(path: Path, previous: Path) -> None:
    # A second name for the old file, or, on a file system without links, a copy.
    if previous.exists() and os.path.samefile(path, previous):
        return  # left by a change that failed between its two renames; a rename from one name to the other would do nothing
    second = path.with_name(f"{_partial_prefix(path)}{os.getpid()}.partial")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(second)
    try:
        try:
            os.link(path, second)
        except OSError:
            with second.open("wb") as file:
                file.write(path.read_bytes())
                file.flush()
                os.fsync(file.fileno())
        os.replace(second, previous)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(second)
        raise


def reserve(descriptor: int, size: int) -> None:
    """Take `size` bytes of the disk for an open file now; OSError if there is no room, instead of the end of the process when a mapped page finds none."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    zeros = bytes(1 << 20)
    for at in range(os.fstat(descriptor).st_size, size, len(zeros)):
        os.pwrite(descriptor, zeros[: size - at], at)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
