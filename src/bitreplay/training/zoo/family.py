"""What a family of networks is: which layers its stem, its steps between stages and its blocks are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """Layers of one family.

    Parameters
    ----------
    stem : makes the first layers from (width, strides).
    stem_convolutions : how many strides the stem takes.
    transition : makes what leads to the next stage from (width before, width after); it halves the map.
    block : makes a residual block from its width.
    counts_transition : whether the transition is the first block of its stage.
    relu_before_pool : whether the pooling reads max(x, 0).
    binary : whether its blocks are binary, so that the engine takes the network.
    """

    stem: Callable[[int, tuple[int, ...]], nn.Module]
    stem_convolutions: tuple[int, ...]
    transition: Callable[[int, int], nn.Module]
    block: Callable[[int], nn.Module]
    counts_transition: bool
    relu_before_pool: bool
    binary: bool = True
