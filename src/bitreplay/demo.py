"""The demonstration: handwritten digits taught two classes a lesson, on the shipped backbone, without network or files.

Owns the protocol (split, order of classes, table, plot).  Every number it prints was measured in this run.  Needs the extra
``demo`` (scikit-learn for the digits, matplotlib, Pillow, Rich).
"""

from __future__ import annotations

import shlex
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from . import metrics
from .learner import Learner
from .settings import Settings

CLASSES_A_LESSON = 2
CAPACITY = 300
TEST_SHARE = 0.3
SPLIT_SEED = 0
PREDICT_BATCH = 256
EXAMPLES_A_CLASS = 3


@dataclass(frozen=True)
class Digits:
    """Pictures of one split.

    Parameters
    ----------
    images : uint8 (N, S, S, 3).
    labels : int64 (N,), the digit.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def of(self, digits: tuple[int, ...]) -> Digits:
        """The pictures of these digits, in the order in which they stand."""
        rows = np.isin(self.labels, digits)
        return Digits(self.images[rows], self.labels[rows])

    @property
    def names(self) -> list[str]:
        """The class name of each picture."""
        return [str(digit) for digit in self.labels]


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration measured.

    Parameters
    ----------
    matrix : accuracy matrix R, float64 (5, 5), as in `metrics`; 0 above the diagonal.
    seen : accuracy on the test pictures of all classes seen, after each experience.
    joint : the same after one lesson with everything.
    plot, state, examples : what was written: PNG, state file, folder of example pictures.
    """

    matrix: NDArray[np.float64]
    seen: list[float]
    joint: float
    plot: Path
    state: Path
    examples: Path


def load_digits(image_size: int) -> tuple[Digits, Digits]:
    """Read scikit-learn's 1,797 digits (8x8, 0..16), bring them to `image_size`, split them for training and test.

    The split is stratified and always the same.
    """
    from PIL import Image
    from sklearn.datasets import load_digits as bundled_digits
    from sklearn.model_selection import train_test_split

    grey, labels = bundled_digits(return_X_y=True)
    small = np.rint(grey.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    size = (image_size, image_size)
    large = np.stack([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) for picture in small])
    images = np.repeat(large[..., None], 3, axis=3)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels)
    return Digits(images[train], labels[train].astype(np.int64)), Digits(images[test], labels[test].astype(np.int64))


def _predict(learner: Learner, images: NDArray[np.uint8]) -> tuple[NDArray[np.int64], float]:
    """Predicted digit of each picture, and seconds taken."""
    began = time.perf_counter()
    names = [name for i in range(0, len(images), PREDICT_BATCH) for name in learner.predict(images[i : i + PREDICT_BATCH]).names]
    return np.array(names, dtype=np.int64), time.perf_counter() - began


def _lesson_name(digits: tuple[int, ...]) -> str:
    return " ".join(map(str, digits))


class _Rows:
    """A table printed row by row, as the rows are measured; at most 80 columns wide."""

    def __init__(self, console: Console, lessons: list[tuple[int, ...]]) -> None:
        self.console = console
        self.heads = [
            ("after lesson", 6),
            ("all seen", 5),
            *((_lesson_name(digits), 5) for digits in lessons),
            ("for- gets", 5),
            ("learn ms/img", 6),
            ("predict ms/img", 7),
            ("replay KiB", 6),
            ("state KiB", 6),
        ]
        self._print([], header=True)

    def _print(self, cells: list[str], header: bool = False, style: str = "") -> None:
        table = Table(box=None, show_header=header, padding=(0, 1, 0, 0), pad_edge=False)
        for number, (head, width) in enumerate(self.heads):
            table.add_column(head, width=width, justify="right" if number else "left")
        if cells:
            table.add_row(*cells, style=style)
        self.console.print(table)

    def add(
        self, name: str, accuracies: list[float], forgetting: float | None, milliseconds: tuple[float, float], sizes: list[int]
    ) -> None:
        """Print one row; `accuracies` (0..1): on all classes seen, then on each experience so far."""
        cells = [name] + [f"{100 * a:.1f}" for a in accuracies]
        cells += [""] * (len(self.heads) - 5 - len(cells))
        cells += ["" if forgetting is None else f"{100 * forgetting:.1f}"]
        cells += [f"{m:.2f}" for m in milliseconds]
        cells += [f"{size / 1024:.1f}" for size in sizes]
        self._print(cells + [""] * (len(self.heads) - len(cells)), style="bold" if name == "joint" else "")


