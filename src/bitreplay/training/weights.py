"""Float weights that training continues from: fp16 safetensors in shards that fit a repository.

Owns the split into shards; what the tensors mean is the network's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .pretrain import load_checkpoint
from .zoo.network import CutNetwork, NetworkConfig

SHARD_BYTES = 6 * 2**20 - 65536


def save_weights(checkpoint: Path, folder: Path, name: str) -> list[Path]:
    """Write the weights of a checkpoint as fp16 to `folder`/`name`-NNNNN.safetensors; return the files written."""
    state = load_checkpoint(checkpoint)
    shards: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for key, tensor in sorted(state["model"].items()):
        half = tensor.half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        size = half.numel() * half.element_size()
        if used + size > SHARD_BYTES and shards[-1]:
            shards.append({})
            used = 0
        shards[-1][key] = half
        used += size
    metadata = {"config": json.dumps(state["config"]), "recipe": json.dumps(state["recipe"]), "names": json.dumps(state["names"])}
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for i, shard in enumerate(shards):
        files.append(folder / f"{name}-{i:05d}.safetensors")
        save_file(shard, files[-1], metadata)
    return files


def load_weights(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read what `save_weights` wrote: the network's config and its float32 tensors; ValueError if there is nothing of that name."""
    files = sorted(folder.glob(f"{name}-[0-9]*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder}: expected {name}-00000.safetensors and its shards, found none; those that ship lie in weights/ of the repository"
        )
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= {key: value.float() if value.is_floating_point() else value for key, value in load_file(file).items()}
    with safe_open(files[0], "pt") as opened:
        config: dict[str, Any] = json.loads(opened.metadata()["config"])
    return config, tensors


def network_of(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> CutNetwork:
    """The network of what `load_weights` read, in evaluation mode."""
    network = CutNetwork(NetworkConfig.from_dict(config))
    network.load_state_dict(tensors)
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
