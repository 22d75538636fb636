"""Softmax (docs/method.md, 4.3) and the papers' head, CWR*: steps and consolidation (6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import Int64, divr, isqrt, peak, rs, sat32

EXP2_COEFFICIENTS = (1073739778, -744157487, 257095898, -57151877, 7346532)


def exp2neg(t: ArrayLike) -> Int64:
    """2^-t for t >= 0 with 16 fraction bits; 30 fraction bits (method.md, 4.3)."""
    t = np.asarray(t, np.int64)
    assert (t >= 0).all()
    k, f = t >> 16, t & 65535
    r = np.full_like(t, EXP2_COEFFICIENTS[4])
    for c in EXP2_COEFFICIENTS[3::-1]:
        r = c + ((r * f) >> 16)
    return np.where(k > 30, 0, r >> np.minimum(k, 30))


def log2q(v: int) -> int:
    """Binary logarithm of v > 0, 16 fraction bits (method.md, 6.2). v is a Python int of any size."""
    k = v.bit_length() - 1
    x = v << (31 - k) if k <= 31 else v >> (k - 31)
    result = k << 16
    for bit in range(15, -1, -1):
        x = (x * x) >> 31
        if x >= 1 << 32:
            result |= 1 << bit
            x >>= 1
    return result


def logits(features: NDArray[Any], weight: ArrayLike, feature_bits: int) -> Int64:
    """Logits (N, K) with 16 fraction bits of a head with 27 (method.md, 6.1)."""
    a = features.astype(np.int64) @ (np.asarray(weight, np.int64) >> 16).T
    return rs(a, feature_bits - 5) if feature_bits >= 5 else a << (5 - feature_bits)


def softmax(logit: Int64, ghosts: int) -> Int64:
    """Probabilities (N, K) with 15 fraction bits over the classes given and `ghosts` ghosts (method.md, 4.3)."""
    top = logit.max(axis=1, keepdims=True)
    if ghosts:
        top = np.maximum(top, 0)
    below = np.minimum(top - logit, 1 << 40)  # of what lies lower nothing is left, and the product stays within int64
    e = exp2neg((below * 94548) >> 16)
    total = e.sum(axis=1, keepdims=True)
    if ghosts:  # without ghosts top may be negative, and exp2neg is not defined there
        total = total + ghosts * exp2neg((np.minimum(top, 1 << 40) * 94548) >> 16)
    result: Int64 = divr(e << 15, total)
    return result


def log_share(classes: int, part: int, whole: int) -> int:
    """ln(classes * part / whole) with 16 fraction bits (method.md, 6.2)."""
    return ((log2q(classes) + log2q(part) - log2q(whole)) * 45426) >> 16


def prior_logits(live: Sequence[int], stored: Sequence[int], live_batch: int, replay_batch: int) -> Int64:
    """Prior of each class of an experience, 16 fraction bits (method.md, 6.2).

    Parameters
    ----------
    live, stored
        n_c and m_c of classes(experience).
    live_batch, replay_batch
        b_l and b_r, after they were limited to N and R.

    """
    n, r, t = max(1, sum(live)), sum(stored), len(live)  # without live rows n falls out
    denominator = (live_batch + replay_batch) * n * r
    result = []
    for n_c, m_c in zip(live, stored, strict=True):
        numerator = live_batch * n_c * r + replay_batch * m_c * n
        result.append(log_share(t, numerator, denominator))
    return np.array(result, np.int64)


def distillation(now_logits: Int64, before_logits: Int64, absent: Sequence[int]) -> Int64:
    """What holds classes without live rows, of those in the softmax, to what was said of them before (B, T), 15 fraction bits (7.6)."""
    result = np.zeros_like(now_logits)
    result[:, absent] = softmax(now_logits[:, absent], 0) - softmax(before_logits[:, absent], 0)
    return result


def logit_gradient(
    weight: Int64, features: Int64, targets: NDArray[np.int64], prior: Int64, ghosts: int, feature_bits: int, distilled: Int64 | int = 0
) -> Int64:
    """g (B, T): gradient with respect to the logits, 15 fraction bits (method.md, 6.3, 7.6)."""
    gradient = softmax(logits(features, weight, feature_bits) + prior, ghosts)
    gradient[np.arange(len(targets)), targets] -= 1 << 15
    return np.clip(np.minimum(gradient, 32767) + distilled, -32768, 32767)


def training_step(
    weight: Int64,
    features: NDArray[np.int64],
    targets: NDArray[np.int64],
    prior: Int64,
    ghosts: int,
    rate: int,
    feature_bits: int,
    requant: Callable[[Int64], tuple[Int64, int]] = lambda g: (g, 0),
    distilled: Int64 | int = 0,
) -> Int64:
    """Take one minibatch step of the training weights (method.md, 6.3).

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
    requant
        Rounds the gradient to q_b bits (7.3); gives mantissas and their shift.
    distilled
        (B, T) of `distillation`, or 0.

    """
    gradient, shift = requant(logit_gradient(weight, features, targets, prior, ghosts, feature_bits, distilled))
    delta = (gradient.T @ features.astype(np.int64)) << shift
    if peak(delta) * rate >= 1 << 62:
        raise OverflowError("dW * rate leaves int64; the method sets no limit to the learning rate")
    return sat32(weight - rs(delta * rate, 16))


def learning_rate(base: int, feature_bits: int, step: int, steps: int, batch: int) -> int:
    """Rate of minibatch `step` with `batch` rows (method.md, 6.3)."""
    return (base * (1 << (12 - feature_bits)) * (steps - step)) // (steps * batch)


def consolidate(cw: ArrayLike, tw: ArrayLike, past: Sequence[int], cur: Sequence[int]) -> tuple[Int64, list[int]]:
    """Merge the training weights into the consolidated ones (method.md, 6.4).

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
