"""Settings of a learner: checked once, kept in the state file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_CAPACITY = 2**24
_RANGES = {
    "capacity": (0, MAX_CAPACITY),
    "seed": (0, 2**64 - 1),
    "max_classes": (1, 65_535),
    "epochs": (1, 10_000),
    "min_steps": (1, 1_000_000),
    "live_batch": (1, 256),  # 512 rows a step fill 32-bit sums exactly
    "replay_batch": (1, 256),
    "ghosts": (0, 1024),
}


@dataclass(frozen=True)
class Settings:
    """How a learner learns (docs/method.md 4).

    Parameters
    ----------
    capacity : most rows in the replay memory.
    seed : keys every random choice.
    lesson_images : most images in one lesson; None for any number.
    max_classes : most classes.
    learning_rate : of the first step; falls linearly to 0 within a lesson.  Up to 4; kept with 16 fraction bits.
    epochs : passes over the lesson's images.
    min_steps : steps that even the smallest lesson gets.
    live_batch, replay_batch : most live and other rows a step.
    pull : strength with which a known class's weights are pulled back to what they were, 0 to 2; kept with 8 fraction bits.
    ghosts : classes of constant logit 0 beside those of the lesson, where no other rows are at hand (4.2).
    prior_correction : whether class shares are taken out of the logits in training (4.2).
    class_means : whether class means move replayed rows and stand in for absent classes (4.3); False is plain CWR*.
    """

    capacity: int = 1500
    seed: int = 0
    lesson_images: int | None = None
    max_classes: int = 256
    learning_rate: float = 0.02
    epochs: int = 5
    min_steps: int = 3000
    live_batch: int = 50
    replay_batch: int = 64
    pull: float = 1.0
    ghosts: int = 8
    prior_correction: bool = True
    class_means: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value!r}")
        images = self.lesson_images
        if images is not None and (not isinstance(images, int) or isinstance(images, bool) or not 1 <= images <= 2**24):
            raise ValueError(f"lesson_images: expected a whole number from 1 to {2**24}, or None, got {images!r}")
        rate = self.learning_rate
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 2**-16 <= rate <= 4:  # refuses nan too
            raise ValueError(f"learning_rate: expected 2^-16 to 4, got {rate!r:.40}")
        if not isinstance(self.pull, int | float) or isinstance(self.pull, bool) or not 0 <= self.pull <= 2:
            raise ValueError(f"pull: expected 0 to 2, got {self.pull!r}")
        for name in ("prior_correction", "class_means"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected True or False, got {getattr(self, name)!r}")

    @property
    def learning_rate_q16(self) -> int:
        """Learning rate with 16 fraction bits, as the core takes it."""
        return round(self.learning_rate * 65536)

    @property
    def pull_q8(self) -> int:
        """Pull with 8 fraction bits, as the core takes it."""
        return round(self.pull * 256)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read what `to_dict` wrote; ValueError for a missing, unknown or impossible field."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(f"settings: expected {', '.join(sorted(known))}, got {', '.join(sorted(map(str, values)))}")
        return cls(**values)
