"""A float residual network on QuickNet's shape: nothing in it is binary.  A teacher for the others; the engine does not take it."""

from __future__ import annotations

from dataclasses import replace

from ..layers import FloatBlock
from . import quicknet

FAMILY = replace(quicknet.FAMILY, block=FloatBlock, binary=False)
