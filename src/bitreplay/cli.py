"""The command line ``bitreplay``: folders and files in, tables and exit codes out.

Owns argument reading, progress, messages and exit codes; what is learned and stored is `learner`'s.  Results go to standard output,
progress, notes and errors to standard error.  A state is written only after a lesson has gone well as a whole.  Exit codes: 0,
1 error ("error: " and the library's own text), 2 usage, 130 Ctrl-C.

Needs the extra ``demo``: where Typer or Rich is missing, importing this module ends the program with a line that says so.
``pretrain`` and ``export`` need the extra ``train``.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from . import Cancelled, Learner, metrics
from .data import class_files
from .images import IMAGE_SUFFIXES, decode_image
from .model import Model

EXTRAS = {
    **dict.fromkeys(("typer", "rich", "PIL", "sklearn", "matplotlib"), "demo"),
    **dict.fromkeys(("torch", "lightning_fabric", "pyarrow"), "train"),
}


def _missing(name: str | None) -> str | None:
    """What to say when the module `name` cannot be imported; None if it belongs to no extra."""
    top = (name or "").partition(".")[0]
    return f'{top} is not installed; pip install "bitreplay[{EXTRAS[top]}]"' if top in EXTRAS else None


try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
    from typer.core import TyperGroup
except ModuleNotFoundError as _error:
    if _missing(_error.name) is None:
        raise
    raise SystemExit(f"error: {_missing(_error.name)}") from None

PREDICT_BATCH = 128
WIDEST_CONFUSION = 20
CONFUSIONS_LISTED = 20
WIDTH_OFF_TERMINAL = 140


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"error: {message}" if code == 1 else message, err=True)
    raise typer.Exit(code)


def _note(message: str) -> None:
    typer.echo(f"note: {message}", err=True)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error) or type(error).__name__


class _Commands(TyperGroup):
    """The one place where exceptions become messages and exit codes, however the commands are called."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            _fail("interrupted: nothing was changed", 130)
        except BrokenPipeError:
            raise  # Typer ends quietly: whoever read our output has gone
        except ModuleNotFoundError as error:
            message = _missing(error.name)
            if message is None:
                raise
            _fail(message)
        except MemoryError:
            _fail("not enough memory")
        except (ValueError, OSError, Cancelled) as error:
            _fail(_text(error))


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Teach a binary neural network new things from a few pictures, on the device, in integers and in bounded memory.",
)

ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model that the state was taught on, where it cannot tell by itself.", metavar="FILE|NAME")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; the result is the same with any number. Default: all cores.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed of every random draw of the learner.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
# readable=False here and below: the library opens the file and says, in its own words, what is wrong.
StateArgument = Annotated[Path, typer.Argument(readable=False, metavar="STATE", help="State file.")]


def _console() -> Console:
    # Off a terminal there is no width to keep to: a table in a log must not lose its columns.
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OFF_TERMINAL)


