"""What pre-training goes on from: checkpoints, and weights from elsewhere (docs/method.md, section 2.4).

Owns the checkpoint file, which holds all that a run needs to go on with the same result, and which of several beginnings counts.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ..disk import replace_file
from .recipe import Recipe
from .weights import TOLD, load_weights, weight_files
from .zoo.network import NetworkConfig

CHECKPOINT = "checkpoint.pt"
_KEYS = {*TOLD, "model", "soft_head", "optimizer"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, replaced atomically."""
    content = io.BytesIO()
    torch.save(state, content)
    replace_file(path, content.getbuffer())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `pretrain` wrote: a dict with the keys of `_KEYS`, plain values and tensors.

    Raises
    ------
    ValueError : the file is something else.
    OSError : it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a checkpoint that pretrain wrote, got a file that torch cannot read as one") from error
    if not isinstance(state, dict) or not set(state) >= _KEYS:
        raise ValueError(f"{path}: expected a checkpoint that this version's pretrain wrote, got something else; name its checkpoint.pt")
    return state


@dataclass(frozen=True)
class Continued:
    """What a run goes on from.

    Parameters
    ----------
    state : the checkpoint, or what `weights.load_weights` told with "model", "soft_head" and no "optimizer"; None where weights are but a beginning.
    where : its path.
    own_recipe : whether the run goes on with the recipe that it had.
    told, model, soft_head : of weights that are but a beginning.
    """

    state: dict[str, Any] | None
    where: Path
    own_recipe: bool = False
    told: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Tensor] = field(default_factory=dict)
    soft_head: dict[str, Tensor] = field(default_factory=dict)

    @property
    def network(self) -> NetworkConfig:
        """Its network."""
        return NetworkConfig.from_dict((self.state or self.told)["config"])

    def recipe(self, asked: Recipe) -> Recipe:
        """The recipe that training follows: its own, or the one that is asked for."""
        return Recipe(**self.state["recipe"]) if self.own_recipe and self.state else asked


def continued(out: Path, resume: Path | None = None, init: Path | None = None) -> Continued | None:
    """What `pretrain` with these arguments goes on from; None where it begins from nothing.

    Raises
    ------
    ValueError : it is no checkpoint or no weights; both `resume` and `init` are given.
    """
    if resume is not None and init is not None:
        raise ValueError("init: expected no weights to start from beside a run to resume; leave one of them out")
    own = out / CHECKPOINT
    if own.exists():
        return Continued(load_checkpoint(own), own, own_recipe=True)
    if resume is not None and weight_files(resume) and not resume.is_file():
        told, model, soft_head = load_weights(resume)
        if "epoch" not in told:
            raise ValueError(f"{resume}: these weights hold no run to continue; start from them with --init")
        return Continued({**told, "model": model, "soft_head": soft_head, "optimizer": None}, resume, own_recipe=True)
    if resume is not None:
        return Continued(load_checkpoint(resume), resume)
    return None if init is None else Continued(None, init, False, *load_weights(init))
