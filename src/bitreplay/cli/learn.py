"""``learn``, ``undo``, ``forget``, ``rename``: change what a state knows.

A state is written only after a lesson has gone well as a whole.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .. import Learner, PictureFiles
from .options import ModelOption, StateArgument, ThreadsOption
from .pictures import class_pictures, read_picture
from .state_file import changing, load_state, saving
from .terminal import progress, say
from .wording import PHASES, count, count_classes, listed

app = typer.Typer()


@app.command()
def learn(
    state: StateArgument,
    folder: Annotated[
        Path, typer.Argument(readable=False, metavar="DIR", help="Folder with one subfolder of pictures per class, named after the class.")
    ],
    model: ModelOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Learn the pictures of a folder in one lesson, as a whole or not at all."""
    with changing(state) as file:
        learner = load_state(state, model, threads, file=file)
        known = set(learner.names)
        pictures = class_pictures(folder)
        if not pictures:
            raise ValueError(f"{folder}: expected a subfolder per class with pictures in it, found none")
        labels = [name for _, name in pictures]
        with progress() as report:
            began = time.perf_counter()
            files = PictureFiles([path for path, _ in pictures], learner.image_size, read_picture)
            learner.learn(files, labels, progress=lambda phase, done, total: report(PHASES.get(phase, phase), done, total))
            seconds = time.perf_counter() - began
        with saving(state):
            file.save(learner)
    lesson = sorted(set(labels))
    opened = [name for name in lesson if name not in known]
    info = learner.info()
    say(
        f"{state}: learned {count(len(pictures), 'picture')} of {count_classes(lesson)} in {seconds:.1f} s "
        f"({1000 * seconds / len(pictures):.1f} ms per picture){'; new: ' + listed(opened) if opened else ''}\n"
        f"It knows {count_classes(learner.names)}; {info['replay_rows']:,} of {info['capacity']:,} replay rows are used."
    )


@app.command()
def undo(state: StateArgument) -> None:
    """Go back to the state before the last change: a lesson, a merge, a rename, or an overwrite by `new --force`."""
    with changing(state) as file, saving(state):
        file.undo()
    info = Learner.load(state).info()
    names = [entry["name"] for entry in info["classes"]]
    say(
        f"{state}: restored to before the last change: {count(info['lessons'], 'lesson')}, {count_classes(names)}{': ' + listed(names) if names else ''}"
    )


@app.command()
def forget(
    state: StateArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Class to forget.")],
    model: ModelOption = None,
) -> None:
    """Forget a class: name, weights, counts and replay rows, here and in the state that `undo` would go back to."""
    with changing(state) as file:
        learner = load_state(state, model, None, file=file)
        learner.forget(name)
        with saving(state):
            file.save(learner, keep=False)
    say(f"{state}: forgot {name}; it knows {count_classes(learner.names)}. This cannot be undone.")
    if learner.settings.train_blocks and learner.info()["lessons"] > 1:
        say("The trained tail stays as it is: what it learned from these pictures is spread over all of its weights.")


@app.command()
def rename(
    state: StateArgument,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Current name of the class.")],
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="New name.")],
    model: ModelOption = None,
) -> None:
    """Rename a class."""
    with changing(state) as file:
        learner = load_state(state, model, None, file=file)
        learner.rename(old, new_name)
        with saving(state):
            file.save(learner)
    say(f"{state}: {old} is now called {new_name}.")
