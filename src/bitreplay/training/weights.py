"""Float weights that training continues from: safetensors in shards that fit a repository, fp16 where there are many values.

Owns the split into shards; what the tensors mean is the network's.
"""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..disk import replace_file
from .zoo.network import CutNetwork, NetworkConfig

SHARD_BYTES = 6 * 2**20 - 65536
_SOFT_HEAD = "soft_head."
# What a run needs beside its tensors to go on elsewhere.
TOLD = (
    "config",
    "recipe",
    "names",
    "epoch",
    "step",
    "teacher",
    "labels",
    "crops",
    "loss",
    "seconds",
    "hours",
    "warm",
    "pictures",
    "history",
)


def weight_files(place: Path) -> list[Path]:
    """The shards of ``FOLDER/NAME``, in order; none if there is nothing of that name."""
    return sorted(place.parent.glob(f"{glob.escape(place.name)}-[0-9][0-9][0-9][0-9][0-9].safetensors"))


def save_weights(state: dict[str, Any], place: Path) -> list[Path]:
    """Write the weights of a checkpoint (`checkpoint.load_checkpoint`) to ``FOLDER/NAME``-NNNNN.safetensors; return the files written.

    Kernels and matrices are rounded to fp16.  Vectors stay float32: they are few, and the variances of batch norm pass fp16's range.  All files are
    written before the first takes its place, and each says of which moment of the run it is.

    Raises
    ------
    ValueError : a value is not finite; nothing is written.
    """
    soft = {_SOFT_HEAD + key: value for key, value in state.get("soft_head", {}).items()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for key, tensor in sorted((state["model"] | soft).items()):
        half = tensor.detach().cpu().contiguous()
        half = half.half() if half.is_floating_point() and half.dim() > 1 else half
        if half.is_floating_point() and not bool(half.isfinite().all()):
            raise ValueError(f"{place}: {key} holds a value that is infinite or NaN; nothing is written")
        size = half.numel() * half.element_size()
        if used + size > SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][key] = half
        used += size
    told = {key: json.dumps(state[key]) for key in TOLD if key in state} | {"shards": str(len(shards))}
    place.parent.mkdir(parents=True, exist_ok=True)
    old = weight_files(place)
    files = [place.with_name(f"{place.name}-{i:05d}.safetensors") for i in range(len(shards))]
    fresh = [file.with_suffix(".new") for file in files]
    for file, shard in zip(fresh, shards, strict=True):
        replace_file(file, save(shard, told))
    for new, file in zip(fresh, files, strict=True):
        os.replace(new, file)
    for file in set(old) - set(files):
        file.unlink()
    return files


def load_weights(place: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Read what `save_weights` wrote to ``FOLDER/NAME``.

    Returns
    -------
    told : config, recipe, names and where the run stood (epoch, step, hours and so on).
    network : its tensors, float32.
    soft_head : those of the head for soft labels, if there was one.

    Raises
    ------
    ValueError : there is nothing of that name, or the shards are not of one moment.
    """
    files = weight_files(place)
    if not files:
        raise ValueError(
            f"{place.parent}: expected {place.name}-00000.safetensors and its shards, found none; the weights that ship are in weights/ of the repository"
        )
    tensors: dict[str, torch.Tensor] = {}
    moments = []
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                moments.append(opened.metadata() or {})
                for key in opened.keys():  # noqa: SIM118
                    value = opened.get_tensor(key)
                    tensors[key] = value.float() if value.is_floating_point() else value
        except SafetensorError as error:
            raise ValueError(f"{file}: expected weights that bitreplay wrote, got a file that cannot be read: {error}") from error
    if "config" not in moments[0]:
        raise ValueError(f"{files[0]}: expected weights that bitreplay wrote, got safetensors of something else")
    if any(moment != moments[0] for moment in moments) or moments[0].get("shards", str(len(files))) != str(len(files)):
        raise ValueError(
            f"{place}: its {len(files)} files are not one complete set from a single checkpoint; take all of them from one commit"
        )
    soft = {key.removeprefix(_SOFT_HEAD): value for key, value in tensors.items() if key.startswith(_SOFT_HEAD)}
    network = {key: value for key, value in tensors.items() if not key.startswith(_SOFT_HEAD)}
    return {key: json.loads(value) for key, value in moments[0].items()}, network, soft


def network_of(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> CutNetwork:
    """The network of what `load_weights` read, in evaluation mode."""
    network = CutNetwork(NetworkConfig.from_dict(config))
    network.load_state_dict(tensors)
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
