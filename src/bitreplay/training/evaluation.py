"""How well a float network names pictures."""

from __future__ import annotations

import torch

from ..datasets.image_sets import ImageSet
from .crops import to_float


@torch.no_grad()
def top1(network: torch.nn.Module, data: ImageSet, batch_size: int = 500) -> float:
    """Share of pictures (0..1) whose highest logit is their label; the network is left in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    right = 0
    for i in range(0, len(data), batch_size):
        logits = network(to_float(data.images[i : i + batch_size]).to(device).contiguous(memory_format=torch.channels_last))
        right += int((logits.argmax(1).cpu() == torch.from_numpy(data.labels[i : i + batch_size])).sum())
    return right / len(data)
