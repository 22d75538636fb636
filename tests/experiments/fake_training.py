"""Stands in for the workbench of bases and methods: quick, without torch, and with failures to order.

Rows are mean colours; the method "mean" remembers the mean row of each class (of the last experience only with ``forgets``).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class BaseSettings:
    weights: str
    first_experience: str = "frozen"
    model: str | None = None
    epochs: int = 1


class Base:
    start = "start"

    def __init__(self, sets: dict[str, Any]) -> None:
        self._sets = sets

    def rows(self, reads: str, split: str) -> np.ndarray:
        assert reads == "features"
        return self._sets[split].images.mean((1, 2))


class Mean:
    reads = "features"

    def __init__(self, classes: int, seed: int, settings: dict[str, Any]) -> None:
        self.at_once = settings.get("at_once", False)
        self.settings, self.seed = settings, seed
        self.means: dict[int, np.ndarray] = {}

    def learn(self, rows: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
        if self.settings.get("fails_on_seed") == self.seed:
            raise RuntimeError("this method fails")
        if self.settings.get("dies_on_seed") == self.seed:
            os._exit(3)
        time.sleep(self.settings.get("seconds", 0))
        if self.settings.get("forgets"):
            self.means.clear()
        for label in np.unique(labels):
            self.means[int(label)] = rows[labels == label].mean(0)
        return {"rows": len(rows), "process": os.getpid()}

    def predict(self, rows: np.ndarray) -> np.ndarray:
        known = sorted(self.means)
        distance = np.array([np.abs(rows - self.means[label]).sum(1) for label in known])
        return np.array(known, np.int64)[distance.argmin(0)]

    def memory(self) -> dict[str, int]:
        capacity = self.settings.get("capacity", 0)
        return {"replay_row_bytes": 3, "replay_bytes": 3 * capacity, "labels": 2}


KNOWN = {"capacity", "forgets", "at_once", "fails_on_seed", "dies_on_seed", "seconds", "bits", "width"}


@dataclass(frozen=True)
class FakeWorkbench:
    def use_threads(self, threads: int | None) -> None:
        pass

    def check_base(self, values: dict[str, Any]) -> None:
        BaseSettings(**values)

    def make_base(self, values: dict[str, Any], folder: Path, train: Any, test: Any, first_rows: np.ndarray, seed: int) -> Base:
        settings = BaseSettings(**values)
        if settings.epochs == 13:
            raise ValueError("epochs: expected another number, got 13")
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "calls.jsonl").open("a") as file:
            first = sorted(set(train.labels[first_rows].tolist()))
            file.write(json.dumps({"weights": settings.weights, "model": settings.model, "seed": seed, "first": first}) + "\n")
        return Base({"train": train, "test": test})

    def check_method(self, name: str, settings: dict[str, Any]) -> None:
        if name != "mean":
            raise ValueError(f"method: expected one of mean, got {name!r}")
        unknown = sorted(set(settings) - KNOWN)
        if unknown:
            raise ValueError(f"{unknown[0]}: expected settings out of {', '.join(sorted(KNOWN))}, got {unknown[0]}")

    def make_method(self, name: str, start: Any, *, classes: int, seed: int, settings: dict[str, Any]) -> Mean:
        assert start == "start"
        return Mean(classes, seed, settings)
