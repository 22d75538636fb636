"""CWR*: a linear head on frozen features, consolidated after each experience; no replay (docs/method.md, 6).

Lomonaco et al. 2020 (`arXiv 1907.03799 <https://arxiv.org/abs/1907.03799>`_).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..parts.head import CwrHead
from ..parts.settings import MethodSettings
from ..parts.steps import minibatches
from ..start import Start


@dataclass(frozen=True)
class CwrSettings(MethodSettings):
    """Settings; defaults are P1's."""

    softmax: str = "all"
    epochs: int = 5
    live_batch: int = 50
    learning_rate: float = 0.0025

    def __post_init__(self) -> None:
        self.positive("epochs", "live_batch", "learning_rate")
        self.one_of("softmax", "all", "present", "ghosts")


class Cwr:
    """CWR* in float."""

    Settings: type[Any] = CwrSettings
    reads = "features"
    at_once = False

    def __init__(self, start: Start, classes: int, seed: int, settings: CwrSettings) -> None:
        self.settings = settings
        self.head = CwrHead(start.shape[2], classes, settings.softmax)
        self._generator = np.random.default_rng((seed, 2))

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: features float32 (N, D_f), labels int64 (N,)."""
        s = self.settings
        x, y = torch.from_numpy(np.array(rows)), torch.from_numpy(labels)
        self.head.begin(labels)
        optimizer = torch.optim.SGD([self.head.tw], s.learning_rate)
        for _, live, _ in minibatches(len(labels), 0, s.live_batch, 0, s.epochs, self._generator):
            optimizer.zero_grad()
            self.head.loss(x[live], y[live]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        self.head.end()
        return {}

    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of features float32 (N, D_f)."""
        return self.head.predict(torch.from_numpy(np.array(rows)))

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes."""
        return {"replay_row_bytes": 0, "replay_bytes": 0}
