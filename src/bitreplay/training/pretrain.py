"""Pre-training off the device: data, schedule, checkpoints (docs/method.md, section 2.4).

The recipe is one cosine schedule of Adam on all parameters.  The replay cut stays open (a real stream) until `cut_start`, is
blended in over `cut_ramp`, and is fully binary from then on.  A run that is interrupted goes on from its last checkpoint with
the same result: every epoch draws from a generator keyed by (seed, epoch).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor

from ..data import ImageSet, read_split
from .zoo.network import CutNetwork, NetworkConfig

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    epochs : passes over the data.
    batch_size : pictures a step.
    learning_rate : peak of Adam's rate; linear warm-up over `warmup_steps`, then cosine to 0.
    cut_start, cut_ramp : epochs (fractions allowed) after which, and over which, the cut is blended in.
    crop : smallest side of the random square crop, as a share of the stored picture; brought to the network's size.
    seed : keys every random draw.
    precision : Fabric precision, e.g. "32-true" or "bf16-mixed".
    teacher_share : share of the loss that is the cross-entropy with a teacher's probabilities, 0 (no teacher) to 1; the rest is that with the
        labels.  ReActNet (arXiv 2003.03488) trains with 1.
    """

    epochs: int = 18
    batch_size: int = 128
    learning_rate: float = 2.5e-3
    warmup_steps: int = 500
    cut_start: float = 12.0
    cut_ramp: float = 1.5
    crop: float = 0.7
    seed: int = 1
    precision: str = "bf16-mixed"
    teacher_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_share <= 1:
            raise ValueError(f"teacher_share: expected 0 to 1, got {self.teacher_share!r}")


def cached_split(folder: Path, split: str, size: int, cache: Path) -> ImageSet | None:
    """`read_split`, decoded once: the arrays are kept under `cache` and mapped into memory afterwards."""
    stem = cache / f"{split}-{size}"
    meta = stem.with_suffix(".json")
    if not meta.exists():
        data = read_split(folder, split, size)
        if data is None:
            return None
        cache.mkdir(parents=True, exist_ok=True)
        np.save(f"{stem}-images.npy", data.images)
        np.save(f"{stem}-labels.npy", data.labels)
        meta.write_text(json.dumps(data.names))
    names = tuple(json.loads(meta.read_text()))
    return ImageSet(np.load(f"{stem}-images.npy", mmap_mode="r"), np.load(f"{stem}-labels.npy"), names)


