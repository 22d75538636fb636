"""The command line ``bitreplay``: folders and files in, tables and exit codes out; the commands of the device.

Owns argument reading, progress, messages and exit codes; what is learned and stored is `learner`'s.  Results go to standard output,
progress, notes and errors to standard error.  A state is written only after a lesson has gone well as a whole.  Exit codes: 0,
1 error ("error: " and the library's own text), 2 usage, 130 Ctrl-C.

Needs the extra ``demo``: where Typer or Rich is missing, importing this module ends the program with a line that says so.
Commands of training and experiments are `cli_training`'s and need the extra ``train``.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from . import Learner, c_source, metrics
from .datasets.image_sets import class_files
from .datasets.pictures import IMAGE_SUFFIXES, decode_image
from .extras import missing_extra
from .model import Model
from .store import StateFile, load_sound

try:
    import typer
    from rich.table import Table
    from rich.text import Text

    from . import cli_training
    from .terminal import Commands, JsonOption, console, fail, note, percent, print_json, print_table, progress, say
except ModuleNotFoundError as _error:
    if missing_extra(_error.name) is None:
        raise
    raise SystemExit(f"error: {missing_extra(_error.name)}") from None

PREDICT_BATCH = 128
WIDEST_CONFUSION = 20
CONFUSIONS_LISTED = 20

app = typer.Typer(
    cls=Commands,
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
# readable=False here and below: the library opens the file and says, in its own words, what is wrong.
StateArgument = Annotated[Path, typer.Argument(readable=False, metavar="STATE", help="State file.")]


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
        note(f"{count} left out, such as {left_out[0]}: pictures lie in a subfolder per class and end in {suffixes}")
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


# State files


def _expect(state: Path) -> None:
    if not os.path.lexists(state):
        raise FileNotFoundError(f"{state}: no such file; make it with: bitreplay new {shlex.quote(str(state))}")


def _load(state: Path, model: str | None, threads: int | None, *, file: StateFile | None = None) -> Learner:
    """What a state knows; `file` where it is open for change."""
    _expect(state)
    learner, told = file.load(model=model, threads=threads) if file else load_sound(state, model=model, threads=threads)
    if told is not None:
        note(told)
    return learner


@contextmanager
def _changing(state: Path) -> Iterator[StateFile]:
    """The state's file, for this process alone."""
    _expect(state)
    _check_may_write(state)
    with StateFile(state) as file:
        yield file


def _check_may_write(state: Path) -> None:
    """Find out before the lesson, not after it, that the state could not be saved."""
    folder = Path(os.path.realpath(state)).parent
    if not folder.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    # A rename would replace a write-protected file: whoever protected it did not mean that.
    for path, rights in ((folder, os.W_OK | os.X_OK), (state, os.W_OK)):
        if path.exists() and not os.access(path, rights):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


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


@contextmanager
def _saving(state: Path) -> Iterator[None]:
    """Keep Ctrl-C out of a save, and say what failed and what became of the state."""
    with _uninterrupted():
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise  # it says all by itself
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
            help="Blocks behind the cut that lessons train as well, counted from the last. Pays from some hundred replay rows on.",
        ),
    ] = 0,
    head: Annotated[
        str, typer.Option("--head", metavar="lda|cwr", help="What names pictures: exact sums (lda), or the papers' trained head (cwr).")
    ] = "lda",
    views: Annotated[
        int,
        typer.Option(
            "--views", metavar="1|2|6", help="Views of each picture to learn from and to look at: its mirror image too, parts of both."
        ),
    ] = 1,
    lda_features: Annotated[
        int, typer.Option("--lda-features", min=0, metavar="N", help="Features that lda looks at, the most telling first. 0: all.")
    ] = 0,
    class_priors: Annotated[
        bool, typer.Option("--class-priors", help="A class counts as likely as its share of the pictures; else all are as likely.")
    ] = False,
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
        head=head,
        lda_features=lda_features,
        class_priors=class_priors,
        views=views,
        **limits,
    )
    with StateFile(state) if state.exists() else nullcontext() as file, _saving(state):
        learner.save(state) if file is None else file.save(learner)
    info = learner.info()
    say(f"{state}: {info['capacity']} replay rows, {state.stat().st_size:,} bytes; model {info['model']['name']}")


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
    with _changing(state) as file:
        learner = _load(state, model, threads, file=file)
        known = set(learner.names)
        pictures = _class_pictures(folder)
        if not pictures:
            raise ValueError(f"{folder}: expected a subfolder per class with pictures in it, found none")
        labels = [name for _, name in pictures]
        with progress() as report:
            # One array from the start: no list of pictures beside it.
            images = np.empty((len(pictures), learner.image_size, learner.image_size, 3), np.uint8)
            for number, (path, _) in enumerate(pictures):
                images[number] = _read(path, learner.image_size)
                report("pictures", number + 1, len(pictures))
            began = time.perf_counter()
            learner.learn(images, labels, progress=lambda phase, done, total: report(_PHASES.get(phase, phase), done, total))
            seconds = time.perf_counter() - began
        with _saving(state):
            file.save(learner)
    lesson = sorted(set(labels))
    opened = [name for name in lesson if name not in known]
    info = learner.info()
    say(
        f"{state}: learned {len(pictures)} pictures of {_count(lesson)} in {seconds:.1f} s "
        f"({1000 * seconds / len(pictures):.1f} ms a picture){'; new: ' + _listed(opened) if opened else ''}\n"
        f"It knows {_count(learner.names)}; {info['replay_rows']:,} of {info['capacity']:,} replay rows are taken."
    )


