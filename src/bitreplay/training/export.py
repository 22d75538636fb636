"""From a trained float network to the integer model file (docs/method.md, section 3): fold, calibrate, whiten, write, compare.

Owns every rounding that happens once, off the device.  The result is checked against the float network it came from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..datasets.image_sets import ImageSet, by_name, cached_split
from ..model import Model, write_model
from .checkpoint import load_checkpoint
from .crops import STORED, cut, to_float, whole
from .features import feature_layer
from .features import whitening as whitening_of
from .fold import Floats, Writer, array, fold, pack_signs
from .layers import ShiftedPReLU
from .weights import load_weights, network_of, weight_files
from .zoo.network import CutNetwork

CALIBRATION_IMAGES = 2000
WHITENING_IMAGES = 40_000

Progress = Callable[[str, int, int], object]


def _silent(phase: str, done: int, total: int) -> None: ...


@torch.no_grad()
def _ranges(network: CutNetwork, images: NDArray[np.uint8]) -> dict[nn.Module, float]:
    # Largest magnitude of what each module gives on the calibration images; of an activation, also of what it reads.
    found: dict[nn.Module, float] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen = [output, *inputs] if isinstance(module, ShiftedPReLU) else [output]
        found[module] = max(found.get(module, 0.0), *(float(x.abs().max()) for x in seen))

    handles = [m.register_forward_hook(look) for m in network.modules()]
    for i in range(0, len(images), 250):
        network.features(to_float(images[i : i + 250]))
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def _float_pass(network: CutNetwork, data: ImageSet, progress: Progress, phase: str) -> tuple[Floats, NDArray[np.uint64]]:
    # Pooled features and packed latents of the float network.
    features, latents = [], []
    for i in range(0, len(data), 250):
        stream = network.stream(to_float(data.images[i : i + 250]).contiguous(memory_format=torch.channels_last))
        features.append(array(network.pool(network.tail(network.cut(stream)))))
        packed = pack_signs((network.cut.norm(stream) < 0).permute(0, 2, 3, 1).numpy())
        latents.append(packed.reshape(len(packed), -1))
        progress(phase, min(i + 250, len(data)), len(data))
    return np.concatenate(features), np.concatenate(latents)


def at_size(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Whole pictures, uint8 (N, S, S, 3), brought to the network's size."""
    if images.shape[1] == size:
        return images
    parts = [cut(images[i : i + 250], whole(len(images[i : i + 250])), size) for i in range(0, len(images), 250)]
    return np.concatenate([(part + 0.5).floor().permute(0, 2, 3, 1).to(torch.uint8).numpy() for part in parts])


def _integer_pass(model: Model, data: ImageSet, progress: Progress) -> tuple[NDArray[np.int8], NDArray[np.uint64]]:
    features, latents = [], []
    for i in range(0, len(data), 250):
        rows = model.network.latents(np.ascontiguousarray(data.images[i : i + 250]))
        latents.append(rows)
        features.append(model.network.features_of_latents(rows))
        progress("integer network", min(i + 250, len(data)), len(data))
    return np.concatenate(features), np.concatenate(latents)


def load_network(checkpoint: Path) -> tuple[CutNetwork, dict[str, Any]]:
    """The float network of a checkpoint, or of weights (FOLDER/NAME), in evaluation mode and with a fully binary cut; and what is told of it."""
    if weight_files(checkpoint) and not checkpoint.exists():
        told, tensors, _ = load_weights(checkpoint)
        return network_of(told["config"], tensors), told
    state = load_checkpoint(checkpoint)
    return network_of(state["config"], state["model"]), state


