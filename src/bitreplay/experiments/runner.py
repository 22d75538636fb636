"""Carries a protocol out: multiplies it out into runs, does those that have no result yet, in this process or on Dask workers.

Owns the keys of runs, the order of steps in a run, and what a line of results holds.  Knows methods and networks only through
`Parts`, whose modules are imported where a run happens, so that neither torch nor Dask is needed to read a protocol.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..datasets import core50
from ..datasets.public import PictureSets, hold_out, load_cached
from ..datasets.streams import Stream, class_groups, listed, new_classes, new_instances
from ..fleet import dask_client
from ..metrics import forgetting
from .protocol import BasePlan, Data, Protocol, StreamPlan
from .results import NAME, Line, append_result, read_results

SPLITS = ("test", "valid")
# Ctrl-C at a terminal reaches the workers, too: ending them is this process's business.
IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


@dataclass(frozen=True)
class Parts:
    """Modules that provide ``make_base`` with ``BaseSettings``, and ``make_method`` with ``check_settings``."""

    base: str = "bitreplay.training.first_experience"
    methods: str = "bitreplay.training.methods"


PARTS = Parts()


@dataclass(frozen=True)
class Run:
    """One run: everything that determines its result, and what the tables call it.

    `key` is a digest of the former, `base_key` of what its base depends on.
    """

    key: str
    base_key: str
    label: str
    series: str
    plan: str
    axes: tuple[str, ...]
    data: Data
    stream: StreamPlan
    split: str
    base: BasePlan
    method: str
    settings: dict[str, Any]
    seed: int


@dataclass(frozen=True)
class Place:
    """Where a run finds its things: the folder of pictures, that of results, and that of float weights."""

    data: Path
    out: Path
    weights: Path


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


# -- from protocol to runs ------------------------------------------------------------------------------------------------------------------


def _base_values(base: BasePlan, weights: Path) -> dict[str, Any]:
    """Settings for the base's own module: a bare name means float weights in the folder of weights and the model of that name."""
    place = base.weights if "/" in base.weights else str(weights / base.weights)
    name = Path(base.weights).name
    model = {} if base.first_experience == "whole" else {"model": name}
    return {"weights": place, "first_experience": base.first_experience, **model, **base.options}


