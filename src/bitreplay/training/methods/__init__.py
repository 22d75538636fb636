"""The float simulation: every method that an experiment compares, one file each; what they share is in `parts`.

A method takes a `Start`, learns experiences of rows, and predicts class numbers.  It says in ``reads`` what its rows are (see
`training.first_experience.Base.rows`) and in ``at_once`` whether all experiences come in one call.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..start import Start
from .ar1 import Ar1
from .cwr import Cwr
from .engine import Engine
from .joint import Joint
from .latent_replay import LatentReplay
from .naive import Naive
from .quantized_cwr import QuantizedCwr
from .quantized_latent_replay import QuantizedLatentReplay
from .slda import Slda


class Method(Protocol):
    """What a run asks of a method."""

    reads: str
    at_once: bool

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience; returns notes for the result."""

    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers of rows."""

    def memory(self) -> dict[str, int]:
        """Bytes: replay_row_bytes, replay_bytes and what else is known."""


METHODS: dict[str, Any] = {
    "naive": Naive,
    "joint": Joint,
    "cwr": Cwr,
    "ar1": Ar1,
    "latent_replay": LatentReplay,
    "quantized_cwr": QuantizedCwr,
    "quantized_latent_replay": QuantizedLatentReplay,
    "slda": Slda,
    "engine": Engine,
}


def check_settings(name: str, settings: dict[str, Any]) -> Any:
    """The settings of a method, read; ValueError for a method, key or value that is not possible."""
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {name!r}")
    try:
        return METHODS[name].Settings.from_dict(settings)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def make_method(name: str, start: Start, *, classes: int, seed: int, settings: dict[str, Any]) -> Method:
    """Make a method that knows nothing yet.

    Parameters
    ----------
    name : key of `METHODS`.
    start : network that it starts from.
    classes : K, number of classes of the whole experiment; the papers' softmax needs it, the engine does not.
    seed : keys every random draw.
    settings : plain values of the method's settings.
    """
    method: Method = METHODS[name](start, classes, seed, check_settings(name, settings))
    return method
