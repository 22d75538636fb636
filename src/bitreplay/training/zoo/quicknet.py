"""The QuickNet family, Larq Zoo's architecture.

Bannink et al. 2021, "Larq Compute Engine" (`arXiv 2011.09398 <https://arxiv.org/abs/2011.09398>`_).
"""

from __future__ import annotations

from ..layers import QuickNetBlock, Stem, Transition
from .family import Family

FAMILY = Family(
    stem=lambda width, strides: Stem(width, (strides[0], strides[1])),
    stem_convolutions=(2,),
    transition=Transition,
    block=QuickNetBlock,
    counts_transition=False,
    relu_before_pool=True,
)
