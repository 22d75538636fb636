"""Layers of the float network: binary convolution, residual binary block, transition, replay cut (docs/method.md, section 2).

Owns the float meaning of each layer that ``export.py`` folds into integers.  It knows nothing of learning on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantizers import approx_sign, ste_sign

WEIGHT_CLIP = 1.25


def _full_precision(x: Tensor) -> torch.autocast:
    # Depth-wise convolutions in bfloat16 are over ten times slower than in float32 on a CPU.
    return torch.autocast(x.device.type, enabled=False)


class BinaryConv2d(nn.Module):
    """Convolution of {-1, +1} activations with {-1, +1} weights, padded with +1.

    Parameters
    ----------
    channels_in, channels_out : number of input and output channels.
    kernel : odd kernel size; the output has the input's size at stride 1.
    stride : step of the window, 1 or 2.
    scaled : whether the result is multiplied by the mean of |W| of each output channel (ReActNet, Bi-Real); it gets no gradient.
    offset : whether a learned offset of each output channel is added to the weights before they are binarised (Bi-Real variant).
    clip : half width of the window in which the weights' gradient passes.

    Notes
    -----
    ``weight`` holds the shadow weights: real, within +-`clip` (`clip_weights` after each step), binarised in the forward pass
    with the straight-through gradient.  The pad of +1 also counts in the weight gradient (METHOD trap 7: one rule in both passes).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        scaled: bool = False,
        offset: bool = False,
        clip: float = WEIGHT_CLIP,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel // 2
        self.clip = clip
        self.scaled = scaled
        self.product: Callable[[Tensor, Tensor], Tensor] | None = None  # another way to convolve, as `small_maps.small_conv`
        self.packed: Callable[[Tensor, Tensor, float], Tensor] | None = None  # sign and convolution in one, as `packed_conv.PackedConv`
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, kernel, kernel))
        self.offset = nn.Parameter(torch.zeros(channels_out, 1, 1, 1)) if offset else None
        nn.init.xavier_normal_(self.weight)

    def shadow(self) -> Tensor:
        """What is binarised: float (C_out, C_in, k, k)."""
        return self.weight if self.offset is None else self.weight + self.offset

    def scale(self) -> Tensor:
        """Mean of |W| of each output channel, float (C_out,), or ones; without gradient."""
        values = self.shadow().detach()
        return values.abs().mean((1, 2, 3)) if self.scaled else values.new_ones(len(values))

    def forward(self, s: Tensor) -> Tensor:
        """Convolve float (N, C_in, H, W), for a 3x3 kernel in {-1, +1}; float (N, C_out, H', W')."""
        w = ste_sign(self.shadow(), self.clip)
        if self.product is not None:
            z = self.product(s, w)
            return z * self.scale()[:, None, None] if self.scaled else z
        if self.scaled:
            w = w * self.scale()[:, None, None, None]
        p = self.padding
        if p == 0:
            return F.conv2d(s, w, stride=self.stride)
        frame = F.pad(s.new_zeros(1, *s.shape[1:]), (p, p, p, p), value=1.0)
        # A pad of +1 is the zero pad plus what a frame of ones alone gives: one picture's convolution, not a padded copy of all.
        return F.conv2d(s, w, stride=self.stride, padding=p) + F.conv2d(frame, w, stride=self.stride)

    def of_sign(self, x: Tensor) -> Tensor:
        """Convolve ``ste_sign(x, clip)`` of float (N, C_in, H, W)."""
        if self.packed is not None and x.device.type == "cpu":
            return self.packed(x, self.shadow(), self.clip)
        return self(ste_sign(x, self.clip))  # type: ignore[no-any-return]

    @torch.no_grad()
    def clip_weights(self) -> None:
        """Keep the shadow weights inside the window in which their gradient passes."""
        self.weight.clamp_(-self.clip, self.clip)


class QuickNetBlock(nn.Module):
    """Residual binary block: ``y = x + BN(ReLU(conv(sign(x), sign(W))))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = BinaryConv2d(channels, channels)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, C, H, W) to the same shape."""
        y: Tensor = x + self.norm(F.relu(self.conv.of_sign(x))).float()
        return y


class FloatBlock(nn.Module):
    """Residual block without anything binary: ``y = x + BN(conv(ReLU(BN(x))))``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, C, H, W) to the same shape."""
        y: Tensor = x + self.norm(self.conv(F.relu(self.norm_in(x)))).float()
        return y


