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
    "train_blocks": (0, 256),
    "forward_bits": (2, 16),
    "gradient_bits": (2, 16),
    "weight_step": (1, 20),
    "parameter_step": (0, 20),
    "tail_epochs": (1, 10_000),
    "tail_passes": (1, 10_000),
    "tail_replay_batch": (1, 256),
    "tail_noise": (0, 128),
}
# Fields that older states do not have: before 0.2.0 a learner trained its head only, and the first tails were trained without distillation.
_ADDED = {
    "train_blocks",
    "forward_bits",
    "gradient_bits",
    "weight_bits",
    "weight_step",
    "parameter_step",
    "sign_reset",
    "tail_epochs",
    "tail_passes",
    "tail_replay_batch",
    "tail_noise",
    "tail_mirror",
    "tail_prior",
    "tail_distillation",
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
    train_blocks : how many blocks of the tail are trained, counted from the last; 0: the head alone (7).  Pays from some hundred
        replay rows on, and the more of them the better (docs/papers.md).
    forward_bits, gradient_bits : q_f and q_b, widths of the tail's forward tensors and of all gradients, 2 to 16 (7.2, 7.3).
    weight_bits : b_w, width of the shadow weights behind the binary ones: 8 or 16, or 1 for none (7.5).
    weight_step : a binary weight's shadow moves by at most 2^-weight_step of its range a step.
    parameter_step : likewise for scales, biases, thresholds and slopes of the blocks; 0 leaves them as they are.
    sign_reset : an ablation: shadow weights start each step from their signs, as in the papers' public code (7.5).
    tail_epochs : passes over the lesson's images with the tail in training.
    tail_passes : most passes over the stored rows in that time, lest a small memory be learned by heart (7.6).
    tail_prior : how much of the log of a class's share of distinct rows is taken out of its logit beside that of its share of the minibatches,
        0 to 1; kept with 8 fraction bits (7.6).
    tail_replay_batch : most replayed rows in a step that trains the tail.
    tail_noise : share of a latent row's bits, in 256ths, that are turned over at random each time the row is trained on.
    tail_mirror : whether rows are mirrored left to right at random as well.
    tail_distillation : whether the trained branch is held, among the classes that a lesson does not show, to what it said of them before
        (7.6).
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
    train_blocks: int = 0
    forward_bits: int = 16
    gradient_bits: int = 16
    weight_bits: int = 8
    weight_step: int = 5
    parameter_step: int = 0
    sign_reset: bool = False
    tail_epochs: int = 1
    tail_passes: int = 20
    tail_prior: float = 0.5
    tail_replay_batch: int = 128
    tail_noise: int = 26
    tail_mirror: bool = True
    tail_distillation: bool = True

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name}: expected a whole number from {low} to {high}, got {value!r:.40}")
        images = self.lesson_images
        if images is not None and (not isinstance(images, int) or isinstance(images, bool) or not 1 <= images <= 2**24):
            raise ValueError(f"lesson_images: expected a whole number from 1 to {2**24}, or None, got {images!r:.40}")
        rate = self.learning_rate
        if not isinstance(rate, int | float) or isinstance(rate, bool) or not 2**-16 <= rate <= 4:  # refuses nan too
            raise ValueError(f"learning_rate: expected 2^-16 to 4, got {rate!r:.40}")
        if not isinstance(self.pull, int | float) or isinstance(self.pull, bool) or not 0 <= self.pull <= 2:
            raise ValueError(f"pull: expected 0 to 2, got {self.pull!r:.40}")
        if not isinstance(self.tail_prior, int | float) or isinstance(self.tail_prior, bool) or not 0 <= self.tail_prior <= 1:
            raise ValueError(f"tail_prior: expected 0 to 1, got {self.tail_prior!r:.40}")
        if self.weight_bits not in (1, 8, 16) or isinstance(self.weight_bits, bool):
            raise ValueError(f"weight_bits: expected 1, 8 or 16, got {self.weight_bits!r:.40}")
        if self.train_blocks > 0 and self.capacity == 0:
            raise ValueError("train_blocks: expected 0 with capacity 0, since a tail is trained on replayed rows; give it a replay memory")
        for name in ("prior_correction", "class_means", "sign_reset", "tail_mirror", "tail_distillation"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected True or False, got {getattr(self, name)!r:.40}")

    def for_core(self) -> dict[str, Any]:
        """Values as the core takes them: the learning rate with 16 fraction bits, the pull and the tail's prior with 8."""
        return asdict(self) | {
            "learning_rate": round(self.learning_rate * 65536),
            "pull": round(self.pull * 256),
            "tail_prior": round(self.tail_prior * 256),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read what `to_dict` wrote; ValueError for a missing, unknown or impossible field."""
        known = {field.name for field in fields(cls)}
        if not known - _ADDED <= set(values) <= known:
            raise ValueError(f"settings: expected {', '.join(sorted(known))}, got {sorted(values)!r:.400}")
        return cls(**{"tail_distillation": False, **values})
