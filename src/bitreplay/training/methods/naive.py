"""Naive: tail and head go on learning on whatever comes, with one softmax over the classes seen and nothing against forgetting.

The lower bound of every table.  Reads latent rows; no replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..parts.settings import MethodSettings
from ..parts.steps import half_cosine, make_optimizer, minibatches
from ..parts.tail import READS, Latents, Tail, vary
from ..start import Start


@dataclass(frozen=True)
class NaiveSettings(MethodSettings):
    """Settings; `blocks` 0 trains the head alone, None the whole tail; `noise` and `mirror` vary rows, see `tail.vary`."""

    latents: str = "bits"
    blocks: int | None = None
    norm: str = "batch"
    epochs: int = 1
    live_batch: int = 50
    optimizer: str = "sgd"
    learning_rate: float = 0.009
    momentum: float = 0.9
    decay: bool = False
    noise: float = 0.0
    mirror: bool = False

    def __post_init__(self) -> None:
        self.positive("epochs", "live_batch", "learning_rate")
        self.one_of("optimizer", "sgd", "adam")
        self.one_of("latents", *READS)
        self.one_of("norm", "batch", "frozen")


class Naive:
    """Fine-tuning."""

    Settings: type[Any] = NaiveSettings
    at_once = False

    def __init__(self, start: Start, classes: int, seed: int, settings: NaiveSettings) -> None:
        self.settings, self._seed = settings, seed
        self.latents = Latents(settings.latents, start)
        self.reads = READS[settings.latents]
        self.tail = Tail(start, settings.blocks, settings.norm)
        self.head = torch.nn.Linear(start.shape[2], classes)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self._absent = torch.full((classes,), -torch.inf)
        self._generator = np.random.default_rng((seed, 2))

    def logits(self, x: Tensor) -> Tensor:
        """Logits, float (B, K), of decoded latents; -inf for classes that have not come yet."""
        y: Tensor = self.head(self.tail(x)) + self._absent
        return y

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: rows (N, ...), labels int64 (N,)."""
        s = self.settings
        torch.manual_seed(self._seed)
        self.latents.calibrate(rows)
        self._absent[torch.from_numpy(np.unique(labels))] = 0.0
        optimizer = make_optimizer(s.optimizer, [{"params": [*self.tail.trained(), *self.head.parameters()]}], s.momentum)
        self.tail.train()
        for done, live, _ in minibatches(len(labels), 0, s.live_batch, 0, s.epochs, self._generator):
            for group in optimizer.param_groups:
                group["lr"] = s.learning_rate * (half_cosine(done) if s.decay else 1.0)
            live = np.sort(live)
            x = vary(self.latents.decode(rows[live]), s.noise, s.mirror)
            optimizer.zero_grad()
            F.cross_entropy(self.logits(x), torch.from_numpy(labels[live])).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            self.tail.clip_weights()
        self.tail.eval()
        return {}

    @torch.no_grad()
    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of rows (N, ...)."""
        return np.concatenate([self.logits(x).argmax(1).numpy() for x in self.latents.parts(rows)])

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes."""
        return {"replay_row_bytes": 0, "replay_bytes": 0}
