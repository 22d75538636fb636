"""Tiny models whose tail is of a family, and a learner of one beside the reference."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import tiny_model
from new_learner import new_learner
from reference.branch import ReferenceBranchLearner
from reference.tail import ReferenceTail
from reference.tail_block import Gate, TailSettings
from remembering_network import RememberingNetwork

from bitreplay import Learner
from bitreplay.model import Model, write_model

EXPONENT = 12  # of the tail's stream: a good part of it lies where the straight-through gradient passes
FAMILIES = ("quicknet", "reactnet", "birealnet")
TAIL = ("forward_bits", "gradient_bits", "weight_bits", "weight_step", "parameter_step")
COMMON: dict[str, Any] = {
    "capacity": 11, "seed": 7, "threads": 2, "epochs": 1, "live_batch": 5, "replay_batch": 6, "ghosts": 2, "near_equal": 0.05,
    "held_back": 0.25, "tail_epochs": 2, "tail_passes": 3, "tail_replay_batch": 7, "tail_noise": 26, "tail_mirror": True, "tail_distillation": True, "tail_prior": 0.5,
}  # fmt: skip


def make(
    folder: Path, family: str, *, channels: int = 20, image_size: int = 16, blocks: int = 2, **more: Any
) -> tuple[Model, RememberingNetwork, list[Gate]]:
    """A tiny model whose tail is of a family, written to the folder."""
    if "down" in more:
        more["down"] = tuple(more["down"].items())
    network, gates = _network(family, channels, image_size, blocks, tuple(more.items()))
    return write_model(folder / f"{family}.model", network.network, network.tensors, {"name": family}), network, gates


@functools.cache
def _network(
    family: str, channels: int, image_size: int, blocks: int, more: tuple[tuple[str, Any], ...]
) -> tuple[RememberingNetwork, list[Gate]]:
    """Its thresholds and activations are put in at random."""
    options = {name: dict(value) if name == "down" else value for name, value in more}
    network, tensors = tiny_model.make_model(3, image_size=image_size, widths=(8, channels), blocks=(1, 1), tail_blocks=blocks, **options)
    rng = np.random.default_rng(9)
    gates = []
    network["cut"]["exponent"] = EXPONENT
    for i, op in enumerate(network["tail"]):
        op["exponent"] = EXPONENT
        gates.append(Gate(EXPONENT, 5 << (EXPONENT - 2), approx=family == "reactnet"))
        if family == "quicknet":
            continue
        op |= {
            "relu": False,
            "threshold": True,
            "activation": True,
            "approx_sign": family == "reactnet",
            "train_high": family != "reactnet",
        }
        for name, spread in (("threshold", 900), ("alpha", 1500), ("beta", 1500)):
            tensors[f"tail.{i}.{name}"] = rng.normal(0, spread, channels).astype(np.int16)
        tensors[f"tail.{i}.high"] = (
            np.full(channels, 8192, np.int16) if family == "reactnet" else rng.normal(8192, 900, channels).astype(np.int16)
        )
        tensors[f"tail.{i}.low"] = rng.normal(2048, 900, channels).astype(np.int16)
    return RememberingNetwork(network, tensors), gates


def pair(folder: Path, family: str, train_blocks: int, values: dict[str, Any], **shape: Any) -> tuple[Learner, ReferenceBranchLearner]:
    model, network, gates = make(folder, family, **shape)
    ours = new_learner(model, **{**COMMON, "train_blocks": train_blocks, **values})
    settings = ours.settings.for_core()
    tail = ReferenceTail.of(network, train_blocks, gates, TailSettings(**{name: settings[name] for name in TAIL}))
    return ours, ReferenceBranchLearner(network, settings, tail)
