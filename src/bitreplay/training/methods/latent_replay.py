"""Latent replay in float: tail and CWR* head learn on current and replay samples; the method to beat.

Pellegrini et al. 2020, "Latent replay for real-time continual learning" (`arXiv 1912.01100 <https://arxiv.org/abs/1912.01100>`_).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..parts.head import CwrHead
from ..parts.memory import ReplayMemory
from ..parts.settings import MethodSettings
from ..parts.steps import half_cosine, make_optimizer, minibatches
from ..parts.tail import READS, Latents, Tail, vary
from ..start import Start

LABEL_BYTES = 2


@dataclass(frozen=True)
class LatentReplaySettings(MethodSettings):
    """Settings; `latents` is what is stored: "bits", "8-bit" or "float".  `policy`, `softmax`, `prior`, `norm`: see memory, head, tail.

    `weight_rate` is a factor on the learning rate of the binary weights' shadows: a sign only flips where steps add up to its magnitude.
    """

    capacity: int = 1500
    latents: str = "bits"
    policy: str = "balanced"
    softmax: str = "all"
    prior: bool = False
    blocks: int | None = None
    norm: str = "batch"
    epochs: int = 1
    live_batch: int = 50
    replay_batch: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.009
    weight_rate: float = 1.0
    momentum: float = 0.9
    decay: bool = False
    noise: float = 0.0
    mirror: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        self.positive("epochs", "live_batch", "learning_rate")
        self.one_of("optimizer", "sgd", "adam")
        self.one_of("latents", *READS)
        self.one_of("policy", "balanced", "random")
        self.one_of("softmax", "all", "present", "ghosts")
        self.one_of("norm", "batch", "frozen")
        if self.noise > 1:
            raise ValueError(f"noise: expected a share from 0 to 1, got {self.noise}")


class LatentReplay:
    """Latent replay with float weights and gradients."""

    Settings: type[Any] = LatentReplaySettings
    at_once = False

    def __init__(self, start: Start, classes: int, seed: int, settings: LatentReplaySettings) -> None:
        self.settings = settings
        self.latents = Latents(settings.latents, start)
        self.reads = READS[settings.latents]
        self.tail = Tail(start, settings.blocks, settings.norm, settings.exact)
        self.head = CwrHead(start.shape[2], classes, settings.softmax, settings.prior)
        self._generator = np.random.default_rng((seed, 2))
        self.replay = ReplayMemory(settings.capacity, self._generator, settings.policy)
        self._optimizer: torch.optim.Optimizer | None = None
        self._seed, self._experience = seed, 0

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of a minibatch of decoded latents, float (B, C, H, W), and labels, int64 (B,)."""
        return self.head.loss(self.features(x), y)

    def features(self, x: Tensor) -> Tensor:
        """Features, float (B, D_f), of decoded latents, float (B, C, H, W)."""
        y: Tensor = self.tail(x)
        return y

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients."""
        if self._optimizer is None:
            binary = [c.weight for c in self.tail.convolutions()]
            others = [p for p in self.tail.trained() if not any(p is weight for weight in binary)]
            groups = [{"params": [*others, self.head.tw], "factor": 1.0}, {"params": binary, "factor": self.settings.weight_rate}]
            groups = [group for group in groups if group["params"]]
            self._optimizer = make_optimizer(self.settings.optimizer, groups, self.settings.momentum)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self._optimizer.step()
        self.tail.clip_weights()

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: latent rows (N, ...), labels int64 (N,)."""
        s, replay = self.settings, self.replay
        torch.manual_seed(self._seed * 1000 + self._experience)
        self._experience += 1
        self.latents.calibrate(rows)
        self.head.begin(np.concatenate([labels, replay.labels]))
        before, steps = self.tail.signs(), 0
        self._optimizer = None
        self.tail.train()
        for done, live, drawn in minibatches(len(labels), len(replay), s.live_batch, s.replay_batch, s.epochs, self._generator):
            live = np.sort(live)
            x = self.latents.decode(rows[live])
            if replay.rows is not None:
                x = torch.cat([x, self.latents.decode(replay.rows[drawn])])
            y = torch.from_numpy(np.concatenate([labels[live], replay.labels[drawn]]))
            self.tail.zero_grad(set_to_none=True)
            self.head.zero_grad(set_to_none=True)
            self.loss(vary(x, s.noise, s.mirror), y).backward()  # type: ignore[no-untyped-call]
            self.step(s.learning_rate * (half_cosine(done) if s.decay else 1.0))
            steps += 1
        self.tail.eval()
        self.head.end()
        replay.offer(rows, labels)
        flipped = sum(int((a != b).sum()) for a, b in zip(before, self.tail.signs(), strict=True))
        return {"steps": steps, "flipped": flipped / max(1, sum(a.numel() for a in before))}

    @torch.no_grad()
    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of latent rows (N, ...)."""
        return np.concatenate([self.head.predict(self.features(x)) for x in self.latents.parts(rows)])

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes: capacity times a row with its label."""
        row = self.latents.row_bytes + LABEL_BYTES
        return {"replay_row_bytes": row, "replay_bytes": row * self.settings.capacity}
