"""Pre-training off the device: schedule, steps, checkpoints (docs/method.md, section 2.4).

The recipe is one schedule of Adam on all parameters.  The replay cut stays open (a real stream) until `cut_start`, is blended in over `cut_ramp`,
and is fully binary from then on.  A run that is interrupted goes on from its last checkpoint, in the middle of an epoch too, with the same result:
every batch is a function of (seed, epoch, step).
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ..container import replace_file
from ..data import ImageSet, by_name, cached_split
from .batches import Batches
from .packed_conv import PackedConv, use_packed
from .recipe import Recipe
from .soft_labels import SoftLabels, cross_entropy
from .weights import TOLD, load_weights, save_weights, weight_files
from .zoo.network import CutNetwork, NetworkConfig

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"
_KEYS = {*TOLD, "model", "soft_head", "optimizer"}
STORED = 2  # pictures are kept at up to this many times the network's size, so that a crop of half the side loses nothing


class _Student(nn.Module):
    # The network and, for soft labels, a second head for the teacher's classes, which is no part of what is exported.
    def __init__(self, network: CutNetwork, classes: int, soft_share: float) -> None:
        super().__init__()
        self.network = network
        self.soft_head = nn.Linear(network.config.widths[-1], classes) if classes else None
        self._share = soft_share

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.network.features(images)
        if self.soft_head is None:
            return self.network.head(features), None
        # Of what the labels ask of the features, a share passes.
        seen = torch.lerp(features, features.detach(), self._share)
        return self.network.head(seen), self.soft_head(features)


def to_float(images: NDArray[np.uint8]) -> Tensor:
    """Pixels as float (N, 3, S, S), 0..255, of uint8 (N, S, S, 3)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()


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


def _save(path: Path, state: dict[str, Any]) -> None:
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


def _continued(resume: Path) -> dict[str, Any]:
    # A checkpoint, or the weights of one: without the optimizer's moments.
    if resume.suffix == ".pt" or resume.is_file() or not weight_files(resume):
        return load_checkpoint(resume)
    told, model, soft_head = load_weights(resume)
    if "epoch" not in told:
        raise ValueError(f"{resume}: these weights hold no run to continue; start from them with --init")
    return {**told, "model": model, "soft_head": soft_head, "optimizer": None}


def found_network(out: Path, resume: Path | None = None, init: Path | None = None) -> NetworkConfig | None:
    """The network that `pretrain` with these arguments would go on with; None where it begins from nothing."""
    own = out / CHECKPOINT
    if own.exists():
        return NetworkConfig.from_dict(load_checkpoint(own)["config"])
    if resume is not None:
        return NetworkConfig.from_dict(_continued(resume)["config"])
    return None if init is None else NetworkConfig.from_dict(load_weights(init)[0]["config"])


def _check_network(config: NetworkConfig, found: NetworkConfig, where: Path, free: tuple[str, ...]) -> None:
    wanted, has = asdict(config), asdict(found)
    for name in wanted:
        if name not in ("classes", *free) and wanted[name] != has[name]:
            raise ValueError(
                f"{name}: {where} has {has[name]}, got {wanted[name]}; leave the option out, or train in another folder from the start"
            )


