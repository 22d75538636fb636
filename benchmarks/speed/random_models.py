"""QuickNets for 224x224 pictures with random weights as model files of bitreplay (docs/formats.md), made with NumPy alone.

The multipliers that an export would take from batch norm are those that keep random streams at a standard deviation of STREAM.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from works import IMAGE_SIZE, QUICKNETS, generator

STREAM = 4000.0  # standard deviation of a stream, in its units
PIXEL = 148.0  # of 2 * pixel - 255 for uniform pixels
WEIGHT = 127 / math.sqrt(3)  # of a uniform int8 weight

Tensors = dict[str, Any]


def picture() -> Any:
    return generator("picture").integers(0, 256, (IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.uint8)


def fixed_point(ratio: float, channels: int, rng: np.random.Generator, limit: int) -> tuple[Any, int]:
    """Multipliers around `ratio`, the largest in [2^13, 2^14), and their shift."""
    values = ratio * rng.uniform(0.5, 1.0, channels) * rng.choice([-1.0, 1.0], channels)
    shift = min(limit, max(0, 13 - math.floor(math.log2(np.abs(values).max()))))
    return np.rint(values * 2.0**shift).astype(np.int16), shift


class Writer:
    def __init__(self, name: str) -> None:
        self.rng = generator(f"{name}.model")
        self.prefix: list[dict[str, Any]] = []
        self.tensors: Tensors = {}

    def conv(self, c: int, out: int, kernel: int, stride: int, spread: float, depthwise: bool = False, relu: bool = False) -> None:
        shape = (out, kernel, kernel) if depthwise else (out, kernel, kernel, c)
        fan = kernel * kernel * (1 if depthwise else c)
        multiplier, shift = fixed_point(1.3 * STREAM / (math.sqrt(fan) * WEIGHT * spread), out, self.rng, 46)
        self._add({"op": "conv", "in": c, "out": out, "kernel": kernel, "stride": stride, "depthwise": depthwise, "relu": relu}, shift)
        self._store(weight=self.rng.integers(-127, 128, shape).astype(np.int8), multiplier=multiplier)
        self._store(bias=np.rint(self.rng.normal(0, STREAM / 4, out) * 2.0**shift).astype(np.int64))

    def block(self, c: int) -> None:
        root = math.sqrt(9 * c)  # standard deviation of a dot product of random signs
        multiplier, shift = fixed_point(STREAM / 2 / root, c, self.rng, 30)
        signs = self.rng.integers(0, 2, (c, 3, 3, (c + 63) // 64 * 64), np.uint8)
        signs[..., c:] = 0
        self._add({"op": "block", "channels": c}, shift)
        self._store(weight=np.packbits(signs, axis=-1, bitorder="little").view("<u8"), multiplier=multiplier)
        self._store(mean=np.full(c, round(0.4 * root), np.int16))
        self._store(bias=np.rint(self.rng.normal(0, STREAM / 8, c) * 2.0**shift).astype(np.int32))

    def pool(self, c: int) -> None:
        self.prefix.append({"op": "pool", "channels": c, "exponent": 8})

    def features(self, c: int, pixels: int) -> dict[str, Any]:
        pool_ratio = 1.0 / pixels  # q: the mean of the positive part, about STREAM / 2
        pool_shift = 14 - math.floor(math.log2(pool_ratio))
        multiplier, shift = fixed_point(32 / (math.sqrt(c) * WEIGHT * STREAM / 2), c, self.rng, 46)
        self.tensors["features.pool_multiplier"] = np.full(c, round(pool_ratio * 2.0**pool_shift), np.int32)
        self.tensors["features.weight"] = self.rng.integers(-127, 128, (c, c)).astype(np.int8)
        self.tensors["features.multiplier"] = multiplier
        self.tensors["features.bias"] = np.zeros(c, np.int64)
        return {"channels": c, "pool_shift": pool_shift, "shift": shift, "feature_bits": 5}

    def _add(self, operation: dict[str, Any], shift: int) -> None:
        self.prefix.append({**operation, "shift": shift, "exponent": 8})

    def _store(self, **tensors: Any) -> None:
        for name, values in tensors.items():
            self.tensors[f"prefix.{len(self.prefix) - 1}.{name}"] = values


def make(name: str) -> tuple[dict[str, Any], Tensors]:
    """Description and tensors of `quicknetsmall`, `quicknet` or `quicknetlarge`; everything lies before the cut."""
    blocks, widths = QUICKNETS[name]
    writer = Writer(name)
    stem = widths[0] // 4
    writer.conv(3, stem, 3, 2, PIXEL, relu=True)
    writer.conv(stem, stem, 3, 2, STREAM / 2, depthwise=True)
    writer.conv(stem, widths[0], 1, 1, STREAM)
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        if stage:
            writer.pool(widths[stage - 1])
            writer.conv(widths[stage - 1], width, 1, 1, STREAM)
        for _ in range(count):
            writer.block(width)
    c, side = widths[-1], IMAGE_SIZE // 32
    writer.tensors["cut.threshold"] = np.zeros(c, np.int32)
    writer.tensors["cut.direction"] = np.zeros(c, np.uint8)
    writer.tensors["cut.alpha"] = np.full(c, round(STREAM), np.int16)
    network = {"image_size": IMAGE_SIZE, "prefix": writer.prefix, "cut": {"channels": c, "exponent": 8}, "tail": []}
    return {**network, "features": writer.features(c, side * side)}, writer.tensors
