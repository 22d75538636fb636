"""P1's hybrid quantisation of CWR*: q_f bits forward, q_b bits for the weights' update; no replay.

Vorabbi et al. 2023, "On-Device Learning with Binary Neural Networks" (`arXiv 2308.15308 <https://arxiv.org/abs/2308.15308>`_).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..parts.steps import minibatches
from ..quantizers import affine_quantize
from ..start import Start
from .cwr import Cwr, CwrSettings

MARGIN = 0.02


@dataclass(frozen=True)
class QuantizedCwrSettings(CwrSettings):
    """Settings; `master` says what a step starts from: "forward" (the q_f-bit copy, as in P1) or "backward" (a q_b-bit master)."""

    forward_bits: int = 8
    gradient_bits: int = 16
    master: str = "backward"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.positive("forward_bits", "gradient_bits")
        self.one_of("softmax", "all")
        self.one_of("master", "forward", "backward")


class QuantizedCwr(Cwr):
    """P1: softmax over all K classes; ranges of features and gradients fixed on the first experience."""

    Settings = QuantizedCwrSettings
    settings: QuantizedCwrSettings

    def __init__(self, start: Start, classes: int, seed: int, settings: QuantizedCwrSettings) -> None:
        super().__init__(start, classes, seed, settings)
        self._features: tuple[float, float] | None = None
        self._gradients: tuple[float, float] | None = None

    def _weights(self, w: Tensor, bits: int) -> Tensor:
        low, high = torch.aminmax(w)
        margin = MARGIN * (high - low)
        return affine_quantize(w, bits, low - margin, high + margin)

    def _gradient_range(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        # Smallest and largest (p - onehot) / B of the first experience trained in float.
        s, low, high = self.settings, 0.0, 0.0
        w = torch.zeros_like(self.head.tw)
        for _, live, _ in minibatches(len(y), 0, s.live_batch, 0, s.epochs, np.random.default_rng(0)):
            g = (torch.softmax(x[live] @ w.T, 1) - F.one_hot(y[live], len(w))) / len(live)
            low, high = min(low, float(g.min())), max(high, float(g.max()))
            w -= s.learning_rate * (g.T @ x[live])
        return low, high

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: features float32 (N, D_f), labels int64 (N,)."""
        s, head = self.settings, self.head
        x, y = torch.from_numpy(np.array(rows)), torch.from_numpy(labels)
        if self._features is None:
            self._features = float(x.min()), float(x.max())
            self._gradients = self._gradient_range(x, y)
        assert self._gradients is not None
        head.begin(labels)
        w = head.tw.detach()
        for _, live, _ in minibatches(len(labels), 0, s.live_batch, 0, s.epochs, self._generator):
            forward = self._weights(w, s.forward_bits)
            xq = affine_quantize(x[live], s.forward_bits, *self._features)
            p = affine_quantize(torch.softmax(xq @ forward.T, 1), s.forward_bits, 0.0, 1.0)
            g = (p - F.one_hot(y[live], len(w))) / len(live)
            g = affine_quantize(g, s.forward_bits, *self._gradients)
            start = forward if s.master == "forward" else w
            w = self._weights(start - s.learning_rate * (g.T @ xq), s.gradient_bits)
        head.tw.data.copy_(w)
        head.end()
        return {}

    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of features float32 (N, D_f): quantised as in training."""
        if self._features is None:
            raise ValueError("predict: expected a method that has learned an experience, got one that knows none; call learn first")
        bits = self.settings.forward_bits
        x = affine_quantize(torch.from_numpy(np.array(rows)), bits, *self._features)
        logits = F.linear(x, self._weights(self.head.cw, bits)).masked_fill(self.head.past == 0, -torch.inf)
        found: NDArray[np.int64] = logits.argmax(1).numpy()
        return found
