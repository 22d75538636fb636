"""The network that methods start from, and what its latent rows mean.

Owns nothing that learns; how a start is made is `first_experience`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..model import Model
from .zoo.network import CutNetwork


@dataclass(frozen=True)
class Start:
    """What methods start from; none of them changes it.

    Attributes
    ----------
    network : float network in evaluation mode.
    model : the integer network folded from it.
    """

    network: CutNetwork
    model: Model

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the map at the cut."""
        config = self.network.config
        side = config.image_size // config.shrink
        return side, side, config.widths[-1]


def decode_bits(rows: NDArray[np.uint64], start: Start) -> Tensor:
    """Latent rows, uint64 (B, words), as the tail's input: alpha_c * (+-1), float32 (B, C, H, W), channels last in memory."""
    height, width, channels = start.shape
    words = (channels + 63) // 64
    packed = rows.reshape(len(rows), height * width, words).view(np.uint8)
    bits = torch.from_numpy(np.unpackbits(packed, axis=-1, bitorder="little")[..., :channels])
    x = (1.0 - 2.0 * bits) * start.network.cut.alpha.detach()
    return x.view(len(rows), height, width, channels).permute(0, 3, 1, 2)
