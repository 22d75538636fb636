"""What all families share: the shape of a network, the replay cut inside it, features and head (docs/method.md, section 2).

A network is ``prefix`` (stem to cut; frozen on the device), ``cut`` (the replay layer), ``tail`` (the blocks behind it) and ``head`` (the
pre-training classifier).  A family says which layers prefix and tail are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import BinaryConv2d, ReplayCut
from . import birealnet, quicknet, reactnet, residual

INPUT_MEAN = 127.5
INPUT_SCALE = 1.0 / 64.0

Layers = list[nn.Module]
# For each family: the stem (width, strides), what leads from one stage to the next (width before, after), a block (width), and
# whether pooling reads max(x, 0).  A layer that leads to the next stage and counts as a block of it makes `first_is_block` true.
FAMILIES = {"quicknet": quicknet.FAMILY, "reactnet": reactnet.FAMILY, "birealnet": birealnet.FAMILY, "residual": residual.FAMILY}


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of one network.

    Parameters
    ----------
    image_size : side of the square input in pixels; the stem's strides and every stage after the first divide it.
    widths : channels of each stage.
    blocks : residual binary blocks of each stage.
    stem_strides : strides of the stem's 3x3 convolutions; one (18-layer families only) or two.
    tail_blocks : blocks of the last stage that lie behind the replay cut.
    cut : "binary" (1 bit a value at the cut) or "none" (the same network without binarisation).
    classes : outputs of the pre-training head.
    family : "quicknet", "reactnet", "birealnet", or "residual" (float, a teacher: it cannot be exported).
    """

    image_size: int = 32
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: tuple[int, ...] = (2, 3, 4)
    stem_strides: tuple[int, ...] = (1, 2)
    tail_blocks: int = 3
    cut: str = "binary"
    classes: int = 200
    family: str = "quicknet"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {self.family!r}")
        family = FAMILIES[self.family]
        if len(self.widths) != len(self.blocks) or not self.widths or min(self.blocks) < 1:
            raise ValueError(f"blocks: expected one count a stage, got {self.blocks} for widths {self.widths}")
        if any(w < 4 or w % 4 for w in self.widths):
            raise ValueError(f"widths: expected multiples of 4, got {self.widths}")
        most = self.blocks[-1] - (family.counts_transition and len(self.widths) > 1)
        if not 0 <= self.tail_blocks <= most:
            raise ValueError(f"tail_blocks: expected 0 to {most} (the last stage's blocks of unchanged width), got {self.tail_blocks}")
        if self.cut not in ("binary", "none"):
            raise ValueError(f'cut: expected "binary" or "none", got {self.cut!r}')
        if self.cut == "binary" and not family.binary:
            raise ValueError(f'cut: expected "none" for {self.family}, which has nothing binary')
        if len(self.stem_strides) not in family.stem_convolutions or any(s not in (1, 2) for s in self.stem_strides):
            counts = " or ".join(str(n) for n in family.stem_convolutions)
            raise ValueError(f"stem_strides: expected {counts} of 1 or 2 for {self.family}, got {self.stem_strides}")
        if self.image_size % self.shrink:
            raise ValueError(f"image_size: expected a multiple of {self.shrink} for these stages, got {self.image_size}")

    @property
    def shrink(self) -> int:
        """Pixels of the picture, in one direction, to one of the map at the cut."""
        return int(math.prod(self.stem_strides) * 2 ** (len(self.widths) - 1))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """Read what `to_dict` wrote (lists become tuples)."""
        read: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**read)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a model card."""
        return asdict(self)


class CutNetwork(nn.Module):
    """A network with its residual stream binarised at the replay cut.  Input: float (N, 3, S, S), pixel values 0..255."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.family = FAMILIES[config.family]
        block: Callable[[int], nn.Module] = self.family.block
        layers: Layers = [self.family.stem(config.widths[0], config.stem_strides)]
        for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            own = count
            if stage:
                layers.append(self.family.transition(config.widths[stage - 1], width))
                own -= self.family.counts_transition
            last = stage == len(config.widths) - 1
            layers += [block(width) for _ in range(own - (config.tail_blocks if last else 0))]
        width = config.widths[-1]
        self.prefix = nn.Sequential(*layers)
        self.cut = ReplayCut(width, config.cut == "binary")
        self.tail = nn.Sequential(*(block(width) for _ in range(config.tail_blocks)))
        self.head = nn.Linear(width, config.classes)

    def stream(self, images: Tensor) -> Tensor:
        """What reaches the cut, float (N, widths[-1], H, W), of pixels 0..255, float (N, 3, S, S)."""
        x: Tensor = self.prefix((images - INPUT_MEAN) * INPUT_SCALE)
        return x

    def pool(self, x: Tensor) -> Tensor:
        """Pooled features, float (N, widths[-1]), of what leaves the tail."""
        return (F.relu(x) if self.family.relu_before_pool else x).mean((2, 3))

    def features(self, images: Tensor) -> Tensor:
        """Pooled features, float (N, widths[-1]), of pixels 0..255, float (N, 3, S, S)."""
        return self.pool(self.tail(self.cut(self.stream(images))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the pre-training classes, float (N, classes)."""
        y: Tensor = self.head(self.features(images))
        return y

    def clip_weights(self) -> None:
        """Clip all shadow weights; call it after each optimiser step."""
        for module in self.modules():
            if isinstance(module, BinaryConv2d):
                module.clip_weights()
