"""Folding a trained network into integers: batch norm, thresholds, activations and binary weights (docs/method.md, section 3).

Owns every rounding of the network's own parameters.  What they are calibrated on, and what stands behind the pooling, is export.py's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from ..model import Tensors
from .layers import BinaryConv2d, PlainStem, QuickNetBlock, ShiftedBlock, ShiftedPReLU, Stem, Transition
from .zoo.network import CutNetwork

HEADROOM = 1.5
SHADOW_RMS = 0.3
INPUT_EXPONENT = 7
SLOPE_BITS = 13

Floats = NDArray[np.float64]


def array(tensor: Tensor | None) -> Floats:
    """A tensor as float64."""
    assert tensor is not None
    return tensor.detach().cpu().double().numpy()


def exponent_for(largest: float, limit: float = 32767.0) -> int:
    """Largest E for which largest * 2^E stays within the limit."""
    return math.floor(math.log2(limit / max(largest, 1e-12)))


def affine(scale: Floats, offset: Floats, most: int) -> tuple[int, NDArray[np.int16], Floats]:
    """Shift F such that the largest multiplier lies in [2^13, 2^14), multipliers, offsets in units 2^-F."""
    shift = min(most, max(0, 13 - math.floor(math.log2(max(float(np.abs(scale).max()), 1e-30)))))
    return shift, np.clip(np.rint(scale * 2.0**shift), -32768, 32767).astype(np.int16), np.rint(offset * 2.0**shift)


def pack_signs(negative: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Bits of (..., C) as words (..., ceil(C/64)): channel c is bit c % 64 of word c // 64."""
    channels = negative.shape[-1]
    padded = np.zeros((*negative.shape[:-1], (channels + 63) // 64 * 64), np.bool_)
    padded[..., :channels] = negative
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8")


def _norm(norm: nn.BatchNorm2d) -> tuple[Floats, Floats]:
    # y = scale * x + offset
    sigma = np.sqrt(array(norm.running_var) + norm.eps)
    scale = array(norm.weight) / sigma if norm.affine else 1.0 / sigma
    offset = -scale * array(norm.running_mean)
    return scale, offset + array(norm.bias) if norm.affine else offset


def _int16(values: Floats) -> NDArray[np.int16]:
    return np.clip(np.rint(values), -32768, 32767).astype(np.int16)


def _binary(conv: BinaryConv2d) -> Floats:
    # (out, k, k, in); only signs count.
    return array(conv.shadow()).transpose(0, 2, 3, 1)


class Writer:
    """Collects operations and tensors in the order in which they run."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}
        self.prefix: list[dict[str, Any]] = []

    def _key(self) -> str:
        return f"prefix.{len(self.prefix)}"

    def conv(self, layer: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool, e_in: int, e_out: int) -> None:
        """A dense or depth-wise convolution with its batch norm."""
        key = self._key()
        weight = array(layer.weight).transpose(0, 2, 3, 1)
        depthwise = layer.groups > 1
        unit = np.abs(weight).reshape(len(weight), -1).max(1) / 127.0
        unit = np.where(unit == 0, 1.0, unit)
        quantised = np.rint(weight / unit[:, None, None, None]).astype(np.int8)
        scale, offset = _norm(norm)
        shift, multiplier, bias = affine(scale * unit * 2.0 ** (e_out - e_in), offset * 2.0**e_out, 46)
        self.tensors[f"{key}.weight"] = quantised[..., 0] if depthwise else quantised
        self.tensors[f"{key}.multiplier"] = multiplier
        self.tensors[f"{key}.bias"] = bias.astype(np.int64)
        kernel, stride = int(layer.kernel_size[0]), int(layer.stride[0])
        self.prefix.append(
            {
                "op": "conv",
                "in": layer.in_channels,
                "out": layer.out_channels,
                "kernel": kernel,
                "stride": stride,
                "depthwise": depthwise,
                "relu": relu,
                "shift": shift,
                "exponent": e_out,
            }
        )

    def pool(self, channels: int, exponent: int) -> None:
        """First half of QuickNet's transition."""
        self.prefix.append({"op": "pool", "channels": channels, "exponent": exponent})

    def _binary_part(self, key: str, conv: BinaryConv2d, norm: nn.BatchNorm2d, exponent: int) -> int:
        # Weight, mean, multiplier and bias of a binary convolution with its norm; returns the shift.
        weight = _binary(conv)
        scale, offset = _norm(norm)
        unit = array(conv.scale())  # the norm reads z * unit
        mean = np.rint(array(norm.running_mean) / np.maximum(unit, 1e-12))
        mean = np.clip(mean, -weight[0].size, weight[0].size)
        scale = scale * unit
        # Folded around the rounded mean: scale * r + offset = scale * (r - mean) + (offset + scale * mean).
        shift, multiplier, bias = affine(scale * 2.0**exponent, (offset + scale * mean) * 2.0**exponent, 30)
        self.tensors[f"{key}.weight"] = pack_signs(weight < 0)
        self.tensors[f"{key}.mean"] = _int16(mean)
        self.tensors[f"{key}.multiplier"] = multiplier
        self.tensors[f"{key}.bias"] = np.clip(bias, -(2**29), 2**29).astype(np.int32)
        return shift

    def _shifts(self, key: str, block: ShiftedBlock, e_in: int, e_out: int) -> dict[str, Any]:
        # Threshold and activation of a ReActNet or Bi-Real block.
        act: ShiftedPReLU = block.activation
        # The stream is whole units: x + t < 0 exactly where x + floor(t) < 0.
        self.tensors[f"{key}.threshold"] = _int16(np.floor(array(block.threshold) * 2.0**e_in))
        self.tensors[f"{key}.alpha"] = _int16(array(act.alpha) * 2.0**e_out)
        self.tensors[f"{key}.beta"] = _int16(array(act.beta) * 2.0**e_out)
        self.tensors[f"{key}.high"] = _int16(array(act.high) * 2.0**SLOPE_BITS)
        self.tensors[f"{key}.low"] = _int16(array(act.low) * 2.0**SLOPE_BITS)
        return {"threshold": True, "activation": True, "relu": False}

    def down(self, block: ShiftedBlock, e_in: int, e_out: int) -> None:
        """The block that halves the map."""
        key = self._key()
        assert block.shortcut is not None
        conv, norm = block.shortcut["conv"], block.shortcut["norm"]
        assert isinstance(conv, BinaryConv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        shift = self._binary_part(key, block.conv, block.norm, e_out)
        scale, offset = _norm(norm)
        shortcut_shift, multiplier, bias = affine(scale * array(conv.scale()) * 2.0 ** (e_out - e_in), offset * 2.0**e_out, 46)
        self.tensors[f"{key}.shortcut_weight"] = pack_signs(_binary(conv)[:, 0, 0] < 0)
        self.tensors[f"{key}.shortcut_multiplier"] = multiplier
        self.tensors[f"{key}.shortcut_bias"] = bias.astype(np.int64)
        channels_out, channels_in = conv.weight.shape[:2]
        self.prefix.append(
            {"op": "down", "in": channels_in, "out": channels_out, "shift": shift, "shortcut_shift": shortcut_shift, "exponent": e_out}
            | self._shifts(key, block, e_in, e_out)
        )

    def block(self, block: nn.Module, exponent: int, tail: int | None = None) -> dict[str, Any]:
        """A residual block; `tail` is its number behind the cut, where it also gets shadow weights and the traits of its gradients."""
        key = self._key() if tail is None else f"tail.{tail}"
        assert isinstance(block, QuickNetBlock | ShiftedBlock)
        shift = self._binary_part(key, block.conv, block.norm, exponent)
        description: dict[str, Any] = {"op": "block", "channels": len(block.conv.weight), "shift": shift, "exponent": exponent}
        if isinstance(block, ShiftedBlock):
            description |= self._shifts(key, block, exponent, exponent)
        if tail is None:
            self.prefix.append(description)
            return description
        if isinstance(block, ShiftedBlock):
            description |= {"approx_sign": True, "train_high": block.activation.train_high}
        weight = _binary(block.conv)
        # Scaled by a power of two to an rms near SHADOW_RMS of the range; a negative weight stays negative.
        power = round(math.log2(SHADOW_RMS / max(float(np.sqrt((weight**2).mean())), 1e-12)))
        levels = np.clip(np.rint(weight * 2.0**power * 127.0), -127, 127)
        self.tensors[f"{key}.shadow"] = np.where(
            (weight < 0) & (levels == 0), -1, np.where((weight >= 0) & (levels < 0), 0, levels)
        ).astype(np.int8)
        return description

    def cut(self, norm: nn.BatchNorm2d, alpha: Floats, e_in: int, e_out: int) -> dict[str, Any]:
        """The replay cut: batch norm and sign as one compare."""
        gamma, beta = array(norm.weight), array(norm.bias)
        sigma = np.sqrt(array(norm.running_var) + norm.eps)
        safe = np.where(gamma == 0, 1.0, gamma)
        threshold = (array(norm.running_mean) - beta * sigma / safe) * 2.0**e_in
        threshold = np.where(gamma > 0, np.ceil(threshold), np.floor(threshold) + 1)
        threshold = np.where(gamma == 0, np.where(beta < 0, 32768, -32768), threshold)
        self.tensors["cut.threshold"] = np.clip(threshold, -32768, 32768).astype(np.int32)
        self.tensors["cut.direction"] = (gamma < 0).astype(np.uint8)
        self.tensors["cut.alpha"] = np.clip(np.rint(alpha * 2.0**e_out), -32767, 32767).astype(np.int16)
        return {"channels": len(gamma), "exponent": e_out}


def fold(network: CutNetwork, ranges: dict[nn.Module, float], writer: Writer) -> dict[str, Any]:
    """Prefix, cut and tail as operations of a model file.

    Parameters
    ----------
    network : in evaluation mode, with a binary cut.
    ranges : largest magnitude of what each module gives on calibration pictures.
    writer : receives the tensors.
    """
    modules = list(network.prefix)

    def reach(module: nn.Module) -> float:
        # Largest value of a layer's output, and of what its activation reads.
        return max(ranges[module], ranges[module.activation] if isinstance(module, ShiftedBlock) else 0.0)

    # One exponent for the stream of a stage: the largest value that any of its layers gives.
    stages: list[list[nn.Module]] = []
    for module in modules:
        if isinstance(module, QuickNetBlock) or (isinstance(module, ShiftedBlock) and module.shortcut is None):
            stages[-1].append(module)
        else:
            stages.append([module])
    stream = [exponent_for(max(reach(m) for m in stage) * HEADROOM) for stage in stages]
    tail_exponent = exponent_for(max([ranges[network.cut], *(reach(m) for m in network.tail)]) * HEADROOM)
    exponent = INPUT_EXPONENT
    for stage, e_out in zip(stages, stream, strict=True):
        first, *blocks = stage
        if isinstance(first, PlainStem):
            writer.conv(first.conv, first.norm, False, exponent, e_out)
        elif isinstance(first, Stem):
            # With ReLU behind it, the first convolution's values are read where the next layer reads them.
            after_first = exponent_for(ranges[first.norm] * HEADROOM)
            after_second = exponent_for(ranges[first.depthwise_norm] * HEADROOM)
            writer.conv(first.conv, first.norm, True, exponent, after_first)
            writer.conv(first.depthwise, first.depthwise_norm, False, after_first, after_second)
            writer.conv(first.pointwise, first.pointwise_norm, False, after_second, e_out)
        elif isinstance(first, Transition):
            writer.pool(first.conv.in_channels, exponent)
            writer.conv(first.conv, first.norm, False, exponent, e_out)
        else:
            assert isinstance(first, ShiftedBlock)
            writer.down(first, exponent, e_out)
        exponent = e_out
        for block in blocks:
            writer.block(block, exponent)
    cut = writer.cut(network.cut.norm, array(network.cut.alpha), exponent, tail_exponent)
    tail = [writer.block(block, tail_exponent, i) for i, block in enumerate(network.tail)]
    return {"image_size": network.config.image_size, "prefix": writer.prefix, "cut": cut, "tail": tail}
