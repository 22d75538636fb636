"""Bases and methods for the runs of an experiment, as `experiments.workbench` asks for them.

Imports torch when it is first asked for something, so that a run can be planned, and sent to a worker, without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..datasets.image_sets import ImageSet

if TYPE_CHECKING:
    from .first_experience import Base
    from .methods import Method


@dataclass(frozen=True)
class TorchWorkbench:
    """Gives the bases of `first_experience` and the `methods` of this package (extra ``train``)."""

    def use_threads(self, threads: int | None) -> None:
        """Set the threads of torch."""
        import torch

        if threads is not None:
            torch.set_num_threads(threads)

    def check_base(self, values: dict[str, Any]) -> None:
        """Read the settings of a base; ValueError or TypeError for one that is not possible."""
        from .first_experience import BaseSettings

        BaseSettings.from_dict(values)

    def make_base(
        self, values: dict[str, Any], folder: Path, train: ImageSet, test: ImageSet, first_rows: NDArray[np.int64], seed: int
    ) -> Base:
        """As `first_experience.make_base`."""
        from .first_experience import BaseSettings, make_base

        return make_base(BaseSettings.from_dict(values), folder, train, test, first_rows, seed)

    def check_method(self, name: str, settings: dict[str, Any]) -> None:
        """As `methods.check_settings`."""
        from .methods import check_settings

        check_settings(name, settings)

    def make_method(self, name: str, start: Any, *, classes: int, seed: int, settings: dict[str, Any]) -> Method:
        """As `methods.make_method`."""
        from .methods import make_method

        return make_method(name, start, classes=classes, seed=seed, settings=settings)