class ShiftedPReLU(nn.Module):
    """``high (v - alpha) - beta where v >= alpha, else low (v - alpha) - beta``, each learned for each channel.

    Both papers' activations: DPReLU (all four learned), and RPReLU, ``b3 + PReLU(v + b2)``, with alpha = -b2, beta = -b3 and
    ``train_high=False``, which keeps high = 1.

    Parameters
    ----------
    channels : channels C of float (N, C, H, W).
    train_high : whether the upper slope is learned.
    """

    def __init__(self, channels: int, train_high: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.low = nn.Parameter(torch.full((channels,), 0.25))
        self.high = nn.Parameter(torch.ones(channels), requires_grad=train_high)
        self.train_high = train_high

    def forward(self, v: Tensor) -> Tensor:
        """Map float (N, C, H, W) to the same shape."""
        shape = (1, -1, 1, 1)
        w = v - self.alpha.view(shape)
        if not self.train_high:
            return F.prelu(w, self.low) - self.beta.view(shape)
        y: Tensor = F.relu(w) * self.high.view(shape) - F.relu(-w) * self.low.view(shape)
        return y - self.beta.view(shape)


class ShiftedBlock(nn.Module):
    """Residual binary block of ReActNet and of the papers' Bi-Real variant (docs/method.md, 3.3 and 3.7).

    ``y = activation(BN(conv(sign(x + t), sign(W) mean|W|)) + shortcut(x))`` with ApproxSign's gradient; the shortcut is the identity, or, where the
    map is halved, average pool 2, a 1x1 convolution with binary weights of the real values, BN.

    Parameters
    ----------
    channels_in, channels_out : widths before and after.
    stride : 1, or 2 to halve the map; 1 asks for equal widths.
    dual : Bi-Real variant: offsets of the kernels and a learned upper slope.

    References
    ----------
    Liu et al. 2020, ReActNet (`arXiv 2003.03488 <https://arxiv.org/abs/2003.03488>`_); Liu et al. 2018, Bi-Real Net
    (`arXiv 1808.00278 <https://arxiv.org/abs/1808.00278>`_).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, *, dual: bool = False) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels_in))
        self.conv = BinaryConv2d(channels_in, channels_out, 3, stride, scaled=True, offset=dual, clip=1.0)
        self.norm = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.ModuleDict | None = None
        if stride != 1:
            self.shortcut = nn.ModuleDict(
                {"conv": BinaryConv2d(channels_in, channels_out, 1, scaled=True, clip=1.0), "norm": nn.BatchNorm2d(channels_out)}
            )
        self.activation = ShiftedPReLU(channels_out, train_high=dual)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, C_in, H, W) to (N, C_out, H/stride, W/stride)."""
        y = self.norm(self.conv(approx_sign(x + self.threshold.view(1, -1, 1, 1)))).float()
        shortcut = x if self.shortcut is None else self.shortcut["norm"](self.shortcut["conv"](F.avg_pool2d(x, 2))).float()
        z: Tensor = self.activation(y + shortcut)
        return z


class Transition(nn.Module):
    """Halve the map and change the width: ReLU, max-pool 2/1, blur 3x3/2, 1x1 convolution, BN."""

    blur: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4.0
        self.register_buffer("blur", (row[:, None] * row).expand(channels_in, 1, 3, 3).contiguous(), persistent=False)
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, C_in, H, W), H and W even, to (N, C_out, H/2, W/2)."""
        x = F.max_pool2d(F.relu(x.float()), 2, 1)
        with _full_precision(x):
            x = F.conv2d(x, self.blur, stride=2, padding=1, groups=x.shape[1])
        y: Tensor = self.norm(self.conv(x)).float()
        return y


class PlainStem(nn.Module):
    """First layer of the 18-layer networks on small pictures: 3x3 convolution, BN."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, 3, S, S), already scaled, to (N, width, S/stride, S/stride)."""
        y: Tensor = self.norm(self.conv(x)).float()
        return y


class Stem(nn.Module):
    """First layers: 3x3 convolution, BN, ReLU, depth-wise 3x3, BN without affine, 1x1 convolution, BN.

    Parameters
    ----------
    width : channels that leave the stem; the first convolution has a quarter of it.
    strides : strides of the 3x3 convolution and of the depth-wise one; (1, 2) for 32 pixels, (2, 2) for 224.
    """

    def __init__(self, width: int, strides: tuple[int, int]) -> None:
        super().__init__()
        quarter = width // 4
        self.conv = nn.Conv2d(3, quarter, 3, strides[0], 1, bias=False)
        self.norm = nn.BatchNorm2d(quarter)
        self.depthwise = nn.Conv2d(quarter, quarter, 3, strides[1], 1, groups=quarter, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(quarter, affine=False)
        self.pointwise = nn.Conv2d(quarter, width, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, 3, S, S), already scaled, to (N, width, S/s, S/s)."""
        x = F.relu(self.norm(self.conv(x))).float()
        with _full_precision(x):
            x = self.depthwise_norm(self.depthwise(x))
        y: Tensor = self.pointwise_norm(self.pointwise(x)).float()
        return y


class ReplayCut(nn.Module):
    """The replay layer: batch norm, then the residual stream itself becomes ``alpha_c * sign(.)``.

    ``strength`` blends from the real stream (0) to the binary one (1), so that training may bring the cut in late and slowly.
    At 1 everything behind the cut sees one bit a value.  With ``binary=False`` the layer is the batch norm alone: the network
    that the price of the cut is measured against.

    Parameters
    ----------
    channels : width of the stream.
    binary : whether the stream is binarised.

    Notes
    -----
    The batch norm before the sign puts the values where the straight-through window is (docs/method.md, section 2.3).
    """

    alpha: nn.Parameter

    def __init__(self, channels: int, binary: bool = True) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.alpha = nn.Parameter(torch.full((channels,), 0.8))
        self.binary = binary
        self.strength = 1.0 if binary else 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Map float (N, C, H, W) to the same shape."""
        x = self.norm(x).float()
        if self.strength == 0.0:
            return x
        bits = ste_sign(x) * self.alpha[:, None, None]
        return bits if self.strength == 1.0 else torch.lerp(x, bits, self.strength)
