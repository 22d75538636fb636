"""Naive: tail and head go on learning on whatever comes, with one softmax over all classes and nothing against forgetting.

The lower bound of every table.  Reads latent rows; no replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from ..base import Start
from .settings import MethodSettings
from .steps import minibatches
from .tail import READS, Latents, Tail

EVALUATION = 500


@dataclass(frozen=True)
class NaiveSettings(MethodSettings):
    """Settings; `blocks` None trains the whole tail."""

    latents: str = "bits"
    blocks: int | None = None
    norm: str = "batch"
    epochs: int = 1
    live_batch: int = 50
    learning_rate: float = 0.009
    momentum: float = 0.9

    def __post_init__(self) -> None:
        self.positive("epochs", "live_batch", "learning_rate")


class Naive:
    """Fine-tuning."""

    Settings = NaiveSettings
    at_once = False

    def __init__(self, start: Start, classes: int, seed: int, settings: NaiveSettings) -> None:
        self.settings = settings
        self.latents = Latents(settings.latents, start)
        self.reads = READS[settings.latents]
        self.tail = Tail(start, settings.blocks, settings.norm)
        self.weight = torch.nn.Parameter(torch.zeros(classes, start.shape[2]))
        self.seen = np.zeros(classes, bool)
        self._generator = np.random.default_rng((seed, 2))

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: rows (N, ...), labels int64 (N,)."""
        s = self.settings
        self.latents.calibrate(rows)
        self.seen[np.unique(labels)] = True
        absent = torch.where(torch.from_numpy(self.seen), 0.0, -torch.inf)
        optimizer = torch.optim.SGD([*self.tail.trained(), self.weight], s.learning_rate, momentum=s.momentum)
        self.tail.train()
        for _, live, _ in minibatches(len(labels), 0, s.live_batch, 0, s.epochs, self._generator):
            features = self.tail(self.latents.decode(rows[np.sort(live)]))
            loss = F.cross_entropy(F.linear(features, self.weight) + absent, torch.from_numpy(labels[np.sort(live)]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.tail.clip_weights()
        self.tail.eval()
        return {}

    @torch.no_grad()
    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of rows (N, ...)."""
        absent = torch.where(torch.from_numpy(self.seen), 0.0, -torch.inf)
        parts = (self.tail(self.latents.decode(rows[i : i + EVALUATION])) for i in range(0, len(rows), EVALUATION))
        return np.concatenate([(F.linear(x, self.weight) + absent).argmax(1).numpy() for x in parts])

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes."""
        return {"replay_row_bytes": 0, "replay_bytes": 0}
