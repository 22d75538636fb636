"""Blocks of a trained tail with random constants, of every family, and streams into them."""

from __future__ import annotations

import numpy as np
import reference.tail_block as rb
from numpy.typing import NDArray
from reference.network import Activation, BlockConstants

FAMILIES = ("quicknet", "reactnet", "bireal")
EXPONENT = 12  # tiny_model's streams have a spread of about 4000 units: about 1 in this unit
NOW = rb.Moment(seed=5, experience=2, step=3, steps=20)


def tiny_block(family: str, channels: int, rng: np.random.Generator, *, weight_bits: int = 8, number: int = 0) -> rb.TailBlock:
    def around(spread: float) -> NDArray[np.int64]:
        return np.rint(rng.normal(0, spread, channels)).astype(np.int64)

    relu = family == "quicknet"
    activation = None
    if not relu:
        high = np.full(channels, 8192) if family == "reactnet" else 8192 + around(1000)
        activation = Activation(around(300), around(300), high, 2000 + around(800))
    constants = BlockConstants(
        around(3), around(6000), around(1 << 13), 3, relu, None if relu else around(500), activation
    )  # fmt: skip
    gate = rb.Gate(EXPONENT, approx=True) if family == "reactnet" else rb.Gate(EXPONENT, clip=5120)
    shadow = rng.integers(-127, 128, (channels, 3, 3, channels)).astype(np.int8)
    return rb.TailBlock.from_constants(shadow, constants, gate, number, weight_bits, trains_high=family != "reactnet")


def stream(rng: np.random.Generator, n: int, height: int, width: int, channels: int) -> NDArray[np.int64]:
    return np.rint(rng.normal(0, 4000, (n, height, width, channels))).astype(np.int64)
