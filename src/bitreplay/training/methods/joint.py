"""Joint: the same tail and head taught everything at once, as long as it helps; the upper bound of every table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..base import Start
from .naive import EVALUATION
from .settings import MethodSettings
from .steps import minibatches
from .tail import READS, Latents, Tail


@dataclass(frozen=True)
class JointSettings(MethodSettings):
    """Settings; `blocks` 0 trains the head alone, None the whole tail."""

    latents: str = "bits"
    blocks: int | None = None
    norm: str = "batch"
    epochs: int = 10
    batch: int = 128
    learning_rate: float = 0.001
    noise: float = 0.1
    mirror: bool = True

    def __post_init__(self) -> None:
        self.positive("epochs", "batch", "learning_rate")


class Joint:
    """All data at once: Adam, half-cosine to 0; a tenth of a row's bits turned over and half of the rows mirrored, as the engine does."""

    Settings = JointSettings
    at_once = True

    def __init__(self, start: Start, classes: int, seed: int, settings: JointSettings) -> None:
        self.settings, self._seed = settings, seed
        self.latents = Latents(settings.latents, start)
        self.reads = READS[settings.latents]
        self.tail = Tail(start, settings.blocks, settings.norm)
        self.head = torch.nn.Linear(start.shape[2], classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self._generator = np.random.default_rng((seed, 2))

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """Everything: rows (N, ...), labels int64 (N,)."""
        s = self.settings
        torch.manual_seed(self._seed)
        self.latents.calibrate(rows)
        optimizer = torch.optim.Adam([*self.tail.trained(), *self.head.parameters()], s.learning_rate)
        self.tail.train()
        for done, live, _ in minibatches(len(labels), 0, s.batch, 0, s.epochs, self._generator):
            for group in optimizer.param_groups:
                group["lr"] = s.learning_rate * 0.5 * (1.0 + np.cos(np.pi * done))
            live = np.sort(live)
            x = vary(self.latents.decode(rows[live]), s.noise, s.mirror)
            loss = F.cross_entropy(self.head(self.tail(x)), torch.from_numpy(labels[live]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.tail.clip_weights()
        self.tail.eval()
        return {}

    @torch.no_grad()
    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of rows (N, ...)."""
        parts = (self.tail(self.latents.decode(rows[i : i + EVALUATION])) for i in range(0, len(rows), EVALUATION))
        return np.concatenate([self.head(x).argmax(1).numpy() for x in parts])

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes."""
        return {"replay_row_bytes": 0, "replay_bytes": 0}


def vary(x: torch.Tensor, noise: float, mirror: bool) -> torch.Tensor:
    """Turn the sign of a share `noise` of the values of float (B, C, H, W), and mirror half of the rows, at random."""
    if mirror:
        turned = torch.rand(len(x), 1, 1, 1) < 0.5
        x = torch.where(turned, x.flip(3), x)
    if noise > 0:
        x = torch.where(torch.rand(x.shape) < noise, -x, x)
    return x
