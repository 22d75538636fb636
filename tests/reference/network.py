"""The network in integers (docs/method.md, 1 and 3): images to latent rows to features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Int64, Uint64, exact_product, peak, rs, sat16

WORD = 64
PARAMETER_NAMES = ("mean", "multiplier", "bias", "threshold", "alpha", "beta", "high", "low")
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


def conv_sums(x: Int64, weight: NDArray[np.int8], stride: int) -> Int64:
    """Sums of a convolution before they are rescaled (method.md, 3.2).

    Parameters
    ----------
    x
        Input (N, H, W, C).
    weight
        (C_out, k, k, C) dense, (C, k, k) depth-wise.
    stride
        1 or 2.

    """
    n, height, width, _ = x.shape
    kernel = weight.shape[1]
    pad = (kernel - 1) // 2
    rows, columns = (height - 1) // stride + 1, (width - 1) // stride + 1
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    w = weight.astype(np.int64)
    acc = np.zeros((n, rows, columns, len(w)), np.int64)
    for a in range(kernel):
        for b in range(kernel):
            tap = padded[:, a : a + stride * (rows - 1) + 1 : stride, b : b + stride * (columns - 1) + 1 : stride]
            acc += tap @ w[:, a, b].T if w.ndim == 4 else tap * w[:, a, b]
    assert peak(acc) < 1 << 31, "the sum of a convolution leaves int32"
    return acc


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
    """Compute a `conv` operation (method.md, 3.2)."""
    y = sat16(rs(conv_sums(x, weight, stride) * multiplier.astype(np.int64) + bias, shift))
    return np.maximum(y, 0) if relu else y


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


def binary_conv(s: Int64, weight: Int64, stride: int = 1) -> Int64:
    """z of signs s (N, H, W, C) and weights +1 or -1 (C_out, 3, 3, C), padded with +1 (method.md, 3.3)."""
    height, width = s.shape[1:3]
    padded = np.pad(s, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    z = np.zeros((len(s), (height - 1) // stride + 1, (width - 1) // stride + 1, len(weight)), np.int64)
    for i in range(3):
        for j in range(3):
            z += exact_product(padded[:, i : i + height : stride, j : j + width : stride], weight[:, i, j].T)
    return z


def block_values(x: Int64, weight: Int64, constants: BlockConstants) -> BlockValues:
    """Compute a block on the stream x (N, H, W, C) with weights +1 or -1 (C, 3, 3, C) (method.md, 3.3)."""
    return joined_values(x, x, weight, constants, stride=1)


def joined_values(x: Int64, shortcut: Int64, weight: Int64, constants: BlockConstants, *, stride: int) -> BlockValues:
    """Compute the formula of 3.3: signs of x through the binary convolution, and what they change of `shortcut` (method.md, 3.3 and 3.7)."""
    c = constants
    assert (np.abs(c.mean) <= 9 * x.shape[-1]).all(), "mu lies outside the range of z"
    a = x if c.threshold is None else x + c.threshold
    s = signs(a < 0)
    z = binary_conv(s, weight, stride)
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
    return BlockConstants(
        wide["mean"], wide["multiplier"], wide["bias"], op["shift"], op.get("relu", op["op"] == "block"), wide.get("threshold"), activation
    )


def run_operations(x: Int64, operations: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], part: str) -> Int64:
    """Run the operations of `part`, "prefix" or "tail", one after another (method.md, 3)."""
    for i, op in enumerate(operations):
        if op["op"] == "conv":
            weight, multiplier, bias = (tensors[f"{part}.{i}.{name}"] for name in ("weight", "multiplier", "bias"))
            x = conv(x, weight, multiplier, bias, stride=op["stride"], relu=op["relu"], shift=op["shift"])
        elif op["op"] == "block":
            weight = signs(unpack_bits(tensors[f"{part}.{i}.weight"], op["channels"]))
            x = block_values(x, weight, block_constants(op, tensors, f"{part}.{i}")).y
        elif op["op"] == "down" and part == "prefix":
            weight, *shortcut = (tensors[f"prefix.{i}.{name}"] for name in ("weight", *SHORTCUT_NAMES))
            x = down(x, weight, block_constants(op, tensors, f"prefix.{i}"), *shortcut, shortcut_shift=op["shortcut_shift"])
        elif op["op"] == "pool":
            x = pool(x)
        else:
            raise ValueError(f"unknown operation {op['op']!r}")
    return x


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
        self.channels: int = network["cut"]["channels"]
        self.words = words_of(self.channels)
        self.feature_count: int = network["features"]["channels"]
        self.feature_bits: int = network["features"]["feature_bits"]
        size = self.image_size
        for op in network["prefix"]:
            if op["op"] == "conv":
                size = (size - 1) // op["stride"] + 1
            elif op["op"] in ("pool", "down"):
                size //= 2
        self.map_size = size
        self.row_words = size * size * self.words
        self.latent_bits = size * size * self.channels

    def stream(self, images: NDArray[np.uint8]) -> Int64:
        """Stream (N, H, W, C) that reaches the cut (method.md, 3.2 to 3.4)."""
        return run_operations(input_values(images), self.network["prefix"], self.tensors, "prefix")

    def latents(self, images: NDArray[np.uint8]) -> Uint64:
        """Latent rows (N, H*W*words) of uint8 images (N, S, S, 3) (method.md, 3.5)."""
        bits = cut_bits(self.stream(images), self.tensors["cut.threshold"], self.tensors["cut.direction"])
        return pack_bits(bits).reshape(len(images), self.row_words)

    def tail(self, latents: Uint64) -> Int64:
        """Stream (N, H, W, C) behind the last block of the tail (method.md, 3.3 and 3.5)."""
        bits = unpack_bits(latents.reshape(len(latents), self.map_size, self.map_size, self.words), self.channels)
        return run_operations(tail_stream(bits, self.tensors["cut.alpha"]), self.network["tail"], self.tensors, "tail")

    def features(self, latents: Uint64) -> NDArray[np.int8]:
        """Features (N, D_f) of latent rows (method.md, 3.6)."""
        spec = self.network["features"]
        q = pooled(self.tail(latents), self.tensors["features.pool_multiplier"], spec["pool_shift"], relu=spec.get("relu", True))
        weight, multiplier, bias = (self.tensors[f"features.{name}"] for name in ("weight", "multiplier", "bias"))
        return whitened(q, weight, multiplier, bias, spec["shift"])
