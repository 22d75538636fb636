"""Arguments and options that several commands take, each with one name and one help text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import Learner, Settings

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model", help="Model that the state was taught on; needed only if it is neither shipped nor in the state.", metavar="FILE|NAME"
    ),
]
NewModelOption = Annotated[
    str | None, typer.Option("--model", help="Model file, or the name of a shipped backbone. Default: quicknet-32.", metavar="FILE|NAME")
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, help="Number of threads; does not change the result. Default: all cores.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=2**64 - 1, help="Seed for all of the learner's random choices.")]
# readable=False, as for every path in a command: the library opens the file and says, in its own words, what is wrong.
StateArgument = Annotated[Path, typer.Argument(readable=False, metavar="STATE", help="State file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]
CapacityOption = Annotated[
    int | None, typer.Option("--capacity", min=0, help="Maximum number of rows in the replay memory. Default: 1500.")
]
MemoryBytesOption = Annotated[
    int | None,
    typer.Option("--memory-bytes", min=1, help="Instead of --capacity: bytes for everything that learning keeps or needs at its peak."),
]
LessonImagesOption = Annotated[
    int | None,
    typer.Option("--lesson-images", min=1, help="Maximum pictures in a lesson. Default: no limit; 1024 with --memory-bytes."),
]
MaxClassesOption = Annotated[
    int | None, typer.Option("--max-classes", min=1, help="Maximum number of classes the state can ever know. Default: 256.")
]
TrainBlocksOption = Annotated[
    int | None,
    typer.Option(
        "--train-blocks",
        min=0,
        help="Blocks behind the cut that lessons train too, counted from the last. Worthwhile from a few hundred replay rows. Default: 0.",
    ),
]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="lda|cwr",
        help="How pictures are classified: from exact sums (lda, the default), or by the papers' trained head (cwr).",
    ),
]
ViewsOption = Annotated[
    int | None,
    typer.Option(
        "--views",
        metavar="1|2|6",
        help="Views of each picture to learn from and predict with. 1, the default: itself; 2: its mirror image too; 6: also enlarged "
        "parts of both.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any further setting, such as class_priors=true or tail_noise=13; may be repeated."),
]


def settings_of(given: list[str] | None, **named: object) -> Settings:
    """Settings from options: those that are not None, and NAME=VALUE pairs."""
    values = {name: value for name, value in named.items() if value is not None}
    for pair in given or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set: expected NAME=VALUE, got {pair!r}")
        if name in values:
            raise typer.BadParameter(f"--set: {name} is given twice")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text
    return Settings.from_dict(values)


def make_learner(model: str | None, memory_bytes: int | None, threads: int | None, given: list[str] | None, **named: object) -> Learner:
    """A learner that knows nothing yet, as the options of ``new`` and ``serve`` ask for."""
    settings = settings_of(given, **named)
    if memory_bytes is None:
        return Learner(model, settings, threads=threads)
    if "capacity" in named and named["capacity"] is not None:
        raise typer.BadParameter("give --capacity or --memory-bytes, not both")
    return Learner.within_memory(memory_bytes, model, settings, threads=threads)