def _content(base: BasePlan, weights: Path) -> str:
    """Digest of the files that a base is made from, as far as they are there."""
    values = _base_values(base, weights)
    place = Path(values["weights"])
    files = sorted(place.parent.glob(f"{place.name}-[0-9]*.safetensors"))
    model = values.get("model")
    if isinstance(model, str):
        shipped = Path(__file__).parents[1] / "models" / f"{model}.model"
        files += [path for path in (shipped, Path(model)) if path.is_file()][:1]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def plan_runs(protocol: Protocol, *, split: str, weights: Path, only: Sequence[str] = (), seeds: Sequence[int] | None = None) -> list[Run]:
    """Multiply a protocol out.

    Parameters
    ----------
    protocol : what `read_protocol` gave.
    split : "test", or "valid" for the pictures held out of the training set.
    weights : folder of float weights.
    only : labels, of runs as they stand in the protocol or multiplied out; none for all.
    seeds : instead of the protocol's.

    Raises
    ------
    ValueError : a label of `only` is not in the protocol.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    known = {name for plan in protocol.runs for label, _, _ in plan.expanded() for name in (label, plan.label)}
    unknown = [label for label in only if label not in known]
    if unknown:
        labels = ", ".join(dict.fromkeys(label for plan in protocol.runs for label, _, _ in plan.expanded()))
        raise ValueError(f"only: expected labels out of {labels}; got {unknown[0]}")
    data = {**asdict(protocol.data), "valid": protocol.data.valid if split == "valid" else None}
    runs = []
    for base in protocol.bases:
        content = _content(base, weights)
        made_of = [data, split, {**asdict(base), "name": ""}, content]
        whole = base.first_experience == "whole"
        for plan in protocol.runs:
            if plan.bases and base.name not in plan.bases:
                continue
            for label, series, settings in plan.expanded():
                if only and label not in only and plan.label not in only:
                    continue
                for seed in plan.seeds if seeds is None else seeds:
                    stream = asdict(protocol.stream)
                    base_key = _digest(made_of, [stream, seed] if whole else None)
                    key = _digest(protocol.name, made_of, stream, plan.method, settings, seed)
                    runs.append(
                        Run(key, base_key, label, series, plan.label, tuple(plan.grid), protocol.data, protocol.stream, split, base,
                            plan.method, settings, seed)
                    )  # fmt: skip
    return runs


def check_runs(runs: Sequence[Run], weights: Path, parts: Parts | None = None) -> None:
    """Find out before anything runs whether methods and bases take their settings; ValueError names the run."""
    parts = parts or PARTS
    methods, bases = import_module(parts.methods), import_module(parts.base)
    for label, run in {run.label: run for run in runs}.items():
        try:
            methods.check_settings(run.method, dict(run.settings))
        except (ValueError, TypeError) as error:
            raise ValueError(f"run {label!r}: {error}") from error
    for name, run in {run.base.name: run for run in runs}.items():
        try:
            bases.BaseSettings.from_dict(_base_values(run.base, weights))
        except (ValueError, TypeError) as error:
            raise ValueError(f"base {name!r}: {error}") from error


# -- one run ----------------------------------------------------------------------------------------------------------------------------------


def make_stream(plan: StreamPlan, sets: PictureSets, folder: Path, split: str, seed: int) -> tuple[Stream, NDArray[np.int64] | None]:
    """Experiences of a seed, and the rows of the test pictures that count (None: all of them).

    Raises
    ------
    ValueError : the plan does not fit the set (see `streams`), or lists are missing (see `core50`).
    """
    train = sets.train
    test: NDArray[np.int64] | None = None
    if plan.kind == "ni":
        return new_instances(train.labels, plan.count, seed), None
    if plan.kind == "nc":
        groups = plan.groups or class_groups(len(train.names), plan.classes_each, plan.order_seed)
        stream = new_classes(train.labels, train.names, groups, seed)
    else:
        run = seed if plan.run == "seed" else int(plan.run)
        files = core50.read_run(folder, plan.lists, run)
        stream = listed(sets.train_files, files.experiences, seed)
        if split == "test":
            row_of = {file: row for row, file in enumerate(sets.test_files)}
            missing = [file for file in files.test if file not in row_of]
            if missing:
                raise ValueError(f"{folder}: expected the test picture {missing[0]}, found no such file; the set is at {core50.HOME}")
            test = np.array([row_of[file] for file in files.test], np.int64)
    learned = np.unique(np.concatenate(stream.classes(train.labels)))
    rows = np.arange(len(sets.test)) if test is None else test
    inside = rows[np.isin(sets.test.labels[rows], learned)]  # classes that never come cannot be known
    return stream, None if len(inside) == len(sets.test) else inside


_held: dict[str, Any] = {}  # the sets and the base that this process used last: runs come sorted by them


def _hold(kind: str, key: str, make: Callable[[], Any]) -> Any:
    if _held.get(kind, (None,))[0] != key:
        _held.pop(kind, None)  # the old one goes before the new one comes
        _held[kind] = (key, make())
    return _held[kind][1]


def _sets(run: Run, place: Place) -> PictureSets:
    def make() -> PictureSets:
        data = run.data
        sets = load_cached(data.set, place.data, data.image_size, place.out / "pictures", labels=data.labels, test_share=data.test)
        return hold_out(sets, data.valid) if run.split == "valid" else sets

    return _hold("sets", _digest(asdict(run.data), run.split, str(place.data)), make)  # type: ignore[no-any-return]


def _base_name(run: Run, place: Place) -> str:
    return f"{place.out} {run.base_key}"


def _base(run: Run, place: Place, sets: PictureSets, parts: Parts) -> Any:
    def make() -> Any:
        module = import_module(parts.base)
        seed = run.seed if run.base.first_experience == "whole" else 0
        stream, _ = make_stream(run.stream, sets, place.data, run.split, seed)
        settings = module.BaseSettings.from_dict(_base_values(run.base, place.weights))
        return module.make_base(settings, place.out / "bases" / run.base_key, sets.train, sets.test, stream.experiences[0].rows, seed)

    return _hold("base", _base_name(run, place), make)


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _matrix_row(right: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[NDArray[np.int64]]) -> list[float]:
    return [round(float(right[np.isin(labels, part)].mean()), 6) for part in classes]


def perform(run: Run, place: Place, parts: Parts, threads: int | None) -> Line:
    """Do one run.

    Returns
    -------
    The line of results, but for what is the same for all runs of a call (commit, command).
    """
    began = time.perf_counter()
    make_method = import_module(parts.methods).make_method
    _set_threads(threads)
    sets = _sets(run, place)
    train, test = sets.train, sets.test
    base = _base(run, place, sets, parts)
    stream, test_rows = make_stream(run.stream, sets, place.data, run.split, run.seed)
    method = make_method(run.method, base.start, classes=len(train.names), seed=run.seed, settings=dict(run.settings))
    rows = base.rows(method.reads, "train")
    tested = base.rows(method.reads, "test")
    labels = test.labels
    if test_rows is not None:
        tested, labels = tested[test_rows], labels[test_rows]
    classes = stream.classes(train.labels)
    apart = sum(len(part) for part in classes) == len(np.unique(np.concatenate(classes)))
    lessons = [stream.merged(run.seed)] if method.at_once else [experience.rows for experience in stream]

    accuracy: list[float | None] = []
    matrix: list[list[float]] = []
    notes: list[Any] = []
    learning = 0.0
    for number, lesson in enumerate(lessons):
        start = time.perf_counter()
        notes.append(method.learn(rows[lesson], train.labels[lesson]))
        learning += time.perf_counter() - start
        if (number + 1) % run.stream.evaluate_every and number + 1 < len(lessons):
            accuracy.append(None)
            continue
        predicted = np.asarray(method.predict(tested))
        if predicted.shape != labels.shape:
            raise ValueError(f"{run.method}: expected a class for each of {len(labels)} test pictures, got {predicted.shape}")
        right = predicted == labels
        accuracy.append(round(float(right.mean()), 6))
        matrix.append(_matrix_row(right, labels, classes) if apart else [])
    square = apart and len(matrix) == len(stream)
    memory = {name: int(value) for name, value in method.memory().items() if value is not None}
    known = {name: memory.pop(name, None) for name in ("replay_row_bytes", "replay_bytes", "step_peak_bytes")}
    return {
        "accuracy": accuracy,
        "matrix": matrix if square else None,
        "final": accuracy[-1],
        "forgetting": round(forgetting(matrix), 6) if square else None,
        "at_once": bool(method.at_once),
        "experiences": len(stream),
        "pictures": {"train": int(sum(len(lesson) for lesson in lessons)), "test": len(labels)},
        **known,
        "memory": memory,
        "seconds_learning": round(learning, 3),
        "seconds_total": round(time.perf_counter() - began, 3),
        "notes": notes,
        "environment": environment(threads),
    }


# -- where it ran ---------------------------------------------------------------------------------------------------------------------------


def _cpu() -> str:
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith(("model name", "Model")):
                return text.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def environment(threads: int | None) -> dict[str, Any]:
    """What a result may depend on, without names of machines, users or folders."""
    from .. import __version__, _engine

    torch = sys.modules.get("torch")
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": None if torch is None else str(torch.__version__),
        "bitreplay": __version__,
        "cpu": _cpu(),
        "isa": _engine.isa(),
        "threads": threads,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def commit() -> str | None:
    """Commit of the source tree that runs, with "-dirty" where it was changed since; None outside a repository."""
    package = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # in a virtual environment inside somebody else's repository it is not tracked
        name = git("rev-parse", "--short", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no") or git("status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("-dirty" if changed else "")


def told_command(words: Sequence[str]) -> str:
    """A command line as typed, but for what says where or on which machine: of absolute paths the last part stays, of addresses none."""
    told = []
    for number, word in enumerate(words):
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        if "://" in value:
            value = value.partition("://")[0] + "://..."
        elif value.startswith(("/", "~")) or number == 0:
            value = Path(value).name
        told.append(option + equals + value)
    return " ".join(f"'{word}'" if " " in word else word for word in told)


# -- many runs --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """What came of a run: its line, or the text of its error."""

    run: Run
    line: Line | None
    error: str | None


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, ValueError | OSError) else str(error)


def _here(runs: Sequence[Run], place: Place, parts: Parts, threads: int | None) -> Iterator[Done]:
    """One after the other in this process."""
    broken: dict[str, str] = {}
    for run in runs:
        line, error = None, broken.get(run.base_key)
        if error is None:
            try:
                line = perform(run, place, parts, threads)
            except Exception as caught:  # a run that fails must not take the others with it
                error = _text(caught)
                if _held.get("base", ("",))[0] != _base_name(run, place):  # what all of its base's runs would meet again
                    broken[run.base_key] = error
        yield Done(run, line, error)


def _on_workers(
    runs: Sequence[Run], place: Place, parts: Parts, threads: int | None, workers: int, scheduler: str | None
) -> Iterator[Done]:
    """As many at a time as there are workers, so that one that dies takes no waiting run with it."""
    from distributed import as_completed

    # The first run of each base makes it; they come first, so that workers need not wait for one another's.
    first = {run.base_key: run for run in reversed(runs)}
    waiting = [*(run for run in runs if first[run.base_key] is run), *(run for run in runs if first[run.base_key] is not run)]
    waiting.reverse()
    with dask_client(workers, scheduler, place.out / "workers", IGNORE_INTERRUPTS) as client:
        running: dict[Any, Run] = {}
        results = as_completed(loop=client.loop)  # type: ignore[no-untyped-call]

        def fill() -> None:
            slots = max(1, sum(client.nthreads().values())) if scheduler is not None else workers
            while waiting and len(running) < slots:
                run = waiting.pop()
                future = client.submit(perform, run, place, parts, threads, pure=False, retries=0)
                running[future] = run
                results.add(future)  # type: ignore[no-untyped-call]

        try:
            fill()
            while running:
                future = next(results)
                run = running.pop(future)
                error = future.exception()
                line = None if error is not None else future.result()
                future.release()
                fill()
                yield Done(run, line, None if error is None else _text(error))
        finally:
            client.cancel(list(running), force=True)


def split_runs(runs: Sequence[Run], out: Path) -> tuple[list[Run], list[Run], list[tuple[Run, Line]]]:
    """Divide runs into those without a result, those with one, and those whose result stands under another label (with its line)."""
    file = out / NAME
    by_key: dict[str, dict[str, Line]] = {}
    for line in read_results(file) if file.exists() else []:
        by_key.setdefault(line["key"], {})[line["label"]] = line
    missing: list[Run] = []
    done: list[Run] = []
    renamed: list[tuple[Run, Line]] = []
    for run in runs:
        lines = by_key.get(run.key, {})
        if run.label in lines:
            done.append(run)
        elif lines:
            renamed.append((run, next(iter(lines.values()))))
        else:
            missing.append(run)
    return missing, done, renamed


def _named(run: Run, protocol: str) -> Line:
    return {
        "key": run.key,
        "protocol": protocol,
        "split": run.split,
        "base": run.base.name,
        "label": run.label,
        "series": run.series,
        "run": run.plan,
        "axes": list(run.axes),
        "method": run.method,
        "settings": run.settings,
        "seed": run.seed,
    }


def run_all(
    protocol: Protocol,
    runs: Sequence[Run],
    place: Place,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    command: Sequence[str] = (),
    parts: Parts | None = None,
    progress: Callable[[Done, int, int], None] | None = None,
) -> list[Done]:
    """Do the runs that have no result yet, and add each result to the file when it is there.

    Parameters
    ----------
    protocol, runs : what `read_protocol` and `plan_runs` gave.
    place : folders; results are appended to ``place.out / "results.jsonl"``.
    workers : processes on this machine; 1 does all in this one.
    scheduler : address of a Dask scheduler instead; its workers must see the same folders.
    threads : of each worker; default the cores that there are, divided by `workers`.
    command : command line, for the results.
    parts : where methods and bases come from.
    progress : called with each run done, the number of those done and of all.

    Returns
    -------
    Runs that failed.

    Raises
    ------
    ValueError : settings that no method takes, or a results file that is none; nothing has run then.
    KeyboardInterrupt : Ctrl-C; finished runs are in the file, workers have been stopped.
    """
    parts = parts or PARTS
    place = Place(place.data.absolute(), place.out.absolute(), place.weights.absolute())
    check_runs(runs, place.weights, parts)
    missing, done, renamed = split_runs(runs, place.out)
    file = place.out / NAME
    for run, line in renamed:
        append_result(file, {**line, **_named(run, protocol.name)})
    twins: dict[str, list[Run]] = {}
    for run in missing:
        twins.setdefault(run.key, []).append(run)
    # Runs on one base follow one another.
    order = list(dict.fromkeys(run.base_key for run in missing))
    todo = sorted((runs[0] for runs in twins.values()), key=lambda run: order.index(run.base_key))
    if threads is None and scheduler is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, cores // workers)
    common = {"commit": commit(), "command": told_command(command)}
    count, failed = len(done) + len(renamed), []
    if not todo:
        return []
    results = (
        _here(todo, place, parts, threads)
        if workers == 1 and scheduler is None
        else _on_workers(todo, place, parts, threads, workers, scheduler)
    )
    for outcome in results:
        if outcome.line is None:
            failed.append(outcome)
        else:
            for run in twins[outcome.run.key]:
                append_result(file, {**_named(run, protocol.name), **outcome.line, **common})
        count += len(twins[outcome.run.key])
        if progress is not None:
            progress(outcome, count, len(runs))
    return failed
