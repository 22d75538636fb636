"""The network in integers (docs/method.md, 1 and 3): images to latent rows to features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Int64, Uint64, exact_product, peak, rs, sat16

WORD = 64
PARAMETER_NAMES = ("mean", "multiplier", "bias", "threshold", "alpha", "beta", "high", "low")
CHAIN = ("conv", "block", "pool", "down")
SHORTCUT_NAMES = ("shortcut_weight", "shortcut_multiplier", "shortcut_bias")


def input_values(images: NDArray[np.uint8]) -> Int64:
    """What the first layer reads, 2*pixel - 255 (method.md, 1)."""
    return 2 * images.astype(np.int64) - 255


def words_of(channels: int) -> int:
    """Words of one pixel (method.md, 3.1)."""
    return -(-channels // WORD)


def pack_bits(bits: NDArray[np.bool_]) -> Uint64:
    """Pack (..., C) booleans into (..., ceil(C/64)) words, least significant bit first (method.md, 3.1)."""
    channels = bits.shape[-1]
    packed = np.zeros((*bits.shape[:-1], words_of(channels)), np.uint64)
    for c in range(channels):
        packed[..., c // WORD] |= bits[..., c].astype(np.uint64) << np.uint64(c % WORD)
    return packed


def unpack_bits(packed: Uint64, channels: int) -> NDArray[np.bool_]:
    """Invert `pack_bits` (method.md, 3.1)."""
    bits = np.zeros((*packed.shape[:-1], channels), np.bool_)
    for c in range(channels):
        bits[..., c] = (packed[..., c // WORD] >> np.uint64(c % WORD)) & np.uint64(1)
    return bits


def signs(bits: NDArray[np.bool_]) -> Int64:
    """Real value of bits: 1 means -1, 0 means +1 (method.md, 3.1)."""
    return 1 - 2 * bits.astype(np.int64)


def dot(a: Uint64, b: Uint64, channels: int) -> int:
    """Dot product of two packed rows by xor and popcount (method.md, 3.1); a check of the identity, the layers below do not use it."""
    return channels - 2 * sum(int(x ^ y).bit_count() for x, y in zip(a.tolist(), b.tolist(), strict=True))


@dataclass(frozen=True)
class Window:
    """Where a square window goes (method.md, 3.8): pad is top, left, bottom, right."""

    kernel: int
    stride: int = 1
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, op: dict[str, Any]) -> Window:
        """As an operation of a model file has it."""
        half = (op["kernel"] - 1) // 2
        top, left, bottom, right = op.get("pad", [half] * 4)
        return cls(op["kernel"], op["stride"], (top, left, bottom, right))

    def taps(self, x: Int64, outside: int) -> list[list[Int64]]:
        """[a][b]: what tap (a, b) sees of x (N, H, W, C) at each output pixel (N, H', W', C)."""
        top, left, bottom, right = self.pad
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=outside)
        rows, columns = ((size - self.kernel) // self.stride + 1 for size in padded.shape[1:3])
        ends = (self.stride * (rows - 1) + 1, self.stride * (columns - 1) + 1)
        return [
            [padded[:, a : a + ends[0] : self.stride, b : b + ends[1] : self.stride] for b in range(self.kernel)]
            for a in range(self.kernel)
        ]


def conv_sums(x: Int64, weight: NDArray[np.int8], window: Window, groups: int = 1) -> Int64:
    """Sums of a convolution before they are rescaled (method.md, 3.2).

    Parameters
    ----------
    x
        Input (N, H, W, C).
    weight
        (C_out, k, k, C / groups) dense, (C, k, k) depth-wise.
    window, groups
        Where its windows go; group g reads the g-th part of the channels and makes the g-th part of the outputs.

    """
    w = weight.astype(np.int64)
    acc: Any = 0
    for a, row in enumerate(window.taps(x, 0)):
        for b, tap in enumerate(row):
            if w.ndim == 3:
                acc = acc + tap * w[:, a, b]
            else:
                parts = zip(np.split(tap, groups, axis=-1), np.split(w[:, a, b], groups), strict=True)
                acc = acc + np.concatenate([part @ own.T for part, own in parts], axis=-1)
    assert peak(acc) < 1 << 31, "the sum of a convolution leaves int32"
    return np.asarray(acc)


def affine(values: Int64, multiplier: NDArray[np.int16], bias: Int64, *, shift: int, relu: bool) -> Int64:
    """sat16(rs(v * M + B, F)), then the positive part with relu (method.md, 3.2)."""
    y = sat16(rs(values * multiplier.astype(np.int64) + bias, shift))
    return np.maximum(y, 0) if relu else y


def conv(
    x: Int64,
    weight: NDArray[np.int8],
    multiplier: NDArray[np.int16],
    bias: Int64,
    *,
    stride: int,
    relu: bool,
    shift: int,
) -> Int64:
    """Compute a `conv` operation of 3x3 or 1x1 with its usual pad (method.md, 3.2)."""
    kernel = weight.shape[1]
    window = Window.of({"kernel": kernel, "stride": stride})
    return affine(conv_sums(x, weight, window), multiplier, bias, shift=shift, relu=relu)


@dataclass(frozen=True)
class Activation:
    """PReLU of a block with its offsets, int16 (C,) each; slopes have 13 fraction bits (method.md, 3.3)."""

    alpha: Int64
    beta: Int64
    high: Int64
    low: Int64


@dataclass(frozen=True)
class BlockConstants:
    """What a block has beside its weights (method.md, 3.3): (C,) each, `threshold` and `activation` where the family has them."""

    mean: Int64
    multiplier: Int64
    bias: Int64
    shift: int
    relu: bool = True
    threshold: Int64 | None = None
    activation: Activation | None = None
    zero_pad: bool = False


@dataclass(frozen=True)
class BlockValues:
    """Everything that a block or down computes on its way (N, H, W, C), named as in method.md, 3.3; w and p are None without an activation.

    a is x + t, s the signs of a (+1 or -1).
    """

    a: Int64
    s: Int64
    z: Int64
    r: Int64
    u: Int64
    w: Int64 | None
    p: Int64 | None
    y: Int64


def binary_conv(s: Int64, weight: Int64, window: Window = Window(3, 1, (1, 1, 1, 1)), *, outside: int = 1, groups: int = 1) -> Int64:
    """z of signs s (N, H, W, C) and weights +1 or -1 (C_out, k, k, C / groups); `outside` is what lies around the map: +1, or 0 for nothing."""
    z: Any = 0
    for i, row in enumerate(window.taps(s, outside)):
        for j, tap in enumerate(row):
            parts = zip(np.split(tap, groups, axis=-1), np.split(weight[:, i, j], groups), strict=True)
            z = z + np.concatenate([exact_product(part, own.T) for part, own in parts], axis=-1)
    return np.asarray(z)


def block_values(x: Int64, weight: Int64, constants: BlockConstants) -> BlockValues:
    """Compute a block on the stream x (N, H, W, C) with weights +1 or -1 (C, 3, 3, C) (method.md, 3.3)."""
    return joined_values(x, x, weight, constants, stride=1)


def joined_values(x: Int64, shortcut: Int64, weight: Int64, constants: BlockConstants, *, stride: int) -> BlockValues:
    """Compute the formula of 3.3: signs of x through the binary convolution, and what they change of `shortcut` (method.md, 3.3 and 3.7)."""
    c = constants
    assert (np.abs(c.mean) <= 9 * x.shape[-1]).all(), "mu lies outside the range of z"
    a = x if c.threshold is None else x + c.threshold
    s = signs(a < 0)
    z = binary_conv(s, weight, Window(3, stride, (1, 1, 1, 1)), outside=0 if c.zero_pad else 1)
    r = np.maximum(z, 0) if c.relu else z
    total = (r - c.mean) * c.multiplier + c.bias
    assert peak(total) + (1 << c.shift) // 2 < 1 << 31, "the sum of a block leaves int32"
    u = sat16(shortcut + sat16(rs(total, c.shift)))
    if c.activation is None:
        return BlockValues(a, s, z, r, u, None, None, u)
    w = sat16(u - c.activation.alpha)
    p = np.where(w >= 0, c.activation.high, c.activation.low)
    return BlockValues(a, s, z, r, u, w, p, sat16(sat16(rs(w * p, 13)) - c.activation.beta))


def block_sums(x: Int64, weight: Uint64) -> Int64:
    """z of a `block` without threshold: stream x (N, H, W, C), packed signs (C, 3, 3, words) (method.md, 3.3)."""
    return binary_conv(signs(x < 0), signs(unpack_bits(weight, x.shape[-1])))


def block(
    x: Int64, weight: Uint64, mean: NDArray[Any], multiplier: NDArray[Any], bias: NDArray[Any], *, shift: int, relu: bool = True,
    threshold: Int64 | None = None, activation: Activation | None = None,
) -> Int64:  # fmt: skip
    """Compute a `block` operation with packed weights (C, 3, 3, words) (method.md, 3.3)."""
    constants = BlockConstants(
        mean.astype(np.int64), multiplier.astype(np.int64), bias.astype(np.int64), shift, relu, threshold, activation
    )
    return block_values(x, signs(unpack_bits(weight, x.shape[-1])), constants).y


def average_pool(x: Int64) -> Int64:
    """Mean of every 2x2 square (method.md, 3.7)."""
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError("a down needs an even map")
    return rs(x[:, ::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, ::2] + x[:, 1::2, 1::2], 2)


def down(
    x: Int64, weight: Uint64, constants: BlockConstants,
    shortcut_weight: Uint64, shortcut_multiplier: NDArray[np.int16], shortcut_bias: Int64, *, shortcut_shift: int,
) -> Int64:  # fmt: skip
    """Compute a `down` operation with packed weights (C_out, 3, 3, words) and (C_out, words) (method.md, 3.7)."""
    channels = x.shape[-1]
    ones = signs(unpack_bits(shortcut_weight, channels))[:, None, None].astype(np.int8)
    e = conv(average_pool(x), ones, shortcut_multiplier, shortcut_bias, stride=1, relu=False, shift=shortcut_shift)
    return joined_values(x, e, signs(unpack_bits(weight, channels)), constants, stride=2).y


def pool(x: Int64) -> Int64:
    """Compute a `pool` operation: ReLU, max 2/1, blur with stride 2 (method.md, 3.4)."""
    height, width = x.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError("a pool needs an even map")
    r = np.maximum(x, 0)
    m = np.maximum(np.maximum(r[:, :-1, :-1], r[:, :-1, 1:]), np.maximum(r[:, 1:, :-1], r[:, 1:, 1:]))
    m = np.pad(m, ((0, 0), (1, 1), (1, 1), (0, 0)))  # m(i, j) of the method is m[i + 1, j + 1] here
    total = np.zeros((x.shape[0], height // 2, width // 2, x.shape[3]), np.int64)
    for a, row_weight in enumerate((1, 2, 1)):
        for b, column_weight in enumerate((1, 2, 1)):
            total += row_weight * column_weight * m[:, a : a + height - 1 : 2, b : b + width - 1 : 2]
    return rs(total, 4)


def cut_bits(x: Int64, threshold: NDArray[np.int32], direction: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Bits of the replay cut (method.md, 3.5)."""
    return (x < threshold) ^ (direction != 0)


