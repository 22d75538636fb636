"""Files with a digest: safetensors whose metadata hold a SHA-256 over the whole file (docs/formats.md).

Owns reading, verifying and atomically replacing; knows nothing of networks or learners.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .errors import DamagedError, FormatError

VERSION = "1"
_NO_DIGEST = "0" * 64

Tensors = dict[str, NDArray[np.generic]]


def pack(kind: str, metadata: dict[str, str], tensors: Tensors) -> bytes:
    """Serialise tensors and metadata of a "model" or "state"; the same content gives the same bytes."""
    metadata = {"bitreplay": kind, "version": VERSION, "digest": _NO_DIGEST, **metadata}
    # safetensors writes the metadata of a Rust hash map, whose order changes from call to call: the header is written again, sorted.
    raw = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = metadata
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    body = len(text).to_bytes(8, "little") + text + raw[8 + length :]
    return body.replace(_NO_DIGEST.encode(), hashlib.sha256(body).hexdigest().encode(), 1)


def unpack(content: bytes, kind: str, where: str) -> tuple[dict[str, str], Tensors]:
    """Verify and read what `pack` wrote.

    Parameters
    ----------
    content : the whole file.
    kind : "model" or "state".
    where : name for messages, usually the path.

    Raises
    ------
    FormatError : the content is not a file of this kind, version and digest.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got {len(content)} bytes that are none; it may be cut short")
    try:
        header = json.loads(content[8 : 8 + length])
        metadata = header["__metadata__"]
        words = {str(key): str(value) for key, value in metadata.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got a file without its header") from error
    if words.get("bitreplay") != kind:
        raise FormatError(f"{where}: expected a bitreplay {kind}, got {words.get('bitreplay', 'another file')!r}; name the right file")
    if words.get("version") != VERSION:
        raise FormatError(f"{where}: expected version {VERSION}, got {words.get('version')!r}; install the bitreplay that wrote it")
    digest = words.get("digest", "")
    if len(digest) != 64 or not digest.isascii():
        raise FormatError(f"{where}: expected a digest of 64 hexadecimal digits; the file is damaged, use a copy")
    zeroed = content.replace(digest.encode(), _NO_DIGEST.encode(), 1)
    if hashlib.sha256(zeroed).hexdigest() != digest:
        raise DamagedError(f"{where}: its content does not match its digest; it is damaged or cut short, use a copy")
    try:
        tensors: Tensors = load(content)
    except (SafetensorError, ValueError, KeyError, OverflowError) as error:
        raise FormatError(f"{where}: its tensors cannot be read: {error}") from error
    return words, tensors


def take(tensors: Tensors, name: str, dtype: str, shape: tuple[int, ...], where: str) -> NDArray[np.generic]:
    """Remove a tensor from `tensors` and return it; FormatError unless it is there with this dtype and shape."""
    tensor = tensors.pop(name, None)
    if tensor is None:
        raise FormatError(f"{where}: tensor {name} is missing")
    if tensor.dtype != np.dtype(dtype) or tensor.shape != shape:
        raise FormatError(f"{where}: tensor {name}: expected {dtype} {shape}, got {tensor.dtype} {tensor.shape}")
    return tensor


def read_bytes(path: Path, limit: int = 1 << 30) -> bytes:
    """Content of a file of at most `limit` bytes; FormatError when it is larger, OSError when it cannot be read."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise FormatError(f"{path}: expected a plain file, got a device or a pipe")
    size = status.st_size
    if size > limit:
        raise FormatError(f"{path}: expected at most {limit} bytes, got {size}; this is no bitreplay file")
    return path.read_bytes()


def _partial_prefix(path: Path) -> str:
    # Of the files that become `path`; its own name may be as long as a name can be.
    return f".bitreplay.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}."


def remove_partials(path: Path) -> None:
    """Remove what writers of `path` left that were killed; only for who knows that no other writer is at work."""
    for partial in path.parent.glob(f"{_partial_prefix(path)}*.partial"):
        with contextlib.suppress(OSError):
            partial.unlink()


def replace_file(
    path: Path, content: bytes, *, previous: Path | None = None, before: Callable[[int], None] = lambda descriptor: None
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