def _say(text: str) -> None:
    typer.echo(text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


# Pictures


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _raise(error: OSError) -> NoReturn:
    raise error


def _class_pictures(folder: Path) -> list[tuple[Path, str]]:
    """Picture files below the class folders of `folder`, each with the name of its class; what is left out is mentioned.

    Empty if no subfolder holds a picture.
    """
    walk = os.walk(folder, onerror=_raise)  # a folder that cannot be read is an error, not a smaller lesson
    there = [Path(parent, name) for parent, _, names in walk for name in names]
    found = [(path, name) for name, files in class_files(folder) for path in files if not _hidden(path, folder)]
    taken = {path for path, _ in found}
    left_out = sorted(path for path in there if path not in taken and not _hidden(path, folder)) if found else []
    if left_out:
        count = "1 file was" if len(left_out) == 1 else f"{len(left_out)} files were"
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        _note(f"{count} left out, such as {left_out[0]}: pictures lie in a subfolder per class and end in {suffixes}")
    return found


def _flat_pictures(folder: Path) -> list[Path]:
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    found = sorted(path for path in files if path.is_file())
    if not found:
        raise ValueError(f"{folder}: expected pictures, or a subfolder per class with pictures in it, found none")
    return found


def _read(path: Path, image_size: int) -> NDArray[np.uint8]:
    try:
        return decode_image(path, image_size)
    except OSError as error:
        if error.filename is not None:
            raise  # cannot be opened; the text names the file already
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error; yields a function to be called with (phase, done, total)."""
    columns = (TextColumn("{task.description:>15}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(elapsed_when_finished=True))
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield report


# State files


def _load(state: Path, model: str | None, threads: int | None) -> Learner:
    if not os.path.lexists(state):
        raise FileNotFoundError(f"{state}: no such file; make it with: bitreplay new {shlex.quote(str(state))}")
    return Learner.load(state, model=model, threads=threads)


def _stamp(path: Path) -> tuple[int, ...]:
    """What tells whether a file is still the one that was read."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _check_may_write(state: Path) -> None:
    """Find out before the lesson, not after it, that the state could not be saved."""
    folder = Path(os.path.realpath(state)).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    # A rename would replace a write-protected file: whoever protected it did not mean that.
    for path, rights in ((folder, os.W_OK | os.X_OK), (state, os.W_OK)):
        if path.exists() and not os.access(path, rights):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


_TAIL_ROWS = 1000  # below, a trained tail does harm in lessons of new classes (docs/accuracy.md)
_PHASES = {"train": "training", "tail": "training the tail"}


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C out of a save: it would come too late to change nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _save(learner: Learner, state: Path) -> None:
    with _uninterrupted():
        try:
            learner.save(state)
        except OSError as error:
            kept = "; the state on disk is unchanged" if state.exists() else ""
            raise OSError(f"{state}: cannot be saved: {error.strerror or error}{kept}") from error


# Commands


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bitreplay {metadata.version('bitreplay')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


@app.command()
def new(
    state: StateArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="Model file, or a backbone of the package. Default: the 32x32 one.", metavar="FILE|NAME")
    ] = None,
    capacity: Annotated[int | None, typer.Option("--capacity", min=0, help="Most rows in the replay memory.")] = None,
    memory_bytes: Annotated[
        int | None,
        typer.Option("--memory-bytes", min=1, help="Bytes for all that learning keeps or needs at its peak, instead of --capacity."),
    ] = None,
    lesson_images: Annotated[
        int | None, typer.Option("--lesson-images", min=1, help="Most pictures in a lesson. Default: any number; 1024 with --memory-bytes.")
    ] = None,
    max_classes: Annotated[int | None, typer.Option("--max-classes", min=1, help="Most classes that the state can ever know.")] = None,
    train_blocks: Annotated[
        int,
        typer.Option(
            "--train-blocks",
            min=0,
            help="Blocks behind the cut that lessons train as well, counted from the last. Wants 1,000 replay rows or more.",
        ),
    ] = 0,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that --memory-bytes allows for. Default: all cores.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a state that is there.")] = False,
) -> None:
    """Make an empty state: nothing learned yet."""
    if capacity is not None and memory_bytes is not None:
        raise typer.BadParameter("give --capacity or --memory-bytes, not both")
    if os.path.lexists(state) and not force:
        raise ValueError(f"{state}: is there already; --force overwrites it")
    if state.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(state))
    _check_may_write(state)
    limits = {"max_classes": max_classes} if max_classes is not None else {}
    learner = Learner.new(
        model,
        capacity=capacity,
        memory_bytes=memory_bytes,
        lesson_images=lesson_images,
        seed=seed,
        threads=threads,
        train_blocks=train_blocks,
        **limits,
    )
    _save(learner, state)
    info = learner.info()
    _say(f"{state}: {info['capacity']} replay rows, {state.stat().st_size:,} bytes; model {info['model']['name']}")
    if train_blocks and info["capacity"] < _TAIL_ROWS:
        _say(f"Note: with fewer than {_TAIL_ROWS:,} replay rows a trained tail can forget; see docs/accuracy.md.")


