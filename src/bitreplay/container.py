"""Files with a digest: safetensors whose metadata hold a SHA-256 over the whole file (docs/formats.md).

Owns reading, verifying and atomically replacing; knows nothing of networks or learners.  Nothing is copied to be verified: the arrays of a
file are views of its content, and of its header no more is parsed than MAX_HEADER bytes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from .errors import DamagedError, FormatError

VERSION = "1"
MAX_HEADER = 1 << 21  # bytes: parsed JSON may take 30 times as much memory as its text
_NO_DIGEST = "0" * 64
_DTYPES = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?",
}  # fmt: skip

Tensors = dict[str, NDArray[np.generic]]


def pack(kind: str, metadata: dict[str, str], tensors: Tensors) -> bytes:
    """Serialise tensors and metadata of a "model" or "state"; the same content gives the same bytes.  ValueError where names or texts are too long."""
    metadata = {"bitreplay": kind, "version": VERSION, "digest": _NO_DIGEST, **metadata}
    # safetensors writes the metadata of a Rust hash map, whose order changes from call to call: the header is written again, sorted.
    raw = save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] = metadata
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"names: expected a header of at most {MAX_HEADER} bytes, got {len(text)}; give shorter names")
    body = len(text).to_bytes(8, "little") + text + raw[8 + length :]
    return body.replace(_NO_DIGEST.encode(), hashlib.sha256(body).hexdigest().encode(), 1)


def unpack(content: bytes, kind: str, where: str) -> tuple[dict[str, str], Tensors]:
    """Verify and read what `pack` wrote.

    Parameters
    ----------
    content : the whole file; the arrays are views of it.
    kind : "model" or "state".
    where : name for messages, usually the path.

    Raises
    ------
    FormatError : the content is not a file of this kind, version and digest.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got {len(content)} bytes that are none; it may be cut short")
    if length > MAX_HEADER:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got a header of {length} bytes, more than {MAX_HEADER}")
    try:
        header = json.loads(content[8 : 8 + length].decode())
        words: dict[str, str] = header.pop("__metadata__")
        "".join(words.values()).encode()  # texts, without halves of characters
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got a file without its header") from error
    if words.get("bitreplay") != kind:
        raise FormatError(f"{where}: expected a bitreplay {kind}, got {words.get('bitreplay', 'another file')!r:.40}; name the right file")
    if words.get("version") != VERSION:
        raise FormatError(f"{where}: expected version {VERSION}, got {words.get('version')!r:.40}; install the bitreplay that wrote it")
    digest = words.get("digest", "")
    at = content.find(digest.encode(), 8)
    if len(digest) != 64 or at < 0:
        raise FormatError(f"{where}: expected a digest of 64 hexadecimal digits; the file is damaged, use a copy")
    actual = hashlib.sha256(memoryview(content)[:at])
    actual.update(_NO_DIGEST.encode())
    actual.update(memoryview(content)[at + 64 :])
    if actual.hexdigest() != digest:
        raise DamagedError(f"{where}: its content does not match its digest; it is damaged or cut short, use a copy")
    return words, _views(header, content, 8 + length, where)


def _views(header: dict[str, Any], content: bytes, start: int, where: str) -> Tensors:
    # The arrays that a header describes; every byte behind it belongs to just one of them.
    def fail(name: str, expected: str) -> FormatError:
        return FormatError(f"{where}: its tensors cannot be read: {name!r:.80}: expected {expected}")

    def count(value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= len(content)

    for name, entry in header.items():
        if not name.isprintable() or len(name) > 80:
            raise fail(name, "a name of at most 80 characters that can be printed")
        if not isinstance(entry, dict) or sorted(entry) != ["data_offsets", "dtype", "shape"]:
            raise fail(name, "dtype, shape and data_offsets")
        shape, offsets = entry["shape"], entry["data_offsets"]
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise fail(name, "a known dtype")
        if not isinstance(shape, list) or len(shape) > 8 or not all(map(count, shape)):
            raise fail(name, "a shape of at most 8 sizes that the file can hold")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(count, offsets)):
            raise fail(name, "two data_offsets inside the file")
    tensors: Tensors = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, after) = np.dtype(_DTYPES[entry["dtype"]]), entry["shape"], entry["data_offsets"]
        if begin != end or after - begin != math.prod(shape) * dtype.itemsize or start + after > len(content):
            raise fail(name, "data that begin where those before end, of the size of its shape")
        if (start + begin) % dtype.itemsize:
            raise fail(name, "data at a multiple of the size of a value")
        flat: NDArray[np.generic] = np.frombuffer(content, dtype, math.prod(shape), start + begin) if after > begin else np.zeros(0, dtype)
        tensors[name] = flat.reshape(shape)
        end = after
    if start + end != len(content):
        raise FormatError(f"{where}: its tensors cannot be read: expected {start + end} bytes, got {len(content)}")
    return tensors


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
