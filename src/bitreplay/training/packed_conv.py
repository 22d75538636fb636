"""The binary convolution of a block in training, by the engine's kernels: packed bits forward, integer gradients backward (docs/method.md, section 2.6).

Owns the conversion between torch's tensors and the engine's arrays.  CPU only; everything else stays with torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .. import _engine
from .layers import QuickNetBlock

_CHANNELS = 1024  # what the kernels serve


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, clip: float, trainer: Any, gradient_bits: int) -> Tensor:
        channels = len(w)
        weight = w.detach().permute(0, 2, 3, 1).float().contiguous().view(channels, 9, channels)
        z, bits, gate = trainer.forward(x.detach().permute(0, 2, 3, 1).float().contiguous().numpy(), weight.numpy(), clip)
        ctx.trainer, ctx.bits, ctx.gate, ctx.gradient_bits = trainer, bits, gate, gradient_bits
        ctx.save_for_backward(weight)
        return torch.from_numpy(z).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (weight,) = ctx.saved_tensors
        g = grad_outputs[0].permute(0, 2, 3, 1).float().contiguous()
        dx, dw = ctx.trainer.backward(g.numpy(), ctx.bits, ctx.gate, weight.numpy(), ctx.gradient_bits)
        channels = len(weight)
        return (
            torch.from_numpy(dx).permute(0, 3, 1, 2),
            torch.from_numpy(dw).view(channels, 3, 3, channels).permute(0, 3, 1, 2),
            None,
            None,
            None,
        )


class PackedConv:
    """Dot products of sign(x) and sign(W) over 3x3 windows padded with +1, with the plain straight-through gradient of both signs.

    The gradient of W passes everywhere: `BinaryConv2d.clip_weights` keeps the weights where it does.

    Parameters
    ----------
    threads : of the engine.
    gradient_bits : 8 to 16; a gradient is rounded once, to nearest, to signed integers of this many bits, scaled by its largest magnitude.
    """

    def __init__(self, threads: int, gradient_bits: int) -> None:
        self._trainer, self._bits = _engine.ConvTrainer(threads), gradient_bits

    def __call__(self, x: Tensor, w: Tensor, clip: float) -> Tensor:
        """Convolve float (N, C, H, W) with float (C, C, 3, 3), C at most 1024; float32 (N, C, H, W), channels last in memory."""
        result: Tensor = _Convolve.apply(x, w, clip, self._trainer, self._bits)  # type: ignore[no-untyped-call]
        return result


def use_packed(network: nn.Module, convolution: PackedConv) -> None:
    """Let the blocks of `network` that have the plain straight-through gradient convolve this way."""
    for module in network.modules():
        if isinstance(module, QuickNetBlock) and len(module.conv.weight) <= _CHANNELS:
            module.conv.packed = convolution