def _plot(path: Path, lessons: list[tuple[int, ...]], matrix: NDArray[np.float64], seen: list[float], joint: float, capacity: int) -> None:
    # The object interface: pyplot would look for a display and keep state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    at = np.arange(len(lessons))
    for j, digits in enumerate(lessons):
        axes.plot(at[j:], 100 * matrix[j:, j], marker=".", linewidth=1, alpha=0.6, label=f"digits {_lesson_name(digits)}")
    axes.plot(at, 100 * np.array(seen), marker="o", linewidth=2.5, color="black", label="all seen so far")
    axes.axhline(100 * joint, linestyle="--", color="black", linewidth=1, label="joint: everything at once")
    axes.set_xticks(at, [_lesson_name(digits) for digits in lessons])
    axes.set_xlabel("after the lesson with digits")
    axes.set_ylabel("accuracy on test pictures, %")
    axes.set_title(f"Two digits a lesson, {capacity} replay rows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=120)


def _write_examples(folder: Path, test: Digits) -> None:
    from PIL import Image

    for digit in np.unique(test.labels):
        target = folder / str(digit)
        target.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(test.of((int(digit),)).images[:EXAMPLES_A_CLASS]):
            Image.fromarray(picture).save(target / f"{digit}-{number}.png")


def run_demo(out: Path, *, seed: int = 0, threads: int | None = None, console: Console | None = None) -> DemoResult:
    """Teach ten digits in five lessons of two, print what is measured, write plot, state and example pictures.

    Parameters
    ----------
    out : folder for ``demo.png``, ``digits.state`` and ``digits/<class>/*.png``; made if it is missing, files are replaced.
    seed : seed of the learner; the split of the digits stays the same.
    threads : as `Learner` takes it.
    console : where the table goes; default: standard output.

    Raises
    ------
    OSError : a file cannot be written.
    """
    import matplotlib.figure  # noqa: F401 - if it is missing, say so before the lessons, not after them

    console = console or Console()
    out.mkdir(parents=True, exist_ok=True)
    plot, state, examples = out / "demo.png", out / "digits.state", out / "digits"
    learner = Learner(settings=Settings(capacity=CAPACITY, seed=seed), threads=threads)
    train, test = load_digits(learner.image_size)
    digits = sorted({int(label) for label in train.labels})
    lessons = [tuple(digits[i : i + CLASSES_A_LESSON]) for i in range(0, len(digits), CLASSES_A_LESSON)]
    console.print(
        f"{len(train.labels)} handwritten digits to learn, {len(test.labels)} to test; {len(lessons)} lessons of {CLASSES_A_LESSON} "
        f"classes, {CAPACITY} replay rows. Accuracies in %.\n"
    )
    rows = _Rows(console, lessons)
    matrix = np.zeros((len(lessons), len(lessons)))
    seen: list[float] = []
    for i, lesson in enumerate(lessons):
        live, asked = train.of(lesson), test.of(sum(lessons[: i + 1], ()))
        with console.status(f"learning {_lesson_name(lesson)}"):
            began = time.perf_counter()
            learner.learn(live.images, live.names)
            learn_s = time.perf_counter() - began
            learner.save(state)
            predicted, predict_s = _predict(learner, asked.images)
        right = predicted == asked.labels
        matrix[i, : i + 1] = [right[np.isin(asked.labels, earlier)].mean() for earlier in lessons[: i + 1]]
        seen.append(float(right.mean()))
        rows.add(
            _lesson_name(lesson),
            [seen[-1], *matrix[i, : i + 1]],
            metrics.forgetting(matrix[: i + 1, : i + 1]) if i else None,
            (1000 * learn_s / len(live.labels), 1000 * predict_s / len(asked.labels)),
            [learner.info()["bytes"]["replay_rows"], state.stat().st_size],
        )

    with console.status("joint: everything in one lesson"):
        together = Learner(settings=Settings(capacity=0, seed=seed), threads=threads)
        began = time.perf_counter()
        together.learn(train.images, train.names)
        learn_s = time.perf_counter() - began
        predicted, predict_s = _predict(together, test.images)
    right = predicted == test.labels
    joint = float(right.mean())
    rows.add(
        "joint",
        [joint, *(float(right[np.isin(test.labels, lesson)].mean()) for lesson in lessons)],
        None,
        (1000 * learn_s / len(train.labels), 1000 * predict_s / len(test.labels)),
        [together.info()["bytes"]["replay_rows"]],
    )
    points = 100 * (joint - seen[-1])
    relation = f"{abs(points):.1f} points {'below' if points > 0 else 'above'}" if round(points, 1) else "as good as"
    console.print(
        f"\nAfter {len(lessons)} lessons {100 * seen[-1]:.1f} %, {relation} joint training of the same head on everything at once "
        f"({100 * joint:.1f} %)."
    )

    _plot(plot, lessons, matrix, seen, joint, CAPACITY)
    _write_examples(examples, test)
    for what, path in (("plot", plot), ("state", state), ("pictures", examples)):
        console.print(f"{what + ':':10}{path}", markup=False, highlight=False, soft_wrap=True)
    command = shlex.join(["bitreplay", "predict", str(state), str(examples)])
    console.print(f"\nNext:\n  {command}", markup=False, highlight=False, soft_wrap=True)
    return DemoResult(matrix, seen, joint, plot, state, examples)
