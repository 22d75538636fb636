"""Joint: the same tail and head taught everything at once, as long as it helps; the upper bound of every table."""

from __future__ import annotations

from dataclasses import dataclass

from .naive import Naive, NaiveSettings


@dataclass(frozen=True)
class JointSettings(NaiveSettings):
    """Settings: Adam, half-cosine to 0; a tenth of a row's bits flipped and half of the rows mirrored, as the engine does."""

    epochs: int = 10
    live_batch: int = 128
    optimizer: str = "adam"
    learning_rate: float = 0.001
    decay: bool = True
    noise: float = 0.1
    mirror: bool = True


class Joint(Naive):
    """Fine-tuning on all data at once."""

    Settings = JointSettings
    at_once = True
