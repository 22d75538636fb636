"""Protocol files: what is learned, in which order, from which network, by which methods, with which seeds.

Owns the form of the TOML file and every check that needs no method, no picture and no network: an unknown key, a wrong type or an
impossible value is one error that names file, key, what was expected and what was found.
"""

from __future__ import annotations

import itertools
import string
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..datasets import core50
from ..datasets.public import SETS

FOLDER = Path(__file__).parent / "protocols"
KINDS = ("nc", "ni", "files")
FIRST_EXPERIENCES = ("frozen", "whole")
MAX_SEEDS = 1000


@dataclass(frozen=True)
class Data:
    """Which pictures: set, side in pixels, share of the training pictures held out for choices, and what only some sets have."""

    set: str
    image_size: int = 32
    valid: float = 0.2
    labels: str = "object"
    test: float = 0.2


@dataclass(frozen=True)
class StreamPlan:
    """Which pictures come together: classes ("nc"), shares of all classes ("ni") or lists of files ("files").

    `run` of lists is a number, or "seed": then a run's seed is its number.  `evaluate_every`: after how many experiences the test
    pictures are looked at (and after the last).
    """

    kind: str
    groups: tuple[tuple[str | int, ...], ...] = ()
    classes_each: int = 0
    order_seed: int | None = None
    count: int = 0
    lists: str = ""
    run: int | str = 0
    evaluate_every: int = 1