def tail_stream(bits: NDArray[np.bool_], alpha: NDArray[np.int16]) -> Int64:
    """Stream with which the tail starts (method.md, 3.5; OPEN: -alpha of alpha = -32768 saturates)."""
    return sat16(signs(bits) * alpha.astype(np.int64))


def pooled(x: Int64, pool_multiplier: NDArray[np.int32], pool_shift: int, *, relu: bool = True) -> Int64:
    """q (N, C): mean over the map, of the positive part with relu (method.md, 3.6)."""
    f = (np.maximum(x, 0) if relu else x).sum(axis=(1, 2))
    return sat16(rs(f * pool_multiplier.astype(np.int64), pool_shift))


def whitened(q: Int64, weight: NDArray[np.int8], multiplier: NDArray[np.int16], bias: Int64, shift: int) -> NDArray[np.int8]:
    """Features (N, D_f) of pooled q (method.md, 3.6)."""
    acc = q @ weight.astype(np.int64).T
    assert peak(acc) < 1 << 31, "the sum of the whitening leaves int32"
    return np.clip(rs(acc * multiplier.astype(np.int64) + bias, shift), -127, 127).astype(np.int8)


def block_constants(op: dict[str, Any], tensors: dict[str, NDArray[Any]], name: str) -> BlockConstants:
    """Gather the constants of the block or down `name` of a model (OPEN: docs/formats.md does not name those of 7.1 beside QuickNet's yet)."""
    wide = {key: tensors[f"{name}.{key}"].astype(np.int64) for key in PARAMETER_NAMES if f"{name}.{key}" in tensors}
    slopes = ("alpha", "beta", "high", "low")
    activation = Activation(**{key: wide[key] for key in slopes}) if "alpha" in wide else None
    relu, zero_pad = op.get("relu", op["op"] == "block"), op.get("zero_pad", False)
    return BlockConstants(wide["mean"], wide["multiplier"], wide["bias"], op["shift"], relu, wide.get("threshold"), activation, zero_pad)


