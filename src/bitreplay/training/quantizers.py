"""Binarising functions and their straight-through gradients (docs/method.md, section 2).

Every function here maps reals to {-1, +1} with sign(0) = +1, the convention of the whole project.  They differ only in the
gradient that stands in for the derivative of the step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _binarise(x: Tensor) -> Tensor:
    # x + 0 turns -0 into +0; copysign is many times faster than torch.where on a CPU.
    return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0.0)


class _ClippedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.clip = clip
        return _binarise(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad_outputs[0] * (x.abs() <= ctx.clip), None


class _ApproxSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _binarise(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor]:
        (x,) = ctx.saved_tensors
        return (grad_outputs[0] * (2.0 * (1.0 - x.abs())).clamp(min=0.0),)


def ste_sign(x: Tensor, clip: float = 1.25) -> Tensor:
    """Binarise with the plain straight-through gradient.

    Forward: ``-1 if x < 0 else +1``.  Gradient: ``g where |x| <= clip else 0``.

    Parameters
    ----------
    x : float tensor, any shape.
    clip : half width of the window in which the gradient passes.

    References
    ----------
    Bethge et al. 2019 (`arXiv 1906.08637 <https://arxiv.org/abs/1906.08637>`_) for the clip of 1.25 used by QuickNet.
    """
    result: Tensor = _ClippedSign.apply(x, clip)  # type: ignore[no-untyped-call]
    return result


def approx_sign(x: Tensor) -> Tensor:
    """Binarise with the gradient of a piecewise quadratic.

    Forward: ``-1 if x < 0 else +1``.  Gradient: ``g * 2 (1 - |x|) where |x| <= 1 else 0``.

    Parameters
    ----------
    x : float tensor, any shape.

    References
    ----------
    Liu et al. 2018, Bi-Real Net (`arXiv 1808.00278 <https://arxiv.org/abs/1808.00278>`_).
    """
    result: Tensor = _ApproxSign.apply(x)  # type: ignore[no-untyped-call]
    return result


def affine_quantize(
    x: Tensor, bits: int, low: float | Tensor | None = None, high: float | Tensor | None = None, *, stochastic: bool = False
) -> Tensor:
    """The papers' quantiser Q_b: ``(round((clip(x, low, high) - low) s) / s) + low`` with ``s = (2^bits - 1) / (high - low)``.

    Parameters
    ----------
    x : float tensor, any shape.
    bits : b; 32 or more returns `x`.
    low, high : the range; None for the smallest and the largest value of `x`.
    stochastic : round up with the probability of the fraction, instead of half to even.

    Notes
    -----
    A range of a single value returns `x` as it is.  No gradient is defined: `fake_quantize` has the papers'.

    References
    ----------
    Vorabbi et al. 2023, 2024 (`arXiv 2308.15308 <https://arxiv.org/abs/2308.15308>`_, `arXiv 2401.09916
    <https://arxiv.org/abs/2401.09916>`_); docs/papers.md.
    """
    if bits >= 32 or x.numel() == 0:
        return x
    if low is None or high is None:
        low, high = torch.aminmax(x.detach())
    low, high = float(low), float(high)
    if not high > low:
        return x
    scale = (2.0**bits - 1.0) / (high - low)
    steps = torch.clamp(x, low, high).sub_(low).mul_(scale)
    steps = steps.add_(torch.rand_like(steps)).floor_() if stochastic else steps.round_()
    return steps.div_(scale).add_(low)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forward_bits: int, backward_bits: int) -> Tensor:
        ctx.bits = backward_bits
        return affine_quantize(x, forward_bits)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return affine_quantize(grad_outputs[0], ctx.bits), None, None


def fake_quantize(x: Tensor, forward_bits: int, backward_bits: int = 32) -> Tensor:
    """Quantise a tensor on its way forward and its gradient on the way back, each with the range that it has.

    Forward: ``Q_forward_bits(x)``.  Gradient: ``Q_backward_bits(g)``: the clip and the rounding pass it on as it is.
    32 bits or more mean no rounding.
    """
    result: Tensor = _FakeQuantize.apply(x, forward_bits, backward_bits)  # type: ignore[no-untyped-call]
    return result
