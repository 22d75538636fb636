"""A float residual network on QuickNet's shape: nothing in it is binary.  A teacher for the others; the engine does not take it."""

from __future__ import annotations

from ..layers import FloatBlock, Stem, Transition
from .family import Family

FAMILY = Family(
    stem=lambda width, strides: Stem(width, (strides[0], strides[1])),
    stem_convolutions=(2,),
    transition=Transition,
    block=FloatBlock,
    counts_transition=False,
    relu_before_pool=True,
    binary=False,
)
