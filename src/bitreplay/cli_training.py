"""The commands of training and experiments: ``pretrain``, ``export``, ``experiment``, ``report``.

Owns argument reading and messages; what is done is `training`'s and `experiments`'.  Needs the extra ``train``, whose modules are imported
when a command runs.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import JsonOption, fail, note, percent, print_json, print_table, progress, say

app = typer.Typer()


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers with commas between them, got {text!r}") from None


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@app.command()
def pretrain(
    data: Annotated[
        Path, typer.Argument(readable=False, metavar="DATA", help="Data set: parquet files, or folders of pictures, with a split to train.")
    ],
    out: Annotated[
        Path, typer.Argument(readable=False, metavar="OUT", help="Folder for checkpoint and log; a checkpoint in it is continued.")
    ],
    network: Annotated[
        str | None, typer.Option(help="A network by name, such as reactnet-18; the network options below override parts of it.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="quicknet, reactnet, birealnet, or residual (float, a teacher).")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the square input in pixels.", min=1)] = None,
    widths: Annotated[str | None, typer.Option(help="Channels of each stage, such as 64,128,256.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Residual binary blocks of each stage, such as 2,3,4.")] = None,
    stem_strides: Annotated[str | None, typer.Option(help="Strides of the stem's convolutions, such as 1,2.")] = None,
    tail_blocks: Annotated[int | None, typer.Option(help="Blocks of the last stage behind the replay cut.", min=0)] = None,
    cut: Annotated[str | None, typer.Option(help="binary, or none for the twin without binarisation at the cut.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
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
        typer.Option(help="Share of the pictures that are shrunk and enlarged again, so that the network sees them blurred.", min=0, max=1),
    ] = None,
    gradient_bits: Annotated[
        int | None,
        typer.Option(
            help="On a CPU: bits for gradients in QuickNet's binary convolutions, 8 to 16; 0 leaves these convolutions to torch.",
            min=0,
            max=16,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Keys every random draw.", min=0)] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of Lightning Fabric, such as 32-true or bf16-mixed.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            help="Go on from a checkpoint (a branch, with this recipe) or from weights that --checkpoint-to wrote (with their own recipe).",
            metavar="FILE|FOLDER/NAME",
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(readable=False, help="Start from these weights, such as weights/quicknet-32.", metavar="FOLDER/NAME")
    ] = None,
    soft_labels: Annotated[
        Path | None,
        typer.Option(readable=False, help="Learn from a teacher's answers as well: a file that soft-labels wrote.", metavar="FILE"),
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
    save_minutes: Annotated[float, typer.Option(help="Time between two checkpoints.", min=0)] = 5,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.", min=1)] = None,
) -> None:
    """Train a network off the device. Options left out keep the defaults of Recipe and NetworkConfig, which are shown at the start."""
    # Before torch comes: its idle threads would spin for milliseconds on the cores that the engine's kernels are working on.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import torch

    from .training.pretrain import CHECKPOINT, continued
    from .training.pretrain import pretrain as run
    from .training.recipe import Recipe
    from .training.zoo.names import config_of
    from .training.zoo.network import NetworkConfig

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
        note(f"goes on from {source.where}" + (", with its recipe" if source.own_recipe else ""))
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
            f"interrupted: run the same command to {'continue from ' + str(out / CHECKPOINT) if kept else 'begin again; there was no checkpoint yet'}",
            130,
        )
    say(f"{out / CHECKPOINT}: written")


@app.command("soft-labels")
def soft_labels(
    data: Annotated[Path, typer.Argument(readable=False, metavar="DATA", help="Data set, as for pretrain: its training pictures.")],
    out: Annotated[Path, typer.Argument(readable=False, metavar="FILE", help="File to write; one that was interrupted is continued.")],
    teacher: Annotated[
        str, typer.Option(help="efficientnet-lite0, or the checkpoint of a network that pretrain trained.", metavar="NAME|FILE")
    ] = "efficientnet-lite0",
    image_size: Annotated[
        int | None, typer.Option(help="Input side of a ready-made teacher, in pixels. Default: 160.", min=32, max=1024)
    ] = None,
    crops: Annotated[int, typer.Option(help="Crops of each picture.", min=1, max=1024)] = 4,
    kept: Annotated[int, typer.Option(help="Classes of each answer that are kept.", min=1, max=255)] = 5,
    smallest: Annotated[float, typer.Option(help="Smallest crop, as a share of the picture's area.", min=0.01, max=1)] = 0.35,
    stretch: Annotated[float, typer.Option(help="Largest ratio of a crop's sides.", min=1, max=4)] = 1.25,
    seed: Annotated[int, typer.Option(help="Keys the crops.", min=0)] = 1,
    cache: Annotated[
        Path | None, typer.Option(readable=False, help="Folder for decoded pictures. Default: FILE.cache.", metavar="DIR")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the teacher. Default: all cores.", min=1)] = None,
) -> None:
    """Ask a teacher for its answers to crops of all training pictures, once, for pretrain --soft-labels."""
    from .datasets.image_sets import cached_split
    from .training.pretrain import STORED
    from .training.soft_labels import Crops, make_soft_labels
    from .training.teachers import READY_MADE, checkpoint_teacher

    if teacher in READY_MADE:
        seen_by = READY_MADE[teacher](image_size or 160)
    elif Path(teacher).is_file():
        if image_size is not None:
            raise typer.BadParameter("the checkpoint fixes the image size; leave --image-size out")
        seen_by = checkpoint_teacher(Path(teacher))
    else:
        raise ValueError(f"teacher: expected {' or '.join(READY_MADE)}, or the checkpoint of a network, got {teacher}, which is not a file")
    pictures = cached_split(data, "train", STORED * seen_by.image_size, cache or out.with_name(out.name + ".cache"), enlarge=False)
    if pictures is None:
        raise ValueError(f"{data}: expected training pictures, found none")
    with progress() as bar:
        try:
            labels = make_soft_labels(
                pictures,
                out,
                seen_by,
                crops=Crops(crops, seed, smallest, stretch),
                kept=kept,
                threads=threads or os.cpu_count() or 1,
                progress=bar,
            )
        except KeyboardInterrupt:
            fail(f"interrupted: the labels so far are in {out}; run the same command to continue", 130)
    say(f"{out}: {labels.complete} crops of {labels.header.count:,} pictures, answered by {seen_by.name}")


@app.command()
def export(
    checkpoint: Annotated[
        Path, typer.Argument(readable=False, metavar="CHECKPOINT", help="What pretrain wrote: a checkpoint, or FOLDER/NAME of weights.")
    ],
    out: Annotated[Path, typer.Argument(readable=False, metavar="OUT", help="Model file to write.")],
    data: Annotated[
        Path, typer.Option(readable=False, help="Data set to calibrate and measure on: the one it was trained on.", metavar="DIR")
    ],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    card: Annotated[Path | None, typer.Option(readable=False, help="JSON file with what the model card shall say.", metavar="FILE")] = None,
    whitening: Annotated[bool, typer.Option(help="Whiten the features.")] = True,
    cache: Annotated[Path | None, typer.Option(readable=False, help="Folder for decoded pictures.", metavar="DIR")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.", min=1)] = None,
    as_json: JsonOption = False,
) -> None:
    """Fold and calibrate a trained network and write the integer model file for the device."""
    import torch

    from .training.export import export_model

    if threads is not None:
        torch.set_num_threads(threads)
    told: dict[str, Any] | None = None
    if card is not None:
        try:
            told = json.loads(card.read_bytes())
        except ValueError as error:
            raise ValueError(f"{card}: expected JSON, got something else: {error}") from error
        if not isinstance(told, dict):
            raise ValueError(f"{card}: expected a JSON object, got {type(told).__name__}")
    with progress() as report:
        figures = export_model(checkpoint, out, data=data, cache=cache, name=name, card=told, whitening=whitening, progress=report)
    if as_json:
        print_json(figures)
    elif figures:
        print_table(str(out), ("", "measured"), list(figures.items()))
    else:
        say(f"{out}: written; the data set has no pictures to measure on")


@app.command()
def experiment(
    protocol: Annotated[
        str, typer.Argument(metavar="PROTOCOL", help="TOML file, or the name of a protocol of the package, such as cifar10-nc5.")
    ],
    data: Annotated[
        Path, typer.Option("--data", readable=False, help="Folder into which the set of pictures was unpacked.", metavar="DIR")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", readable=False, help="Folder for results.jsonl and what runs share; runs with a result are not repeated."),
    ] = Path("bitreplay-runs"),
    weights: Annotated[Path, typer.Option("--weights", readable=False, help="Folder of float weights.", metavar="DIR")] = Path("weights"),
    split: Annotated[str, typer.Option("--split", help="test, or valid: choices are made there, never on test pictures.")] = "test",
    only: Annotated[list[str] | None, typer.Option("--only", help="Runs with this label alone; may be repeated.", metavar="LABEL")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Seeds 0 to N-1 instead of the protocol's.", min=1, metavar="N")] = None,
    workers: Annotated[int, typer.Option("--workers", help="Runs at a time, each in a process of its own.", min=1)] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Address of a Dask scheduler, such as tcp://10.0.0.1:8786, instead of --workers.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of each worker. Default: cores / workers.", min=1)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs, and which of them have a result; do nothing.")] = False,
) -> None:
    """Carry out a protocol: every run that has no result yet. Stop it with Ctrl-C at any time; the same command goes on."""
    from .datasets.public import require_folder
    from .experiments.protocol import read_protocol
    from .experiments.results import NAME
    from .experiments.runner import Done, Place, check_runs, plan_runs, run_all, split_runs

    plan = read_protocol(protocol)
    runs = plan_runs(plan, split=split, weights=weights, only=only or (), seeds=None if seeds is None else range(seeds))
    if dry_run:
        check_runs(runs, weights)
        missing, done, _ = split_runs(runs, out)
        state = {id(run): "to do" for run in missing} | {id(run): "done" for run in done}
        rows = [(run.base.name, run.label, str(run.seed), state.get(id(run), "done, under another label")) for run in runs]
        print_table(f"{plan.name}, {split}", ("base", "label", "seed", "state"), rows)
        say(f"{len(missing)} of {len(runs)} runs to do")
        return
    require_folder(plan.data.set, data)
    with progress() as bar:
        bar(plan.name, 0, len(runs))

        def report(outcome: Done, done: int, total: int) -> None:
            bar(plan.name, done, total)
            title = f"{outcome.run.base.name}, {outcome.run.label}, seed {outcome.run.seed}"
            if outcome.line is None:
                note(f"{title} failed: {outcome.error}")
            else:
                say(f"{done}/{total}  {title}: {percent(outcome.line['final'])} in {outcome.line['seconds_total']:.0f} s")

        try:
            failed = run_all(
                plan,
                runs,
                Place(data, out, weights),
                workers=workers,
                scheduler=scheduler,
                threads=threads,
                command=sys.argv,
                progress=report,
            )
        except KeyboardInterrupt:
            fail(f"interrupted: finished runs are in {out / NAME}; the same command goes on", 130)
    if failed:
        fail(f"{len(failed)} of {len(runs)} runs failed, the others are in {out / NAME}; the same command tries them again")
    say(f"{out / NAME}: {len(runs)} of {len(runs)} runs")


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(readable=False, metavar="RESULTS...", help="Folders or files of results that experiment wrote.")
    ],
    out: Annotated[Path, typer.Option("--out", readable=False, help="Folder for report.md and its plots.", metavar="DIR")] = Path(
        "bitreplay-report"
    ),
    against: Annotated[
        list[str] | None,
        typer.Option("--against", help="Show differences from this label, seed by seed; may be repeated.", metavar="LABEL"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Runs with this label alone; may be repeated.", metavar="LABEL")] = None,
    split: Annotated[str | None, typer.Option("--split", help="Runs on this split alone: test or valid.")] = None,
    embed: Annotated[
        list[Path] | None,
        typer.Option(
            "--embed",
            readable=False,
            help="Markdown file whose marks <!-- table: NAME --> ... <!-- end --> are filled; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Draw plots as SVG, too.")] = False,
) -> None:
    """Make tables and plots from results."""
    from .experiments.markdown import embed as fill
    from .experiments.report import write_report
    from .experiments.results import read_all

    lines = [line for line in read_all(results) if split in (None, line["split"]) and (not only or line["label"] in only)]
    file, tables = write_report(lines, out, against=against or (), svg=svg)
    for path in embed or ():
        text, written = fill(path.read_text(encoding="utf-8"), tables)
        if not written:
            raise ValueError(f"{path}: expected a mark for one of the tables, such as <!-- table: {next(iter(tables))} -->, found none")
        path.write_text(text, encoding="utf-8")
        say(f"{path}: {', '.join(written)}")
    say(f"{file}: {len(tables)} tables from {len(lines)} runs")
