"""ReActNet on the 18-layer residual shape, one shortcut a binary convolution.

Liu et al. 2020 (`arXiv 2003.03488 <https://arxiv.org/abs/2003.03488>`_).
"""

from __future__ import annotations

from torch import nn

from ..layers import PlainStem, ShiftedBlock, Stem
from .family import Family


def stem(width: int, strides: tuple[int, ...]) -> nn.Module:
    """A 3x3 convolution for small pictures; for large ones, where two strides are given, QuickNet's stem."""
    return PlainStem(width, strides[0]) if len(strides) == 1 else Stem(width, (strides[0], strides[1]))


FAMILY = Family(
    stem=stem,
    stem_convolutions=(1, 2),
    transition=lambda before, after: ShiftedBlock(before, after, 2),
    block=lambda width: ShiftedBlock(width, width),
    counts_transition=True,
    relu_before_pool=False,
)
