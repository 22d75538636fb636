"""What may be trained behind the cut: a copy of the start's tail, and how replay samples of any kind become its input."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..layers import BinaryConv2d
from ..quantizers import affine_quantize
from ..small_maps import small_conv
from ..start import Start, decode_bits

EVALUATION = 500  # rows that are looked at together in prediction
SMALL_MAP = 64  # pixels up to which a matrix product is the faster convolution


READS = {"bits": "bits", "8-bit": "stream", "float": "stream"}  # what rows of each kind are made from


class Latents:
    """What a replay sample is stored as, and what it costs.

    Parameters
    ----------
    kind : "bits" (1 bit a value), "8-bit" (affine, range of the first rows seen) or "float" (32 bits a value).
    start : whose cut the rows come from.
    """

    def __init__(self, kind: str, start: Start) -> None:
        if kind not in READS:
            raise ValueError(f"latents: expected one of {', '.join(READS)}, got {kind!r}")
        self.kind, self._start = kind, start
        self._range: tuple[float, float] | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a replay sample without its label."""
        values = int(np.prod(self._start.shape))
        sizes = {"bits": int(self._start.model.network.latent_words) * 8, "8-bit": values, "float": 4 * values}
        return sizes[self.kind]

    def calibrate(self, rows: NDArray[Any]) -> None:
        """Fix the range of "8-bit" on the first rows that come: all but a ten-thousandth of their values."""
        if self.kind == "8-bit" and self._range is None:
            low, high = np.quantile(np.asarray(rows[:500], np.float32), (0.00005, 0.99995))
            self._range = float(low), float(high)

    def decode(self, rows: NDArray[Any]) -> Tensor:
        """Rows as the tail's input, float32 (B, C, H, W), channels last in memory."""
        if self.kind == "bits":
            return decode_bits(np.asarray(rows), self._start)
        x = torch.from_numpy(np.asarray(rows, np.float32)).permute(0, 3, 1, 2)
        return affine_quantize(x, 8, *self._range) if self._range is not None else x

    def parts(self, rows: NDArray[Any]) -> Iterator[Tensor]:
        """All rows decoded, some at a time."""
        return (self.decode(rows[i : i + EVALUATION]) for i in range(0, len(rows), EVALUATION))


def vary(x: Tensor, noise: float, mirror: bool) -> Tensor:
    """Turn the sign of a share `noise` of the values of float (B, C, H, W), and mirror half of the rows, at random."""
    if mirror:
        turned = torch.rand(len(x), 1, 1, 1) < 0.5
        x = torch.where(turned, x.flip(3), x)
    if noise > 0:
        x = torch.where(torch.rand(x.shape) < noise, -x, x)
    return x


class Tail(nn.Module):
    """A copy of the start's tail with its pooling: latents to features.

    Parameters
    ----------
    start : whose tail is copied.
    blocks : how many blocks are trained, counted from the last; the others stay as they are.
    norm : "batch" (statistics of the minibatch, as in the papers) or "frozen" (those of pre-training, as in the engine).
    exact : float32 products in the convolutions instead of bfloat16.
    """

    def __init__(self, start: Start, blocks: int | None = None, norm: str = "batch", exact: bool = False) -> None:
        super().__init__()
        if norm not in ("batch", "frozen"):
            raise ValueError(f'norm: expected "batch" or "frozen", got {norm!r}')
        most = len(start.network.tail)
        blocks = most if blocks is None else blocks
        if not 0 <= blocks <= most:
            raise ValueError(f"blocks: expected 0 to {most}, the blocks behind the cut, got {blocks}")
        self.blocks = nn.ModuleList(copy.deepcopy(block) for block in start.network.tail)
        self.pool = start.network.pool
        self.norm = norm
        for i, block in enumerate(self.blocks):
            for parameter in block.parameters():
                parameter.requires_grad_(parameter.requires_grad and i >= most - blocks)
        height, width, _ = start.shape
        for module in self.modules():
            if isinstance(module, BinaryConv2d) and height * width <= SMALL_MAP:
                module.product = (lambda s, w: small_conv(s, w, exact=True)) if exact else small_conv
        self.eval()

    def train(self, mode: bool = True) -> Tail:
        """Switch batch norms to the minibatch's statistics, where that is wanted."""
        super().train(mode and self.norm == "batch")
        for block in self.blocks:
            if not any(p.requires_grad for p in block.parameters()):
                block.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Features, float (B, D_f), of latents, float (B, C, H, W)."""
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.pool(x)
        return y

    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    def convolutions(self) -> list[BinaryConv2d]:
        """The binary convolutions that are trained."""
        return [m for m in self.modules() if isinstance(m, BinaryConv2d) and m.weight.requires_grad]

    def clip_weights(self) -> None:
        """Clip the shadow weights; call it after each step."""
        for convolution in self.convolutions():
            convolution.clip_weights()

    def signs(self) -> list[Tensor]:
        """Which binary weights are negative, a bool tensor a convolution: to count how many an experience flipped."""
        return [(c.shadow() < 0).detach() for c in self.convolutions()]