def _to_float(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()


def _augment(images: NDArray[np.uint8], size: int, crop: float, generator: np.random.Generator) -> Tensor:
    # One crop size a batch, a place and a mirror of its own for each picture.
    count, stored = images.shape[:2]
    side = int(generator.integers(math.ceil(crop * stored), stored + 1))
    at = generator.integers(0, stored - side + 1, (count, 2))
    flip: NDArray[np.bool_] = np.asarray(generator.random(count) < 0.5)
    out = np.empty((count, side, side, 3), np.uint8)
    for i, (y, x) in enumerate(at):
        patch = images[i, y : y + side, x : x + side]
        out[i] = patch[:, ::-1] if flip[i] else patch
    batch = _to_float(out)
    return batch if side == size else F.interpolate(batch, (size, size), mode="bilinear", antialias=True, align_corners=False)


@torch.no_grad()
def top1(network: torch.nn.Module, data: ImageSet, batch_size: int = 500) -> float:
    """Share of pictures (0..1) whose highest logit is their label; the network is left in evaluation mode."""
    network.eval()
    device = next(network.parameters()).device
    right = 0
    for i in range(0, len(data), batch_size):
        logits = network(_to_float(data.images[i : i + batch_size]).to(device).contiguous(memory_format=torch.channels_last))
        right += int((logits.argmax(1).cpu() == torch.from_numpy(data.labels[i : i + batch_size])).sum())
    return right / len(data)


def _learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `pretrain` wrote: keys config, recipe, epoch, model, optimizer, names, teacher.

    Raises
    ------
    ValueError : the file is something else.
    OSError : it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, KeyError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: expected a checkpoint that pretrain wrote, got a file that torch cannot read as one") from error
    if not isinstance(state, dict) or not {"config", "recipe", "epoch", "model", "names"} <= set(state):
        raise ValueError(f"{path}: expected a checkpoint that pretrain wrote, got something else; name its checkpoint.pt")
    return {"teacher": None, **state}


def _teacher(path: Path, names: list[str], image_size: int) -> CutNetwork:
    state = load_checkpoint(path)
    config, recipe = NetworkConfig.from_dict(state["config"]), Recipe(**state["recipe"])
    if state["names"] != names:
        raise ValueError(f"teacher: {path} was trained on other classes; train one on the same data set")
    if config.image_size != image_size:
        raise ValueError(f"teacher: {path} takes pictures of {config.image_size} pixels, the network of {image_size}; train one for these")
    if config.cut == "binary" and state["epoch"] < recipe.cut_start + recipe.cut_ramp:
        raise ValueError(f"teacher: {path} stands at epoch {state['epoch']}, before its cut is binary; train it to the end")
    network = CutNetwork(config).requires_grad_(False)
    network.load_state_dict(state["model"])
    return network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def pretrain(
    folder: Path,
    out: Path,
    config: NetworkConfig,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    init: Path | None = None,
    teacher: Path | None = None,
    until: int | None = None,
    cache: Path | None = None,
    compiled: bool = False,
    progress: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a network on the data set in `folder`; write `out`/checkpoint.pt and `out`/log.jsonl.

    Parameters
    ----------
    folder : data set as `bitreplay.data.read_split` takes it.
    out : folder for the results; a checkpoint that lies there already is continued.
    config, recipe : network and training; `config.classes` is taken from the data.
    resume : start from this checkpoint instead (a branch): its network, optimizer and epoch, with `recipe`'s schedule from there
        on.  ``config.cut`` may differ from the checkpoint's while the cut has not begun.
    init : start from weights that `weights.save_weights` wrote, ``FOLDER/NAME``: their network, a new head where the classes
        differ, epoch 0 and `recipe`.
    teacher : checkpoint of a network that was trained on the same classes and size of picture, for a recipe with a `teacher_share`; a
        float network of the family "residual" serves.  A run that goes on needs the same file again.
    until : stop after this many epochs of the schedule (to branch from there).
    cache : where decoded pictures are kept; default `out`/cache.
    compiled : compile the layers before and behind the cut with torch.compile, which needs a C++ compiler and takes about a minute; up to
        twice as fast where a network has many element-wise steps (ReActNet, Bi-Real).
    progress : receives a dict several times an epoch: epoch, step, steps, loss, seconds; after an epoch also valid_top1.

    Returns
    -------
    The last checkpoint.
    """
    fabric = Fabric(accelerator="auto", devices="auto" if torch.cuda.is_available() else 1, precision=recipe.precision)  # type: ignore[arg-type]
    fabric.launch()
    out.mkdir(parents=True, exist_ok=True)
    cache = cache or out / "cache"
    own = out / CHECKPOINT
    start = load_checkpoint(own) if own.exists() else load_checkpoint(resume) if resume else None
    weights: dict[str, Tensor] = {}
    if start is not None:
        begun = start["epoch"] > start["recipe"]["cut_start"]
        if begun and start["config"]["cut"] != config.cut:
            raise ValueError("cut: the checkpoint was trained with its cut already; branch from one before its cut_start")
        config = replace(NetworkConfig.from_dict(start["config"]), cut=config.cut)
        if own.exists():
            recipe = Recipe(**start["recipe"])
    elif init is not None:
        from .weights import load_weights

        values, weights = load_weights(init.parent, init.name)
        config = replace(NetworkConfig.from_dict(values), cut=config.cut)
    if (teacher is None) != (recipe.teacher_share == 0):
        wanted = "a file, since the recipe has a teacher_share" if teacher is None else "a teacher_share above 0 beside it"
        raise ValueError(f"teacher: expected {wanted}")
    digest = None if teacher is None else hashlib.sha256(teacher.read_bytes()).hexdigest()
    if own.exists() and start is not None and start["teacher"] != digest:
        raise ValueError(f"teacher: expected the file that the run in {out} began with, got another")

    stored = config.image_size * 2
    if fabric.is_global_zero:
        cached_split(folder, "train", stored, cache), cached_split(folder, "valid", config.image_size, cache)
    fabric.barrier()
    train, valid = cached_split(folder, "train", stored, cache), cached_split(folder, "valid", config.image_size, cache)
    assert train is not None
    if start is not None and list(train.names) != start["names"]:
        raise ValueError(f"{folder}: the checkpoint was trained on other classes; name the same data set")
    if weights and config.classes != len(train.names):
        weights = {key: value for key, value in weights.items() if not key.startswith("head.")}
    config = replace(config, classes=len(train.names))
    guide = _teacher(teacher, list(train.names), config.image_size).to(fabric.device) if teacher else None
    torch.manual_seed(recipe.seed)
    network = CutNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, fused=True)
    epoch = 0
    network.load_state_dict(weights, strict=False)
    if start is not None:
        network.load_state_dict(start["model"])
        optimizer.load_state_dict(start["optimizer"])
        epoch = start["epoch"]
    if compiled:
        network.prefix.compile()
        network.tail.compile()
    model, optimizer = fabric.setup(network, optimizer)

    world, rank = fabric.world_size, fabric.global_rank
    steps_an_epoch = len(train) // recipe.batch_size
    if steps_an_epoch == 0:
        raise ValueError(f"batch_size: expected at most the {len(train)} pictures of the data set, got {recipe.batch_size}")
    steps = steps_an_epoch * recipe.epochs
    state: dict[str, Any] = start or {}
    while epoch < min(recipe.epochs, until or recipe.epochs):
        model.train()
        generator = np.random.default_rng((recipe.seed, epoch))
        order = generator.permutation(len(train))
        began, total = time.monotonic(), 0.0
        for i in range(steps_an_epoch):
            at = epoch + i / steps_an_epoch
            if config.cut == "binary":
                network.cut.strength = (
                    min(1.0, max(0.0, (at - recipe.cut_start) / recipe.cut_ramp)) if recipe.cut_ramp else float(at >= recipe.cut_start)
                )
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, epoch * steps_an_epoch + i, steps)
            rows = np.sort(order[i * recipe.batch_size : (i + 1) * recipe.batch_size])
            images = _augment(train.images[rows], config.image_size, recipe.crop, generator)[rank::world]
            labels = torch.from_numpy(train.labels[rows])[rank::world]
            images = images.to(fabric.device).contiguous(memory_format=torch.channels_last)
            logits = model(images).float()
            loss = F.cross_entropy(logits, labels.to(fabric.device))
            if guide is not None:
                with torch.no_grad(), fabric.autocast():  # not set up by Fabric: a network without gradients is no part of a parallel run
                    targets = guide(images).float().softmax(1)
                loss = recipe.teacher_share * F.cross_entropy(logits, targets) + (1 - recipe.teacher_share) * loss
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            network.clip_weights()
            total += float(loss.detach())
            if i % 50 == 49:
                progress(
                    {"epoch": epoch, "step": i + 1, "steps": steps_an_epoch, "loss": total / (i + 1), "seconds": time.monotonic() - began}
                )
        epoch += 1
        line: dict[str, Any] = {"epoch": epoch, "step": steps_an_epoch, "steps": steps_an_epoch, "loss": total / steps_an_epoch}
        line["seconds"] = round(time.monotonic() - began, 1)
        line["cut_strength"] = network.cut.strength
        if fabric.is_global_zero:
            if valid is not None:
                line["valid_top1"] = top1(network, valid)
            state = {
                "config": config.to_dict(),
                "recipe": asdict(recipe),
                "epoch": epoch,
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "names": list(train.names),
                "teacher": digest,
            }
            _save(own, state)
            with (out / LOG).open("a") as log:
                log.write(json.dumps(line) + "\n")
        progress(line)
        fabric.barrier()
    return state
