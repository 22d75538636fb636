"""docs/formats.md in Python: an independent reader and writer of model and state files, whose verdicts the core's are compared with.

Knows nothing of the package's reader; has its exceptions, and the ranges of settings from the core's table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from bitreplay._engine import settings_table
from numpy.typing import NDArray
from safetensors.numpy import save

from bitreplay.errors import DamagedError, FormatError

VERSION = "1"
MAX_DEPTH = 32
MAX_HEADER = 1 << 21  # bytes: parsed JSON may take 30 times as much memory as its text
_NO_DIGEST = "0" * 64
_DTYPES = {
    "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?",
}  # fmt: skip

Tensors = dict[str, NDArray[Any]]


def parse_json(text: str, *, once: bool = False) -> Any:
    """A JSON value of at most MAX_DEPTH nested lists and objects, without halves of characters; ValueError.  once: no name twice in an object."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if once and len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name is there twice")
        return dict(pairs)

    def depth(value: Any) -> int:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return 0 if items is None else 1 + max(map(depth, items), default=0)

    try:
        # Numbers are not limited to what Python's int takes.
        value = json.loads(text, object_pairs_hook=members, parse_int=lambda digits: int(digits) if len(digits) < 4000 else 10**4000)
        if depth(value) > MAX_DEPTH:
            raise ValueError("nested too deep")
    except RecursionError:
        raise ValueError("nested too deep") from None
    json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


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
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got {len(content)} bytes that are not one; it may be cut short")
    if length > MAX_HEADER:
        raise DamagedError(f"{where}: expected a bitreplay {kind}, got a header of {length} bytes, more than {MAX_HEADER}")
    try:
        header = parse_json(content[8 : 8 + length].decode(), once=True)
        words: dict[str, str] = header.pop("__metadata__")
        "".join(words.values())  # texts
    except (ValueError, KeyError, TypeError, AttributeError) as error:
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


# -- models -------------------------------------------------------------------------------------------------------------------

_OPTIONAL = {"threshold": ("threshold",), "activation": ("alpha", "beta", "high", "low")}


def _words(channels: int) -> int:
    return (channels + 63) // 64


def _unused_bits(channels: int) -> np.uint64:
    # Mask of the bits of a pixel's last word that carry no channel.
    return np.uint64((2**64 - 1) << ((channels - 1) % 64 + 1) & (2**64 - 1))


@dataclass
class SoundModel:
    """What a state must know of its model."""

    digest: str
    channels: int
    latent_words: int
    tail: list[dict[str, Any]]
    has_cut: bool = True


