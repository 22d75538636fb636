"""Settings of a learner: checked once, kept in the state file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_CAPACITY = 2**24
_RANGES = {
    "capacity": (0, MAX_CAPACITY),
    "seed": (0, 2**64 - 1),
    "max_classes": (1, 65_535),
    "lda_features": (0, 65_535),
    "epochs": (1, 10_000),
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
_FRACTIONS = {
    "learning_rate": (2**-16, 4),
    "shrinkage": (2**-8, 64),
    "pseudo_pictures": (0, 1000),
    "near_equal": (0, 0.5),
    "held_back": (0, 0.5),
    "tail_prior": (0, 1),
}
_BITS = {
    "learning_rate": 16,
    "shrinkage": 8,
    "pseudo_pictures": 8,
    "near_equal": 16,
    "held_back": 8,
    "tail_prior": 8,
}  # fraction bits in the core
_FLAGS = ("class_priors", "prior_correction", "sign_reset", "tail_mirror", "tail_distillation")
HEADS = ("lda", "cwr")
VIEWS = (1, 2, 6)


@dataclass(frozen=True)
class Settings:
    """How a learner learns (docs/method.md 4).

    Parameters
    ----------
    capacity : most rows in the replay memory.
    seed : keys every random choice.
    lesson_images : most images in one lesson; None for any number.
    max_classes : most classes.
    head : "lda", streaming linear discriminant analysis from exact sums (4): no order of lessons and no replay memory matters to it; or "cwr", the
        papers' CWR*, trained by steps (6).
    views : how many views of each picture are learned from and looked at: 1, the picture; 2, its mirror image too; 6, two enlarged parts of both
        as well (1.1).
    shrinkage : LDA: weight of the mean variance in the scatter within classes, in rows for each feature, 2^-8 to 64; kept with 8 fraction bits (4.2).
    pseudo_pictures : LDA: pictures at the mean of everything that each class mean is shrunk by, 0 to 1,000; kept with 8 fraction bits (4.2).
    lda_features : LDA: how many of the features are looked at, the most telling first; 0: all.  Fewer take less memory and time (4.1).
    class_priors : LDA: whether a class counts as likely as its share of the pictures that counted; else all are as likely (7.7).
    near_equal : share of a row's bits, 0 to .5, in which pictures of a lesson may differ and still count as one; 0: each counts (5.1).
    learning_rate : of the first step of CWR* and of the tail's head; falls linearly to 0 within a lesson.  Up to 4; kept with 16 fraction bits.
    epochs : CWR*: passes over the lesson's images.
    live_batch, replay_batch : most images of the lesson in a step; most replayed rows in a step of CWR*.
    ghosts : classes of constant logit 0 beside those of the lesson, where no row is stored (6.2).
    prior_correction : whether class shares are taken out of the logits in training (6.2).
    train_blocks : how many blocks of the tail are trained, counted from the last; 0: the head alone (7).  Pays from some hundred
        replay rows on, and the more of them the better (docs/papers.md).
    forward_bits, gradient_bits : q_f and q_b, widths of the tail's forward tensors and of all gradients, 2 to 16 (7.2, 7.3).
    weight_bits : b_w, width of the shadow weights behind the binary ones: 8 or 16, or 1 for none (7.5).
    weight_step : a binary weight's shadow moves by at most 2^-weight_step of its range a step.
    parameter_step : likewise for scales, biases, thresholds and slopes of the blocks; 0 leaves them as they are.
    sign_reset : an ablation: shadow weights start each step from their signs, as in the papers' public code (7.5).
    held_back : share of all rows, 0 to .5, that a trained tail never learns from: on these it is weighed against the head alone after each lesson,
        and not heard where it does not help (7.7); kept with 8 fraction bits.  0: both are always heard.
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
    head: str = "lda"
    views: int = 1
    shrinkage: float = 0.5
    pseudo_pictures: float = 5
    lda_features: int = 0
    class_priors: bool = False
    near_equal: float = 0.1
    learning_rate: float = 0.02
    epochs: int = 5
    live_batch: int = 50
    replay_batch: int = 64
    ghosts: int = 8
    prior_correction: bool = True
    train_blocks: int = 0
    forward_bits: int = 16
    gradient_bits: int = 16
    weight_bits: int = 8
    weight_step: int = 5
    parameter_step: int = 0
    sign_reset: bool = False
    held_back: float = 0.125
    tail_epochs: int = 2
    tail_passes: int = 40
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
        for name, (least, most) in _FRACTIONS.items():
            number = getattr(self, name)
            if not isinstance(number, int | float) or isinstance(number, bool) or not least <= number <= most:  # refuses nan too
                raise ValueError(f"{name}: expected {least:g} to {most:g}, got {number!r:.40}")
        if self.views not in VIEWS or isinstance(self.views, bool):
            raise ValueError(f"views: expected 1, 2 or 6, got {self.views!r:.40}")
        if self.head not in HEADS:
            raise ValueError(f"head: expected {' or '.join(HEADS)}, got {self.head!r:.40}")
        if self.head != "lda" and (self.lda_features or self.class_priors):
            name = "lda_features" if self.lda_features else "class_priors"
            raise ValueError(f"{name}: expected {0 if self.lda_features else False} with head {self.head}, got {getattr(self, name)!r}")
        if self.weight_bits not in (1, 8, 16) or isinstance(self.weight_bits, bool):
            raise ValueError(f"weight_bits: expected 1, 8 or 16, got {self.weight_bits!r:.40}")
        if self.train_blocks > 0 and self.capacity == 0:
            raise ValueError("train_blocks: expected 0 with capacity 0, since a tail is trained on replayed rows; give it a replay memory")
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected True or False, got {getattr(self, name)!r:.40}")

    def for_core(self) -> dict[str, Any]:
        """Values as the core takes them: those with a fraction as integers, with so many fraction bits as their documentation says."""
        return asdict(self) | {name: round(getattr(self, name) * 2**bits) for name, bits in _BITS.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """Read what `to_dict` wrote; ValueError for a missing, unknown or impossible field."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(f"settings: expected {', '.join(sorted(known))}, got {sorted(values)!r:.400}")
        return cls(**values)
