"""How a network is trained: the settings of a run, its learning rate and its cut over time (docs/method.md, sections 2.3 and 2.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs : passes over the data.
    batch_size : pictures a step.
    learning_rate : peak of Adam's rate, after a linear warm-up over `warmup_steps`.
    cooldown : share of the steps, the last ones, over which the rate falls to 0 along a half cosine; before, it stays at its peak.
    cut_start, cut_ramp : epochs (fractions allowed) after which, and over which, the cut is blended in.
    smallest, stretch : random crops, as `crops.draw_boxes` takes them: smallest area, largest ratio of sides.  Soft labels bring crops of their own.
    seed : keys every random draw.
    blurred : share of the pictures that are shrunk and enlarged again, to look like distant objects or small files: to 3/8 to 3/4 of the network's
        input size, one size per batch.  A teacher sees the picture as it is.
    gradient_bits : 8 to 16: on a CPU, convolutions of QuickNet's blocks run on the engine's kernels, forward exactly, with gradients rounded to this many
        bits (`packed_conv`); 0 leaves them to torch.
    precision : Fabric precision, e.g. "32-true" or "bf16-mixed".
    soft_share : share of the features' gradient that comes from soft labels, 0 (none) to 1; the rest comes from the labels.  ReActNet
        (arXiv 2003.03488) trains with 1.  The head of the labels learns from them in any case.
    """

    epochs: int = 18
    batch_size: int = 128
    learning_rate: float = 2.5e-3
    warmup_steps: int = 500
    cooldown: float = 1.0
    cut_start: float = 12.0
    cut_ramp: float = 1.5
    smallest: float = 0.5
    stretch: float = 1.0
    blurred: float = 0.0
    seed: int = 1
    gradient_bits: int = 8
    precision: str = "bf16-mixed"
    soft_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("soft_share", "cooldown", "blurred"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: expected 0 to 1, got {getattr(self, name)!r}")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest: expected a share of the picture's area above 0 and at most 1, got {self.smallest!r}")
        if self.gradient_bits and not 8 <= self.gradient_bits <= 16:
            raise ValueError(f"gradient_bits: expected 0, or 8 to 16, got {self.gradient_bits!r}")

    def rate(self, step: int, steps: int, warm: int) -> float:
        """Adam's rate at `step` of `steps`, `warm` steps after its moments began."""
        left = (steps - step) / max(1.0, self.cooldown * steps)
        fall = 0.5 * (1.0 - math.cos(math.pi * left)) if left < 1 else 1.0
        return self.learning_rate * min(fall, (warm + 1) / max(1, self.warmup_steps))

    def strength(self, at: float) -> float:
        """How much of the cut is blended in after `at` epochs."""
        return min(1.0, max(0.0, (at - self.cut_start) / self.cut_ramp)) if self.cut_ramp else float(at >= self.cut_start)
