"""Pre-training off the device: schedule, steps, when a checkpoint is due (docs/method.md, section 2.4).

The recipe is one schedule of Adam on all parameters.  The replay cut stays open (a real stream) until `cut_start`, is blended in over `cut_ramp`,
and is fully binary from then on.  A run that is interrupted goes on from its last checkpoint, in the middle of an epoch too, with the same result:
every batch is a function of (seed, epoch, step).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..datasets.image_sets import by_name, cached_split
from ..disk import remove_partials, replace_file
from .batches import Batches
from .checkpoint import CHECKPOINT, continued, save_checkpoint
from .crops import STORED
from .evaluation import top1
from .packed_conv import PackedConv, use_packed
from .recipe import Recipe
from .soft_labels import SoftLabels, cross_entropy
from .weights import save_weights
from .zoo.network import CutNetwork, NetworkConfig

LOG = "log.jsonl"


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
    folder : data set as `bitreplay.datasets.image_sets.read_split` takes it.
    out : folder for the results; a checkpoint that lies there already is continued, with its network and recipe.
    config : network; where something is continued, its own (`continued`), but for what may differ.  `config.classes` is taken from the data.
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
    out.mkdir(parents=True, exist_ok=True)
    cache = cache or out / "cache"
    own = out / CHECKPOINT
    for path in (own, out / LOG):
        remove_partials(path)
    source = continued(out, resume, init)
    start = source.state if source else None
    free = () if source is None or source.own_recipe else ("cut", "image_size", "stem_strides")
    if source is not None:
        if start is not None and not source.own_recipe and source.network.cut != config.cut:
            begun = start["epoch"] + start["step"] / max(1, start["pictures"]["count"] // start["recipe"]["batch_size"])
            if begun > start["recipe"]["cut_start"]:
                raise ValueError(
                    "cut: the checkpoint has already trained past its cut_start, so its cut cannot change; branch from one before its cut_start"
                )
        _check_network(config, source.network, source.where, free)
        recipe = source.recipe(recipe)
    if (soft_labels is None) != (recipe.soft_share == 0):
        wanted = (
            "a file, because the recipe's soft_share is above 0" if soft_labels is None else "a soft_share above 0 with a file of labels"
        )
        raise ValueError(f"soft_labels: expected {wanted}")
    labels = None if soft_labels is None else SoftLabels(soft_labels)
    identity = None if labels is None else labels.identity
    teacher = None if labels is None else {"name": labels.header.teacher, "digest": labels.header.teacher_digest}
    if source is not None and start is not None and source.own_recipe and start["labels"] != identity:
        raise ValueError(
            f"soft_labels: expected the labels that the run began with, made by the same teacher for the same crops; {soft_labels} has others"
        )

    fabric = Fabric(accelerator="auto", devices="auto" if torch.cuda.is_available() else 1, precision=recipe.precision)  # type: ignore[arg-type]
    fabric.launch()
    if fabric.is_global_zero:
        for split, size in (("train", STORED * config.image_size), ("valid", config.image_size)):
            cached_split(folder, split, size, cache, enlarge=split == "valid")
    fabric.barrier()
    train = cached_split(folder, "train", STORED * config.image_size, cache, enlarge=False)
    valid = cached_split(folder, "valid", config.image_size, cache)
    assert train is not None
    names = list(train.names)
    valid = None if valid is None else by_name(valid, names, f"{folder}: validation pictures")
    pictures = {"digest": train.digest, "count": len(train)}
    if start is not None and names != start["names"]:
        raise ValueError(f"{folder}: the checkpoint was trained on other classes; name the same data set")
    if source is not None and start is not None and source.own_recipe and start["pictures"] != pictures:
        raise ValueError(
            f"{folder}: the run was trained on other pictures; name the same data set, or branch from its checkpoint with --resume"
        )
    if labels is not None:
        labels.require(train, folder)
    config = replace(config, classes=len(names))
    steps_an_epoch = len(train) // recipe.batch_size
    if steps_an_epoch == 0:
        raise ValueError(f"batch_size: expected at most the {len(train)} pictures of the data set, got {recipe.batch_size}")

    torch.manual_seed(recipe.seed)
    network = CutNetwork(config).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student = _Student(network, labels.header.classes if labels else 0, recipe.soft_share)
    optimizer = torch.optim.Adam(student.parameters(), recipe.learning_rate, fused=True)
    epoch = step = warm = crops = 0
    total, seconds, hours = 0.0, 0.0, 0.0
    history: list[dict[str, Any]] = []
    if source is not None and start is None:
        same_classes = source.network.classes == len(names)
        network.load_state_dict(
            {key: value for key, value in source.model.items() if same_classes or not key.startswith("head.")}, strict=False
        )
        if student.soft_head is not None and source.told.get("teacher") == teacher:
            student.soft_head.load_state_dict(source.soft_head)
    if start is not None:
        network.load_state_dict(start["model"])
        epoch, hours, history = start["epoch"], start["hours"], list(start["history"])
        if start["teacher"] == teacher:
            if student.soft_head is not None:
                student.soft_head.load_state_dict(start["soft_head"])
            if start["optimizer"] is not None:
                optimizer.load_state_dict(start["optimizer"])
                warm = start["warm"]
        same_steps = all(start["recipe"][key] == getattr(recipe, key) for key in ("batch_size", "seed"))
        if same_steps and start["labels"] == identity and start["pictures"] == pictures:  # else the epoch begins anew
            step, crops, total, seconds = (start[key] for key in ("step", "crops", "loss", "seconds"))
    if labels is not None and step > 0 and labels.complete < crops:
        raise ValueError(
            f"{soft_labels}: the epoch began with {crops} finished crops, found {labels.complete}; run the same bitreplay soft-labels command again first"
        )
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
            "warm": warm,
            "pictures": pictures,
            "history": history,
            "model": network.state_dict(),
            "soft_head": {} if student.soft_head is None else student.soft_head.state_dict(),
            "optimizer": optimizer.state_dict(),
        }

    def save() -> dict[str, Any]:
        state = checkpoint()
        if fabric.is_global_zero:
            save_checkpoint(own, state)
            if checkpoint_to is not None:
                save_weights(state, checkpoint_to)
        return state

    last = min(recipe.epochs, until or recipe.epochs)
    if epoch >= last and not own.exists():
        raise ValueError(f"epochs: expected more than the {epoch} that {source.where if source else out} has been trained for, got {last}")
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
                group["lr"] = recipe.rate(at, steps, warm)
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
            step, warm = step + 1, warm + 1
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