def export_model(
    checkpoint: Path,
    out: Path,
    *,
    data: Path,
    name: str,
    cache: Path | None = None,
    card: dict[str, Any] | None = None,
    whitening: bool = True,
    progress: Progress = _silent,
) -> dict[str, Any]:
    """Write the integer model file of a checkpoint, and say how near it is to the float network.

    Parameters
    ----------
    checkpoint : written by `pretrain`, with a binary cut; or FOLDER/NAME of weights that it wrote with `checkpoint_to`.
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
    if not network.family.binary or network.config.cut != "binary":
        raise ValueError(
            f"checkpoint: expected a binary network with a binary cut, got family {network.config.family}, cut {network.config.cut}; "
            "such networks are for comparison, or teach others (bitreplay soft-labels)"
        )
    size = network.config.image_size
    cache = cache or checkpoint.parent / "cache"
    stored, valid = cached_split(data, "train", STORED * size, cache, enlarge=False), cached_split(data, "valid", size, cache)
    if stored is None:
        raise ValueError(f"{data}: expected training pictures, found none")
    if len(stored.names) != network.config.classes:
        raise ValueError(
            f"{data}: expected the {network.config.classes} classes of the checkpoint, got {len(stored.names)}; name the data it was trained on"
        )
    valid = None if valid is None else by_name(valid, state["names"], f"{data}: validation pictures")
    pick = np.sort(np.random.default_rng(0).permutation(len(stored))[:WHITENING_IMAGES])
    train = ImageSet(at_size(stored.images[pick], size), stored.labels[pick], stored.names)
    full_card = {
        "name": name,
        "epochs": state.get("epoch", state["recipe"]["epochs"]),  # weights of old do not tell
        "config": state["config"],
        "recipe": state["recipe"],
        **({"teacher": state["teacher"]} if state.get("teacher") else {}),
        **(card or {}),
    }
    integers = Integers(network, train, whitening, progress)
    if valid is None:
        integers.write(out, full_card)
        return {}
    figures = integers.compare(integers.write(out, full_card), valid, progress)
    integers.write(out, {**full_card, **figures})
    return figures


class Integers:
    """A network folded and calibrated on pictures: what a model file is written from.

    Parameters
    ----------
    network : in evaluation mode, with a binary cut.
    pictures : up to 40,000 that the whitening is computed from, and 2,000 of them for the exponents.
    whitening : whether features are whitened (docs/method.md 3.6).
    progress : receives phase, done, total.
    """

    def __init__(self, network: CutNetwork, pictures: ImageSet, whitening: bool = True, progress: Progress = _silent) -> None:
        self._network, self._writer = network, Writer()
        order = np.random.default_rng(1).permutation(len(pictures))[:CALIBRATION_IMAGES]
        self._description = fold(network, _ranges(network, pictures.images[order]), self._writer)
        features, _ = _float_pass(network, pictures, progress, "whitening")
        self._spread = np.maximum(features.std(0), 0.01 * features.std())
        self._matrix, self._centre = whitening_of(features / self._spread, pictures.labels, whitening)
        side = network.config.image_size // network.config.shrink
        exponent = self._description["cut"]["exponent"]
        layer, tensors = feature_layer(features, self._spread, self._matrix, self._centre, exponent=exponent, pixels=side**2)
        self._description["features"] = layer if network.family.relu_before_pool else {**layer, "relu": False}
        self._writer.tensors |= tensors

    def write(self, out: Path, card: dict[str, Any]) -> Model:
        """Write the model file, replaced atomically."""
        return write_model(out, self._description, self._writer.tensors, card)

    @torch.no_grad()
    def compare(self, model: Model, valid: ImageSet, progress: Progress = _silent) -> dict[str, float]:
        """How near the integer network is to the float one: float_top1, integer_top1, equal_bits, shares of pictures and of latent bits."""
        float_features, float_latents = _float_pass(self._network, valid, progress, "float network")
        integer_features, integer_latents = _integer_pass(model, valid, progress)
        head, bias = array(self._network.head.weight), array(self._network.head.bias)
        # The pre-training head, moved behind the whitening and rounded to 16 bits, reads the integer features.
        moved = head * self._spread @ np.linalg.inv(self._matrix)
        unit = np.abs(moved).max() / 32767.0
        scale = 2.0 ** self._description["features"]["feature_bits"]
        logits = integer_features.astype(np.int64) @ np.rint(moved / unit).astype(np.int64).T
        logits += np.rint((head * self._spread @ self._centre + bias) * scale / unit).astype(np.int64)
        differing = np.bitwise_count(float_latents ^ integer_latents).sum()
        return {
            "float_top1": float(((float_features @ head.T + bias).argmax(1) == valid.labels).mean()),
            "integer_top1": float((logits.argmax(1) == valid.labels).mean()),
            "equal_bits": 1.0 - float(differing) / (len(valid) * model.network.latent_bits),
        }