class _Fields:
    """One object of the description."""

    def __init__(self, value: object, what: str, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: network: {what}: expected an object")
        self.values: dict[str, Any] = value
        self.what, self.where = what, where

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: network: {self.what}: {what}")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.fail(f"{name}: expected {low} to {high}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.fail(f"{name}: expected true or false")
        return value

    def items(self, name: str, most: int) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise self.fail(f"{name}: expected a list of at most {most} operations")
        return value

    def numbers(self, name: str, most: int, low: int, high: int) -> list[int]:
        value = self.items(name, most)
        if not all(isinstance(n, int) and not isinstance(n, bool) and low <= n <= high for n in value):
            raise self.fail(f"{name}: expected {low} to {high}")
        return value


class _Reader:
    """Walks the description and takes the tensors that it asks for."""

    def __init__(self, top: _Fields, tensors: Tensors, where: str) -> None:
        self.tensors, self.where = tensors, where
        self.height = self.width = top.integer("image_size", 1, 1024)
        self.channels = 3
        self.shapes = [(self.height, self.width, 3)]
        self.unread: set[int] = set()

    def expect(self, condition: object, what: str) -> None:
        if not condition:
            raise FormatError(f"{self.where}: {what}")

    def take(self, name: str, dtype: str, *shape: int) -> NDArray[Any]:
        return take(self.tensors, name, dtype, shape, self.where)

    def bounded(self, name: str, dtype: str, size: int, low: int, high: int) -> None:
        values = self.take(name, dtype, size)
        self.expect(not np.any(values < low) and not np.any(values > high), f"{name}: expected {low} to {high}")

    def bits(self, name: str, channels: int, *shape: int) -> NDArray[Any]:
        bits = self.take(name, "uint64", *shape, _words(channels))
        self.expect(not np.any(bits[..., -1] & _unused_bits(channels)), f"{name}: unused bits")
        return bits

    def summed(self, name: str, *shape: int, dtype: str = "int8") -> None:
        sums = np.abs(self.take(name, dtype, *shape).astype(np.int64)).reshape(shape[0], -1).sum(axis=1)
        self.expect(np.all(sums < 65536), f"{name}: sums would overflow")

    def grown(self) -> None:
        self.expect(self.height >= 1 and self.width >= 1, "the map has shrunk to nothing")
        self.expect(self.height * self.width * self.channels <= 2**26, "more than 2^26 values")

    def windowed(self, f: _Fields, kernel: int, stride: int) -> int:
        k, s = f.integer("kernel", 1, kernel), f.integer("stride", 1, stride)
        top, left, bottom, right = [(k - 1) // 2] * 4
        if "pad" in f.values:
            pad = f.numbers("pad", 4, 0, k - 1)
            self.expect(len(pad) == 4, "pad: expected four")
            top, left, bottom, right = pad
        self.height, self.width = (
            0 if size < k else (size - k) // s + 1 for size in (self.height + top + bottom, self.width + left + right)
        )
        return k

    def conv(self, f: _Fields, name: str) -> None:
        size_in, size_out = f.integer("in", 1, 2048), f.integer("out", 1, 2048)
        groups = f.integer("groups", 1, size_in) if "groups" in f.values else 1
        kernel = self.windowed(f, 7, 4)
        depthwise, _, _ = f.flag("depthwise", False), f.flag("relu", False), f.integer("shift", 0, 46)
        self.expect(size_in == self.channels and size_in % groups == 0 and size_out % groups == 0, "conv: does not fit")
        plain = size_in == size_out and kernel in (1, 3) and f.integer("stride", 1, 4) <= 2 and groups == 1
        self.expect(not depthwise or plain, "conv: a depth-wise one does not fit")
        self.summed(
            f"{name}.weight",
            *((size_out, kernel, kernel) if depthwise else (size_out, kernel, kernel, size_in // groups)),
            dtype="int16" if f.flag("wide", False) else "int8",
        )
        self.affine(f, name, size_out)
        self.channels = size_out

    def affine(self, f: _Fields, name: str, channels: int) -> None:
        if f.flag("wide", False):
            self.bounded(f"{name}.multiplier", "int32", channels, -(2**30), 2**30)
        else:
            self.take(f"{name}.multiplier", "int16", channels)
        self.bounded(f"{name}.bias", "int64", channels, -(2**61) + 1, 2**61 - 1)

    def binary(
        self, f: _Fields, name: str, size_in: int, size_out: int, relu: bool, kernel: int = 3, groups: int = 1
    ) -> NDArray[np.uint64]:
        self.expect(size_in == self.channels, "channels do not fit")
        f.integer("shift", 0, 30)
        f.flag("relu", relu)
        f.flag("zero_pad", False)
        sees, taps = size_in // groups, kernel * kernel
        bits = self.bits(f"{name}.weight", sees, size_out, kernel, kernel)
        self.bounded(f"{name}.mean", "int16", size_out, -taps * sees, taps * sees)
        self.take(f"{name}.multiplier", "int16", size_out)
        self.bounded(f"{name}.bias", "int32", size_out, -(2**29), 2**29)
        for flag, names in _OPTIONAL.items():
            for each in names if f.flag(flag, False) else ():
                self.take(f"{name}.{each}", "int16", size_in if each == "threshold" else size_out)
        return bits

    def block(self, f: _Fields, name: str) -> NDArray[np.uint64]:
        channels = f.integer("channels", 1, 1024)
        return self.binary(f, name, channels, channels, relu=True)

    def alone(self, f: _Fields, name: str) -> None:
        size_in, size_out = f.integer("in", 1, 1024), f.integer("out", 1, 1024)
        groups = f.integer("groups", 1, size_in) if "groups" in f.values else 1
        kernel = self.windowed(f, 3, 2)
        fits = kernel != 2 and size_in % groups == 0 and size_out % groups == 0 and (groups == 1 or size_in // groups % 64 == 0)
        self.expect(fits and not f.flag("activation", False), "binary: does not fit")
        self.binary(f, name, size_in, size_out, relu=False, kernel=kernel, groups=groups)
        self.channels = size_out

    def halve(self) -> None:
        self.expect(self.height % 2 == 0 and self.width % 2 == 0, "expected an even map")
        self.height, self.width = self.height // 2, self.width // 2

    def down(self, f: _Fields, name: str) -> None:
        size_in, size_out = f.integer("in", 1, 1024), f.integer("out", 1, 1024)
        self.binary(f, name, size_in, size_out, relu=False)
        self.expect(not f.flag("zero_pad", False), "down: expected a pad of +1")
        f.integer("shortcut_shift", 0, 46)
        self.bits(f"{name}.shortcut_weight", size_in, size_out)
        self.take(f"{name}.shortcut_multiplier", "int16", size_out)
        self.bounded(f"{name}.shortcut_bias", "int64", size_out, -(2**61) + 1, 2**61 - 1)
        self.halve()
        self.channels = size_out

    def single(self, operation: str, f: _Fields, name: str, others: list[tuple[int, int, int]]) -> None:
        """An operation without a convolution; `others`: shapes of what it reads beside the first value."""
        own = (self.height, self.width, self.channels)
        if operation == "concat":
            self.expect(others and all(other[:2] == own[:2] for other in others), "concat: does not fit")
            self.channels += sum(other[2] for other in others)
            self.expect(self.channels <= 2048, "concat: more than 2048 channels")
            return
        self.expect(len(others) == (operation in ("add", "gate")), "reads another number of values")
        if operation in ("affine", "activate"):
            self.expect(f.integer("channels", 1, 2048) == self.channels, "channels do not fit")
        else:
            f.integer("channels", self.channels, self.channels)
        if operation == "affine":
            f.integer("shift", 0, 46), f.flag("relu", False)
            self.affine(f, name, self.channels)
        elif operation == "activate":
            for each in ("alpha", "beta", "high", "low"):
                self.take(f"{name}.{each}", "int16", self.channels)
        elif operation == "add":
            self.expect(len(f.numbers("multipliers", 2, -32768, 32767)) == 2, "multipliers: expected two")
            f.integer("shift", 0, 30), f.flag("relu", False)
            self.expect(others == [own], "add: does not fit")
        elif operation == "gate":
            self.expect(others == [(1, 1, self.channels)], "gate: does not fit")
        elif operation == "max_pool":
            f.flag("relu", False)
            self.windowed(f, 7, 4)
        else:
            self.expect(operation == "average_pool", f"{name}.op: expected one that there is")
            self.windowed(f, 1024, 4)

    def prefix(self, f: _Fields, name: str) -> None:
        read = [len(self.shapes) - 1]
        if "from" in f.values:
            read = f.numbers("from", 8, 0, len(self.shapes) - 1)
            self.expect(read, "from: expected one at least")
        self.unread -= set(read)
        (self.height, self.width, self.channels), *others = (self.shapes[k] for k in read)
        operation = f.values.get("op")
        convolutions = {"conv": self.conv, "block": self.block, "down": self.down, "binary": self.alone}
        if operation in convolutions:
            self.expect(not others, "expected one value to read")
            convolutions[operation](f, name)
        elif operation == "pool":
            self.expect(not others, "expected one value to read")
            f.integer("channels", self.channels, self.channels)
            self.halve()
        else:
            self.expect(isinstance(operation, str), f"{name}.op: expected a text")
            self.single(str(operation), f, name, others)
        self.grown()
        self.unread.add(len(self.shapes))
        self.shapes.append((self.height, self.width, self.channels))

    def tail(self, f: _Fields, name: str) -> None:
        self.expect(f.values.get("op") == "block", f"{name}.op: expected block")
        bits = self.block(f, name)
        f.flag("train_high", True)
        f.integer("exponent", 0 if f.flag("approx_sign", False) else -16, 30)
        if "clip" in f.values:
            f.integer("clip", 0, 2**31 - 1)
        shadow = self.take(f"{name}.shadow", "int8", self.channels, 3, 3, self.channels)
        signs = np.unpackbits(bits.view(np.uint8), axis=-1, bitorder="little")[..., : self.channels]
        self.expect(np.array_equal(shadow < 0, signs), f"{name}.shadow: expected the signs of the bits")


def check_model(content: bytes, where: str) -> SoundModel:
    """FormatError unless the content is a sound model file."""
    words, tensors = unpack(content, "model", where)
    texts = {}
    for key in ("network", "card"):
        try:
            texts[key] = parse_json(words.get(key, "{}" if key == "card" else ""))
        except ValueError as error:
            raise FormatError(f"{where}: {key}: expected JSON") from error
    top = _Fields(texts["network"], "network", where)
    reader = _Reader(top, tensors, where)
    prefix, items = top.items("prefix", 512), top.items("tail", 256)
    for i, item in enumerate(prefix):
        reader.prefix(_Fields(item, f"prefix[{i}]", where), f"prefix.{i}")
    (reader.height, reader.width, reader.channels), last = reader.shapes[-1], len(reader.shapes) - 1
    reader.expect(not reader.unread - {last}, "an operation is read by none")
    has_cut = "cut" in top.values
    channels = _Fields(top.values.get("cut" if has_cut else "features"), "cut or features", where).integer("channels", 1, 1024)
    reader.expect(channels == reader.channels and reader.height * reader.width <= 65536, "cut: does not fit")
    reader.expect(has_cut or not items, "tail: expected no operation where there is no cut")
    if has_cut:
        reader.bounded("cut.threshold", "int32", channels, -32768, 32768)
        reader.bounded("cut.direction", "uint8", channels, 0, 1)
        reader.bounded("cut.alpha", "int16", channels, -32767, 32767)
    tail = [_Fields(item, f"tail[{i}]", where) for i, item in enumerate(items)]
    for i, f in enumerate(tail):
        reader.expect(not f.flag("zero_pad", False), "block: expected a pad of +1 behind the cut")
        reader.tail(f, f"tail.{i}")
    f = _Fields(top.values.get("features"), "features", where)
    f.integer("channels", channels, channels)
    f.integer("pool_shift", 0, 46), f.integer("shift", 0, 46), f.integer("feature_bits", 0, 12), f.flag("relu", True)
    reader.bounded("features.pool_multiplier", "int32", channels, 0, 2**31 - 1)
    reader.summed("features.weight", channels, channels)
    reader.take("features.multiplier", "int16", channels)
    reader.bounded("features.bias", "int64", channels, -(2**61) + 1, 2**61 - 1)
    reader.expect(not tensors, "expected no further tensor")
    latent_words = reader.height * reader.width * _words(channels) if has_cut else -(-channels // 8)
    return SoundModel(words["digest"], channels, latent_words, [f.values for f in tail], has_cut)


# -- states -------------------------------------------------------------------------------------------------------------------

_BREAKS = frozenset("\u2028\u2029")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the direction of what follows
_BLANKS = frozenset(" \u00a0\u00ad\u1680\u180e\u202f\u205f\u3000\ufeff") | {
    chr(c) for c in (*range(0x2000, 0x200E), *range(0x2060, 0x2065))
}


def is_name(text: object) -> bool:
    """Whether a text can name a class: up to 200 characters, one of them visible, none of them a control or half a character.

    Neither "." nor "..", which an address would lose; no line breaks, no marks of direction (docs/formats.md).
    """
    if not isinstance(text, str) or not 0 < len(text) <= 200 or text in (".", ".."):
        return False
    letters = set(text)
    controls = any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff" for c in letters)
    return not controls and not letters & (_BREAKS | _TURNS) and not letters <= _BLANKS


def _check_settings(values: object, where: str) -> dict[str, Any]:
    table = {name: (kind, least, most) for name, kind, _, least, most in settings_table()}
    if not isinstance(values, dict) or set(values) != set(table):
        raise FormatError(f"{where}: settings: expected {', '.join(table)}")
    for name, (kind, least, most) in table.items():
        value = values[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        fit = {
            "flag": lambda value=value: isinstance(value, bool),
            "head": lambda value=value: value in ("lda", "cwr"),
            "one_of": lambda value=value, whole=whole, most=most: whole and 0 <= value < 64 and most >> value & 1,
        }.get(kind, lambda value=value, whole=whole, least=least, most=most: whole and least <= value <= most)
        if not fit():
            raise FormatError(f"{where}: {name}: out of its range")
    if (values["train_blocks"] and not values["capacity"]) or (
        values["head"] != "lda" and (values["lda_features"] or values["class_priors"])
    ):
        raise FormatError(f"{where}: settings: some do not go together")
    return values


def _read_block(tensors: Tensors, key: str, block: dict[str, Any], weight_bits: int, channels: int, where: str) -> None:
    # Values of one trained block.
    taps, offset = 9 * channels, 2**23 - 1
    most = {"multiplier": 2**31 - 1, "bias": 2**29}
    if block.get("threshold", False):
        most |= {"threshold": offset}
    if block.get("activation", False):
        most |= {"alpha": offset, "beta": offset, "high": 2**31 - 1, "low": 2**31 - 1}
    if weight_bits == 1:
        bits = take(tensors, f"{key}.bits", "uint64", (taps * _words(channels),), where)
        if np.any(bits[_words(channels) - 1 :: _words(channels)] & _unused_bits(channels)):
            raise FormatError(f"{where}: tensor {key}.bits: expected unused bits to be 0")
    shapes = {name: ("int32", channels, limit) for name, limit in most.items()}
    if weight_bits > 1:
        shapes["shadow"] = (f"int{weight_bits}", taps * channels, 2 ** (weight_bits - 1) - 1)
    for name, (dtype, count, limit) in shapes.items():
        values = take(tensors, f"{key}.{name}", dtype, (count,), where)
        if np.any(values > limit) or np.any(values < -limit):
            raise FormatError(f"{where}: tensor {key}.{name}: expected magnitudes up to {limit}")


def _read_sums(tensors: Tensors, classes: int, width: int, seen: NDArray[np.uint64], where: str) -> None:
    # What LDA is made from, checked.
    def wide_or_not(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = "int64" if name in tensors and tensors[name].dtype == np.int64 else "int32"
        return take(tensors, name, dtype, shape, where)

    count: Any = take(tensors, "head.count", "int64", (classes,), where)
    sums, moment = wide_or_not("head.feature_sum", (classes, width)), wide_or_not("head.moment", (width * (width + 1) // 2,))
    saturated: Any = take(tensors, "head.saturated", "int64", (1,), where)
    if np.any(count < 1) or np.any(count > seen.astype(np.int64)):
        raise FormatError(f"{where}: head.count: expected at least one row of each class, and no more than were seen")
    rows = int(count.sum())
    wide = sums.astype(np.int64)
    if np.any(wide > 127 * count[:, None]) or np.any(wide < -127 * count[:, None]):  # no abs: that of -2^63 is negative
        raise FormatError(f"{where}: head.feature_sum: expected sums of features in -127..127")
    most, square = moment.astype(np.int64), 127 * 127 * rows
    if np.any(most > square) or np.any(most < -square) or np.any(most[_diagonal(width)] < 0):
        raise FormatError(f"{where}: head.moment: expected sums of products of features in -127..127")
    if not 0 <= saturated[0] <= rows * width:
        raise FormatError(f"{where}: head.saturated: expected a count of features")


def _diagonal(width: int) -> NDArray[np.int64]:
    return np.cumsum(np.r_[0, np.arange(width, 1, -1)])[:width].astype(np.int64)


def check_state(content: bytes, where: str, shipped: Mapping[str, SoundModel]) -> None:
    """FormatError unless the content is a sound state file whose model is inside or, by its digest, among those that are shipped."""
    metadata, tensors = unpack(content, "state", where)

    def expect(condition: object, what: str) -> None:
        if not condition:
            raise FormatError(f"{where}: {what}")

    def parsed(key: str) -> Any:
        try:
            return parse_json(metadata.get(key, ""))
        except ValueError as error:
            raise FormatError(f"{where}: {key}: expected JSON") from error

    digest = metadata.get("model", "")
    inside = tensors.pop("model", None)
    expect(inside is None or (inside.dtype == np.uint8 and inside.ndim == 1), "tensor model: expected bytes")
    expect(len(digest) == 64 and set(digest) <= set("0123456789abcdef"), "model: expected a digest")
    carried = inside is not None and inside.size > 0
    model = check_model(inside.tobytes(), f"{where}: model") if carried and inside is not None else shipped.get(digest)
    if model is None or model.digest != digest:
        raise FormatError(f"{where}: made for another model")
    settings = _check_settings(parsed("settings"), where)
    names = parsed("names")
    expect(isinstance(names, list) and all(is_name(n) for n in names), "names: expected names")
    expect(len(set(names)) == len(names) <= settings["max_classes"], "names: expected different names")
    experience = metadata.get("experience", "")
    expect(
        experience.isascii() and experience.isdigit() and len(experience) <= 10 and int(experience) < 2**32, "experience: expected a count"
    )
    classes, width = len(names), model.channels
    expect(settings["lda_features"] <= width, "lda_features: expected at most the features of the model")
    labels: Any = tensors.get("replay.labels")
    stored = len(labels) if labels is not None and labels.ndim == 1 else 0
    expect(stored <= settings["capacity"], "replay.rows: too many")
    further_words = -(-width // 8) if settings["views"] > 1 else 0
    seen = take(tensors, "replay.seen", "uint64", (classes,), where)
    rows = take(tensors, "replay.rows", "uint64", (stored, model.latent_words + further_words), where)
    labels = take(tensors, "replay.labels", "uint16", (stored,), where)
    mixing = take(tensors, "head.mixing", "int64", (2,), where)
    expect(not np.any(mixing < 0) and not np.any(mixing > 2**20), "head.mixing: out of its range")
    if settings["head"] == "lda":
        _read_sums(tensors, classes, settings["lda_features"] or width, seen, where)
    else:
        take(tensors, "head.weight", "int32", (classes, width), where)
        take(tensors, "head.past_count", "uint32", (classes,), where)
    trained = settings["train_blocks"]
    expect(trained <= len(model.tail), "train_blocks: more than there are")
    if trained:
        take(tensors, "tail.weight", "int32", (classes, width), where)
    for i, block in enumerate(model.tail[len(model.tail) - trained :]):
        _read_block(tensors, f"tail.{i}", block, settings["weight_bits"], width, where)
    expect(not tensors, "expected no further tensor")
    latents, further = np.split(rows, [model.latent_words], axis=1)
    if model.has_cut:
        expect(not np.any(latents[:, _words(width) - 1 :: _words(width)] & _unused_bits(width)), "replay.rows: unused bits")
    for part in (further,) if model.has_cut else (latents, further):
        features = np.ascontiguousarray(part).view(np.int8)
        expect(not np.any(features == -128) and not np.any(features[:, width:]), "replay.rows: features")
    counts = np.bincount(labels, minlength=classes)
    expect(len(counts) <= classes and not np.any(counts > seen) and not np.any(seen >= 2**32), "replay.labels: out of range")
    expect(not np.any(seen == 0), "replay.seen: expected a picture of each class")