def pretrain(
    folder: Path,
    out: Path,
    config: NetworkConfig,
    recipe: Recipe,
    *,
    resume: Path | None = None,
    init: Path | None = None,
    soft_labels: Path | None = None,
    until: int | None = None,
    cache: Path | None = None,
    compiled: bool = False,
    checkpoint_to: Path | None = None,
    save_seconds: float = 300.0,
    progress: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a network on the data set in `folder`; write `out`/checkpoint.pt and `out`/log.jsonl.

    Parameters
    ----------
    folder : data set as `bitreplay.data.read_split` takes it.
    out : folder for the results; a checkpoint that lies there already is continued, with its network and recipe.
    config : network; where something is continued, its own (`found_network`), but for what may differ.  `config.classes` is taken from the data.
    recipe : training.
    resume : go on from this checkpoint, or from weights that `checkpoint_to` wrote, ``FOLDER/NAME``, in a new `out`.  A checkpoint is branched
        from: its network, optimizer and epoch, with `recipe`'s schedule from there on; ``config.cut`` may differ while the cut has not
        begun, and the picture size.  Weights go on with the recipe of their own; they have no moments, so the rate warms up again.
    init : start from weights, ``FOLDER/NAME``: epoch 0 and `recipe`, a new head where the classes differ.  Picture size, the stem's strides and the cut may differ.
    soft_labels : file that `soft_labels.make_soft_labels` wrote for the pictures of `folder`, for a recipe with a `soft_share`.  A run that goes on needs
        the same labels again.  Each epoch learns from the crops that were finished when it began.
    until : stop after this many epochs of the schedule (to branch from there).
    cache : where decoded pictures are kept; default `out`/cache.
    compiled : compile the layers before and behind the cut with torch.compile, which needs a C++ compiler and takes about a minute; pays for the
        networks whose blocks the engine's kernels do not serve (ReActNet, Bi-Real), and leaves all convolutions to torch.
    checkpoint_to : ``FOLDER/NAME`` to which every checkpoint's weights are written, too: in halves, without moments, what continues the run elsewhere.
    save_seconds : time between two checkpoints; the end of an epoch is one in any case.
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
    from_weights = resume is not None and not own.exists() and bool(weight_files(resume))
    start = load_checkpoint(own) if own.exists() else _continued(resume) if resume else None
    told: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    soft_head: dict[str, Tensor] = {}
    if start is not None:
        found = NetworkConfig.from_dict(start["config"])
        if own.exists() or from_weights:
            _check_network(config, found, own if own.exists() else resume or own, ())
            recipe = Recipe(**start["recipe"])
        else:
            if start["epoch"] > start["recipe"]["cut_start"] and found.cut != config.cut:
                raise ValueError(
                    "cut: the checkpoint has already trained past its cut_start, so its cut cannot change; branch from one before its cut_start"
                )
            _check_network(config, found, resume or own, ("cut", "image_size", "stem_strides"))
    elif init is not None:
        told, weights, soft_head = load_weights(init)
        _check_network(config, NetworkConfig.from_dict(told["config"]), init, ("cut", "image_size", "stem_strides"))
    if (soft_labels is None) != (recipe.soft_share == 0):
        wanted = (
            "a file, because the recipe's soft_share is above 0" if soft_labels is None else "a soft_share above 0 with a file of labels"
        )
        raise ValueError(f"soft_labels: expected {wanted}")
    labels = None if soft_labels is None else SoftLabels(soft_labels)
    identity = None if labels is None else labels.identity
    teacher = None if labels is None else {"name": labels.header.teacher, "digest": labels.header.teacher_digest}
    if (own.exists() or from_weights) and start is not None and start["labels"] != identity:
        raise ValueError(
            f"soft_labels: expected the labels that the run began with, made by the same teacher for the same crops; {soft_labels} has others"
        )

    if fabric.is_global_zero:
        for split, size in (("train", STORED * config.image_size), ("valid", config.image_size)):
            cached_split(folder, split, size, cache, enlarge=split == "valid")
    fabric.barrier()
    train = cached_split(folder, "train", STORED * config.image_size, cache, enlarge=False)
    valid = cached_split(folder, "valid", config.image_size, cache)
    assert train is not None
    names = list(train.names)
    valid = None if valid is None else by_name(valid, names, f"{folder}: validation pictures")
    if start is not None and names != start["names"]:
        raise ValueError(f"{folder}: the checkpoint was trained on other classes; name the same data set")
    if labels is not None:
        labels.require(train, folder)
    if weights and config.classes != len(names):
        weights = {key: value for key, value in weights.items() if not key.startswith("head.")}
    config = replace(config, classes=len(names))
    steps_an_epoch = len(train) // recipe.batch_size
    if steps_an_epoch == 0:
        raise ValueError(f"batch_size: expected at most the {len(train)} pictures of the data set, got {recipe.batch_size}")

    torch.manual_seed(recipe.seed)
    network = CutNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student = _Student(network, labels.header.classes if labels else 0, recipe.soft_share)
    optimizer = torch.optim.Adam(student.parameters(), recipe.learning_rate, fused=True)
    network.load_state_dict(weights, strict=False)
    known = told.get("teacher")
    epoch = step = 0
    crops, total, seconds, hours = 0, 0.0, 0.0, 0.0
    history: list[dict[str, Any]] = []
    if start is not None:
        network.load_state_dict(start["model"])
        known, soft_head = start["teacher"], start["soft_head"]
        epoch, step, crops, total, seconds, hours = (start[key] for key in ("epoch", "step", "crops", "loss", "seconds", "hours"))
        history = list(start["history"])
    if student.soft_head is not None and known == teacher:
        student.soft_head.load_state_dict(soft_head)
    warm_from = epoch * steps_an_epoch + step  # without moments the rate warms up from here on
    if start is not None and start["optimizer"] is not None and known == teacher:
        optimizer.load_state_dict(start["optimizer"])
        warm_from = start["warm_from"]
    if compiled:
        network.prefix.compile()
        network.tail.compile()
    elif recipe.gradient_bits and fabric.device.type == "cpu":
        use_packed(network, PackedConv(torch.get_num_threads(), recipe.gradient_bits))
    model, optimizer = fabric.setup(student, optimizer)
    world, rank, device = fabric.world_size, fabric.global_rank, fabric.device
    steps = steps_an_epoch * recipe.epochs
    state: dict[str, Any] = start or {}

    def checkpoint() -> dict[str, Any]:
        return {
            "config": config.to_dict(),
            "recipe": asdict(recipe),
            "epoch": epoch,
            "step": step,
            "names": names,
            "teacher": teacher,
            "labels": identity,
            "crops": crops,
            "loss": total,
            "seconds": seconds,
            "hours": hours,
            "warm_from": warm_from,
            "history": history,
            "model": network.state_dict(),
            "soft_head": {} if student.soft_head is None else student.soft_head.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    def save() -> dict[str, Any]:
        state = checkpoint()
        if fabric.is_global_zero:
            _save(own, state)
            if checkpoint_to is not None:
                save_weights(state, checkpoint_to)
        return state

    last = min(recipe.epochs, until or recipe.epochs)
    while epoch < last:
        model.train()
        if step == 0:
            crops, total, seconds = 0 if labels is None else labels.complete, 0.0, 0.0
        batches = Batches(train, labels, crops, config.image_size, recipe, epoch)
        clock = saved = time.monotonic()
        for batch in batches.run(step, steps_an_epoch):
            if config.cut == "binary":
                network.cut.strength = recipe.strength(epoch + step / steps_an_epoch)
            at = epoch * steps_an_epoch + step
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(at, steps, at - warm_from)
            images = batch.images[rank::world].to(device, memory_format=torch.channels_last)
            logits, soft_logits = model(images)
            loss = F.cross_entropy(logits.float(), batch.labels[rank::world].to(device))
            if soft_logits is not None and batch.classes is not None and batch.shares is not None:
                soft = cross_entropy(soft_logits.float(), batch.classes[rank::world].to(device), batch.shares[rank::world].to(device))
                loss = loss + recipe.soft_share * soft
            optimizer.zero_grad()
            fabric.backward(loss)
            optimizer.step()
            network.clip_weights()
            total += float(loss.detach())
            if not math.isfinite(total):
                raise ValueError(
                    f"the loss became infinite or NaN in epoch {epoch}, step {step}; --resume the last checkpoint in another folder, with a lower learning rate"
                )
            step += 1
            now = time.monotonic()
            seconds, hours, clock = seconds + now - clock, hours + (now - clock) / 3600, now
            if step < steps_an_epoch and now - saved >= save_seconds:
                save()
                saved = time.monotonic()
            if step % 50 == 0:
                progress({"epoch": epoch, "step": step, "steps": steps_an_epoch, "loss": total / step, "seconds": seconds})
        epoch, step = epoch + 1, 0
        line: dict[str, Any] = {"epoch": epoch, "step": steps_an_epoch, "steps": steps_an_epoch, "loss": total / steps_an_epoch}
        line |= {"seconds": round(seconds, 1), "hours": round(hours, 3), "cut_strength": network.cut.strength}
        if labels is not None:
            line["crops"] = crops
        if fabric.is_global_zero and valid is not None:
            line["valid_top1"] = top1(network, valid)
        history.append(line)
        state = save()
        if fabric.is_global_zero:
            replace_file(out / LOG, "".join(json.dumps(line) + "\n" for line in history).encode())
        progress(line)
        fabric.barrier()
    return state
