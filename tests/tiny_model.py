"""Small random networks that a model file may hold (docs/formats.md), with lively activations, for comparing implementations.

The values that a real export would take from batch norm are chosen from the statistics of random images, layer by layer, with the
reference. On top of that come values that an export seldom has: saturating channels, zero and negative multipliers, constant bits.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import reference as ref
from numpy.typing import NDArray

EXPONENT = 8  # of every tensor: nothing on the device reads it
STREAM_STD = 4000.0  # of the residual stream, in its units: far from 0, and the tails of some channels saturate
CALIBRATION_IMAGES = 48


def random_images(seed: int, n: int, image_size: int) -> NDArray[np.uint8]:
    """Random uint8 images (n, S, S, 3): a colour, a slope, noise of varying strength, and some pixels at 0 and 255."""
    rng = np.random.default_rng((seed, 0x1A6E5))
    colour = rng.uniform(0, 255, (n, 1, 1, 3))
    slope = np.linspace(-1, 1, image_size)
    down, across = rng.normal(0, 50, (2, n, 1, 1, 3))
    noise = rng.normal(0, 1, (n, image_size, image_size, 3)) * rng.uniform(5, 60, (n, 1, 1, 1))
    return np.clip(colour + down * slope[:, None, None] + across * slope[:, None] + noise, 0, 255).astype(np.uint8)


def _special(rng: np.random.Generator, channels: int, count: int) -> list[NDArray[np.int64]]:
    """Draw `count` disjoint sets of channels, about one channel in eight each; empty sets for very few channels."""
    order = rng.permutation(channels)
    size = 0 if channels < 4 else max(1, channels // 16)
    return [order[i * size : (i + 1) * size] for i in range(count)]


def _fixed_point(ratio: NDArray[np.float64], offset: NDArray[np.float64], limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Multiplier, bias and shift of `ratio * v + offset`: the largest multiplier lies in [2^13, 2^14), as method.md 3.3 has it."""
    shift = min(max(13 - math.floor(math.log2(np.abs(ratio).max())), 0), limit)
    multiplier = np.clip(np.rint(ratio * 2.0**shift), -16383, 16383).astype(np.int64)
    return multiplier, np.rint(offset * 2.0**shift).astype(np.int64), shift


def _gains(rng: np.random.Generator, channels: int, target: float, *, loud: float) -> NDArray[np.float64]:
    """Standard deviations that channels should get: around `target`, some negative, some zero, some so large that they saturate."""
    gain = target * rng.uniform(0.5, 1.5, channels) * rng.choice([-1.0, 1.0], channels, p=[0.25, 0.75])
    zero, large = _special(rng, channels, 2)
    gain[zero] = 0
    gain[large] *= loud
    return gain


