"""The model file: a frozen network in integers, checked and handed to the core (docs/formats.md, Model)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine import Network, kept_values
from .container import Tensors, pack, read_bytes, replace_file, take, unpack
from .errors import FormatError

SHIPPED = "quicknet-32"
_FOLDER = Path(__file__).parent / "models"


# What a block or down may have beyond QuickNet's: flag in the description, tensors that it brings, in the order of the core's arguments.
_OPTIONAL = {"threshold": ("threshold",), "activation": ("alpha", "beta", "high", "low")}


def _words(channels: int) -> int:
    return (channels + 63) // 64


class _Fields:
    """Reads the JSON description of one operation; every value is an integer or bool of the right kind, or FormatError."""

    def __init__(self, value: object, what: str, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{where}: network: {what}: expected an object, got {type(value).__name__}")
        self.values: dict[str, Any] = value
        self.what, self.where = what, where

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise FormatError(f"{self.where}: network: {self.what}.{name}: expected {low} to {high}, got {value!r:.40}")
        return value

    def flag(self, name: str, default: bool | None = None) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}: network: {self.what}.{name}: expected true or false, got {value!r:.40}")
        return value

    def same(self, name: str, expected: int) -> None:
        self.integer(name, expected, expected)

    def items(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if not isinstance(value, list) or len(value) > 256:
            raise FormatError(f"{self.where}: network: {self.what}.{name}: expected a list of at most 256 operations")
        return value


def _flat(tensor: NDArray[np.generic]) -> NDArray[Any]:
    return tensor.reshape(-1)


def _same_signs(shadow: NDArray[Any], bits: NDArray[Any]) -> bool:
    # Whether shadow weights (3, 3, C) are negative exactly where the bits of a channel are 1.
    return np.array_equal(shadow < 0, np.unpackbits(bits.view(np.uint8), axis=-1, bitorder="little")[..., : shadow.shape[-1]])


def _add_conv(network: Network, f: _Fields, tensors: Tensors, prefix: str) -> None:
    size_in, size_out = f.integer("in", 1, 2048), f.integer("out", 1, 2048)
    kernel, stride = f.integer("kernel", 1, 3), f.integer("stride", 1, 2)
    depthwise, relu, shift = f.flag("depthwise"), f.flag("relu"), f.integer("shift", 0, 46)
    shape = (size_out, kernel, kernel) if depthwise else (size_out, kernel, kernel, size_in)
    network.add_conv(
        size_in,
        size_out,
        kernel,
        stride,
        depthwise,
        relu,
        shift,
        _flat(take(tensors, f"{prefix}.weight", "int8", shape, f.where)),
        _flat(take(tensors, f"{prefix}.multiplier", "int16", (size_out,), f.where)),
        _flat(take(tensors, f"{prefix}.bias", "int64", (size_out,), f.where)),
    )


def _binary_values(f: _Fields, tensors: Tensors, prefix: str, size_in: int, size_out: int, relu: bool) -> list[Any]:
    # A block and a down have these in common, in the order of the core's arguments; `relu` is the flag's default.
    values: list[Any] = [
        f.integer("shift", 0, 30),
        _flat(take(tensors, f"{prefix}.weight", "uint64", (size_out, 3, 3, _words(size_in)), f.where)),
        _flat(take(tensors, f"{prefix}.mean", "int16", (size_out,), f.where)),
        _flat(take(tensors, f"{prefix}.multiplier", "int16", (size_out,), f.where)),
        _flat(take(tensors, f"{prefix}.bias", "int32", (size_out,), f.where)),
        f.flag("relu", relu),
    ]
    for flag, names in _OPTIONAL.items():
        has = f.flag(flag, False)
        for name in names:
            size = size_in if name == "threshold" else size_out
            values.append(_flat(take(tensors, f"{prefix}.{name}", "int16", (size,), f.where)) if has else np.zeros(0, np.int16))
    return values


def _add_block(network: Network, f: _Fields, tensors: Tensors, prefix: str) -> None:
    channels = f.integer("channels", 1, 1024)
    network.add_block(channels, *_binary_values(f, tensors, prefix, channels, channels, relu=True))


def _add_down(network: Network, f: _Fields, tensors: Tensors, prefix: str) -> None:
    size_in, size_out = f.integer("in", 1, 1024), f.integer("out", 1, 1024)
    network.add_down(
        size_in,
        size_out,
        *_binary_values(f, tensors, prefix, size_in, size_out, relu=False),
        f.integer("shortcut_shift", 0, 46),
        _flat(take(tensors, f"{prefix}.shortcut_weight", "uint64", (size_out, _words(size_in)), f.where)),
        _flat(take(tensors, f"{prefix}.shortcut_multiplier", "int16", (size_out,), f.where)),
        _flat(take(tensors, f"{prefix}.shortcut_bias", "int64", (size_out,), f.where)),
    )


def _traits(f: _Fields) -> tuple[int, bool, int, bool]:
    # What training needs to know of a block: exponent, ApproxSign, clip in stream units, whether the upper slope is trained.
    approx = f.flag("approx_sign", False)
    exponent = f.integer("exponent", 0 if approx else -16, 30)
    default = math.floor(1.25 * 2.0**exponent)  # of QuickNet
    return (
        exponent,
        approx,
        f.integer("clip", 0, 2**31 - 1) if "clip" in f.values else min(default, 2**31 - 1),
        f.flag("train_high", True),
    )


def _build(network_json: str, tensors: Tensors, where: str) -> Network:
    try:
        top = _Fields(json.loads(network_json), "network", where)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: network: expected JSON") from error
    tensors = dict(tensors)
    try:
        network = Network(top.integer("image_size", 1, 1024))
        size = 3  # channels so far
        for i, item in enumerate(top.items("prefix")):
            f = _Fields(item, f"prefix[{i}]", where)
            operation = f.values.get("op")
            if operation == "conv":
                _add_conv(network, f, tensors, f"prefix.{i}")
                size = f.values["out"]
            elif operation == "block":
                _add_block(network, f, tensors, f"prefix.{i}")
            elif operation == "pool":
                f.same("channels", size)
                network.add_pool()
            elif operation == "down":
                _add_down(network, f, tensors, f"prefix.{i}")
                size = f.values["out"]
            else:
                raise FormatError(f"{where}: network: prefix[{i}].op: expected conv, block, pool or down, got {operation!r:.40}")
        channels = _Fields(top.values.get("cut"), "cut", where).integer("channels", 1, 1024)
        network.set_cut(
            _flat(take(tensors, "cut.threshold", "int32", (channels,), where)),
            _flat(take(tensors, "cut.direction", "uint8", (channels,), where)),
            _flat(take(tensors, "cut.alpha", "int16", (channels,), where)),
        )
        for i, item in enumerate(top.items("tail")):
            f = _Fields(item, f"tail[{i}]", where)
            if f.values.get("op") != "block":
                raise FormatError(f"{where}: network: tail[{i}].op: expected block, got {f.values.get('op')!r:.40}")
            shape = (f.integer("channels", 1, 1024), 3, 3, f.integer("channels", 1, 1024))
            bits: Any = tensors.get(f"tail.{i}.weight")
            _add_block(network, f, tensors, f"tail.{i}")
            _traits(f)
            shadow: Any = take(tensors, f"tail.{i}.shadow", "int8", shape, where)
            if not all(map(_same_signs, shadow, bits)):  # channel by channel: a copy of a whole tail is large
                raise FormatError(f"{where}: tensor tail.{i}.shadow: expected negative values exactly where the bit of the weight is 1")
        f = _Fields(top.values.get("features"), "features", where)
        f.same("channels", channels)
        network.set_features(
            f.integer("pool_shift", 0, 46),
            f.integer("shift", 0, 46),
            f.integer("feature_bits", 0, 12),
            _flat(take(tensors, "features.pool_multiplier", "int32", (channels,), where)),
            _flat(take(tensors, "features.weight", "int8", (channels, channels), where)),
            _flat(take(tensors, "features.multiplier", "int16", (channels,), where)),
            _flat(take(tensors, "features.bias", "int64", (channels,), where)),
            f.flag("relu", True),
        )
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: {error}") from error
    if tensors:
        raise FormatError(f"{where}: expected no tensor {sorted(tensors)[0]}; the file does not fit its description")
    return network


class Model:
    """A frozen binary network with a replay cut, as `bitreplay export` writes it.

    Attributes
    ----------
    network : the core's network; immutable.
    digest : 64 hexadecimal digits, the model's name in every state that was taught on it.
    card : what its makers say of it: data, recipe, figures.
    """

    def __init__(self, content: bytes, where: str) -> None:
        metadata, tensors = unpack(content, "model", where)
        self.digest = metadata["digest"]
        self.shipped = False
        try:
            card = json.loads(metadata.get("card", "{}"))
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{where}: card: expected JSON") from error
        self.card: dict[str, Any] = card if isinstance(card, dict) else {}
        self.network = _build(metadata.get("network", ""), tensors, where)
        self._content: bytes | None = content
        self._path = Path()  # of a shipped one
        self._tail: list[dict[str, Any]] = json.loads(metadata["network"])["tail"]

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model file.

        Raises
        ------
        FormatError : the file is not a sound model.
        OSError : it cannot be read.
        """
        return cls(read_bytes(Path(path)), str(path))

    @classmethod
    def shipped_names(cls) -> list[str]:
        """Names of the backbones that come with the package."""
        return sorted(p.stem for p in _FOLDER.glob("*.model"))

    @classmethod
    def from_package(cls, name: str = SHIPPED) -> Model:
        """Open a backbone that comes with the package; ValueError if there is none of that name."""
        path = _FOLDER / f"{name}.model"
        if name not in cls.shipped_names():
            raise ValueError(f"model: expected one of {', '.join(cls.shipped_names())}, or a path, got {name!r}")
        model = cls.load(path)
        model.shipped = True
        model._content, model._path = None, path  # it can be read again
        return model

    @classmethod
    def open(cls, model: Model | str | Path | None) -> Model:
        """The model meant by an argument: a Model, a path, the name of a shipped one, or None for the default."""
        if isinstance(model, Model):
            return model
        if model is None or model in cls.shipped_names():
            return cls.from_package(str(model) if model else SHIPPED)
        return cls.load(model)

    @classmethod
    def with_digest(cls, digest: str) -> Model | None:
        """The shipped backbone of this digest, or None."""
        for name in cls.shipped_names():
            model = cls.from_package(name)
            if model.digest == digest:
                return model
        return None

    @property
    def content(self) -> bytes | None:
        """The model file's bytes; None for a backbone that comes with the package."""
        return self._content

    def file_content(self) -> bytes:
        """The model file's bytes, of a shipped backbone too."""
        return self._content or read_bytes(self._path)

    def tail_sources(self, blocks: int) -> list[tuple[NDArray[np.int8], int, bool, int, bool]]:
        """Initial shadow weights, int8 (C*9*C,), and traits of the last `blocks` blocks of the tail; ValueError if it has fewer."""
        if blocks == 0:
            return []
        where = self.name
        tail = self._tail
        if blocks > len(tail):
            raise ValueError(f"train_blocks: expected at most {len(tail)}, the blocks behind the cut of {where}, got {blocks}")
        _, tensors = unpack(self.file_content(), "model", where)
        return [
            (_flat(tensors[f"tail.{i}.shadow"]), *_traits(_Fields(tail[i], f"tail[{i}]", where)))
            for i in range(len(tail) - blocks, len(tail))
        ]

    def tail_tensors(self, blocks: int, weight_bits: int) -> list[dict[str, tuple[str, int, int]]]:
        """What a state keeps of each of the last `blocks` blocks: dtype, number of values and largest magnitude by name (method.md 7.1)."""
        channels = self.network.feature_count
        return [
            {
                name: (dtype, count, most)
                for name, dtype, count, most in kept_values(channels, weight_bits, *(item.get(f, False) for f in _OPTIONAL))
            }
            for item in self._tail[len(self._tail) - blocks :]
        ]

    @property
    def name(self) -> str:
        """Name on the card, where it is one that can be printed, or the beginning of the digest."""
        name = self.card.get("name")
        return name if isinstance(name, str) and name != "" and len(name) <= 80 and name.isprintable() else self.digest[:12]

    def info(self) -> dict[str, Any]:
        """Sizes and card of the model; bytes as the core holds them."""
        return {
            "digest": self.digest,
            "name": self.name,
            "image_size": self.network.image_size,
            "latent_bits": self.network.latent_bits,
            "latent_bytes": self.network.latent_words * 8,
            "features": self.network.feature_count,
            "bytes": {"network": self.network.bytes, "forward_scratch_per_thread": self.network.scratch_bytes},
            "card": self.card,
        }


def write_model(path: Path, network: dict[str, Any], tensors: Tensors, card: dict[str, Any]) -> Model:
    """Write a model file and read it back; FormatError if it is not sound (then nothing is written)."""
    metadata = {"network": json.dumps(network, sort_keys=True), "card": json.dumps(card, sort_keys=True)}
    content = pack("model", metadata, tensors)
    model = Model(content, str(path))
    replace_file(path, content)
    return model
