"""Tables and plots of results, all of them made from the lines of results files.

Owns which figures are shown and how runs are grouped: by protocol, split, base and label, over seeds.  A table has a name, under which
it can be kept in any Markdown file (`markdown.embed`); plots are drawn with Matplotlib, which is imported where they are.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .markdown import table
from .results import Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR_JOINT = 0.03  # the bytes at which a curve comes this near to joint training are shown
LISTED_EXPERIENCES = 20  # more columns than that are thinned out


@dataclass(frozen=True)
class Part:
    """A piece of the report: a table under a name of its own, with what it shows, and perhaps a plot."""

    name: str
    title: str
    text: str
    table: str
    plot: Figure | None = None


@dataclass(frozen=True)
class Group:
    """Results that are compared with one another: the same protocol, split and base; lines by label."""

    protocol: str
    split: str
    base: str
    lines: tuple[Line, ...]

    @property
    def name(self) -> str:
        """For files and marks; the split is named where it is not the test pictures."""
        parts = [self.protocol, *([] if self.split == "test" else [self.split]), self.base]
        return re.sub(r"[^\w.+-]+", "-", " ".join(parts))

    def by(self, key: str) -> dict[str, list[Line]]:
        """Lines by label or series, in the order in which these first come."""
        found: dict[str, list[Line]] = defaultdict(list)
        for line in self.lines:
            found[line[key]].append(line)
        return dict(found)

    @property
    def joint(self) -> tuple[str, list[Line]] | None:
        """The best run that had everything at once: label and lines."""
        found = [(label, lines) for label, lines in self.by("label").items() if lines[0].get("at_once")]
        return max(found, key=lambda item: _mean(item[1], "final")) if found else None

    @property
    def best(self) -> dict[str, list[Line]]:
        """Lines by label, of each grid only those of its best cell: what can be told apart in a plot."""
        found: dict[str, tuple[str, list[Line]]] = {}
        for label, lines in self.by("label").items():
            plan = lines[0]["run"]
            if plan not in found or _mean(lines, "final") > _mean(found[plan][1], "final"):
                found[plan] = (label, lines)
        return dict(found.values())

    @property
    def caption(self) -> str:
        """Which pictures, seeds, experiences and commits the figures come from."""
        pictures = "the test pictures" if self.split == "test" else "pictures held out of the training set"
        commits = sorted({str(line.get("commit")) for line in self.lines})
        mixed = " (several: figures may not be comparable)" if len(commits) > 1 else ""
        experiences = sorted({line["experiences"] for line in self.lines})
        return (
            f"Protocol {self.protocol}, {'/'.join(map(str, experiences))} experiences, base {self.base}, measured on {pictures}; "
            f"mean ± sd over seeds, in %; commit {', '.join(commits)}{mixed}."
        )


def groups(lines: Iterable[Line]) -> list[Group]:
    """Divide lines into groups, in the order in which these first come."""
    found: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        found[line["protocol"], line["split"], line["base"]].append(line)
    return [Group(*key, tuple(values)) for key, values in found.items()]


# -- figures ----------------------------------------------------------------------------------------------------------------------------------


def _values(lines: Sequence[Line], key: str) -> list[float]:
    return [float(line[key]) for line in lines if line.get(key) is not None]


def _mean(lines: Sequence[Line], key: str) -> float:
    values = _values(lines, key)
    return statistics.mean(values) if values else math.nan


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 2) -> str:
    """Mean ± sample standard deviation; the latter from two values on; nothing without values.

    Examples
    --------
    >>> spread([0.75, 0.77]), spread([0.5]), spread([])
    ('76.00 ± 1.41', '50.00', '')
    """
    if not values:
        return ""
    deviation = f" ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{scale * statistics.mean(values):.{digits}f}{deviation}"


def paired(lines: Sequence[Line], against: Sequence[Line]) -> list[float]:
    """Differences of the final accuracy, a seed at a time; seeds that only one side has are left out."""
    other = {line["seed"]: line["final"] for line in against}
    return [line["final"] - other[line["seed"]] for line in lines if line["seed"] in other]


def _signed(values: Sequence[float]) -> str:
    text = spread(values)
    return text if not text or text.startswith("-") else f"+{text}"


def _bytes(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{round(value):,}"


# -- tables -------------------------------------------------------------------------------------------------------------------------------------


def _flipped(lines: Sequence[Line]) -> str:
    # Smallest and largest share of the trained binary weights that an experience turned over, in %; those that trained the head alone left out.
    shares = [100 * note["flipped"] for line in lines for note in line.get("notes", ()) if note.get("flipped") is not None]
    shares = [share for share in shares if share > 0] or shares
    return f"{min(shares):.2f} to {max(shares):.2f}" if shares else ""


def final_part(group: Group) -> Part:
    """Final accuracy, forgetting, replay memory, and binary weights turned over, of every label."""
    joint = group.joint
    rows = []
    for label, lines in group.by("label").items():
        gap = f"{100 * (_mean(joint[1], 'final') - _mean(lines, 'final')):.2f}" if joint else ""
        memory = _bytes(_mean(lines, "replay_bytes"))
        rows.append(
            (label, spread(_values(lines, "final")), gap, spread(_values(lines, "forgetting")), memory, _flipped(lines), str(len(lines)))
        )
    header = ("method", "final accuracy", "below joint", "forgetting", "replay bytes", "flipped an experience, %", "seeds")
    return Part(
        f"final {group.name}",
        "Final accuracy",
        f"Joint is the best run that learned everything at once{f': {joint[0]}' if joint else ' (none here)'}.",
        table(header, rows),
    )


def paired_part(group: Group, against: str) -> Part | None:
    """Differences from the runs under the label `against`, the same seed on both sides; None if the group has no such label."""
    labels = group.by("label")
    if against not in labels:
        return None
    rows = []
    for label, lines in labels.items():
        differences = paired(lines, labels[against])
        if label != against and differences:
            rows.append((label, _signed(differences), str(len(differences))))
    text = f"Final accuracy less that of *{against}* with the same seed: mean ± sd of the differences, in points."
    return Part(f"paired {group.name}", f"Against {against}", text, table(("method", "difference", "pairs"), rows))


def _shown(count: int) -> list[int]:
    """Which experiences a table lists: all, or evenly spaced ones with the last."""
    if count <= LISTED_EXPERIENCES:
        return list(range(count))
    step = -(-count // LISTED_EXPERIENCES)
    return sorted({*range(step - 1, count, step), count - 1})


def _over_experiences(lines: Sequence[Line]) -> NDArray[np.float64]:
    """Mean accuracy after each experience, nan where none was measured."""
    values = np.array([[math.nan if value is None else value for value in line["accuracy"]] for line in lines], np.float64)
    mean: NDArray[np.float64] = values.mean(0)
    return mean


def experience_part(group: Group) -> Part | None:
    """Accuracy after each experience, as table and plot; None where all had everything at once."""
    labels = {label: lines for label, lines in group.by("label").items() if not lines[0].get("at_once") and len(lines[0]["accuracy"]) > 1}
    if not labels:
        return None
    count = max(len(lines[0]["accuracy"]) for lines in labels.values())
    shown = [
        i for i in _shown(count) if any(i < len(lines[0]["accuracy"]) and lines[0]["accuracy"][i] is not None for lines in labels.values())
    ]
    rows = []
    for label, lines in labels.items():
        cells = []
        for i in shown:
            cells.append(
                spread([line["accuracy"][i] for line in lines if i < len(line["accuracy"]) and line["accuracy"][i] is not None], digits=1)
            )
        rows.append((label, *cells))

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for label, lines in group.best.items():
            if label not in labels:
                continue
            values = 100 * _over_experiences([line for line in lines if len(line["accuracy"]) == len(lines[0]["accuracy"])])
            at = np.flatnonzero(~np.isnan(values))
            axes.plot(at + 1, values[at], marker="o" if len(at) <= 50 else None, markersize=3, label=label)
        _draw_joint(axes, group)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("experiences learned")
        axes.set_ylabel("accuracy on all test pictures, %")

    text = "Accuracy on all test pictures, those of classes that have not come yet included; of each grid, the plot shows the best cell."
    return Part(
        f"experiences {group.name}",
        "Accuracy after each experience",
        text,
        table(("method", *(str(i + 1) for i in shown)), rows),
        _plot(draw),
    )


def matrix_parts(group: Group) -> list[Part]:
    """Accuracy matrix of each label that has one (of a grid, the best cell's): after the experience of the row, on the classes of the column's."""
    parts = []
    for label, lines in group.best.items():
        found = [line["matrix"] for line in lines if line.get("matrix")]
        if not found or len(found[0]) > LISTED_EXPERIENCES:
            continue
        mean = 100 * np.array(found).mean(0)
        rows = [(str(i + 1), *(f"{value:.1f}" for value in row)) for i, row in enumerate(mean)]
        header = ("after", *(str(j + 1) for j in range(len(mean))))
        parts.append(
            Part(
                f"matrix {group.name} {label}",
                f"Accuracy matrix: {label}",
                "Mean over seeds; a row an experience learned, a column the test pictures of an experience's classes.",
                table(header, rows),
            )
        )
    return parts


def bytes_within(points: Sequence[tuple[float, float]], target: float) -> tuple[str, float | None]:
    """Bytes at which a curve reaches a target.

    Parameters
    ----------
    points : (bytes, accuracy), ascending bytes above 0.
    target : accuracy to be reached.

    Returns
    -------
    As text, with "<=" where the smallest memory has it already and ">" where the largest has not, and as a number where it lies
    between them (interpolated in the logarithm of bytes).

    Examples
    --------
    >>> bytes_within([(100, 0.5), (10000, 0.7)], 0.6)[0]
    '1,000'
    >>> bytes_within([(100, 0.5)], 0.6)
    ('> 100', None)
    """
    if points[0][1] >= target:
        return f"<= {_bytes(points[0][0])}", None
    for (few, low), (many, high) in itertools.pairwise(points):
        if high >= target:
            share = (target - low) / (high - low)
            found = math.exp(math.log(few) + share * (math.log(many) - math.log(few)))
            return _bytes(found), found
    return f"> {_bytes(points[-1][0])}", None


def curves(group: Group) -> dict[str, list[tuple[float, float]]]:
    """(replay bytes, mean final accuracy) of each series that has several sizes of replay memory, ascending."""
    found = {}
    for series, lines in group.by("series").items():
        sizes: dict[int, list[Line]] = defaultdict(list)
        for line in lines:
            if line.get("replay_bytes"):
                sizes[line["replay_bytes"]].append(line)
        if len(sizes) > 1:
            found[series.removesuffix(", M = M")] = [(float(size), _mean(sizes[size], "final")) for size in sorted(sizes)]
    return found


def memory_part(group: Group) -> Part | None:
    """Accuracy against bytes of replay memory, and the bytes that come near to joint; None without two sizes of anything."""
    found = curves(group)
    if not found:
        return None
    joint = group.joint
    near = {series: bytes_within(points, _mean(joint[1], "final") - NEAR_JOINT) for series, points in found.items()} if joint else {}
    known = [value for _, value in near.values() if value is not None]
    rows = []
    for series, points in found.items():
        text, value = near.get(series, ("", None))
        times = "" if value is None else f"{value / min(known):.1f}"
        rows.append((series, "; ".join(f"{_bytes(size)}: {100 * accuracy:.2f}" for size, accuracy in points), text, times))

    def draw(axes: Axes) -> None:
        for series, points in found.items():
            axes.plot([size for size, _ in points], [100 * accuracy for _, accuracy in points], marker="o", markersize=3, label=series)
        _draw_joint(axes, group)
        axes.set_xscale("log")
        axes.set_xlabel("bytes of replay memory")
        axes.set_ylabel("final accuracy, %")

    text = f"Bytes of replay memory and final accuracy; last, the bytes at which it comes within {100 * NEAR_JOINT:.0f} points of joint, interpolated in the logarithm of bytes, and how many times the fewest that is."
    return Part(
        f"memory {group.name}",
        "Accuracy against replay memory",
        text,
        table(("series", "bytes: accuracy", "bytes near joint", "times the fewest"), rows),
        _plot(draw),
    )


def grid_parts(group: Group) -> list[Part]:
    """A table for each grid with two axes: the first down, the second across; further axes make further tables."""
    parts = []
    plans: dict[str, list[Line]] = defaultdict(list)
    for line in group.lines:
        if len(line.get("axes", ())) >= 2:
            plans[line["run"]].append(line)
    for plan, lines in plans.items():
        down, across, *further = lines[0]["axes"]
        slices: dict[tuple[str, ...], list[Line]] = defaultdict(list)
        for line in lines:
            slices[tuple(f"{axis} {line['settings'][axis]}" for axis in further)].append(line)
        for slice_, cells in slices.items():
            downs, acrosses = (_ordered(line["settings"][axis] for line in cells) for axis in (down, across))
            rows = []
            for first in downs:
                found = [
                    [line for line in cells if (line["settings"][down], line["settings"][across]) == (first, second)] for second in acrosses
                ]
                rows.append((f"{first}", *(spread(_values(cell, "final")) for cell in found)))
            title = ", ".join([plan, *slice_])
            parts.append(
                Part(
                    f"grid {group.name} {title}",
                    f"Grid: {title}",
                    f"Final accuracy; {down} down, {across} across.",
                    table((f"{down} \\ {across}", *map(str, acrosses)), rows),
                )
            )
    return parts


def _ordered(values: Iterable[Any]) -> list[Any]:
    found = list(dict.fromkeys(values))
    return sorted(found) if all(isinstance(v, int | float) for v in found) else found


def cost_part(group: Group) -> Part:
    """Time, and bytes of a stored row, of the memory and of a step at its peak."""
    rows = []
    for label, lines in group.by("label").items():
        sizes = [_bytes(_mean(lines, key)) for key in ("replay_row_bytes", "replay_bytes", "step_peak_bytes")]
        threads = sorted({str(line["environment"].get("threads")) for line in lines})
        rows.append((label, spread(_values(lines, "seconds_learning"), 1.0, 1), *sizes, "/".join(threads)))
    machines = sorted({f"{line['environment']['cpu']}, {line['environment']['isa']}" for line in group.lines})
    header = ("method", "seconds learning", "bytes a row", "replay bytes", "peak bytes of a step", "threads")
    text = f"Seconds in learning, over all experiences, pictures already rows; on {'; '.join(machines)}. Runs may have shared the machine."
    return Part(f"cost {group.name}", "Time and bytes", text, table(header, rows))


# -- plots --------------------------------------------------------------------------------------------------------------------------------------


def _draw_joint(axes: Axes, group: Group) -> None:
    if group.joint:
        axes.axhline(100 * _mean(group.joint[1], "final"), color="0.4", linestyle="--", label=group.joint[0])


def _plot(draw: Callable[[Axes], None]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    return figure


# -- all of it ----------------------------------------------------------------------------------------------------------------------------------


def report_parts(lines: Sequence[Line], against: Sequence[str] = ()) -> list[tuple[Group, list[Part]]]:
    """Every table and plot that the lines have figures for.

    Raises
    ------
    ValueError : no lines, or a label of `against` that none of them has.
    """
    if not lines:
        raise ValueError("results: expected at least one finished run, got none")
    labels = {line["label"] for line in lines}
    for label in against:
        if label not in labels:
            raise ValueError(f"against: expected a label out of {', '.join(sorted(labels))}, got {label!r}")
    made = []
    for group in groups(lines):
        parts: list[Part | None] = [
            final_part(group),
            *(paired_part(group, label) for label in against),
            experience_part(group),
            memory_part(group),
        ]
        parts += [*grid_parts(group), *matrix_parts(group), cost_part(group)]
        made.append((group, [part for part in parts if part is not None]))
    return made


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")


def write_report(lines: Sequence[Line], out: Path, *, against: Sequence[str] = (), svg: bool = False) -> tuple[Path, dict[str, str]]:
    """Write ``report.md`` and its plots into a folder.

    Returns
    -------
    The file, and every table with its caption by name, for `markdown.embed`.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = ["# Results\n\nWritten by `bitreplay report`; every figure is of runs that happened.\n"]
    splits = {line["split"] for line in lines}
    if len(splits) > 1:
        text.append(
            "Some tables are of test pictures, some of pictures held out of the training set: they must not be compared with one another.\n"
        )
    tables = {}
    for group, parts in report_parts(lines, against):
        text.append(f"## {group.name}\n\n{group.caption}\n")
        for part in parts:
            text.append(f"### {part.title}\n\n{part.text}\n")
            if part.plot is not None:
                file = _file_name(part.name)
                for suffix in ("png", *(("svg",) if svg else ())):
                    part.plot.savefig(out / f"{file}.{suffix}", dpi=120)
                text.append(f"![{part.title}]({file}.png)\n")
            text.append(f"<!-- table: {part.name} -->\n{part.table}\n<!-- end -->\n")
            tables[part.name] = f"{part.table}\n\n{part.text} {group.caption}"
    path = out / "report.md"
    path.write_text("\n".join(text), encoding="utf-8")
    return path, tables
