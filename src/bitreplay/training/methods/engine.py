"""The integer engine itself, as one of the methods: pictures in, `bitreplay.Learner` does the rest (docs/method.md)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...learner import Learner
from ...settings import Settings
from ..start import Start


class EngineSettings:
    """The learner's own settings (`bitreplay.settings.Settings`), `at_once` for its joint training, `predict_views` for `predict`."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.at_once = bool(values.pop("at_once", False))
        self.predict_views = values.pop("predict_views", None)
        Settings.from_dict(values)
        self.values = values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EngineSettings:
        """Read plain values; ValueError for what the learner does not take."""
        return cls(dict(values))


class Engine:
    """The learner, taught class numbers as names."""

    Settings = EngineSettings
    reads = "images"

    def __init__(self, start: Start, classes: int, seed: int, settings: EngineSettings) -> None:
        threads = torch.get_num_threads()
        self.at_once, self._views = settings.at_once, settings.predict_views
        values = {"max_classes": max(256, classes), "seed": seed} | settings.values
        self.learner = Learner(start.model, Settings.from_dict(values), threads=threads)

    def learn(self, rows: NDArray[np.uint8], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: pictures uint8 (N, S, S, 3), labels int64 (N,)."""
        self.learner.learn(np.ascontiguousarray(rows), [str(label) for label in labels])
        lesson = self.learner.info()["last_lesson"]
        return {"flipped": lesson["flipped"] / lesson["weights"]} if lesson["weights"] else {}

    def predict(self, rows: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of pictures uint8 (N, S, S, 3)."""
        return np.array([int(name) for name in self.learner.predict(np.ascontiguousarray(rows), views=self._views).names], np.int64)

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes, and those that a lesson needs beyond what is kept."""
        sizes = self.learner.info()["bytes"]
        row = sizes["replay_row"]
        return {"replay_row_bytes": row, "replay_bytes": row * self.learner.settings.capacity, "step_peak_bytes": sizes["lesson"]}
