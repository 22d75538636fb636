"""Settings of a learner: checked once, kept in the state file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
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
class TailSettings:
    """How the last blocks of the tail are trained, on current and replay samples (docs/method.md 7).

    Worthwhile from a few hundred replay rows, and the more of them the better (docs/accuracy.md).

    Parameters
    ----------
    train_blocks : how many blocks of the tail are trained, counted from the last.
    forward_bits, gradient_bits : q_f and q_b, widths of the tail's forward tensors and of all gradients, 2 to 16 (7.2, 7.3).
    weight_bits : b_w, width of the shadow weights behind the binary ones: 8 or 16, or 1 for none (7.5).
    weight_step : a binary weight's shadow moves by at most 2^-weight_step of its range a step.
    parameter_step : likewise for scales, biases, thresholds and slopes of the blocks; 0 leaves them as they are.
    held_back : share of all rows, 0 to .5, that the tail never learns from: on these it is compared with the head alone after each
        experience, and ignored where it does not help (7.7); kept with 8 fraction bits.  0: both are always used.
    epochs : passes over an experience's images with the tail in training.
    passes : most passes over the replay samples in that time, so that a small memory is not overfitted (7.6).
    prior : how much of the log of a class's share of distinct rows is taken out of its logit beside that of its share of the
        minibatches, 0 to 1; kept with 8 fraction bits (7.6).
    replay_batch : most replay samples in a step.
    noise : share of a latent row's bits, in 256ths, that are flipped at random each time the row is trained on.
    mirror : whether rows are mirrored left to right at random as well.
    distillation : whether the trained branch is held, among the classes that an experience does not show, to what it said of them
        before (7.6).
    """

    train_blocks: int = 2
    forward_bits: int = 16
    gradient_bits: int = 16
    weight_bits: int = 8
    weight_step: int = 5
    parameter_step: int = 0
    held_back: float = 0.125
    epochs: int = 2
    passes: int = 40
    prior: float = 0.5
    replay_batch: int = 128
    noise: int = 26
    mirror: bool = True
    distillation: bool = True

    def __post_init__(self) -> None:
        for name, field in TAIL_NAMES.items():
            RANGES[name].check(field, getattr(self, field))
        if self.train_blocks == 0:
            raise ValueError("train_blocks: expected at least 1, got 0; for a tail that is not trained, give tail=None to Settings")


# The core's name of each field: with "tail_" where another setting has the field's own.
TAIL_NAMES = {f"tail_{field.name}" if f"tail_{field.name}" in RANGES else field.name: field.name for field in fields(TailSettings)}


@dataclass(frozen=True)
class Settings:
    """How a learner learns (docs/method.md 4).

    Parameters
    ----------
    capacity : most rows in the replay memory; 0 for none.
    tail : how the last blocks of the tail are trained; None: they stay as they are, and the head alone learns.
    head : "lda", streaming linear discriminant analysis from exact sums (4): it depends neither on the order of experiences nor on the replay
        memory; or "cwr", the papers' CWR*, trained by steps (6).
    views : how many views of each picture are learned from and looked at: 1, the picture; 2, its mirror image too; 6, two enlarged parts of both
        as well (1.1).
    seed : keys every random choice, 0..2^64-1.
    lesson_images : most images in one experience; None for any number.
    max_classes : most classes.
    shrinkage : LDA: weight of the mean variance in the scatter within classes, in rows for each feature, 2^-8 to 64; kept with 8 fraction bits (4.2).
    pseudo_pictures : LDA: pictures at the mean of everything that each class mean is shrunk by, 0 to 1,000; kept with 8 fraction bits (4.2).
    lda_features : LDA: how many of the features are used, the most informative first; 0: all.  Fewer take less memory and time (4.1).
    class_priors : LDA: whether each class is as likely as its share of the pictures that counted; else all are equally likely (7.7).
    near_equal : share of a row's bits, 0 to .5, in which pictures of an experience may differ and still count as one; 0: each counts (5.1).
    learning_rate : of the first step of CWR* and of the tail's head; falls linearly to 0 within an experience.  Up to 4; kept with 16 fraction bits.
    epochs : CWR*: passes over the experience's images.
    live_batch, replay_batch : most images of the experience in a step; most replay samples in a step of CWR*.
    ghosts : classes of constant logit 0 beside those of the experience, where there are no replay samples (6.2).
    prior_correction : logit adjustment: whether class shares are taken out of the logits in training (6.2).

    Examples
    --------
    >>> Settings(capacity=300, views=2).tail is None
    True
    >>> Settings(capacity=1500, tail=TailSettings(train_blocks=2)).tail.weight_bits
    8
    """

    capacity: int = 1500
    tail: TailSettings | None = None
    head: str = "lda"
    views: int = 1
    seed: int = 0
    lesson_images: int | None = None
    max_classes: int = 256
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

    def __post_init__(self) -> None:
        if self.tail is not None and not isinstance(self.tail, TailSettings):
            raise TypeError(f"tail: expected TailSettings or None, got {type(self.tail).__name__}")
        for name, allowed in RANGES.items():
            if name in TAIL_NAMES:
                continue
            value = getattr(self, name)
            if name != "lesson_images":
                allowed.check(name, value)
            elif value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= allowed.most):
                raise ValueError(f"lesson_images: expected a whole number from 1 to {allowed.most}, or None, got {value!r:.40}")
        if self.head != "lda" and (self.lda_features or self.class_priors):
            name = "lda_features" if self.lda_features else "class_priors"
            raise ValueError(f"{name}: expected {0 if self.lda_features else False} with head {self.head}, got {getattr(self, name)!r}")
        if self.tail is not None and self.capacity == 0:
            raise ValueError("tail: expected None with capacity 0, since a tail is trained on replay samples; set a larger capacity")

    @property
    def train_blocks(self) -> int:
        """How many blocks of the tail are trained; 0: none."""
        return 0 if self.tail is None else self.tail.train_blocks

    def to_dict(self) -> dict[str, Any]:
        """Values by the names that a state file and a protocol have for them: ``train_blocks`` 0 for no tail."""
        values = {name: getattr(self, name) for name in RANGES if name not in TAIL_NAMES}
        if self.tail is None:
            return values | {"train_blocks": 0}
        return values | {name: getattr(self.tail, field) for name, field in TAIL_NAMES.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """What `to_dict` gave, or a part of it; the others have their defaults.

        Raises
        ------
        ValueError : a name is unknown, a value out of range, or one of the tail's is given where no tail is trained.

        Examples
        --------
        >>> Settings.from_dict({"capacity": 300, "train_blocks": 2, "tail_noise": 0}).tail.noise
        0
        """
        unknown = [name for name in values if name not in RANGES]
        if unknown:
            near = get_close_matches(unknown[0], RANGES, 1)
            raise ValueError(f"{unknown[0]}: no such setting{f'; did you mean {near[0]}?' if near else ''}")
        tail = {TAIL_NAMES[name]: value for name, value in values.items() if name in TAIL_NAMES}
        blocks = tail.get("train_blocks", 0)
        for name, value in values.items():
            if name in TAIL_NAMES:
                RANGES[name].check(name, value)  # by the name that was given
        if blocks == 0 and len(tail) > ("train_blocks" in tail):
            name = next(name for name in values if name in TAIL_NAMES and name != "train_blocks")
            raise ValueError(f"{name}: expected only where the tail is trained; give train_blocks of 1 or more")
        rest = {name: value for name, value in values.items() if name not in TAIL_NAMES}
        return cls(**rest, tail=TailSettings(**tail) if blocks else None)

    def for_core(self) -> dict[str, Any]:
        """Values as the core and a state file have them: fractions as integers in units of 2^-8 or 2^-16, no limit of images as 0."""
        values = replace(self, capacity=self.capacity or 1, tail=self.tail or TailSettings()).to_dict()
        values |= {"capacity": self.capacity, "train_blocks": self.train_blocks, "lesson_images": self.lesson_images or 0}
        return {name: round(value * 2 ** RANGES[name].bits) if RANGES[name].bits else value for name, value in values.items()}

    @classmethod
    def from_core(cls, values: dict[str, Any]) -> Settings:
        """As a user gives them, of what `for_core` gave or the core read, which checks them."""
        found = {name: RANGES[name].from_core(value) for name, value in values.items() if name not in TAIL_NAMES or values["train_blocks"]}
        return cls.from_dict(found | {"lesson_images": values["lesson_images"] or None})