@app.command()
def undo(state: StateArgument) -> None:
    """Go back to the state before the last change: lesson, new name, or what a new state overwrote."""
    with _changing(state) as file, _saving(state):
        file.undo()
    info = Learner.load(state).info()
    names = [entry["name"] for entry in info["classes"]]
    say(f"{state}: as it was before the last change: {info['lessons']} lessons, {_count(names)}{': ' + _listed(names) if names else ''}")


@app.command()
def forget(
    state: StateArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Class to forget.")],
    model: ModelOption = None,
) -> None:
    """Forget a class: name, weights, counts and replay rows, here and in the state that `undo` would go back to."""
    with _changing(state) as file:
        learner = _load(state, model, None, file=file)
        learner.forget(name)
        with _saving(state):
            file.save(learner, keep=False)
    say(f"{state}: forgot {name}; it knows {_count(learner.names)}. This cannot be undone.")
    if learner.settings.train_blocks and learner.info()["lessons"] > 1:
        say("The trained tail stays as it is: what it learned from these pictures is in all of its weights.")


@app.command()
def rename(
    state: StateArgument,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name of a class.")],
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="What to call it.")],
    model: ModelOption = None,
) -> None:
    """Call a class by another name."""
    with _changing(state) as file:
        learner = _load(state, model, None, file=file)
        learner.rename(old, new_name)
        with _saving(state):
            file.save(learner)
    say(f"{state}: {old} is called {new_name} now.")


@app.command()
def merge(
    state: StateArgument,
    others: Annotated[list[Path], typer.Argument(readable=False, metavar="OTHER...", help="States of other devices with the same model.")],
    model: ModelOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes of this machine that share the files.")] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers share the files instead, tcp://HOST:8786 for instance."
        ),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Take over what other devices were taught; their states stay as they are."""
    for other in others:
        _expect(other)
        if other.samefile(state):
            raise ValueError(f"{other}: is the state itself; name another device's")
    with _changing(state) as file:
        learner = _load(state, model, threads, file=file)
        known = set(learner.names)
        with progress() as report:
            equal = learner.merge_files(
                *others,
                workers=workers,
                scheduler=scheduler,
                progress=lambda phase, done, total: report(_PHASES.get(phase, phase), done, total),
            )
        with _saving(state):
            file.save(learner)
    opened = [name for name in learner.names if name not in known]
    say(f"{state}: knows {_count(learner.names)} now{'; new: ' + _listed(opened) if opened else ''}")
    if not equal:
        say(
            "The trained tails differed: that of the state which saw most pictures is kept, the heads were trained again on the merged memory."
        )


@app.command()
def serve(
    state: StateArgument,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8008,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Answer other machines too, on this address of this machine (0.0.0.0: all), with TLS and a token. Default: this machine alone.",
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option("--camera", metavar="NUMBER|STREAM", help="This device's own camera, 0 for the first, or the address of a stream."),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Teach and ask it on a page in the browser; a state that is not there is made."""
    from .serve.server import run

    if host is not None:
        _check_address(host)
    if not os.path.lexists(state):
        _check_may_write(state)
        with _saving(state):
            Learner.new(threads=threads).save(state)
        note(f"{state}: is new")
    _check_may_write(state)
    run(
        state,
        host=host,
        port=port,
        threads=threads,
        camera=camera,
        ready=lambda address: say(f"{state}: teach it at {address} ; Ctrl-C ends it"),
        told=note,
    )


