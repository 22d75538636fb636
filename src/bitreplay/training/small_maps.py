"""3x3 binary convolution of small maps as one matrix product: several times faster than the framework's own on a CPU.

Owns the arithmetic of the float simulation's tail (`methods`).  With ``exact=False`` products are taken in bfloat16 with float32 sums: the +-1 of the
forward pass are exact in it, results up to 256 too, larger ones are rounded to 8 bits, and so are gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _columns(x: Tensor, pad: float) -> Tensor:
    # (N, H, W, C) -> (N*H*W, 9*C), taps in the order of the kernel
    n, h, w, c = x.shape
    padded = F.pad(x, (0, 0, 1, 1, 1, 1), value=pad)
    windows = padded.as_strided((n, h, w, 3, 3, c), (*padded.stride()[:3], *padded.stride()[1:3], padded.stride()[3]))
    return windows.reshape(n * h * w, 9 * c)


class _SmallConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor, w: Tensor, exact: bool) -> Tensor:
        n, c, height, width = s.shape
        kind = torch.float32 if exact else torch.bfloat16
        columns = _columns(s.permute(0, 2, 3, 1).to(kind).contiguous(), 1.0)
        weight = w.to(kind)
        ctx.save_for_backward(columns, weight)
        ctx.shape = s.shape
        y = columns @ weight.permute(2, 3, 1, 0).reshape(9 * c, -1)
        return y.float().view(n, height, width, -1).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        columns, weight = ctx.saved_tensors
        n, c, height, width = ctx.shape
        g = grad_outputs[0].permute(0, 2, 3, 1).to(weight.dtype).contiguous()
        out = g.shape[-1]
        dw = ds = None
        if ctx.needs_input_grad[1]:
            dw = (g.view(-1, out).T @ columns).float().view(out, 3, 3, c).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            ds = _columns(g, 0.0) @ weight.flip(2, 3).permute(2, 3, 0, 1).reshape(9 * out, c)
            ds = ds.float().view(n, height, width, c).permute(0, 3, 1, 2)
        return ds, dw, None


def small_conv(s: Tensor, w: Tensor, *, exact: bool = False) -> Tensor:
    """Convolve float (N, C, H, W) in {-1, +1}, padded with +1, with float (C_out, C, 3, 3) in {-1, +1}; stride 1.

    Parameters
    ----------
    s, w : what is convolved.
    exact : float32 products instead of bfloat16.

    Returns
    -------
    float32 (N, C_out, H, W), channels last in memory.
    """
    result: Tensor = _SmallConv.apply(s, w, exact)  # type: ignore[no-untyped-call]
    return result
