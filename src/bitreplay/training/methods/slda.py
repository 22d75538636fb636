"""Streaming linear discriminant analysis on frozen features: running class means and one shared covariance; no replay.

Hayes and Kanan 2020 (`arXiv 1909.01520 <https://arxiv.org/abs/1909.01520>`_).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parts.settings import MethodSettings
from ..start import Start


@dataclass(frozen=True)
class SldaSettings(MethodSettings):
    """Settings."""

    shrinkage: float = 1e-4

    def __post_init__(self) -> None:
        self.positive("shrinkage")


class Slda:
    """Streaming LDA; the result does not depend on how pictures are divided into experiences."""

    Settings = SldaSettings
    reads = "features"
    at_once = False

    def __init__(self, start: Start, classes: int, seed: int, settings: SldaSettings) -> None:
        features = start.shape[2]
        self.settings = settings
        self._sums = np.zeros((classes, features))
        self._counts = np.zeros(classes)
        self._squares = np.zeros((features, features))

    def learn(self, rows: NDArray[Any], labels: NDArray[np.int64]) -> dict[str, Any]:
        """One experience: features float32 (N, D_f), labels int64 (N,)."""
        x = np.asarray(rows, np.float64)
        np.add.at(self._sums, labels, x)
        self._counts += np.bincount(labels, minlength=len(self._counts))
        self._squares += x.T @ x
        return {}

    def predict(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Class numbers, int64 (N,), of features float32 (N, D_f)."""
        seen = np.flatnonzero(self._counts)
        means = self._sums[seen] / self._counts[seen, None]
        within = self._squares - (means * self._counts[seen, None]).T @ means
        covariance = within / max(1.0, self._counts.sum() - len(seen))
        width = len(covariance)
        covariance = (1.0 - self.settings.shrinkage) * covariance + self.settings.shrinkage * np.trace(covariance) / width * np.eye(width)
        weight = np.linalg.solve(covariance, means.T).T
        offset = -0.5 * np.einsum("kd,kd->k", weight, means)
        found: NDArray[np.int64] = seen[(np.asarray(rows, np.float64) @ weight.T + offset).argmax(1)]
        return found

    def memory(self) -> dict[str, int]:
        """Bytes that replay takes."""
        return {"replay_row_bytes": 0, "replay_bytes": 0}