def _statistics(values: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel; a channel that is (nearly) constant gets the deviation of an ordinary one."""
    flat = values.reshape(-1, values.shape[-1]).astype(np.float64)
    std = flat.std(axis=0)
    usual = np.median(std[std > 0]) if (std > 0).any() else 1.0
    return flat.mean(axis=0), np.where(std < usual / 50, usual, std)


def _add_conv(
    rng: np.random.Generator, x: NDArray[np.int64], prefix: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], *,
    out: int, kernel: int, stride: int, depthwise: bool, relu: bool,
) -> NDArray[np.int64]:  # fmt: skip
    """Append a `conv` to the prefix and return its output."""
    channels = x.shape[-1]
    fan_in = kernel * kernel * (1 if depthwise else channels)
    largest = min(127, 65535 // fan_in)  # the format asks for sum |w| * 32768 < 2^31
    shape = (out, kernel, kernel) if depthwise else (out, kernel, kernel, channels)
    weight = rng.integers(-largest, largest + 1, shape).astype(np.int8)
    acc = ref.conv_sums(x, weight, ref.Window.of({"kernel": kernel, "stride": stride}))
    mean, std = _statistics(acc)
    ratio = _gains(rng, out, STREAM_STD, loud=12) / std
    multiplier, bias, shift = _fixed_point(ratio, rng.normal(0, STREAM_STD / 3, out) - ratio * mean, 46)
    name = f"prefix.{len(prefix)}"
    tensors[f"{name}.weight"] = weight
    tensors[f"{name}.multiplier"] = multiplier.astype(np.int16)
    tensors[f"{name}.bias"] = bias
    prefix.append(
        {"op": "conv", "in": channels, "out": out, "kernel": kernel, "stride": stride, "depthwise": depthwise, "relu": relu,
         "shift": shift, "exponent": EXPONENT}
    )  # fmt: skip
    return ref.conv(x, weight, tensors[f"{name}.multiplier"], bias, stride=stride, relu=relu, shift=shift)


def _add_block(
    rng: np.random.Generator, x: NDArray[np.int64], operations: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], part: str
) -> NDArray[np.int64]:
    """Append a `block` to the prefix or the tail and return its output."""
    channels = x.shape[-1]
    shadow = rng.integers(-127, 128, (channels, 3, 3, channels)).astype(np.int8)  # 0 is among them: its bit is 0
    weight = ref.pack_bits(shadow < 0)
    r = np.maximum(ref.block_sums(x, weight), 0)
    mean, std = _statistics(r)
    mean = np.rint(mean)
    ratio = _gains(rng, channels, STREAM_STD / 2, loud=6) / std
    multiplier, bias, shift = _fixed_point(ratio, rng.normal(0, STREAM_STD / 4, channels), 30)
    name = f"{part}.{len(operations)}"
    tensors[f"{name}.weight"] = weight
    tensors[f"{name}.mean"] = mean.astype(np.int16)
    tensors[f"{name}.multiplier"] = multiplier.astype(np.int16)
    tensors[f"{name}.bias"] = np.clip(bias, -(1 << 29), 1 << 29).astype(np.int32)
    if part == "tail":
        tensors[f"{name}.shadow"] = shadow
    operations.append({"op": "block", "channels": channels, "shift": shift, "exponent": EXPONENT})
    mean16, multiplier16, bias32 = (tensors[f"{name}.{key}"] for key in ("mean", "multiplier", "bias"))
    return ref.block(x, weight, mean16, multiplier16, bias32, shift=shift)


def _add_down(
    rng: np.random.Generator, x: NDArray[np.int64], prefix: list[dict[str, Any]], tensors: dict[str, NDArray[Any]], out: int,
    flags: dict[str, bool],
) -> NDArray[np.int64]:  # fmt: skip
    """Append a `down` with these flags to the prefix and return its output."""
    channels = x.shape[-1]
    found: dict[str, NDArray[Any]] = {}
    threshold = np.zeros(channels, np.int64)
    if flags.get("threshold"):
        threshold = rng.normal(0, STREAM_STD / 4, channels).astype(np.int16)
        found["threshold"] = threshold
    if flags.get("activation"):
        for name, centre, spread in (("alpha", 0, STREAM_STD / 4), ("beta", 0, STREAM_STD / 4), ("high", 8192, 900), ("low", 2048, 900)):
            found[name] = rng.normal(centre, spread, out).astype(np.int16)
    weight = ref.pack_bits(rng.integers(0, 2, (out, 3, 3, channels)).astype(np.bool_))
    z = ref.binary_conv(ref.signs(x + threshold < 0), ref.signs(ref.unpack_bits(weight, channels)), ref.Window(3, 2, (1, 1, 1, 1)))
    mean, std = _statistics(np.maximum(z, 0) if flags.get("relu") else z)
    ratio = _gains(rng, out, STREAM_STD / 2, loud=6) / std
    multiplier, bias, shift = _fixed_point(ratio, rng.normal(0, STREAM_STD / 4, out), 30)
    found |= {"weight": weight, "mean": np.rint(mean).astype(np.int16), "multiplier": multiplier.astype(np.int16)}
    found["bias"] = np.clip(bias, -(1 << 29), 1 << 29).astype(np.int32)

    shortcut = rng.integers(0, 2, (out, channels)).astype(np.bool_)
    mean, std = _statistics(ref.average_pool(x) @ ref.signs(shortcut).T)
    ratio = _gains(rng, out, STREAM_STD, loud=12) / std
    multiplier, bias, shortcut_shift = _fixed_point(ratio, rng.normal(0, STREAM_STD / 3, out) - ratio * mean, 46)
    found["shortcut_weight"] = ref.pack_bits(shortcut)
    found |= {"shortcut_multiplier": multiplier.astype(np.int16), "shortcut_bias": bias}

    op = {"op": "down", "in": channels, "out": out, "shift": shift, "shortcut_shift": shortcut_shift, "exponent": EXPONENT, **flags}
    name = f"prefix.{len(prefix)}"
    tensors |= {f"{name}.{key}": value for key, value in found.items()}
    prefix.append(op)
    names = ("shortcut_weight", "shortcut_multiplier", "shortcut_bias")
    constants = ref.block_constants(op, tensors, name)
    return ref.down(x, weight, constants, *(found[key] for key in names), shortcut_shift=shortcut_shift)


def _add_cut(rng: np.random.Generator, x: NDArray[np.int64], tensors: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Choose the cut at the medians and return the stream with which the tail starts."""
    channels = x.shape[-1]
    flat = x.reshape(-1, channels)
    low = np.floor(np.median(flat, axis=0)).astype(np.int64)
    # Half of a channel may sit on one saturated value; of the thresholds below and above it take the one that splits more evenly.
    below = np.abs((flat < low).mean(axis=0) - 0.5)
    above = np.abs((flat < low + 1).mean(axis=0) - 0.5)
    threshold = np.where(below <= above, low, low + 1)
    direction = rng.integers(0, 2, channels)
    never, always, silent = _special(rng, channels, 3) if channels >= 16 else [np.array([], np.int64)] * 3
    threshold[never[:1]] = -32768
    threshold[always[:1]] = 32768
    alpha = np.rint(STREAM_STD * rng.uniform(0.3, 1.5, channels) * rng.choice([-1, 1], channels, p=[0.1, 0.9]))
    alpha[silent[:1]] = 0
    tensors["cut.threshold"] = threshold.astype(np.int32)
    tensors["cut.direction"] = direction.astype(np.uint8)
    tensors["cut.alpha"] = alpha.astype(np.int16)
    bits = ref.cut_bits(x, tensors["cut.threshold"], tensors["cut.direction"])
    tolerance = 0.15 if channels >= 16 else 0.4  # a special channel of few weighs much
    assert abs(bits.mean() - 0.5) < tolerance, "the bits of the cut are not balanced"
    return ref.tail_stream(bits, tensors["cut.alpha"])


def _add_features(rng: np.random.Generator, x: NDArray[np.int64], tensors: dict[str, NDArray[Any]], relu: bool) -> dict[str, Any]:
    """Choose the features and return their entry of the network."""
    channels = x.shape[-1]
    feature_bits = int(rng.integers(4, 7))  # both sides of 5, where the shift of the logits turns round
    f = np.abs((np.maximum(x, 0) if relu else x).sum(axis=(1, 2)))
    ratio = 32767 / max(float(np.quantile(f, 0.99)), 1.0)  # one value in a hundred saturates
    pool_shift = min(max(14 - math.floor(math.log2(ratio)), 0), 46)
    pool_multiplier = np.rint(rng.uniform(0.5, 1.0, channels) * ratio * 2.0**pool_shift).astype(np.int32)
    q = ref.pooled(x, pool_multiplier, pool_shift, relu=relu)

    largest = min(24, (65535 - 127) // channels)
    weight = rng.integers(-largest, largest + 1, (channels, channels))
    np.fill_diagonal(weight, rng.integers(60, 128, channels))
    acc = q @ weight.T
    mean, std = _statistics(acc)
    scale = _gains(rng, channels, 0.8 * 2**feature_bits, loud=3) / std
    offset = rng.normal(0, 0.2 * 2**feature_bits, channels) - scale * mean
    multiplier, bias, shift = _fixed_point(scale, offset, 46)
    tensors["features.pool_multiplier"] = pool_multiplier
    tensors["features.weight"] = weight.astype(np.int8)
    tensors["features.multiplier"] = multiplier.astype(np.int16)
    tensors["features.bias"] = bias
    entry = {"channels": channels, "pool_shift": pool_shift, "shift": shift, "feature_bits": feature_bits}
    return entry if relu else {**entry, "relu": False}


def make_model(
    seed: int,
    *,
    image_size: int = 8,
    widths: Sequence[int] = (8, 16),
    blocks: Sequence[int] = (1, 2),
    tail_blocks: int = 1,
    stem_strides: Sequence[int] = (1, 2),
    down: dict[str, bool] | None = None,
    features_relu: bool = True,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make a random legal QuickNet with a replay cut.

    Parameters
    ----------
    seed
        Of everything random.
    image_size
        S.
    widths, blocks
        Channels and prefix blocks of each stage.
    tail_blocks
        Blocks behind the cut, at the last width.
    stem_strides
        Strides of the 3x3 convolution and of the depth-wise one.
    down
        Flags (relu, threshold, activation) of a `down` in place of each transition.
    features_relu
        Of the features.

    Returns
    -------
    network, tensors
        The parsed `network` entry of a model file, and the tensors by name, read-only: the same model is made once.

    """
    network, tensors = _make(
        seed, image_size, tuple(widths), tuple(blocks), tail_blocks, tuple(stem_strides), None if down is None else tuple(down.items()), features_relu
    )  # fmt: skip
    return copy.deepcopy(network), dict(tensors)


@functools.cache
def _make(
    seed: int,
    image_size: int,
    widths: tuple[int, ...],
    blocks: tuple[int, ...],
    tail_blocks: int,
    stem_strides: tuple[int, ...],
    flags: tuple[tuple[str, bool], ...] | None,
    features_relu: bool,
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    down = None if flags is None else dict(flags)
    if len(widths) != len(blocks):
        raise ValueError("a number of blocks for each width")
    rng = np.random.default_rng((seed, 0x7A11))
    tensors: dict[str, NDArray[Any]] = {}
    prefix: list[dict[str, Any]] = []
    tail: list[dict[str, Any]] = []
    x = ref.input_values(random_images(seed + 1_000_003, CALIBRATION_IMAGES, image_size))
    stem = max(widths[0] // 4, 2)
    x = _add_conv(rng, x, prefix, tensors, out=stem, kernel=3, stride=stem_strides[0], depthwise=False, relu=True)
    x = _add_conv(rng, x, prefix, tensors, out=stem, kernel=3, stride=stem_strides[1], depthwise=True, relu=False)
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        if stage and down is None:
            x = ref.pool(x)
            prefix.append({"op": "pool", "channels": x.shape[-1], "exponent": EXPONENT})
        if stage and down is not None:
            x = _add_down(rng, x, prefix, tensors, width, down)
        else:
            x = _add_conv(rng, x, prefix, tensors, out=width, kernel=1, stride=1, depthwise=False, relu=False)
        for _ in range(count):
            x = _add_block(rng, x, prefix, tensors, "prefix")
    x = _add_cut(rng, x, tensors)
    for _ in range(tail_blocks):
        x = _add_block(rng, x, tail, tensors, "tail")
    features = _add_features(rng, x, tensors, features_relu)
    cut = {"channels": int(widths[-1]), "exponent": EXPONENT}
    for tensor in tensors.values():
        tensor.flags.writeable = False
    return {"image_size": image_size, "prefix": prefix, "cut": cut, "tail": tail, "features": features}, tensors
