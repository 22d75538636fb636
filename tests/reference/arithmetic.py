"""Integers and random numbers of docs/method.md (opening and section 9), in plain numpy and Python integers.

int64 arrays where the method bounds a value below 2^63, Python integers where it does not.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
Uint64 = NDArray[np.uint64]

MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def rs(value: Any, bits: int) -> Any:
    """Shift right by `bits` and round half up; ints and int64 arrays (method.md, opening)."""
    return value if bits == 0 else (value + (1 << (bits - 1))) >> bits


def divr(numerator: Any, denominator: Any) -> Any:
    """Divide by a positive number and round half up; ints and int64 arrays (method.md, opening)."""
    return (2 * numerator + denominator) // (2 * denominator)


def sat16(value: ArrayLike) -> Int64:
    """Clamp to the range of int16 (method.md, opening)."""
    return np.clip(np.asarray(value, np.int64), -(1 << 15), (1 << 15) - 1)


def sat32(value: ArrayLike) -> Int64:
    """Clamp to the range of int32 (method.md, opening)."""
    return np.clip(np.asarray(value, np.int64), -(1 << 31), (1 << 31) - 1)


def isqrt(value: int) -> int:
    """Floor of the square root (method.md, 6.4; OPEN: the method does not say floor)."""
    return math.isqrt(value)


def peak(value: NDArray[Any]) -> int:
    """Return the largest absolute value as a Python int, 0 for an empty array."""
    return max(abs(int(value.max())), abs(int(value.min()))) if value.size else 0


def exact_product(a: Int64, b: Int64) -> Int64:
    """Matrix product of integers, exact, by the float product of BLAS: no partial sum reaches 2^24 in float32, 2^53 in float64."""
    bound = peak(a) * peak(b) * a.shape[-1]
    assert bound < 1 << 53, "the sums of a matrix product leave float64"
    real = np.float32 if bound < 1 << 24 else np.float64
    result: Int64 = (a.astype(real) @ b.astype(real)).astype(np.int64)
    return result


def mix(x: int) -> int:
    """Finaliser of 64 bits (method.md, 9)."""
    x ^= x >> 30
    x = (x * 0xBF58476D1CE4E5B9) & MASK64
    x ^= x >> 27
    x = (x * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def draw(seed: int, purpose: int, step: int, index: int) -> int:
    """64 random bits that depend on the four arguments only (method.md, 9)."""
    return mix((_key(seed, purpose, step) + GOLDEN + index) & MASK64)


@functools.lru_cache
def _key(seed: int, purpose: int, step: int) -> int:
    """What the draws of a step have in common: many are made, index by index."""
    h = mix((seed + GOLDEN) & MASK64)
    for part in (purpose, step):
        h = mix((h + GOLDEN + part) & MASK64)
    return h


def below(n: int, r: int) -> int:
    """Map 64 random bits to 0..n-1 (method.md, 9)."""
    return (r * n) >> 64


def permutation(n: int, seed: int, purpose: int, step: int) -> list[int]:
    """Fisher-Yates permutation of 0..n-1 (method.md, 9)."""
    a = list(range(n))
    for i in range(n - 1, 0, -1):
        j = below(i + 1, draw(seed, purpose, step, i))
        a[i], a[j] = a[j], a[i]
    return a


def noise(key: int, index: ArrayLike) -> Int64:
    """32 random bits for each index, keyed by 64 bits of `draw` (method.md, 9)."""
    mask = np.uint64(0xFFFFFFFF)
    h = np.asarray(index).astype(np.uint64) & mask
    h = (h * np.uint64(0x9E3779B1) + np.uint64(key & 0xFFFFFFFF)) & mask ^ np.uint64(key >> 32)
    h ^= h >> np.uint64(16)
    h = h * np.uint64(0x85EBCA6B) & mask
    h ^= h >> np.uint64(13)
    h = h * np.uint64(0xC2B2AE35) & mask
    return (h ^ (h >> np.uint64(16))).astype(np.int64)


PURPOSE_ORDER, PURPOSE_HELD_BACK = 3, 4


def row_hash(seed: int, row: NDArray[np.uint64], purpose: int = PURPOSE_ORDER) -> int:
    """64 bits of a packed row, under a seed (method.md, 9)."""
    h = draw(seed, purpose, 0, len(row))
    for word in row:
        h = mix(((h ^ int(word)) + GOLDEN) & MASK64)
    return h
