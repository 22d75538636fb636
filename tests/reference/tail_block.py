"""A trained block in integers (docs/method.md, 7.1 to 7.5): what is kept of it, forward, backward, and a step.

Owns no minibatch: what comes from the head, and all blocks together, are `tail`. Tensors are int64 arrays that hold the method's integers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Int64, draw, exact_product, noise, peak, rs, sat32
from .network import (
    Activation,
    BlockConstants,
    BlockValues,
    block_values,
    signs,
)

PURPOSE_WEIGHT, PURPOSE_GRADIENT = 7, 8
TENSOR_HEAD, TENSOR_DH, TENSOR_E, TENSOR_DQ, TENSOR_F = range(5)
TENSOR_GU, TENSOR_GZ, TENSOR_GX = 1, 2, 4  # of a block, below 8 * (block + 1)
STOCHASTIC_BITS = 4  # at and below it, gradients are rounded stochastically

# Master -> forward copy: bits below the copy (method.md, 7.1).
HIDDEN_BITS = {"multiplier": 16, "bias": 0, "threshold": 8, "alpha": 8, "beta": 8, "high": 16, "low": 16}
MASTER_LIMIT = {"bias": 1 << 29, "threshold": (1 << 23) - 1, "alpha": (1 << 23) - 1, "beta": (1 << 23) - 1}


@dataclass(frozen=True)
class TailSettings:
    """Settings of 7.1 to 7.5: b_w, q_f, q_b, e, e_p, and the papers' ablation."""

    weight_bits: int = 8
    forward_bits: int = 16
    gradient_bits: int = 16
    weight_step: int = 5
    parameter_step: int = 0


@dataclass(frozen=True)
class Moment:
    """Where in the life of a learner a minibatch stands: what the keys of its noise and its decay are made of."""

    seed: int = 0
    experience: int = 0
    step: int = 0
    steps: int = 1

    def key(self, purpose: int, index: int) -> int:
        """Key of `noise` (method.md, 9)."""
        return draw(self.seed, purpose, (self.experience << 32) + self.step, index)

    @property
    def decay(self) -> int:
        """By how many bits the steps have shrunk (method.md, 7.5)."""
        t, steps = self.step, self.steps
        return 0 if 2 * t < steps else 1 if 4 * t < 3 * steps else 2 if 8 * t < 7 * steps else 3


# ------------------------------------------------------------------------------------------------------------------ rounding (7.2, 7.3)


def bits_of(m: int) -> int:
    """Bits of m >= 0; 0 has none."""
    return m.bit_length()


def forward_round(x: Int64, forward_bits: int, width: int) -> Int64:
    """Round a tensor of `width` bits to q_f bits, in its own unit; as it is where q_f >= width (method.md, 7.2)."""
    if forward_bits >= width:
        return x
    drop, limit = width - forward_bits, (1 << (forward_bits - 1)) - 1
    return np.clip(rs(x, drop), -limit, limit) << drop


def requant(t: Int64, gradient_bits: int, key: int) -> tuple[Int64, int]:
    """Mantissas of `gradient_bits` bits of a gradient tensor, and how far it was shifted (method.md, 7.3).

    Parameters
    ----------
    t
        Sums, of any shape; the index of a value is its place in the flat tensor.
    gradient_bits
        q_b, 2..16.
    key
        Of the noise; used for q_b <= 4 only.

    """
    limit = (1 << (gradient_bits - 1)) - 1
    s = max(0, bits_of(peak(t)) - (gradient_bits - 1))
    if gradient_bits > STOCHASTIC_BITS:
        return np.clip(rs(t, s), -limit, limit), s
    first, last = max(s - 32, 0), min(s, 32)
    r = noise(key, np.arange(t.size)).reshape(t.shape) >> (32 - last)
    return np.clip(((t >> first) + r) >> last, -limit, limit), s


# ----------------------------------------------------------------------------------------------------------------- what is kept (7.1)


@dataclass(frozen=True)
class Gate:
    """Straight-through rule of the sign (method.md, 7.4): ApproxSign, or |x + t| <= clip in stream units; one = 2^exponent."""

    exponent: int
    clip: int = 0
    approx: bool = False


