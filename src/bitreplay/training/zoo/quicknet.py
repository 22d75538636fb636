"""The QuickNet family (Larq Zoo's architecture) with a replay cut (docs/method.md, section 2).

Bannink et al. 2021, "Larq Compute Engine" (`arXiv 2011.09398 <https://arxiv.org/abs/2011.09398>`_).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import BinaryConv2d, QuickNetBlock, ReplayCut, Stem, Transition

INPUT_MEAN = 127.5
INPUT_SCALE = 1.0 / 64.0


@dataclass(frozen=True)
class QuickNetConfig:
    """Shape of one network.

    Parameters
    ----------
    image_size : side of the square input in pixels; every stage halves it, so it must divide.
    widths : channels of each stage.
    blocks : residual binary blocks of each stage.
    stem_strides : strides of the stem's two 3x3 convolutions.
    tail_blocks : blocks of the last stage that lie behind the replay cut.
    cut : "binary" (1 bit a value at the cut) or "none" (the twin without binarisation).
    classes : outputs of the pre-training head.
    """

    image_size: int = 32
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (2, 3, 4)
    stem_strides: tuple[int, int] = (1, 2)
    tail_blocks: int = 3
    cut: str = "binary"
    classes: int = 200

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.blocks) or not self.widths:
            raise ValueError(f"blocks: expected one count a stage, got {self.blocks} for widths {self.widths}")
        if any(w < 4 or w % 4 for w in self.widths):
            raise ValueError(f"widths: expected multiples of 4, got {self.widths}")
        if not 0 <= self.tail_blocks <= self.blocks[-1]:
            raise ValueError(f"tail_blocks: expected 0 to {self.blocks[-1]} (the last stage's blocks), got {self.tail_blocks}")
        if self.cut not in ("binary", "none"):
            raise ValueError(f'cut: expected "binary" or "none", got {self.cut!r}')
        shrink = self.stem_strides[0] * self.stem_strides[1] * 2 ** (len(self.widths) - 1)
        if self.image_size % shrink:
            raise ValueError(f"image_size: expected a multiple of {shrink} for these stages, got {self.image_size}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuickNetConfig:
        """Read what `to_dict` wrote (lists become tuples)."""
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a model card."""
        return asdict(self)


class QuickNet(nn.Module):
    """QuickNet with the residual stream binarised at the replay cut.

    ``prefix`` (stem to cut) is what is frozen on the device, ``tail`` the blocks behind the cut, ``head`` the pre-training
    classifier.  Input: float (N, 3, S, S) with pixel values 0..255.
    """

    def __init__(self, config: QuickNetConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [Stem(config.widths[0], config.stem_strides)]
        for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            if stage:
                layers.append(Transition(config.widths[stage - 1], width))
            last = stage == len(config.widths) - 1
            layers += [QuickNetBlock(width) for _ in range(count - (config.tail_blocks if last else 0))]
        width = config.widths[-1]
        self.prefix = nn.Sequential(*layers)
        self.cut = ReplayCut(width, config.cut == "binary")
        self.tail = nn.Sequential(*(QuickNetBlock(width) for _ in range(config.tail_blocks)))
        self.head = nn.Linear(width, config.classes)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, float (N, widths[-1]), of pixels 0..255, float (N, 3, S, S)."""
        x = self.cut(self.prefix((images - INPUT_MEAN) * INPUT_SCALE))
        return F.relu(self.tail(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the pre-training classes, float (N, classes)."""
        y: Tensor = self.head(self.features(images))
        return y

    def clip_weights(self) -> None:
        """Clip all shadow weights; call it after each optimiser step."""
        for module in self.modules():
            if isinstance(module, BinaryConv2d):
                module.clip_weights()
