"""From a trained float network to the integer model file (docs/method.md, section 3): fold, calibrate, whiten, write, compare.

Owns every rounding that happens once, off the device.  The result is checked against the float network it came from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..container import Tensors
from ..data import ImageSet
from ..model import Model, write_model
from .layers import QuickNetBlock, Stem, Transition
from .pretrain import _to_float, cached_split, load_checkpoint
from .zoo.quicknet import INPUT_MEAN, INPUT_SCALE, QuickNet, QuickNetConfig

CALIBRATION_IMAGES = 2000
WHITENING_IMAGES = 40_000
SHRINKAGE = 0.02
HEADROOM = 1.5
SHADOW_RMS = 0.3
INPUT_EXPONENT = 7

Floats = NDArray[np.float64]


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().double().numpy()


def _exponent(largest: float, limit: float = 32767.0) -> int:
    # Largest E for which largest * 2^E stays within the limit.
    return math.floor(math.log2(limit / max(largest, 1e-12)))


def _affine(scale: Floats, offset: Floats, most: int) -> tuple[int, NDArray[np.int16], Floats]:
    # Shift F such that the largest multiplier lies in [2^13, 2^14); offsets in units 2^-F.
    shift = min(most, max(0, 13 - math.floor(math.log2(max(float(np.abs(scale).max()), 1e-30)))))
    return shift, np.clip(np.rint(scale * 2.0**shift), -32768, 32767).astype(np.int16), np.rint(offset * 2.0**shift)


def _norm(norm: nn.BatchNorm2d) -> tuple[Floats, Floats]:
    # y = scale * x + offset
    assert norm.running_mean is not None
    assert norm.running_var is not None
    sigma = np.sqrt(_array(norm.running_var) + norm.eps)
    scale = _array(norm.weight) / sigma if norm.affine else 1.0 / sigma
    offset = -scale * _array(norm.running_mean)
    return scale, offset + _array(norm.bias) if norm.affine else offset


def _pack(negative: NDArray[np.bool_]) -> NDArray[np.uint64]:
    # (..., C) -> (..., ceil(C/64)), channel c is bit c % 64 of word c // 64.
    channels = negative.shape[-1]
    padded = np.zeros((*negative.shape[:-1], (channels + 63) // 64 * 64), np.bool_)
    padded[..., :channels] = negative
    return np.packbits(padded, axis=-1, bitorder="little").view("<u8")


class _Writer:
    """Collects operations and tensors in the order in which they run."""

    def __init__(self) -> None:
        self.tensors: Tensors = {}

    def conv(self, key: str, layer: nn.Conv2d, norm: nn.BatchNorm2d, relu: bool, e_in: int, e_out: int) -> dict[str, Any]:
        weight = _array(layer.weight).transpose(0, 2, 3, 1)
        depthwise = layer.groups > 1
        unit = np.abs(weight).reshape(len(weight), -1).max(1) / 127.0
        unit = np.where(unit == 0, 1.0, unit)
        quantised = np.rint(weight / unit[:, None, None, None]).astype(np.int8)
        scale, offset = _norm(norm)
        shift, multiplier, bias = _affine(scale * unit * 2.0 ** (e_out - e_in), offset * 2.0**e_out, 46)
        self.tensors[f"{key}.weight"] = quantised[..., 0] if depthwise else quantised
        self.tensors[f"{key}.multiplier"] = multiplier
        self.tensors[f"{key}.bias"] = bias.astype(np.int64)
        kernel, stride = int(layer.kernel_size[0]), int(layer.stride[0])
        return {
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

    def block(self, key: str, block: QuickNetBlock, exponent: int, shadow: bool) -> dict[str, Any]:
        weight = _array(block.conv.weight).transpose(0, 2, 3, 1)
        scale, offset = _norm(block.norm)
        mean = np.rint(_array(block.norm.running_mean))  # type: ignore[arg-type]
        # Folded around the rounded mean: scale * r + offset = scale * (r - mean) + (offset + scale * mean).
        shift, multiplier, bias = _affine(scale * 2.0**exponent, (offset + scale * mean) * 2.0**exponent, 30)
        self.tensors[f"{key}.weight"] = _pack(weight < 0)
        self.tensors[f"{key}.mean"] = np.clip(mean, -32768, 32767).astype(np.int16)
        self.tensors[f"{key}.multiplier"] = multiplier
        self.tensors[f"{key}.bias"] = np.clip(bias, -(2**29), 2**29).astype(np.int32)
        if shadow:
            # Scaled by a power of two to an rms near SHADOW_RMS of the range; a negative weight stays negative.
            power = round(math.log2(SHADOW_RMS / max(float(np.sqrt((weight**2).mean())), 1e-12)))
            levels = np.clip(np.rint(weight * 2.0**power * 127.0), -127, 127)
            self.tensors[f"{key}.shadow"] = np.where((weight < 0) & (levels == 0), -1, levels).astype(np.int8)
        return {"op": "block", "channels": weight.shape[0], "shift": shift, "exponent": exponent}


@torch.no_grad()
def _ranges(network: QuickNet, images: NDArray[np.uint8]) -> dict[nn.Module, float]:
    # Largest magnitude of what each module gives on the calibration images.
    found: dict[nn.Module, float] = {}

    def look(module: nn.Module, _: Any, output: Tensor) -> None:
        found[module] = max(found.get(module, 0.0), float(output.abs().max()))

    handles = [m.register_forward_hook(look) for m in network.modules()]
    for i in range(0, len(images), 250):
        network.features(_to_float(images[i : i + 250]))
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _float_pass(
    network: QuickNet, data: ImageSet, progress: Callable[[str, int, int], object], phase: str
) -> tuple[Floats, NDArray[np.uint64]]:
    # Pooled features and packed latents of the float network.
    features, latents = [], []
    for i in range(0, len(data), 250):
        x = (_to_float(data.images[i : i + 250]) - INPUT_MEAN) * INPUT_SCALE
        stream = network.prefix(x.contiguous(memory_format=torch.channels_last))
        features.append(_array(F.relu(network.tail(network.cut(stream))).mean((2, 3))))
        packed = _pack((network.cut.norm(stream) < 0).permute(0, 2, 3, 1).numpy())
        latents.append(packed.reshape(len(packed), -1))
        progress(phase, min(i + 250, len(data)), len(data))
    return np.concatenate(features), np.concatenate(latents)


def _whitening(features: Floats, labels: NDArray[np.int64], whiten: bool) -> tuple[Floats, Floats]:
    # Matrix V and centre m of h = V (f - m), f in units of its own spread: within-class covariance to the power -1/2, shrunk
    # towards a multiple of the identity.
    centre = features.mean(0)
    means = np.stack([features[labels == c].mean(0) if np.any(labels == c) else centre for c in range(int(labels.max()) + 1)])
    inside = features - means[labels]
    covariance = inside.T @ inside / len(features)
    if not whiten:
        return np.diag(1.0 / np.sqrt(np.maximum(np.diag(covariance), 1e-12))), centre
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    return vectors @ np.diag(values**-0.5) @ vectors.T, centre


def _fold(network: QuickNet, ranges: dict[nn.Module, float], writer: _Writer) -> dict[str, Any]:
    prefix: list[dict[str, Any]] = []
    modules = list(network.prefix)
    exponent = INPUT_EXPONENT
    # One exponent for the stream of a stage: the largest value that any of its layers gives.
    stages: list[list[nn.Module]] = []
    for module in modules:
        if isinstance(module, QuickNetBlock):
            stages[-1].append(module)
        else:
            stages.append([module])
    stream = [_exponent(max(ranges[m] for m in stage) * HEADROOM) for stage in stages]
    tail_exponent = _exponent(max([ranges[network.cut], *(ranges[m] for m in network.tail)]) * HEADROOM)
    stage = -1
    for module in modules:
        key = f"prefix.{len(prefix)}"
        if isinstance(module, Stem):
            stage += 1
            # With ReLU behind it, the first convolution's values are read where the next layer reads them.
            first = _exponent(ranges[module.norm] * HEADROOM)
            second = _exponent(ranges[module.depthwise_norm] * HEADROOM)
            prefix.append(writer.conv(key, module.conv, module.norm, True, exponent, first))
            prefix.append(writer.conv("prefix.1", module.depthwise, module.depthwise_norm, False, first, second))
            prefix.append(writer.conv("prefix.2", module.pointwise, module.pointwise_norm, False, second, stream[stage]))
            exponent = stream[stage]
        elif isinstance(module, Transition):
            stage += 1
            prefix.append({"op": "pool", "channels": module.conv.in_channels, "exponent": exponent})
            prefix.append(writer.conv(f"prefix.{len(prefix)}", module.conv, module.norm, False, exponent, stream[stage]))
            exponent = stream[stage]
        elif isinstance(module, QuickNetBlock):
            prefix.append(writer.block(key, module, exponent, shadow=False))
    norm = network.cut.norm
    gamma, beta = _array(norm.weight), _array(norm.bias)
    sigma = np.sqrt(_array(norm.running_var) + norm.eps)  # type: ignore[arg-type]
    safe = np.where(gamma == 0, 1.0, gamma)
    threshold = (_array(norm.running_mean) - beta * sigma / safe) * 2.0**exponent  # type: ignore[arg-type]
    threshold = np.where(gamma > 0, np.ceil(threshold), np.floor(threshold) + 1)
    threshold = np.where(gamma == 0, np.where(beta < 0, 32768, -32768), threshold)
    writer.tensors["cut.threshold"] = np.clip(threshold, -32768, 32768).astype(np.int32)
    writer.tensors["cut.direction"] = (gamma < 0).astype(np.uint8)
    writer.tensors["cut.alpha"] = np.clip(np.rint(_array(network.cut.alpha) * 2.0**tail_exponent), -32767, 32767).astype(np.int16)
    channels = len(gamma)
    return {
        "image_size": network.config.image_size,
        "prefix": prefix,
        "cut": {"channels": channels, "exponent": tail_exponent},
        "tail": [
            writer.block(f"tail.{i}", block, tail_exponent, shadow=True)  # type: ignore[arg-type]
            for i, block in enumerate(network.tail)
        ],
    }


def _feature_layer(
    network: QuickNet, description: dict[str, Any], features: Floats, spread: Floats, matrix: Floats, centre: Floats, writer: _Writer
) -> None:
    # `matrix` and `centre` are those of features / spread: the pooling brings each channel to that unit.
    config = network.config
    side = config.image_size // (math.prod(config.stem_strides) * 2 ** (len(config.widths) - 1))
    pooled_exponent = _exponent(float(np.abs(features / spread).max()) * HEADROOM)
    ratio = 2.0 ** (pooled_exponent - description["cut"]["exponent"]) / side**2 / spread
    pool_shift = min(46, max(0, 28 - math.floor(math.log2(ratio.max()))))
    unit = np.abs(matrix).max(1) / 127.0
    levels = np.rint(matrix / unit[:, None])
    rounded = levels * unit[:, None]
    values = (features / spread - centre) @ rounded.T
    feature_bits = min(12, max(0, _exponent(float(np.quantile(np.abs(values), 0.999)), 127.0)))
    offset = -rounded @ centre
    shift, multiplier, bias = _affine(unit * 2.0 ** (feature_bits - pooled_exponent), offset * 2.0**feature_bits, 46)
    writer.tensors["features.pool_multiplier"] = np.rint(ratio * 2.0**pool_shift).astype(np.int32)
    writer.tensors["features.weight"] = levels.astype(np.int8)
    writer.tensors["features.multiplier"] = multiplier
    writer.tensors["features.bias"] = bias.astype(np.int64)
    description["features"] = {"channels": len(matrix), "pool_shift": pool_shift, "shift": shift, "feature_bits": feature_bits}


def _integer_pass(model: Model, data: ImageSet, progress: Callable[[str, int, int], object]) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
    features, latents = [], []
    for i in range(0, len(data), 250):
        rows = model.network.latents(np.ascontiguousarray(data.images[i : i + 250]))
        latents.append(rows)
        features.append(model.network.features_of_latents(rows))
        progress("integer network", min(i + 250, len(data)), len(data))
    return np.concatenate(features), np.concatenate(latents)


def load_network(checkpoint: Path) -> tuple[QuickNet, dict[str, Any]]:
    """The float network of a checkpoint, in evaluation mode and with a fully binary cut, and the checkpoint."""
    state = load_checkpoint(checkpoint)
    network = QuickNet(QuickNetConfig.from_dict(state["config"]))
    network.load_state_dict(state["model"])
    return network.eval().to(memory_format=torch.channels_last), state  # type: ignore[call-overload]


def export_model(
    checkpoint: Path,
    out: Path,
    *,
    data: Path,
    name: str,
    cache: Path | None = None,
    card: dict[str, Any] | None = None,
    whitening: bool = True,
    progress: Callable[[str, int, int], object] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Write the integer model file of a checkpoint, and say how near it is to the float network.

    Parameters
    ----------
    checkpoint : written by `pretrain`, with a binary cut.
    out : model file to write; replaced atomically.
    data : the data set the network was trained on: calibration and whitening read its training pictures, the figures its
        validation pictures.
    name : name on the card.
    cache : folder of decoded pictures, as for `pretrain`; default beside the checkpoint.
    card : further entries of the card (data, terms, command).
    whitening : whether features are whitened (docs/method.md 3.6); without, they are only scaled.
    progress : receives phase, done, total.

    Returns
    -------
    Figures, also on the card: float_top1, integer_top1 (shares of the validation pictures), equal_bits (share of latent bits that
    float and integer network agree on).
    """
    network, state = load_network(checkpoint)
    size = network.config.image_size
    cache = cache or checkpoint.parent / "cache"
    stored, valid = cached_split(data, "train", size * 2, cache), cached_split(data, "valid", size, cache)
    if stored is None:
        raise ValueError(f"{data}: expected training pictures, found none")
    pick = np.sort(np.random.default_rng(0).permutation(len(stored))[:WHITENING_IMAGES])
    # The stored pictures are twice the network's size: the mean of each 2x2 square is the box filter that `images.py` uses.
    small = stored.images[pick].reshape(len(pick), size, 2, size, 2, 3).astype(np.uint16).sum((2, 4))
    train = ImageSet(((small + 2) // 4).astype(np.uint8), stored.labels[pick], stored.names)

    writer = _Writer()
    order = np.random.default_rng(1).permutation(len(train))[:CALIBRATION_IMAGES]
    description = _fold(network, _ranges(network, train.images[order]), writer)
    features, _ = _float_pass(network, train, progress, "whitening")
    spread = np.maximum(features.std(0), 0.01 * features.std())
    matrix, centre = _whitening(features / spread, train.labels, whitening)
    _feature_layer(network, description, features, spread, matrix, centre, writer)

    figures: dict[str, Any] = {}
    full_card = {"name": name, "epochs": state["epoch"], "config": state["config"], "recipe": state["recipe"], **(card or {})}
    if valid is not None:
        probe = write_model(out, description, writer.tensors, full_card)
        float_features, float_latents = _float_pass(network, valid, progress, "float network")
        integer_features, integer_latents = _integer_pass(probe, valid, progress)
        head, bias = _array(network.head.weight), _array(network.head.bias)
        # The pre-training head, moved behind the whitening and rounded to 16 bits, reads the integer features.
        moved = head * spread @ np.linalg.inv(matrix)
        unit = np.abs(moved).max() / 32767.0
        scale = 2.0 ** description["features"]["feature_bits"]
        logits = integer_features.astype(np.int64) @ np.rint(moved / unit).astype(np.int64).T
        logits += np.rint((head * spread @ centre + bias) * scale / unit).astype(np.int64)
        differing = np.bitwise_count(float_latents ^ integer_latents).sum()
        figures = {
            "float_top1": float(((float_features @ head.T + bias).argmax(1) == valid.labels).mean()),
            "integer_top1": float((logits.argmax(1) == valid.labels).mean()),
            "equal_bits": 1.0 - float(differing) / (len(valid) * probe.network.latent_bits),
        }
    write_model(out, description, writer.tensors, {**full_card, **figures})
    return json.loads(json.dumps(figures))  # type: ignore[no-any-return]
