"""``pretrain``: trains a network off the device.

Owns argument reading and messages; what is done is `training`'s, which is imported when the command runs (extra ``train``).
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import fail, note, percent, say

app = typer.Typer()


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers separated by commas, got {text!r}") from None


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command()
def pretrain(
    data: Annotated[
        Path,
        typer.Argument(readable=False, metavar="DATA", help="Data set: parquet files or folders of pictures, with a split for training."),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            readable=False, metavar="OUT", help="Folder for the checkpoint and log; training continues from a checkpoint in it."
        ),
    ],
    network: Annotated[
        str | None, typer.Option(help="Name of a network, such as reactnet-18; the network options below override parts of it.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="quicknet, reactnet, birealnet, or residual (float, a teacher).")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the square input, in pixels.", min=1)] = None,
    widths: Annotated[str | None, typer.Option(help="Channels of each stage, such as 64,128,256.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Residual binary blocks of each stage, such as 2,3,4.")] = None,
    stem_strides: Annotated[str | None, typer.Option(help="Strides of the stem's convolutions, such as 1,2.")] = None,
    tail_blocks: Annotated[int | None, typer.Option(help="Blocks of the last stage behind the replay cut.", min=0)] = None,
    cut: Annotated[str | None, typer.Option(help="binary, or none for the same network without binarisation at the cut.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps of linear warm-up.", min=0)] = None,
    cut_start: Annotated[float | None, typer.Option(help="Epochs after which the cut is blended in.", min=0)] = None,
    cut_ramp: Annotated[float | None, typer.Option(help="Epochs over which it is blended in.", min=0)] = None,
    cooldown: Annotated[
        float | None,
        typer.Option(help="Share of the steps, at the end, over which the learning rate falls to 0. Default: all.", min=0, max=1),
    ] = None,
    smallest: Annotated[float | None, typer.Option(help="Smallest random crop, as a share of the picture's area.", min=0, max=1)] = None,
    stretch: Annotated[float | None, typer.Option(help="Largest ratio of a crop's sides.", min=1, max=4)] = None,
    blurred: Annotated[
        float | None,
        typer.Option(help="Share of the pictures that are blurred, by shrinking and enlarging them again.", min=0, max=1),
    ] = None,
    gradient_bits: Annotated[
        int | None,
        typer.Option(
            help="On a CPU: bits for gradients in QuickNet's binary convolutions, 8 to 16; 0 leaves these convolutions to torch.",
            min=0,
            max=16,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed for all random choices.", min=0)] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of Lightning Fabric, such as 32-true or bf16-mixed.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="Continue from a checkpoint (as a branch, with this recipe) or from weights that --checkpoint-to wrote (with their own recipe).",
            metavar="FILE|FOLDER/NAME",
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(readable=False, help="Start from these weights, such as weights/quicknet-32.", metavar="FOLDER/NAME")
    ] = None,
    soft_labels: Annotated[
        Path | None,
        typer.Option(readable=False, help="Also learn from a teacher's answers: a file that soft-labels wrote.", metavar="FILE"),
    ] = None,
    soft_share: Annotated[
        float | None,
        typer.Option(help="Share of the features' gradient that comes from soft labels. Default: 0.5 with --soft-labels.", min=0, max=1),
    ] = None,
    until: Annotated[int | None, typer.Option(help="Stop after this many epochs of the schedule.", min=1)] = None,
    cache: Annotated[
        Path | None, typer.Option(readable=False, help="Folder for decoded pictures. Default: OUT/cache.", metavar="DIR")
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the layers first: up to twice as fast for ReActNet and Bi-Real, not for QuickNet; needs a C++ compiler.",
        ),
    ] = False,
    checkpoint_to: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="Also save here what another machine needs to continue the run: fp16 weights, a few MB.",
            metavar="FOLDER/NAME",
        ),
    ] = None,
    save_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.", min=0)] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads for torch.", min=1)] = None,
) -> None:
    """Train a network off the device. Omitted options keep the defaults of Recipe and NetworkConfig, which are printed at the start."""
    # Before torch comes: its idle threads would spin for milliseconds on the cores that the engine's kernels are working on.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import torch

    from ..training.checkpoint import CHECKPOINT, continued
    from ..training.pretrain import pretrain as run
    from ..training.recipe import Recipe
    from ..training.zoo.names import config_of
    from ..training.zoo.network import NetworkConfig

    if threads is not None:
        torch.set_num_threads(threads)
    shape = _given(
        family=family, image_size=image_size, widths=_numbers(widths), blocks=_numbers(blocks), stem_strides=_numbers(stem_strides)
    ) | _given(tail_blocks=tail_blocks, cut=cut)
    source = continued(out, resume, init)
    config = replace(config_of(network, image_size or 32) if network else source.network if source else NetworkConfig(), **shape)
    recipe = Recipe(
        **_given(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, warmup_steps=warmup_steps),
        **_given(cooldown=cooldown, cut_start=cut_start, cut_ramp=cut_ramp, smallest=smallest, stretch=stretch, seed=seed),
        **_given(blurred=blurred, gradient_bits=gradient_bits),
        **_given(precision=precision, soft_share=0.5 if soft_labels and soft_share is None else soft_share),
    )
    if source is not None:
        note(f"continues from {source.where}" + (", with its recipe" if source.own_recipe else ""))
        recipe = source.recipe(recipe)
    say(f"{config}\n{recipe}")

    def report(line: dict[str, Any]) -> None:
        done = "valid_top1" in line or "cut_strength" in line
        text = f"epoch {line['epoch'] + (not done)} step {line['step']}/{line['steps']} loss {line['loss']:.4f} {line['seconds']:.0f} s"
        say(text + (f" valid top-1 {percent(line['valid_top1'])}" if "valid_top1" in line else ""))

    try:
        run(
            data,
            out,
            config,
            recipe,
            resume=resume,
            init=init,
            soft_labels=soft_labels,
            until=until,
            cache=cache,
            compiled=compiled,
            checkpoint_to=checkpoint_to,
            save_seconds=60 * save_minutes,
            progress=report,
        )
    except KeyboardInterrupt:
        kept = (out / CHECKPOINT).exists()
        fail(
            f"interrupted: run the same command to {'continue from ' + str(out / CHECKPOINT) if kept else 'start again; there was no checkpoint yet'}",
            130,
        )
    say(f"{out / CHECKPOINT}: written")
