"""Settings of a learner: checked once, kept in the state file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from . import _engine

_BITS = {"fraction8": 8, "fraction16": 16}


@dataclass(frozen=True)
class Range:
    """What the core takes for a setting (engine/learn/settings.h).

    Parameters
    ----------
    kind : "count", "word", "flag", "one_of", "head", "fraction8" or "fraction16".
    initial : its value where none is given, as the core has it.
    least, most : its range; of one_of, `most` has a bit for each number that is allowed.
    """

    kind: str
    initial: int
    least: int
    most: int

    @property
    def bits(self) -> int:
        """Fraction bits."""
        return _BITS.get(self.kind, 0)

    @property
    def choices(self) -> tuple[int, ...]:
        """The numbers of a one_of."""
        return tuple(n for n in range(64) if self.most >> n & 1)

    def check(self, name: str, value: Any) -> None:
        """ValueError unless the value, as a user gives it, is within the range."""
        wrong = isinstance(value, bool) or not isinstance(value, int | float if self.bits else int)
        if self.bits:
            low, high = self.least / 2**self.bits, self.most / 2**self.bits
            if wrong or not low <= value <= high:  # refuses nan too
                raise ValueError(f"{name}: expected {low:g} to {high:g}, got {value!r:.40}")
        elif self.kind == "one_of":
            if wrong or value not in self.choices:
                *others, last = map(str, self.choices)
                raise ValueError(f"{name}: expected {', '.join(others)} or {last}, got {value!r:.40}")
        elif self.kind == "flag":
            if not isinstance(value, bool):
                raise ValueError(f"{name}: expected True or False, got {value!r:.40}")
        elif self.kind == "head":
            if value not in HEADS:
                raise ValueError(f"{name}: expected {' or '.join(HEADS)}, got {value!r:.40}")
        elif wrong or not self.least <= value <= self.most:
            raise ValueError(f"{name}: expected a whole number from {self.least} to {self.most}, got {value!r:.40}")

    def from_core(self, value: Any) -> Any:
        """As a user gives it: of a fraction the shortest decimal number that means it."""
        if not self.bits:
            return value
        unit = 2**self.bits
        return next(x for x in (round(value / unit, digits) for digits in range(20)) if round(x * unit) == value)


RANGES = {name: Range(kind, initial, least, most) for name, kind, initial, least, most in _engine.settings_table()}
MAX_CAPACITY = RANGES["capacity"].most
VIEWS = RANGES["views"].choices
HEADS = ("lda", "cwr")


@dataclass(frozen=True)
class Settings:
    """How a learner learns (docs/method.md 4).

    Parameters
    ----------
    capacity : most rows in the replay memory.
    seed : keys every random choice.
    lesson_images : most images in one lesson; None for any number.
    max_classes : most classes.
    head : "lda", streaming linear discriminant analysis from exact sums (4): it depends neither on the order of lessons nor on the replay memory; or "cwr", the
        papers' CWR*, trained by steps (6).
    views : how many views of each picture are learned from and looked at: 1, the picture; 2, its mirror image too; 6, two enlarged parts of both
        as well (1.1).
    shrinkage : LDA: weight of the mean variance in the scatter within classes, in rows for each feature, 2^-8 to 64; kept with 8 fraction bits (4.2).
    pseudo_pictures : LDA: pictures at the mean of everything that each class mean is shrunk by, 0 to 1,000; kept with 8 fraction bits (4.2).
    lda_features : LDA: how many of the features are used, the most informative first; 0: all.  Fewer take less memory and time (4.1).
    class_priors : LDA: whether each class is as likely as its share of the pictures that counted; else all are equally likely (7.7).
    near_equal : share of a row's bits, 0 to .5, in which pictures of a lesson may differ and still count as one; 0: each counts (5.1).
    learning_rate : of the first step of CWR* and of the tail's head; falls linearly to 0 within a lesson.  Up to 4; kept with 16 fraction bits.
    epochs : CWR*: passes over the lesson's images.
    live_batch, replay_batch : most images of the lesson in a step; most replayed rows in a step of CWR*.
    ghosts : classes of constant logit 0 beside those of the lesson, where no row is stored (6.2).
    prior_correction : whether class shares are taken out of the logits in training (6.2).
    train_blocks : how many blocks of the tail are trained, counted from the last; 0: the head alone (7).  Worthwhile from a few hundred
        replay rows, and the more of them the better (docs/papers.md).
    forward_bits, gradient_bits : q_f and q_b, widths of the tail's forward tensors and of all gradients, 2 to 16 (7.2, 7.3).
    weight_bits : b_w, width of the shadow weights behind the binary ones: 8 or 16, or 1 for none (7.5).
    weight_step : a binary weight's shadow moves by at most 2^-weight_step of its range a step.
    parameter_step : likewise for scales, biases, thresholds and slopes of the blocks; 0 leaves them as they are.
    held_back : share of all rows, 0 to .5, that a trained tail never learns from: on these it is compared with the head alone after each lesson,
        and ignored where it does not help (7.7); kept with 8 fraction bits.  0: both are always heard.
    tail_epochs : passes over the lesson's images with the tail in training.
    tail_passes : most passes over the stored rows in that time, so that a small memory is not overfitted (7.6).
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
    held_back: float = 0.125
    tail_epochs: int = 2
    tail_passes: int = 40
    tail_prior: float = 0.5
    tail_replay_batch: int = 128
    tail_noise: int = 26
    tail_mirror: bool = True
    tail_distillation: bool = True

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if name != "lesson_images":
                allowed.check(name, value)
            elif value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= allowed.most):
                raise ValueError(f"lesson_images: expected a whole number from 1 to {allowed.most}, or None, got {value!r:.40}")
        if self.head != "lda" and (self.lda_features or self.class_priors):
            name = "lda_features" if self.lda_features else "class_priors"
            raise ValueError(f"{name}: expected {0 if self.lda_features else False} with head {self.head}, got {getattr(self, name)!r}")
        if self.train_blocks > 0 and self.capacity == 0:
            raise ValueError("train_blocks: expected 0 with capacity 0, since a tail is trained on replayed rows; set a larger capacity")

    def for_core(self) -> dict[str, Any]:
        """Values as the core and a state file have them: fractions as integers in units of 2^-8 or 2^-16, no limit of images as 0."""
        values = asdict(self) | {"lesson_images": self.lesson_images or 0}
        return {name: round(value * 2 ** RANGES[name].bits) if RANGES[name].bits else value for name, value in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Values as `Settings` takes them."""
        return asdict(self)

    @classmethod
    def from_core(cls, values: dict[str, Any]) -> Settings:
        """As a user gives them, of what `for_core` gave or the core read, which checks them."""
        found = {name: RANGES[name].from_core(value) for name, value in values.items()}
        return cls(**{**found, "lesson_images": found["lesson_images"] or None})
