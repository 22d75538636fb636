"""Where runs get their bases and methods from: what they ask of a `Workbench`.

Knows no workbench; whoever has runs done brings one, such as `training.workbench.TorchWorkbench`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..datasets.image_sets import ImageSet

if TYPE_CHECKING:
    from ..training.methods import Method


class Base(Protocol):
    """What all methods of a run start from."""

    @property
    def start(self) -> Any:
        """What `Workbench.make_method` takes."""

    def rows(self, reads: str, split: str) -> NDArray[Any]:
        """What a method that `reads` this gets to see of the pictures of a split, "train" or "test": one row a picture."""


class Workbench(Protocol):
    """Makes bases and methods from plain values.  It goes to workers with each run: an instance must be small, and pickle."""

    def use_threads(self, threads: int | None) -> None:
        """Let what is made compute in so many threads; None leaves the number as it is.  Called before anything is made."""

    def check_base(self, values: dict[str, Any]) -> None:
        """ValueError or TypeError for settings that no base takes."""

    def make_base(
        self, values: dict[str, Any], folder: Path, train: ImageSet, test: ImageSet, first_rows: NDArray[np.int64], seed: int
    ) -> Base:
        """Make a base, or find it under `folder`.

        Parameters
        ----------
        values : settings of the base.
        folder : its own, for what is kept.
        train, test : pictures.
        first_rows : rows of `train` that make the first experience.
        seed : keys every random draw.
        """

    def check_method(self, name: str, settings: dict[str, Any]) -> None:
        """ValueError or TypeError for a method that there is not, or settings that it does not take."""

    def make_method(self, name: str, start: Any, *, classes: int, seed: int, settings: dict[str, Any]) -> Method:
        """Make a method that knows nothing yet, for `classes` classes in all."""