@app.command()
def learn(
    state: StateArgument,
    folder: Annotated[
        Path, typer.Argument(readable=False, metavar="DIR", help="Folder with a subfolder of pictures per class; its name is the class.")
    ],
    model: ModelOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Learn the pictures of a folder in one lesson, as a whole or not at all."""
    learner = _load(state, model, threads)
    stamp = _stamp(state)
    _check_may_write(state)
    known = set(learner.names)
    pictures = _class_pictures(folder)
    if not pictures:
        raise ValueError(f"{folder}: expected a subfolder per class with pictures in it, found none")
    labels = [name for _, name in pictures]
    with _progress() as report:
        # One array from the start: no list of pictures beside it.
        images = np.empty((len(pictures), learner.image_size, learner.image_size, 3), np.uint8)
        for number, (path, _) in enumerate(pictures):
            images[number] = _read(path, learner.image_size)
            report("pictures", number + 1, len(pictures))
        began = time.perf_counter()
        learner.learn(images, labels, progress=lambda phase, done, total: report(_PHASES.get(phase, phase), done, total))
        seconds = time.perf_counter() - began
    if _stamp(state) != stamp:
        raise OSError(f"{state}: was changed by someone else during the lesson; nothing was saved, learn {folder} again")
    _save(learner, state)
    lesson = sorted(set(labels))
    opened = [name for name in lesson if name not in known]
    info = learner.info()
    _say(
        f"{state}: learned {len(pictures)} pictures of {_count(lesson)} in {seconds:.1f} s "
        f"({1000 * seconds / len(pictures):.1f} ms a picture){'; new: ' + _listed(opened) if opened else ''}\n"
        f"It knows {_count(learner.names)}; {info['replay_rows']:,} of {info['capacity']:,} replay rows are taken."
    )


def _count(names: list[str]) -> str:
    return "1 class" if len(names) == 1 else f"{len(names)} classes"


def _listed(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@app.command()
def predict(
    state: StateArgument,
    sources: Annotated[
        list[Path],
        typer.Argument(readable=False, metavar="IMAGE|DIR...", help="Pictures, folders of pictures, folders with a subfolder per class."),
    ],
    as_json: JsonOption = False,
    model: ModelOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Name what pictures show; accuracy and confusions where subfolders name the classes."""
    learner = _load(state, model, threads)
    if not learner.names:
        raise ValueError(f"{state}: knows no class yet; teach it with: bitreplay learn {shlex.quote(str(state))} DIR")
    pictures: list[tuple[Path, str | None]] = []
    for source in sources:
        if not source.is_dir():
            pictures.append((source, None))
        else:
            pictures += _class_pictures(source) or [(path, None) for path in _flat_pictures(source)]
    names: list[str] = []
    probabilities: list[float] = []
    with _progress() as report:
        for start in range(0, len(pictures), PREDICT_BATCH):
            batch = np.stack([_read(path, learner.image_size) for path, _ in pictures[start : start + PREDICT_BATCH]])
            prediction = learner.predict(batch)
            names += prediction.names
            columns = [learner.names.index(name) for name in prediction.names]
            probabilities += prediction.probabilities[np.arange(len(columns)), columns].tolist()
            report("pictures", len(names), len(pictures))

    result: dict[str, Any] = {"state": str(state)}
    result["images"] = [
        {"file": str(path), **({} if label is None else {"class": label}), "name": name, "probability": probability}
        for (path, label), name, probability in zip(pictures, names, probabilities, strict=True)
    ]
    labelled = [(label, name) for (_, label), name in zip(pictures, names, strict=True) if label is not None]
    if labelled:
        result.update(_score(labelled, list(learner.names)))
    if as_json:
        _print_json(result)
        return
    for row in result["images"]:
        if "class" not in row:
            _say(f"{row['file']}: {row['name']} ({_percent(row['probability'])})")
    if labelled:
        _say(f"accuracy {_percent(result['accuracy'])} ({result['right']} of {result['total']} pictures)")
        _print_confusion(result["confusion"])
        if result["unknown"]:
            _say(f"not known to the state, counted as errors: {_listed(result['unknown'])}")


def _score(labelled: list[tuple[str, str]], known: list[str]) -> dict[str, Any]:
    """Accuracy and confusion of (true name, predicted name) pairs; classes that the state does not know come last."""
    unknown = sorted({truth for truth, _ in labelled} - set(known))
    number = {name: i for i, name in enumerate(known + unknown)}
    counts = metrics.confusion_matrix([number[truth] for truth, _ in labelled], [number[name] for _, name in labelled], len(number))
    right = int(counts.trace())
    return {
        "accuracy": right / len(labelled),
        "right": right,
        "total": len(labelled),
        "unknown": unknown,
        "confusion": {"classes": known + unknown, "counts": counts.tolist()},
    }


def _print_confusion(confusion: dict[str, Any]) -> None:
    """Print the table, or the most frequent confusions where it would be too wide to read."""
    names, counts = confusion["classes"], np.array(confusion["counts"])
    shown = [i for i in range(len(names)) if counts[i].any() or counts[:, i].any()]
    if len(shown) <= WIDEST_CONFUSION:
        table = Table(title="rows: what it is; columns: what it was taken for", title_justify="left")
        table.add_column("")
        for column in shown:
            table.add_column(Text(names[column]), justify="right")
        table.add_column("right", justify="right")
        for row in (i for i in shown if counts[i].any()):
            cells = [Text(str(counts[row, column] or "·"), style="bold" if row == column else "") for column in shown]
            table.add_row(Text(names[row]), *cells, Text(_percent(counts[row, row] / counts[row].sum())))
    else:
        table = Table(title="most frequent confusions", title_justify="left")
        for head in ("is", "taken for"):
            table.add_column(head)
        table.add_column("pictures", justify="right")
        wrong = counts - np.diag(counts.diagonal())
        for flat in np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS_LISTED]:
            row, column = divmod(int(flat), len(names))
            if wrong[row, column]:
                table.add_row(Text(names[row]), Text(names[column]), str(wrong[row, column]))
    _console().print(table)


