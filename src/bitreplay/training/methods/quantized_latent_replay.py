"""P2's quantised latent replay: forward tensors at q_f bits, gradients and other parameters at q_b, binary weights' shadows at b_w.

Vorabbi et al. 2024, "Enabling On-device Continual Learning with Binary Neural Networks" (`arXiv 2401.09916
<https://arxiv.org/abs/2401.09916>`_).  The papers' own affine quantiser, simulated in float; batch norm stays float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import QuickNetBlock, ShiftedBlock
from ..quantizers import affine_quantize, approx_sign, fake_quantize, ste_sign
from ..start import Start
from .latent_replay import LatentReplay, LatentReplaySettings


@dataclass(frozen=True)
class QuantizedLatentReplaySettings(LatentReplaySettings):
    """Settings beyond latent replay's.  `sign_reset`: every step starts from the signs of the shadow weights, as in the papers' public code."""

    momentum: float = 0.0
    exact: bool = True
    forward_bits: int = 8
    gradient_bits: int = 16
    weight_bits: int = 16
    rounding: str = "nearest"
    sign_reset: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("forward_bits", "gradient_bits", "weight_bits")
        self.one_of("rounding", "nearest", "stochastic")
        self.one_of("optimizer", "sgd")
        if self.momentum != 0.0:
            raise ValueError(f"momentum: expected 0, since the method keeps no other tensor of a weight's size, got {self.momentum}")


def quantized_block(block: nn.Module, x: Tensor, q_f: int, q_b: int) -> Tensor:
    """One block with P2's quantisers in their places: input, thresholds, convolution, activation; batch norm and the sum are float."""

    def q(value: Tensor) -> Tensor:
        return fake_quantize(value, q_f, q_b)

    x = q(x)
    if isinstance(block, QuickNetBlock):
        y: Tensor = block.norm(F.relu(q(block.conv(ste_sign(x))))) + x
        return y
    assert isinstance(block, ShiftedBlock)
    shape = (1, -1, 1, 1)
    a = q(x + q(block.threshold).view(shape))
    u = block.norm(q(block.conv(approx_sign(a)))) + x
    act = block.activation
    w = q(q(u) - q(act.alpha).view(shape))
    y = q(F.relu(w) * q(act.high).view(shape) - F.relu(-w) * q(act.low).view(shape))
    return q(y - q(act.beta).view(shape))


class QuantizedLatentReplay(LatentReplay):
    """P2 at any (q_f, q_b, b_w)."""

    Settings = QuantizedLatentReplaySettings
    settings: QuantizedLatentReplaySettings

    def __init__(self, start: Start, classes: int, seed: int, settings: QuantizedLatentReplaySettings) -> None:
        super().__init__(start, classes, seed, settings)
        self._binary = {id(c.weight) for c in self.tail.convolutions()}
        for convolution in self.tail.convolutions():  # what is kept between steps has b_w bits from the start
            convolution.weight.data.copy_(affine_quantize(convolution.weight.data.clamp(-1.0, 1.0), settings.weight_bits))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss with every tensor quantised on its way (docs/papers.md)."""
        s = self.settings
        weight = fake_quantize(self.head.tw, s.forward_bits, s.gradient_bits)
        logits = self.head.adjusted(F.linear(self.features(x), weight), y)
        return _QuantizedSoftmax.apply(logits, y, s.forward_bits, s.gradient_bits)  # type: ignore[no-any-return,no-untyped-call]

    def features(self, x: Tensor) -> Tensor:
        """Features with every tensor at q_f bits on its way, in prediction too."""
        s = self.settings
        for block in self.tail.blocks:
            x = quantized_block(block, x, s.forward_bits, s.gradient_bits)
        return fake_quantize(self.tail.pool(fake_quantize(x, s.forward_bits, s.gradient_bits)), s.forward_bits, s.gradient_bits)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """W <- Q(W - rate dW), each tensor at its own width; shadow weights are clipped first."""
        s = self.settings
        for parameter in [*self.tail.trained(), self.head.tw]:
            if parameter.grad is None:
                continue
            if id(parameter) in self._binary:
                start = torch.where(parameter < 0, -1.0, 1.0) if s.sign_reset else parameter
                value = (start - rate * s.weight_rate * affine_quantize(parameter.grad, s.weight_bits)).clamp_(-1.0, 1.0)
                parameter.copy_(affine_quantize(value, s.weight_bits, stochastic=s.rounding == "stochastic"))
            else:
                parameter.copy_(affine_quantize(parameter - rate * affine_quantize(parameter.grad, s.gradient_bits), s.gradient_bits))


class _QuantizedSoftmax(torch.autograd.Function):
    # p = Q_qf(softmax; 0, 1); g = Q_qb((p - onehot) / B)
    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, q_f: int, q_b: int) -> Tensor:
        p = affine_quantize(torch.softmax(logits, 1), q_f, 0.0, 1.0)
        ctx.save_for_backward(affine_quantize((p - F.one_hot(y, logits.shape[1])) / len(y), q_b))
        return F.cross_entropy(logits, y)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.saved_tensors[0] * grad_outputs[0], None, None, None
