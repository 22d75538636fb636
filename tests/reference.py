"""The executable docs/method.md: what the engine must compute, bit for bit, in plain numpy and Python integers.

Written from docs/method.md alone. Slow and simple on purpose: int64 arrays where the method bounds a value below 2^63, Python integers
where it does not. Section numbers are those of docs/method.md. Points that the method leaves open are marked "OPEN".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Int64 = NDArray[np.int64]
Uint64 = NDArray[np.uint64]

WORD = 64
MASK64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
EXP2_COEFFICIENTS = (1073739778, -744157487, 257095898, -57151877, 7346532)

PURPOSE_LIVE, PURPOSE_REPLAY, PURPOSE_DROP, PURPOSE_OFFER, PURPOSE_DEVIATION, PURPOSE_ABSENT = 1, 2, 3, 4, 5, 6


# ---------------------------------------------------------------------------------------------------------------- arithmetic (opening)


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
    """Floor of the square root (method.md, 4.4; OPEN: the method does not say floor)."""
    return math.isqrt(value)


def _peak(value: NDArray[Any]) -> int:
    """Return the largest absolute value as a Python int, 0 for an empty array."""
    return max(abs(int(value.max())), abs(int(value.min()))) if value.size else 0


# -------------------------------------------------------------------------------------------------------- random numbers (section 6)


def mix(x: int) -> int:
    """Finaliser of 64 bits (method.md, 6)."""
    x ^= x >> 30
    x = (x * 0xBF58476D1CE4E5B9) & MASK64
    x ^= x >> 27
    x = (x * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def draw(seed: int, purpose: int, step: int, index: int) -> int:
    """64 random bits that depend on the four arguments only (method.md, 6)."""
    h = mix((seed + GOLDEN) & MASK64)
    for part in (purpose, step, index):
        h = mix((h + GOLDEN + part) & MASK64)
    return h


def below(n: int, r: int) -> int:
    """Map 64 random bits to 0..n-1 (method.md, 6)."""
    return (r * n) >> 64


def permutation(n: int, seed: int, purpose: int, step: int) -> list[int]:
    """Fisher-Yates permutation of 0..n-1 (method.md, 6)."""
    a = list(range(n))
    for i in range(n - 1, 0, -1):
        j = below(i + 1, draw(seed, purpose, step, i))
        a[i], a[j] = a[j], a[i]
    return a


# -------------------------------------------------------------------------------------------------- the network in integers (section 3)


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
    assert _peak(acc) < 1 << 31, "the sum of a convolution leaves int32"
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


def block_sums(x: Int64, weight: Uint64) -> Int64:
    """z of a `block`: binary 3x3 convolution of the signs of x, padded with +1 (method.md, 3.3).

    Parameters
    ----------
    x
        Stream (N, H, W, C).
    weight
        Packed signs (C, 3, 3, words).

    """
    _, height, width, channels = x.shape
    s = np.pad(signs(x < 0), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    w = signs(unpack_bits(weight, channels))
    z = np.zeros(x.shape, np.int64)
    for a in range(3):
        for b in range(3):
            z += s[:, a : a + height, b : b + width] @ w[:, a, b].T
    return z


def block(
    x: Int64, weight: Uint64, mean: NDArray[np.int16], multiplier: NDArray[np.int16], bias: NDArray[np.int32], *, shift: int
) -> Int64:
    """Compute a `block` operation; the sum saturates once, at the end (method.md, 3.3)."""
    r = np.maximum(block_sums(x, weight), 0)
    return sat16(x + rs((r - mean.astype(np.int64)) * multiplier.astype(np.int64) + bias.astype(np.int64), shift))


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


def pooled(x: Int64, pool_multiplier: NDArray[np.int32], pool_shift: int) -> Int64:
    """q (N, C): mean of the positive part over the map (method.md, 3.6)."""
    f = np.maximum(x, 0).sum(axis=(1, 2))
    return sat16(rs(f * pool_multiplier.astype(np.int64), pool_shift))


def whitened(q: Int64, weight: NDArray[np.int8], multiplier: NDArray[np.int16], bias: Int64, shift: int) -> NDArray[np.int8]:
    """Features (N, D_f) of pooled q (method.md, 3.6)."""
    acc = q @ weight.astype(np.int64).T
    assert _peak(acc) < 1 << 31, "the sum of the whitening leaves int32"
    return np.clip(rs(acc * multiplier.astype(np.int64) + bias, shift), -127, 127).astype(np.int8)


def run_operations(x: Int64, operations: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], part: str) -> Int64:
    """Run the operations of `part`, "prefix" or "tail", one after another (method.md, 3)."""
    for i, op in enumerate(operations):
        if op["op"] == "conv":
            weight, multiplier, bias = (tensors[f"{part}.{i}.{name}"] for name in ("weight", "multiplier", "bias"))
            x = conv(x, weight, multiplier, bias, stride=op["stride"], relu=op["relu"], shift=op["shift"])
        elif op["op"] == "block":
            weight, mean, multiplier, bias = (tensors[f"{part}.{i}.{name}"] for name in ("weight", "mean", "multiplier", "bias"))
            x = block(x, weight, mean, multiplier, bias, shift=op["shift"])
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
            elif op["op"] == "pool":
                size //= 2
        self.map_size = size
        self.row_words = size * size * self.words

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
        q = pooled(self.tail(latents), self.tensors["features.pool_multiplier"], spec["pool_shift"])
        weight, multiplier, bias = (self.tensors[f"features.{name}"] for name in ("weight", "multiplier", "bias"))
        return whitened(q, weight, multiplier, bias, spec["shift"])


# ------------------------------------------------------------------------------------------------------------------ the head (section 4)


def exp2neg(t: ArrayLike) -> Int64:
    """2^-t for t >= 0 with 16 fraction bits; 30 fraction bits (method.md, 4.1)."""
    t = np.asarray(t, np.int64)
    assert (t >= 0).all()
    k, f = t >> 16, t & 65535
    r = np.full_like(t, EXP2_COEFFICIENTS[4])
    for c in EXP2_COEFFICIENTS[3::-1]:
        r = c + ((r * f) >> 16)
    return np.where(k > 30, 0, r >> np.minimum(k, 30))


def log2q(v: int) -> int:
    """Binary logarithm of v > 0, 16 fraction bits (method.md, 4.2). v is a Python int of any size."""
    k = v.bit_length() - 1
    x = v << (31 - k) if k <= 31 else v >> (k - 31)
    result = k << 16
    for bit in range(15, -1, -1):
        x = (x * x) >> 31
        if x >= 1 << 32:
            result |= 1 << bit
            x >>= 1
    return result


def logits(features: NDArray[np.int8], weight: ArrayLike, feature_bits: int) -> Int64:
    """Logits (N, K) with 16 fraction bits of a head with 27 (method.md, 4.1)."""
    a = features.astype(np.int64) @ (np.asarray(weight, np.int64) >> 16).T
    return rs(a, feature_bits - 5) if feature_bits >= 5 else a << (5 - feature_bits)


def softmax(logit: Int64, ghosts: int) -> Int64:
    """Probabilities (N, K) with 15 fraction bits over the classes given and `ghosts` ghosts (method.md, 4.1)."""
    top = logit.max(axis=1, keepdims=True)
    if ghosts:
        top = np.maximum(top, 0)
    e = exp2neg(((top - logit) * 94548) >> 16)
    total = e.sum(axis=1, keepdims=True)
    if ghosts:  # without ghosts top may be negative, and exp2neg is not defined there
        total = total + ghosts * exp2neg((top * 94548) >> 16)
    return divr(e << 15, total)


def prior_logits(live: Sequence[int], stored: Sequence[int], live_batch: int, replay_batch: int) -> Int64:
    """Prior of each class of an experience, 16 fraction bits (method.md, 4.2).

    Parameters
    ----------
    live, stored
        n_c and m_c of classes(experience).
    live_batch, replay_batch
        b_l and b_r, after they were limited to N and R.

    """
    n, r, t = sum(live), sum(stored), len(live)
    denominator = (live_batch + replay_batch) * n * r
    result = []
    for n_c, m_c in zip(live, stored, strict=True):
        numerator = live_batch * n_c * r + replay_batch * m_c * n
        result.append(((log2q(t) + log2q(numerator) - log2q(denominator)) * 45426) >> 16)
    return np.array(result, np.int64)


def training_step(
    weight: Int64,
    features: NDArray[np.int64],
    targets: NDArray[np.int64],
    prior: Int64,
    ghosts: int,
    rate: int,
    feature_bits: int,
    anchor: Int64,
    pull: NDArray[np.int64],
) -> Int64:
    """Take one minibatch step of the training weights (method.md, 4.3).

    Parameters
    ----------
    weight
        tw (T, D_f) of classes(experience).
    features
        h (B, D_f).
    targets
        (B,) positions in classes(experience).
    prior
        (T,) what is added to the logits.
    ghosts, rate, feature_bits
        G, the rate of this step, E_f.
    anchor, pull
        cw (T, D_f), and how strongly each class is drawn to it (T,), 24 fraction bits; 0 for new classes.

    """
    gradient = softmax(logits(features, weight, feature_bits) + prior, ghosts)
    gradient[np.arange(len(targets)), targets] -= 1 << 15
    gradient = np.minimum(gradient, 32767)
    delta = gradient.T @ features.astype(np.int64)
    if _peak(delta) * rate >= 1 << 62:
        raise OverflowError("dW * rate leaves int64; the method sets no limit to the learning rate")
    return sat32(weight - rs(delta * rate, 16) - rs((weight - anchor) * pull[:, None], 24))


def learning_rate(base: int, feature_bits: int, step: int, steps: int, batch: int) -> int:
    """Rate of minibatch `step` with `batch` rows (method.md, 4.3)."""
    return (base * (1 << (12 - feature_bits)) * (steps - step)) // (steps * batch)


def consolidate(cw: ArrayLike, tw: ArrayLike, past: Sequence[int], cur: Sequence[int]) -> tuple[Int64, list[int]]:
    """Merge the training weights into the consolidated ones (method.md, 4.4).

    Parameters
    ----------
    cw, tw
        (T, D_f) integers with 27 fraction bits, classes(experience) only.
    past, cur
        (T,) rows in earlier experiences and in this one.

    Returns
    -------
    cw, past
        The new ones.

    """
    cw, tw = np.asarray(cw, np.int64), np.asarray(tw, np.int64)
    mu = divr(int(tw.sum()), tw.size)
    result = np.empty_like(cw)
    counts = []
    for i, (before, now) in enumerate(zip(map(int, past), map(int, cur), strict=True)):
        g = math.gcd(before, now)
        p, q = isqrt((before // g) << 24), isqrt((now // g) << 24)
        result[i] = sat32(divr(p * cw[i] + q * (tw[i] - mu), p + q))
        counts.append(min(before + now, (1 << 32) - 1))
    return result, counts


# ------------------------------------------------------------------------------------------------------- the replay memory (section 5)


def memory_targets(seen: Sequence[int], capacity: int) -> list[int]:
    """Rows that each class may hold, by `seen` and the capacity alone (method.md, 5)."""
    if sum(seen) <= capacity:
        return list(seen)  # every L fits: the method's "largest L" is infinity
    level = 0
    while sum(min(s, level + 1) for s in seen) <= capacity:
        level += 1
    remainder = capacity - sum(min(s, level) for s in seen)
    targets = []
    for s in seen:
        extra = s > level and remainder > 0
        remainder -= extra
        targets.append(min(s, level) + extra)
    return targets


def update_memory(
    rows: Uint64, labels: NDArray[np.uint16], seen: Sequence[int], live_rows: Uint64, live_labels: Sequence[int], *,
    capacity: int, seed: int, experience: int,
) -> tuple[Uint64, NDArray[np.uint16], list[int]]:  # fmt: skip
    """Offer the live rows of one experience to the memory (method.md, 5).

    Parameters
    ----------
    rows, labels
        The memory in slot order.
    seen
        Rows offered so far by class, this experience excluded; classes not yet in it count 0.
    live_rows, live_labels
        Rows of this experience in order.
    capacity, seed, experience
        M, the learner's seed, the number of lessons before this one.

    Returns
    -------
    rows, labels, seen
        The new ones.

    """
    live_labels = [int(c) for c in live_labels]
    classes = max([len(seen), *(c + 1 for c in live_labels)])
    before = list(seen) + [0] * (classes - len(seen))
    after = [before[c] + live_labels.count(c) for c in range(classes)]
    targets = memory_targets(after, capacity)

    # An entry is ("old", slot) or ("new", live row). A list of entries per class, as the method has it.
    lists: list[list[tuple[str, int]]] = []
    for c in range(classes):
        entries = [("old", int(slot)) for slot in np.flatnonzero(labels == c)]
        stored, offered = len(entries), before[c]
        t = min(targets[c], stored) if stored < offered else targets[c]
        while len(entries) > t:
            j = below(len(entries), draw(seed, PURPOSE_DROP, experience << 32 | c, len(entries)))
            entries[j] = entries[-1]
            entries.pop()
        i = offered
        for row, label in enumerate(live_labels):
            if label != c:
                continue
            if len(entries) < t:
                entries.append(("new", row))
            elif t > 0:
                j = below(i + 1, draw(seed, PURPOSE_OFFER, experience << 32 | c, i))
                if j < t:
                    entries[j] = ("new", row)
            i += 1
        lists.append(entries)

    # OPEN: "a replaced entry's new row goes into the slot of the entry that was dropped or replaced" is read as the summary of the
    # complete rule that follows it: survivors stay, all new rows together take the free slots in ascending order.
    memory: dict[int, tuple[Uint64, int]] = {}
    arrivals: list[tuple[Uint64, int]] = []
    for c, entries in enumerate(lists):
        for kind, index in entries:
            if kind == "old":
                memory[index] = (rows[index], c)
            else:
                arrivals.append((live_rows[index], c))
    slot = 0
    for arrival in arrivals:
        while slot in memory:
            slot += 1
        memory[slot] = arrival
    while memory and max(memory) >= len(memory):  # a hole is left: the highest slot moves into the lowest hole
        hole = next(s for s in range(len(memory)) if s not in memory)
        memory[hole] = memory.pop(max(memory))
    assert len(memory) <= capacity
    new_rows = np.zeros((len(memory), live_rows.shape[1]), np.uint64)
    new_labels = np.zeros(len(memory), np.uint16)
    for s, (row, c) in memory.items():
        new_rows[s], new_labels[s] = row, c
    return new_rows, new_labels, after


# --------------------------------------------------------------------------------------------------------- the learner (sections 4, 5)


class ReferenceLearner:
    """Head and replay memory on top of a network (method.md, 4 and 5).

    Parameters
    ----------
    network
        The frozen network.
    capacity
        M, rows of the replay memory.
    seed
        Seed of every draw.
    settings
        learning_rate (16 fraction bits), epochs, min_steps, live_batch, replay_batch, ghosts, prior (bool),
        pull (8 fraction bits), class_means (bool).

    Attributes
    ----------
    weight
        Consolidated weights, int32 (K, D_f).
    past_count, seen
        Lists of K ints.
    rows, labels
        The memory in slot order, uint64 (R, words) and uint16 (R,).
    experience
        Lessons so far.

    """

    def __init__(self, network: ReferenceNetwork, capacity: int, seed: int, settings: dict[str, Any]) -> None:
        self.network = network
        self.capacity = capacity
        self.seed = seed
        self.settings = dict(settings)
        self.weight: NDArray[np.int32] = np.zeros((0, network.feature_count), np.int32)
        self.past_count: list[int] = []
        self.seen: list[int] = []
        self.sums: Int64 = np.zeros((0, network.feature_count), np.int64)
        self.rows: Uint64 = np.zeros((0, network.row_words), np.uint64)
        self.labels: NDArray[np.uint16] = np.zeros(0, np.uint16)
        self.experience = 0

    def learn(self, images: NDArray[np.uint8], labels: ArrayLike) -> None:
        """Learn one lesson of uint8 images (N, S, S, 3) and class indices (N,) (method.md, 4.3, 4.4, 5)."""
        self.learn_latents(self.network.latents(images), labels)

    def learn_latents(self, latents: Uint64, labels: ArrayLike) -> None:
        """Learn one lesson of latent rows; `learn` without the prefix."""
        live_labels = [int(c) for c in np.asarray(labels)]
        if not live_labels or len(live_labels) != len(latents):
            raise ValueError("a lesson needs rows, and a label for each")
        known = len(self.past_count)
        fresh = [c for c in dict.fromkeys(live_labels) if c not in range(known)]
        if fresh != list(range(known, known + len(fresh))):
            raise ValueError("new classes are numbered in order of first appearance")
        classes_known = known + len(fresh)
        self.weight = np.concatenate([self.weight, np.zeros((len(fresh), self.network.feature_count), np.int32)])
        self.past_count = self.past_count + [0] * len(fresh)

        self.sums = np.concatenate([self.sums, np.zeros((len(fresh), self.network.feature_count), np.int64)])
        live_features = self.network.features(latents).astype(np.int64)
        for c, row in zip(live_labels, live_features, strict=True):
            self.sums[c] += row

        stored_labels = [int(c) for c in self.labels]
        live_count = [live_labels.count(c) for c in range(classes_known)]
        stored_count = [stored_labels.count(c) for c in range(classes_known)]
        classes = [c for c in range(classes_known) if live_count[c] + stored_count[c]]

        tw = self._train(live_features, live_labels, stored_labels, live_count, stored_count)
        current = [live_count[c] + stored_count[c] for c in classes]
        merged, counts = consolidate(self.weight[classes], tw[classes], [self.past_count[c] for c in classes], current)
        self.weight[classes] = merged
        for c, count in zip(classes, counts, strict=True):
            self.past_count[c] = count

        self.rows, self.labels, self.seen = update_memory(
            self.rows, self.labels, self.seen, latents, live_labels, capacity=self.capacity, seed=self.seed, experience=self.experience
        )
        self.experience += 1

    def _train(
        self, live_features: Int64, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]
    ) -> Int64:
        """Training weights (K, D_f) after all minibatches; only rows of active classes differ from cw (method.md, 4.2 and 4.3)."""
        settings, n, r, known = self.settings, len(live_labels), len(stored_labels), len(live_count)
        feature_bits = self.network.feature_bits
        stored_features = self.network.features(self.rows).astype(np.int64) if r else np.zeros((0, live_features.shape[1]), np.int64)
        labels = np.array(live_labels + stored_labels)
        seen = [(self.seen[c] if c < len(self.seen) else 0) + live_count[c] for c in range(known)]
        means = np.zeros_like(self.sums)
        absent: list[int] = []
        if settings["class_means"]:
            means = np.stack([np.array([divr(int(v), seen[c]) for v in self.sums[c]], np.int64) for c in range(known)])
            absent = [c for c in range(known) if not live_count[c]] if r == 0 else []
            for c in range(known):
                here = np.flatnonzero(np.array(stored_labels) == c)
                if len(here):
                    now = np.array([divr(int(v), len(here)) for v in stored_features[here].sum(axis=0)], np.int64)
                    stored_features[here] = np.clip(stored_features[here] + means[c] - now, -127, 127)
        features = np.concatenate([live_features, stored_features])

        live_batch = min(settings["live_batch"], n)
        other_batch = min(settings["replay_batch"], r) if r else settings["replay_batch"] if absent else 0
        other_count = stored_count if r else [int(c in absent) for c in range(known)]
        active = [c for c in range(known) if live_count[c] + other_count[c]]
        prior = np.zeros(len(active), np.int64)
        if other_batch and settings["prior"]:
            prior = prior_logits([live_count[c] for c in active], [other_count[c] for c in active], live_batch, other_batch)
        ghosts = 0 if settings["class_means"] and other_batch else settings["ghosts"]
        position = {c: i for i, c in enumerate(active)}
        batches = -(-n // live_batch)
        steps = max(settings["epochs"] * batches, settings["min_steps"])

        anchor = self.weight[active].astype(np.int64)
        tw = anchor.copy()
        live_order: list[int] = []
        replay_order: list[int] = []
        replay_permutations = 0
        for step in range(steps):
            if step % batches == 0:
                live_order = permutation(n, self.seed, PURPOSE_LIVE, (self.experience << 32) + step // batches)
            begin = step % batches * live_batch
            batch = live_order[begin : begin + live_batch]
            rows, targets = [features[i] for i in batch], [position[live_labels[i]] for i in batch]
            while r and len(replay_order) < other_batch:
                replay_order += permutation(r, self.seed, PURPOSE_REPLAY, (self.experience << 32) + replay_permutations)
                replay_permutations += 1
            for b in range(other_batch):
                index = step * other_batch + b
                e = below(n + r, draw(self.seed, PURPOSE_DEVIATION, self.experience, index))
                deviation = features[e] - means[labels[e]]
                if r:
                    c, own = stored_labels[replay_order[b]], stored_features[replay_order[b]]
                    mixed = np.clip(means[c] + ((205 * (own - means[c]) + 154 * deviation + 128) >> 8), -127, 127)
                    row = mixed if settings["class_means"] else own
                else:
                    c = absent[below(len(absent), draw(self.seed, PURPOSE_ABSENT, self.experience, index))]
                    row = np.clip(means[c] + deviation, -127, 127)
                rows.append(row)
                targets.append(position[c])
            replay_order = replay_order[other_batch:]
            rate = learning_rate(settings["learning_rate"], feature_bits, step, steps, len(rows))
            pull = settings["learning_rate"] * (steps - step) // steps * settings["pull"]
            pulls = np.array([pull if self.past_count[c] else 0 for c in active], np.int64)
            tw = training_step(tw, np.stack(rows), np.array(targets), prior, ghosts, rate, feature_bits, anchor, pulls)
        result = self.weight.astype(np.int64)
        result[active] = tw
        return result

    def predict(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], Int64]:
        """Class indices (N,) and probabilities (N, K) with 15 fraction bits (method.md, 4.1)."""
        if not self.past_count:
            raise ValueError("no class is known yet")
        logit = logits(self.network.features(self.network.latents(images)), self.weight, self.network.feature_bits)
        return logit.argmax(axis=1), softmax(logit, 0)