@dataclass(frozen=True)
class TailBlock:
    """A block that is trained: what does not change, and its masters (method.md, 7.1). A step makes a new one.

    Attributes
    ----------
    shadow
        (C, 3, 3, C); for weight_bits 1 the weights themselves, +1 or -1.
    masters
        multiplier, bias, and threshold, alpha, beta, high, low where the family has them; (C,) each.
    mean, shift, relu
        As in 3.3, frozen.
    gate
        Straight-through rule of its sign.
    number
        Of the block in the tail, from 0.
    trains_high
        False for ReActNet, whose upper slope is 1.

    """

    shadow: Int64
    masters: dict[str, Int64]
    mean: Int64
    shift: int
    relu: bool
    gate: Gate
    number: int
    trains_high: bool = True

    @classmethod
    def from_constants(
        cls, shadow: NDArray[np.int8], constants: BlockConstants, gate: Gate, number: int, weight_bits: int, *, trains_high: bool = True
    ) -> TailBlock:
        """Begin with the constants of a model and its int8 shadow weights (OPEN: 16 bits start as 256 times the 8)."""
        copies = {"multiplier": constants.multiplier, "bias": constants.bias}
        if constants.threshold is not None:
            copies["threshold"] = constants.threshold
        if constants.activation is not None:
            copies |= vars(constants.activation)
        masters = {name: clamp_master(name, copy.astype(np.int64) << HIDDEN_BITS[name]) for name, copy in copies.items()}
        wide = shadow.astype(np.int64)
        start = signs(wide < 0) if weight_bits == 1 else wide << (weight_bits - 8)
        return cls(start, masters, constants.mean.astype(np.int64), constants.shift, constants.relu, gate, number, trains_high)

    @property
    def weight(self) -> Int64:
        """Weights of the forward pass, +1 or -1 (C, 3, 3, C)."""
        return signs(self.shadow < 0)

    @property
    def constants(self) -> BlockConstants:
        """Forward copies of the masters."""
        copy = {name: master >> HIDDEN_BITS[name] for name, master in self.masters.items()}
        activation = Activation(**{name: copy[name] for name in ("alpha", "beta", "high", "low")}) if "alpha" in copy else None
        return BlockConstants(self.mean, copy["multiplier"], copy["bias"], self.shift, self.relu, copy.get("threshold"), activation)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the parameters that step."""
        return tuple(name for name in self.masters if name != "high" or self.trains_high)


def clamp_master(name: str, value: Int64) -> Int64:
    """Clamp a master to what 7.1 allows."""
    limit = MASTER_LIMIT.get(name)
    return sat32(value) if limit is None else np.clip(value, -limit, limit)


def master_range(name: str, exponent: int, shift: int) -> int:
    """Range of a parameter, log2 of master units (method.md, 7.1)."""
    if name == "bias":
        return min(exponent + shift, 29)
    return {"multiplier": 30, "high": 29, "low": 29}.get(name, min(exponent + 8, 23))


# -------------------------------------------------------------------------------------------------------- a block, there and back (7.4)


@dataclass(frozen=True)
class BlockGradients:
    """Gradients of a block's parameters, by the names of its masters, and of what it read.

    Every tensor has a unit of its own. `weight` is dW (C, 3, 3, C) in units of g_z; x is None where nobody below needs it.
    """

    weight: Int64
    parameters: dict[str, Int64]
    x: Int64 | None


def forward(block: TailBlock, x: Int64, forward_bits: int) -> tuple[Int64, BlockValues]:
    """Stream behind the block, rounded to q_f bits, and what the way back needs (method.md, 3.3 and 7.2)."""
    saved = block_values(x, block.weight, block.constants)
    return forward_round(saved.y, forward_bits, 16), saved


def weight_gradient(gz: Int64, s: Int64) -> Int64:
    """dW (C_out, 3, 3, C_in) from g_z and the signs s, +1 outside the map (method.md, 7.4, 3)."""
    n, height, width, channels = gz.shape
    padded = np.pad(s, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    taps = np.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=3)
    rows = gz.reshape(-1, channels).T
    return exact_product(rows, taps.reshape(n * height * width, -1)).reshape(channels, 3, 3, s.shape[3])


def input_gradient(gz: Int64, weight: Int64) -> Int64:
    """Return da (N, H, W, C_in) from g_z, 0 outside the map (method.md, 7.4, 4)."""
    height, width = gz.shape[1:3]
    padded = np.pad(gz, ((0, 0), (1, 1), (1, 1), (0, 0)))
    da = np.zeros((*gz.shape[:3], weight.shape[3]), np.int64)
    for i in range(3):  # the tap (i, j) read pixel + (i - 1, j - 1), so its gradient comes from pixel - (i - 1, j - 1)
        for j in range(3):
            da += exact_product(padded[:, 2 - i : 2 - i + height, 2 - j : 2 - j + width], weight[:, i, j])
    return da


def gate_gradient(da: Int64, a: Int64, gate: Gate) -> Int64:
    """Gradient d with respect to a = x + t from that of its sign (method.md, 7.4, 4)."""
    if not gate.approx:
        return np.where(np.abs(a) <= gate.clip, da, 0)
    product = da * np.maximum((1 << gate.exponent) - np.abs(a), 0)
    return rs(product, gate.exponent - 1) if gate.exponent > 0 else product << 1


def backward(
    block: TailBlock, saved: BlockValues, g: Int64, gradient_bits: int, moment: Moment, *, lowest: bool, trains_parameters: bool = True
) -> BlockGradients:
    """Gradients of a block from g (N, H, W, C) with respect to its output (method.md, 7.4).

    Parameters
    ----------
    block, saved
        As they were in `forward`.
    g
        Mantissas of at most q_b bits.
    gradient_bits, moment
        q_b, and the minibatch for the keys.
    lowest
        True where no lower block is trained.
    trains_parameters
        False where parameter_step is 0: no threshold is trained.

    """
    c, first = block.constants, 8 * (block.number + 1)
    everywhere = (0, 1, 2)
    parameters: dict[str, Int64] = {}
    gu = g
    if c.activation is not None:
        assert saved.w is not None
        assert saved.p is not None
        above = saved.w >= 0
        parameters["high"] = np.where(above, g * saved.w, 0).sum(axis=everywhere)
        parameters["low"] = np.where(above, 0, g * saved.w).sum(axis=everywhere)
        parameters["beta"] = -g.sum(axis=everywhere)
        parameters["alpha"] = -(g * saved.p).sum(axis=everywhere)
        gu, _ = requant(g * saved.p, gradient_bits, moment.key(PURPOSE_GRADIENT, first + TENSOR_GU))
    parameters["multiplier"] = (gu * (saved.r - c.mean)).sum(axis=everywhere)
    parameters["bias"] = gu.sum(axis=everywhere)
    gz, shift = requant(gu * c.multiplier, gradient_bits, moment.key(PURPOSE_GRADIENT, first + TENSOR_GZ))
    if c.relu:
        gz = np.where(saved.z > 0, gz, 0)  # OPEN: the maximum of the requantisation is taken over all values, before this mask
    rows, height, width, _ = g.shape
    assert rows * height * width << (gradient_bits - 1) < 1 << 31, "dW leaves int32"
    weight = weight_gradient(gz, saved.s)

    gx = None
    if not lowest or (c.threshold is not None and trains_parameters):
        da = input_gradient(gz, block.weight)
        assert peak(da) < 1 << 31, "da leaves int32"
        d = gate_gradient(da, saved.a, block.gate)
        if c.threshold is not None:
            parameters["threshold"] = d.sum(axis=everywhere)
        if not lowest:
            k = min(max(block.shift + block.gate.exponent - shift, -30), 46)
            total = (gu << k) + d if k >= 0 else gu + (d << -k)
            gx, _ = requant(total, gradient_bits, moment.key(PURPOSE_GRADIENT, first + TENSOR_GX))
    return BlockGradients(weight, {name: parameters[name] for name in block.trained if name in parameters}, gx)


# -------------------------------------------------------------------------------------------------------------------------- steps (7.5)


def weight_step(shadow: Int64, gradient: Int64, settings: TailSettings, moment: Moment, number: int) -> Int64:
    """New shadow weights (C, 3, 3, C) after a normalised step (method.md, 7.5)."""
    b, e, decay = settings.weight_bits, settings.weight_step, moment.decay
    limit = (1 << (b - 1)) - 1
    result = shadow.copy()
    for o, (old, d) in enumerate(zip(shadow, gradient, strict=True)):
        m = peak(d)
        if m == 0:
            continue  # OPEN: nothing happens
        r = noise(moment.key(PURPOSE_WEIGHT, (number << 32) + o), np.arange(d.size)).reshape(d.shape)
        if b == 1:
            chance = (np.abs(d) << 32) >> (bits_of(m) + e + decay)
            agrees = old * d > 0
            result[o] = np.where(agrees & (r < chance), -old, old)
            continue
        k = min(31, bits_of(m) - (b - 1 - e) + decay)
        change = (d + (r >> (32 - k))) >> k if k > 0 else d << -k
        result[o] = np.clip(old - change, -limit, limit)
    return result


def parameter_step(name: str, master: Int64, gradient: Int64, span: int, settings: TailSettings, moment: Moment) -> Int64:
    """New masters (C,) of one kind of parameter after a normalised step; span is its range (method.md, 7.5)."""
    m = peak(gradient)
    if m == 0 or settings.parameter_step == 0:
        return master
    k = bits_of(m) - (span - settings.parameter_step) + moment.decay
    return clamp_master(name, master - (rs(gradient, k) if k >= 0 else gradient << -k))


def step(block: TailBlock, gradients: BlockGradients, settings: TailSettings, moment: Moment) -> TailBlock:
    """Return the block after one step of everything in it (method.md, 7.5)."""
    masters = dict(block.masters)
    for name, gradient in gradients.parameters.items():
        span = master_range(name, block.gate.exponent, block.shift)
        masters[name] = parameter_step(name, masters[name], gradient, span, settings, moment)
    shadow = weight_step(block.shadow, gradients.weight, settings, moment, block.number)
    return replace(block, shadow=shadow, masters=masters)