def activated(x: Int64, activation: Activation) -> Int64:
    """The activation of 3.3 by itself (method.md, 3.9)."""
    w = sat16(x - activation.alpha)
    return sat16(sat16(rs(w * np.where(w >= 0, activation.high, activation.low), 13)) - activation.beta)


def max_pool(x: Int64, window: Window, *, relu: bool) -> Int64:
    """Largest of the taps inside the map (method.md, 3.10)."""
    y = np.stack([tap for row in window.taps(x, -(1 << 15)) for tap in row]).max(0)
    return np.maximum(y, 0) if relu else y


def window_average(x: Int64, window: Window) -> Int64:
    """divr(sum, number) of the taps inside the map (method.md, 3.10)."""
    total = sum(tap for row in window.taps(x, 0) for tap in row)
    number = sum(tap for row in window.taps(np.ones_like(x), 0) for tap in row)
    return (2 * total + number) // (2 * number)


def binary(x: Int64, weight: Uint64, op: dict[str, Any], constants: BlockConstants) -> Int64:
    """Compute a `binary` operation with packed weights (method.md, 3.8)."""
    c, groups = constants, op.get("groups", 1)
    own = signs(unpack_bits(weight, op["in"] // groups))
    s = signs((x if c.threshold is None else x + c.threshold) < 0)
    z = binary_conv(s, own, Window.of(op), outside=0 if c.zero_pad else 1, groups=groups)
    r = np.maximum(z, 0) if c.relu else z
    return sat16(rs((r - c.mean) * c.multiplier + c.bias, c.shift))


def operation(op: dict[str, Any], read: list[Int64], tensors: dict[str, NDArray[Any]], name: str) -> Int64:
    """One operation on the values that it reads (method.md, 3); its tensors begin with `name`."""
    x, kind = read[0], op["op"]
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    relu, shift = op.get("relu", False), op.get("shift", 0)
    if kind == "conv":
        sums = conv_sums(x, own["weight"], Window.of(op), op.get("groups", 1))
        return affine(sums, own["multiplier"], own["bias"], shift=shift, relu=relu)
    if kind == "block":
        return block_values(x, signs(unpack_bits(own["weight"], op["channels"])), block_constants(op, tensors, name)).y
    if kind == "down":
        weight, *shortcut = (own[key] for key in ("weight", *SHORTCUT_NAMES))
        return down(x, weight, block_constants(op, tensors, name), *shortcut, shortcut_shift=op["shortcut_shift"])
    if kind == "pool":
        return pool(x)
    if kind == "binary":
        return binary(x, own["weight"], op, block_constants(op, tensors, name))
    if kind == "affine":
        return affine(x, own["multiplier"], own["bias"], shift=shift, relu=relu)
    if kind == "activate":
        return activated(x, Activation(*(own[key].astype(np.int64) for key in ("alpha", "beta", "high", "low"))))
    if kind == "add":
        y = sat16(rs(x * op["multipliers"][0] + read[1] * op["multipliers"][1], shift))
        return np.maximum(y, 0) if relu else y
    if kind == "concat":
        return np.concatenate(read, axis=-1)
    if kind == "gate":
        return sat16(rs(x * read[1], 13))
    if kind == "max_pool":
        return max_pool(x, Window.of(op), relu=relu)
    if kind == "average_pool":
        return window_average(x, Window.of(op))
    raise ValueError(f"unknown operation {kind!r}")


def run_operations(x: Int64, operations: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], part: str) -> Int64:
    """Run the operations of `part`, "prefix" or "tail", from value 0 on; one without `from` reads the value before it (method.md, 3)."""
    values = [x]
    for i, op in enumerate(operations):
        values.append(operation(op, [values[k] for k in op.get("from", [i])], tensors, f"{part}.{i}"))
    return values[-1]


class ReferenceNetwork:
    """The frozen network (method.md, 1 and 3).

    Parameters
    ----------
    network
        Parsed `network` entry of a model file (docs/formats.md).
    tensors
        Its tensors by name.

    """

    def __init__(self, network: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        self.network = network
        self.tensors = tensors
        self.image_size: int = network["image_size"]
        self.feature_count: int = network["features"]["channels"]
        self.feature_bits: int = network["features"]["feature_bits"]
        self.has_cut = "cut" in network
        if not self.has_cut:
            self.row_words = -(-self.feature_count // 8)
            self.latent_bits = 8 * self.feature_count
            return
        self.channels: int = network["cut"]["channels"]
        self.words = words_of(self.channels)
        if all(op["op"] in CHAIN for op in network["prefix"]):
            self.map = (self._map_size(),) * 2
        else:
            self.map = self.stream(np.zeros((1, self.image_size, self.image_size, 3), np.uint8)).shape[1:3]
        self.map_size = self.map[0]
        self.row_words = self.map[0] * self.map[1] * self.words
        self.latent_bits = self.map[0] * self.map[1] * self.channels

    def _map_size(self) -> int:
        size = self.image_size
        for op in self.network["prefix"]:
            if op["op"] == "conv":
                top, _, bottom, _ = Window.of(op).pad
                size = (size + top + bottom - op["kernel"]) // op["stride"] + 1
            elif op["op"] in ("pool", "down"):
                size //= 2
        return size

    def stream(self, images: NDArray[np.uint8]) -> Int64:
        """Stream (N, H, W, C) that reaches the cut (method.md, 3.2 to 3.4)."""
        return run_operations(input_values(images), self.network["prefix"], self.tensors, "prefix")

    def latents(self, images: NDArray[np.uint8]) -> Uint64:
        """Latent rows (N, words) of uint8 images (N, S, S, 3) (method.md, 3.5): packed bits, or without a cut the features, a byte each."""
        if not self.has_cut:
            row = np.zeros((len(images), 8 * self.row_words), np.int8)
            row[:, : self.feature_count] = self.features_of(self.stream(images))
            return row.view(np.uint64)
        bits = cut_bits(self.stream(images), self.tensors["cut.threshold"], self.tensors["cut.direction"])
        return pack_bits(bits).reshape(len(images), self.row_words)

    def tail(self, latents: Uint64) -> Int64:
        """Stream (N, H, W, C) behind the last block of the tail (method.md, 3.3 and 3.5)."""
        bits = unpack_bits(latents.reshape(len(latents), *self.map, self.words), self.channels)
        return run_operations(tail_stream(bits, self.tensors["cut.alpha"]), self.network["tail"], self.tensors, "tail")

    def features(self, latents: Uint64) -> NDArray[np.int8]:
        """Features (N, D_f) of latent rows (method.md, 3.6)."""
        if not self.has_cut:
            return np.ascontiguousarray(latents).view(np.int8)[:, : self.feature_count]
        return self.features_of(self.tail(latents))

    def features_of(self, x: Int64) -> NDArray[np.int8]:
        spec = self.network["features"]
        q = pooled(x, self.tensors["features.pool_multiplier"], spec["pool_shift"], relu=spec.get("relu", True))
        weight, multiplier, bias = (self.tensors[f"features.{name}"] for name in ("weight", "multiplier", "bias"))
        return whitened(q, weight, multiplier, bias, spec["shift"])