def _check_address(host: str) -> None:
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
    except ValueError:
        raise typer.BadParameter(f"--host: expected an address of this machine, such as 0.0.0.0 or 192.0.2.7, got {host!r}") from None


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
    views: Annotated[
        int | None,
        typer.Option(
            "--views",
            metavar="1|2|6",
            help="Views of each picture to look at; 2: its mirror image too, 6: parts of both as well. Each takes the time of a picture. "
            "Default: as many as were learned from.",
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            "--reject",
            metavar="SHARE",
            help='Say "unknown" where it is unsure; this share of pictures of known things may be called so, 0.1 for instance. Default: never.',
        ),
    ] = None,
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
    rejected: list[bool] = []
    with progress() as report:
        for start in range(0, len(pictures), PREDICT_BATCH):
            batch = np.stack([_read(path, learner.image_size) for path, _ in pictures[start : start + PREDICT_BATCH]])
            prediction = learner.predict(batch, views=views, reject=reject)
            names += prediction.names
            rejected += prediction.unknown.tolist()
            columns = [learner.names.index(name) for name in prediction.names]
            probabilities += prediction.probabilities[np.arange(len(columns)), columns].tolist()
            report("pictures", len(names), len(pictures))

    result: dict[str, Any] = {"state": str(state)}
    result["images"] = [
        {"file": str(path), **({} if label is None else {"class": label}), "name": name, "probability": probability}
        | ({} if reject is None else {"unknown": unknown})
        for (path, label), name, probability, unknown in zip(pictures, names, probabilities, rejected, strict=True)
    ]
    labelled = [(label, name) for (_, label), name in zip(pictures, names, strict=True) if label is not None]
    if labelled:
        result.update(_score(labelled, list(learner.names)))
        if reject is not None:
            taught = [row["unknown"] for row in result["images"] if row.get("class") in learner.names]
            others = [not row["unknown"] for row in result["images"] if "class" in row and row["class"] not in learner.names]
            result["false_rejects"] = {"count": sum(taught), "of": len(taught)}
            result["false_accepts"] = {"count": sum(others), "of": len(others)}
    if as_json:
        print_json(result)
        return
    for row in result["images"]:
        if "class" not in row:
            guess = f"{row['name']} ({percent(row['probability'])})"
            say(f"{row['file']}: {f'unknown; of what it knows most like {guess}' if row.get('unknown') else guess}")
    if labelled:
        say(f"accuracy {percent(result['accuracy'])} ({result['right']} of {result['total']} pictures)")
        _print_confusion(result["confusion"])
        if result["unknown"]:
            say(f"not known to the state, counted as errors: {_listed(result['unknown'])}")
        for kind, what in (
            ("false_rejects", "pictures of known classes called unknown"),
            ("false_accepts", "pictures of others not called so"),
        ):
            if result.get(kind, {}).get("of"):
                say(f"{what}: {result[kind]['count']} of {result[kind]['of']}")


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
            table.add_row(Text(names[row]), *cells, Text(percent(counts[row, row] / counts[row].sum())))
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
    console().print(table)


def _is_model(path: Path) -> bool:
    try:
        with safe_open(path, "numpy") as file:
            return (file.metadata() or {}).get("bitreplay") == "model"
    except (SafetensorError, OSError):
        return False  # the loader of states says what is wrong with it


@app.command()
def info(
    file: Annotated[
        Path | None,
        typer.Argument(
            readable=False, metavar="STATE|MODEL", help="State or model file, or a backbone of the package. Default: the 32x32 one."
        ),
    ] = None,
    as_json: JsonOption = False,
    model: ModelOption = None,
) -> None:
    """Show what a state or model holds: classes, counts, and every byte."""
    shipped = file is None or (not file.exists() and str(file) in Model.shipped_names())
    is_model = shipped or (file is not None and _is_model(file))
    if file is None or shipped:
        values = Model.open(None if file is None else str(file)).info()
    else:
        values = Model.load(file).info() if is_model else _load(file, model, None).info()
        values["bytes"] = {**values["bytes"], "file": file.stat().st_size}
    if as_json:
        print_json(values)
        return
    about = values if is_model else values["model"]
    print_table("model", ("", "value"), [(key, about[key]) for key in about if key not in ("bytes", "card")])
    if is_model:
        print_table("card", ("", "value"), list(values["card"].items()))
    else:
        rows = [(entry["name"], entry["samples"], entry["replay_rows"]) for entry in values["classes"]]
        print_table("classes", ("class", "pictures learned", "replay rows"), rows)
        taken = f"{values['replay_rows']:,} of {values['capacity']:,} replay rows taken"
        say(f"{values['lessons']} lessons, {_count([row[0] for row in rows])}, {taken}")
    print_table("bytes", ("what", "bytes"), list(values["bytes"].items()))


@app.command("export-c")
def export_c(
    file: Annotated[str, typer.Argument(metavar="MODEL|STATE", help="Name of a shipped backbone, or a model or state file.")],
    out: Annotated[Path, typer.Argument(readable=False, metavar="OUT.c", help="C file to write.")],
    symbol: Annotated[str | None, typer.Option(help="Name of the array. Default: device_model or device_state.")] = None,
) -> None:
    """Write a model or a state as C source, for a device without a file system."""
    source = Model.from_package(file) if file in Model.shipped_names() else Path(file)
    name, size = c_source.export_c(source, out, symbol)
    say(f"{out}: {name}, {size:,} bytes")


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
        run_demo(out, seed=seed, threads=threads, console=console())
    except KeyboardInterrupt:
        fail("interrupted", 130)


app.add_typer(cli_training.app)


def main() -> None:
    """Run the command line; the entry point of ``bitreplay``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text
    app(prog_name="bitreplay")


if __name__ == "__main__":
    main()
