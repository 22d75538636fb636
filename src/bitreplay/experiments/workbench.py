"""Where runs get their bases and methods from: the interface `Workbench`, and the one that gives those of `bitreplay.training`.

A plan and a schedule hand a workbench on without looking into it.  `TorchWorkbench` imports torch when it is first asked for something,
so that a protocol can be read, and a run sent to a worker, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class TorchWorkbench:
    """Gives the bases of `training.first_experience` and the methods of `training.methods` (extra ``train``)."""

    def use_threads(self, threads: int | None) -> None:
        """Set the threads of torch."""
        import torch

        if threads is not None:
            torch.set_num_threads(threads)

    def check_base(self, values: dict[str, Any]) -> None:
        """Read the settings of a base; ValueError or TypeError for one that is not possible."""
        from ..training.first_experience import BaseSettings

        BaseSettings.from_dict(values)

    def make_base(
        self, values: dict[str, Any], folder: Path, train: ImageSet, test: ImageSet, first_rows: NDArray[np.int64], seed: int
    ) -> Base:
        """As `training.first_experience.make_base`."""
        from ..training.first_experience import BaseSettings, make_base

        return make_base(BaseSettings.from_dict(values), folder, train, test, first_rows, seed)

    def check_method(self, name: str, settings: dict[str, Any]) -> None:
        """As `training.methods.check_settings`."""
        from ..training.methods import check_settings

        check_settings(name, settings)

    def make_method(self, name: str, start: Any, *, classes: int, seed: int, settings: dict[str, Any]) -> Method:
        """As `training.methods.make_method`."""
        from ..training.methods import make_method

        return make_method(name, start, classes=classes, seed=seed, settings=settings)