@dataclass(frozen=True)
class BasePlan:
    """What every method starts from; `options` are further settings of `training.first_experience`, which checks them."""

    name: str
    weights: str
    first_experience: str = "frozen"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunPlan:
    """A method with its settings; `grid` is multiplied out, `bases` are the names of those it runs on (empty: all)."""

    label: str
    method: str
    seeds: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    bases: tuple[str, ...] = ()

    def expanded(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Label, series and settings of each cell of the grid.

        A label may name axes, as in "engine (8,{gradient_bits},{weight_bits})"; axes that it does not name follow it.  The series is
        the label with the replay capacity left open: the runs of one curve.
        """
        cells = []
        named = {part for _, part, _, _ in string.Formatter().parse(self.label) if part}
        for values in itertools.product(*self.grid.values()):
            cell = dict(zip(self.grid, values, strict=True))
            settings = {**self.settings, **cell}

            def title(shown: dict[str, Any], cell: dict[str, Any] = cell) -> str:
                rest = [f"{axis} {shown[axis]}" for axis in cell if axis not in named and axis in shown]
                return ", ".join([self.label.format(**{**shown, **{axis: shown.get(axis, "M") for axis in named}}), *rest])

            series = title({key: value for key, value in settings.items() if key != "capacity"})
            cells.append((title(settings), series, settings))
        return cells


@dataclass(frozen=True)
class Protocol:
    """All of a protocol file."""

    name: str
    data: Data
    stream: StreamPlan
    bases: tuple[BasePlan, ...]
    runs: tuple[RunPlan, ...]
    file: str = ""


# -- reading ------------------------------------------------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(low: int, high: int = 2**31 - 1) -> tuple[str, Callable[[Any], bool]]:
    top = "" if high == 2**31 - 1 else f" to {high}"
    return (
        f"a whole number from {low}{top}" if top else f"a whole number, at least {low}",
        lambda value: _is_int(value) and low <= value <= high,
    )


def _one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    return "one of " + ", ".join(names), lambda value: value in names


def _is_seeds(value: Any) -> bool:
    if _is_int(value):
        return 1 <= int(value) <= MAX_SEEDS
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAX_SEEDS
        and all(_is_int(v) and 0 <= v < 2**32 for v in value)
        and len(set(value)) == len(value)
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str) or (isinstance(value, list) and all(_is_plain(v) for v in value))


def _is_groups(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(group, list) and group and all(isinstance(e, str) or (_is_int(e) and e >= 0) for e in group) for group in value)
    )


_TEXT = ("text", lambda value: isinstance(value, str) and bool(value.strip()))
_SHARE = ("a share between 0 and 1", lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1)
_TABLE = ("a table", lambda value: isinstance(value, dict))
_SETTINGS = ("a table of plain values", lambda value: isinstance(value, dict) and all(_is_plain(v) for v in value.values()))
_GRID = (
    "a table of lists, none of them empty and no value twice",
    lambda value: (
        isinstance(value, dict)
        and all(isinstance(v, list) and v and all(_is_plain(e) for e in v) and len({repr(e) for e in v}) == len(v) for v in value.values())
    ),
)
_SEEDS = (f"a count of seeds from 1 to {MAX_SEEDS}, or a list of different whole numbers", _is_seeds)
_NAMES = ("a list of names", lambda value: isinstance(value, list) and value and all(isinstance(v, str) for v in value))
_GROUPS = ("a list of lists of class names or numbers, none of them empty", _is_groups)

_REQUIRED = object()


class _Table:
    """A table of the file: each key is taken once, and what is left over at the end is an error."""

    def __init__(self, file: str, path: str, values: dict[str, Any]) -> None:
        self._file, self._path = file, path
        self._values = dict(values)
        self._known: list[str] = []

    def error(self, key: str, expected: str, got: str) -> ValueError:
        where = f"{self._path}.{key}" if self._path and key else self._path or key
        return ValueError(f"{self._file}: {where}: expected {expected}, got {got}")

    def take(self, key: str, form: tuple[str, Callable[[Any], Any]], default: Any = _REQUIRED) -> Any:
        self._known.append(key)
        expected, fits = form
        if key not in self._values:
            if default is _REQUIRED:
                raise self.error(key, expected, "nothing")
            return default
        value = self._values.pop(key)
        if not fits(value):
            raise self.error(key, expected, f"{value!r:.80}")
        return value

    def has(self, key: str) -> bool:
        return key in self._values

    def rest(self) -> dict[str, Any]:
        left, self._values = self._values, {}
        return left

    def end(self) -> None:
        for key in self._values:
            raise self.error(key, f"keys out of {', '.join(self._known)}", f"{key}; remove or correct it")


def _data(table: _Table) -> Data:
    name = table.take("set", _one_of(*SETS))
    data = Data(
        name,
        table.take("image_size", _whole(8, 1024), 32),
        float(table.take("valid", _SHARE, 0.2)),
        table.take("labels", _one_of(*core50.LEVELS), "object") if name == "core50" else "object",
        float(table.take("test", _SHARE, 0.2)) if name == "folder" else 0.2,
    )
    table.end()
    return data


def _stream(table: _Table, data: Data) -> StreamPlan:
    kind = table.take("kind", _one_of(*KINDS))
    every = table.take("evaluate_every", _whole(1), 1)
    if kind == "nc":
        if table.has("groups") == table.has("classes_each"):
            raise table.error("", "either groups or classes_each", "both" if table.has("groups") else "neither")
        if table.has("groups"):
            groups = table.take("groups", _GROUPS)
            plan = StreamPlan(kind, groups=tuple(tuple(group) for group in groups), evaluate_every=every)
        else:
            each = table.take("classes_each", _whole(1))
            plan = StreamPlan(kind, classes_each=each, order_seed=table.take("order_seed", _whole(0), None), evaluate_every=every)
    elif kind == "ni":
        plan = StreamPlan(kind, count=table.take("count", _whole(1)), evaluate_every=every)
    else:
        if data.set != "core50":
            raise table.error("kind", "nc or ni, since only core50 has lists of files", '"files"')
        form = (
            'a number, or "seed" for the number of the run to be the seed',
            lambda value: value == "seed" or (_is_int(value) and value >= 0),
        )
        plan = StreamPlan(kind, lists=table.take("lists", _TEXT), run=table.take("run", form, 0), evaluate_every=every)
    table.end()
    return plan


def _base(table: _Table) -> BasePlan:
    weights = table.take("weights", _TEXT)
    name = table.take("name", _TEXT, weights)
    first = table.take("first_experience", _one_of(*FIRST_EXPERIENCES), "frozen")
    options = table.rest()
    for key, value in options.items():
        if not _is_plain(value):
            raise table.error(key, "a plain value", f"{value!r:.80}")
    return BasePlan(name, weights, first, options)


def _run(table: _Table, bases: tuple[BasePlan, ...]) -> RunPlan:
    seeds = table.take("seeds", _SEEDS, 1)
    run = RunPlan(
        table.take("label", _TEXT),
        table.take("method", _TEXT),
        tuple(range(seeds)) if _is_int(seeds) else tuple(seeds),
        table.take("settings", _SETTINGS, {}),
        {axis: tuple(values) for axis, values in table.take("grid", _GRID, {}).items()},
        tuple(table.take("bases", _NAMES, [])),
    )
    table.end()
    both = sorted(set(run.settings) & set(run.grid))
    if both:
        raise table.error(f"grid.{both[0]}", "an axis that settings do not fix", "it in both; leave one out")
    unknown = sorted(set(run.bases) - {base.name for base in bases})
    if unknown:
        raise table.error("bases", f"names out of {', '.join(base.name for base in bases)}", unknown[0])
    try:
        named = [part for _, part, _, _ in string.Formatter().parse(run.label) if part is not None]
    except ValueError as error:
        raise table.error("label", "text, with settings in braces", f"{run.label!r}: {error}") from error
    for part in named:
        if part not in {**run.settings, **run.grid}:
            raise table.error("label", f"settings in braces out of {', '.join({**run.settings, **run.grid}) or 'none'}", f"{{{part}}}")
    return run


def parse_protocol(values: dict[str, Any], file: str = "protocol") -> Protocol:
    """Check the values of a protocol file; `file` names it in errors."""
    top = _Table(file, "", values)
    name = top.take("name", _TEXT)
    data = _data(_Table(file, "data", top.take("data", _TABLE)))
    stream = _stream(_Table(file, "stream", top.take("stream", _TABLE)), data)
    tables = ("a list of tables, at least one", lambda value: isinstance(value, list) and value and all(isinstance(v, dict) for v in value))
    if top.has("base") == top.has("bases"):
        raise top.error("base", "either [base] or [[bases]]", "both" if top.has("base") else "neither")
    if top.has("base"):
        bases: tuple[BasePlan, ...] = (_base(_Table(file, "base", top.take("base", _TABLE))),)
    else:
        bases = tuple(_base(_Table(file, f"bases[{i}]", entry)) for i, entry in enumerate(top.take("bases", tables)))
    twice = [base.name for base in bases if [other.name for other in bases].count(base.name) > 1]
    if twice:
        raise top.error("bases", "a name for each", f"{twice[0]} twice")
    runs = tuple(_run(_Table(file, f"runs[{i}]", entry), bases) for i, entry in enumerate(top.take("runs", tables)))
    top.end()
    labels = [label for run in runs for label, _, _ in run.expanded()]
    doubled = [label for label in labels if labels.count(label) > 1]
    if doubled:
        raise top.error("runs", "a label for each run", f"{doubled[0]!r} twice")
    return Protocol(name, data, stream, bases, runs, file)


def shipped() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_protocol(source: str | Path) -> Protocol:
    """Read a protocol.

    Parameters
    ----------
    source : path of a TOML file, or the name of a shipped protocol.

    Raises
    ------
    ValueError : it is no TOML, or a key is unknown, missing, of the wrong type, or impossible.
    FileNotFoundError : there is no such file, and no shipped protocol of that name.
    """
    path = Path(source)
    if not path.exists() and str(source) in shipped():
        path = FOLDER / f"{source}.toml"
    if not path.is_file():
        raise FileNotFoundError(f"{source}: no such file, and none of the shipped protocols: {', '.join(shipped())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name}: expected TOML, got something else: {error}") from error
    return parse_protocol(values, path.name)