def _is_model(path: Path) -> bool:
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("bitreplay") == "model"
    except (SafetensorError, OSError):
        return False  # the loader of states says what is wrong with it


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(title=Text(title), title_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if rows and all(isinstance(row[number], int) for row in rows) else "left")
    for row in rows:
        table.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    _console().print(table)


@app.command()
def info(
    file: Annotated[
        Path | None,
        typer.Argument(readable=False, metavar="STATE|MODEL", help="State or model file. Default: the backbone of the package."),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
) -> None:
    """Show what a state or model holds: classes, counts, and every byte."""
    is_model = file is None or _is_model(file)
    if file is None:
        values = Model.open(None).info()
    else:
        values = Model.load(file).info() if is_model else Learner.load(file, model=model).info()
        values["bytes"] = {**values["bytes"], "file": file.stat().st_size}
    if as_json:
        _print_json(values)
        return
    about = values if is_model else values["model"]
    _table("model", ("", "value"), [(key, about[key]) for key in about if key not in ("bytes", "card")])
    if is_model:
        _table("card", ("", "value"), list(values["card"].items()))
    else:
        rows = [(entry["name"], entry["samples"], entry["replay_rows"]) for entry in values["classes"]]
        _table("classes", ("class", "pictures learned", "replay rows"), rows)
        taken = f"{values['replay_rows']:,} of {values['capacity']:,} replay rows taken"
        _say(f"{values['lessons']} lessons, {_count([row[0] for row in rows])}, {taken}")
    _table("bytes", ("what", "bytes"), list(values["bytes"].items()))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(readable=False, help="Folder for plot, state and example pictures.", metavar="DIR")] = Path(
        "bitreplay-demo"
    ),
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Teach ten handwritten digits, two a lesson, and compare with learning all at once. Needs no network and no files."""
    from .demo import run_demo

    try:
        run_demo(out, seed=seed, threads=threads, console=_console())
    except KeyboardInterrupt:
        _fail("interrupted", 130)


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
    image_size: Annotated[int | None, typer.Option(help="Side of the square input in pixels.", min=1)] = None,
    widths: Annotated[str | None, typer.Option(help="Channels of each stage, such as 64,128,256.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Residual binary blocks of each stage, such as 2,3,4.")] = None,
    stem_strides: Annotated[str | None, typer.Option(help="Strides of the stem's two convolutions, such as 1,2.")] = None,
    tail_blocks: Annotated[int | None, typer.Option(help="Blocks of the last stage behind the replay cut.", min=0)] = None,
    cut: Annotated[str | None, typer.Option(help="binary, or none for the twin without binarisation at the cut.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.", min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step.", min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the learning rate.")] = None,
    warmup_steps: Annotated[int | None, typer.Option(help="Steps of linear warm-up.", min=0)] = None,
    cut_start: Annotated[float | None, typer.Option(help="Epochs after which the cut is blended in.", min=0)] = None,
    cut_ramp: Annotated[float | None, typer.Option(help="Epochs over which it is blended in.", min=0)] = None,
    crop: Annotated[float | None, typer.Option(help="Smallest side of the random crop, as a share of the picture.", min=0, max=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Keys every random draw.", min=0)] = None,
    precision: Annotated[str | None, typer.Option(help="Precision of Lightning Fabric, such as 32-true or bf16-mixed.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(readable=False, help="Start from this checkpoint: its network but for the cut, its epoch.", metavar="FILE"),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(readable=False, help="Start from these weights, such as weights/quicknet-32.", metavar="FOLDER/NAME")
    ] = None,
    until: Annotated[int | None, typer.Option(help="Stop after this many epochs of the schedule.", min=1)] = None,
    cache: Annotated[
        Path | None, typer.Option(readable=False, help="Folder for decoded pictures. Default: OUT/cache.", metavar="DIR")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of torch.", min=1)] = None,
) -> None:
    """Train a network off the device. Options left out keep the defaults of Recipe and QuickNetConfig, which are shown at the start."""
    import torch

    from .training.pretrain import CHECKPOINT, Recipe
    from .training.pretrain import pretrain as run
    from .training.zoo.quicknet import QuickNetConfig

    if threads is not None:
        torch.set_num_threads(threads)
    shape = _given(image_size=image_size, widths=_numbers(widths), blocks=_numbers(blocks), stem_strides=_numbers(stem_strides))
    config = QuickNetConfig(**shape, **_given(tail_blocks=tail_blocks, cut=cut))
    recipe = Recipe(
        **_given(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, warmup_steps=warmup_steps),
        **_given(cut_start=cut_start, cut_ramp=cut_ramp, crop=crop, seed=seed, precision=precision),
    )
    if (out / CHECKPOINT).exists():
        _note(f"goes on from {out / CHECKPOINT}, with its recipe")
    else:
        if resume is not None:
            _note(f"starts from {resume}, with its network but for the cut, and this recipe")
        _say(f"{config}\n{recipe}")

    def report(line: dict[str, Any]) -> None:
        done = "valid_top1" in line or "cut_strength" in line
        text = f"epoch {line['epoch'] + (not done)} step {line['step']}/{line['steps']} loss {line['loss']:.4f} {line['seconds']:.0f} s"
        _say(text + (f" valid top-1 {_percent(line['valid_top1'])}" if "valid_top1" in line else ""))

    try:
        run(data, out, config, recipe, resume=resume, init=init, until=until, cache=cache, progress=report)
    except KeyboardInterrupt:
        _fail(f"interrupted: the same command goes on from the last finished epoch in {out}", 130)
    _say(f"{out / CHECKPOINT}: written")


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(readable=False, metavar="CHECKPOINT", help="What pretrain wrote.")],
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
    with _progress() as report:
        figures = export_model(checkpoint, out, data=data, cache=cache, name=name, card=told, whitening=whitening, progress=report)
    if as_json:
        _print_json(figures)
    elif figures:
        _table(str(out), ("", "measured"), list(figures.items()))
    else:
        _say(f"{out}: written; the data set has no pictures to measure on")


def main() -> None:
    """Run the command line; the entry point of ``bitreplay``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    app(prog_name="bitreplay")


if __name__ == "__main__":
    main()
