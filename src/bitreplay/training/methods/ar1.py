"""AR1*: a CWR* head, and a tail tuned under a Synaptic-Intelligence penalty; no replay.

Maltoni and Lomonaco 2019 (`arXiv 1806.08568 <https://arxiv.org/abs/1806.08568>`_), Lomonaco et al. 2020 (`arXiv 1907.03799
<https://arxiv.org/abs/1907.03799>`_), Zenke et al. 2017 (`arXiv 1703.04200 <https://arxiv.org/abs/1703.04200>`_).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..start import Start
from .latent_replay import LatentReplay, LatentReplaySettings

LARGEST = 0.001  # of an importance, as published
DAMPING = 1e-7


@dataclass(frozen=True)
class Ar1Settings(LatentReplaySettings):
    """Settings beyond latent replay's: `strength` of the penalty; batch norms are frozen, since drifting statistics cost more.  With a replay memory and strength 0 this is latent replay ("AR1* free")."""

    capacity: int = 0
    learning_rate: float = 0.001
    norm: str = "frozen"
    strength: float = 8e5


class Ar1(LatentReplay):
    """AR1* in float."""

    Settings = Ar1Settings
    settings: Ar1Settings

    def __init__(self, start: Start, classes: int, seed: int, settings: Ar1Settings) -> None:
        super().__init__(start, classes, seed, settings)
        self._total = [torch.zeros_like(p) for p in self.tail.trained()]  # the path's share of each parameter, over all experiences
        self._important = [torch.zeros_like(p) for p in self.tail.trained()]
        self._anchor = [p.detach().clone() for p in self.tail.trained()]
        self._path = [torch.zeros_like(p) for p in self.tail.trained()]

    def step(self, rate: float) -> None:
        """A step of SGD with the penalty's gradient added; keeps the path integral of the loss."""
        gradients, before = [], []
        for p, important, anchor in zip(self.tail.trained(), self._important, self._anchor, strict=True):
            assert p.grad is not None
            gradients.append(p.grad.clone())
            before.append(p.detach().clone())
            p.grad.add_(important * (p.detach() - anchor), alpha=self.settings.strength)
        super().step(rate)
        for path, g, p, old in zip(self._path, gradients, self.tail.trained(), before, strict=True):
            path.sub_(g * (p.detach() - old))

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: latent rows (N, ...), labels int64 (N,)."""
        notes = super().learn(rows, labels)
        for total, important, path, anchor, p in zip(
            self._total, self._important, self._path, self._anchor, self.tail.trained(), strict=True
        ):
            total.add_(path / ((p.detach() - anchor) ** 2 + DAMPING))
            important.copy_(total.clamp(0.0, LARGEST))
            anchor.copy_(p.detach())
            path.zero_()
        return notes
