"""The papers' variant of Bi-Real-18: offsets before both signs, and an activation with two learned slopes.

Vorabbi et al. 2023 (`arXiv 2308.15308 <https://arxiv.org/abs/2308.15308>`_), after Liu et al. 2018 (`arXiv 1808.00278
<https://arxiv.org/abs/1808.00278>`_).
"""

from __future__ import annotations

from ..layers import ShiftedBlock
from .family import Family
from .reactnet import stem

FAMILY = Family(
    stem=stem,
    stem_convolutions=(1, 2),
    transition=lambda before, after: ShiftedBlock(before, after, 2, dual=True),
    block=lambda width: ShiftedBlock(width, width, dual=True),
    counts_transition=True,
    relu_before_pool=False,
)
