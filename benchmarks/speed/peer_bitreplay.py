"""bitreplay as users have it, one picture a call: "whole" gives the int8 values in front of the head, equal to tests/reference.py's; "predict"
what `Learner.predict` says after a lesson, equal to that of a learner with one thread."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from bitreplay._engine import isa
from random_models import make, picture
from works import Loaded

import bitreplay
from bitreplay import Learner, Settings
from bitreplay.model import write_model

TESTS = Path(__file__).resolve().parents[2] / "tests"


def version() -> str:
    return bitreplay.__version__


def facts(work: str, variant: str, folder: str) -> dict[str, Any]:
    return {"kernels": isa()}


def model_path(work: str, folder: str) -> Path:
    return Path(folder) / f"bitreplay-{work}.model"


def prepare(work: str, variant: str, folder: str) -> None:
    network, tensors = make(work)
    write_model(model_path(work, folder), network, tensors, {"name": f"{work}, random weights"})


def features(work: str) -> Any:
    sys.path.append(str(TESTS))
    from reference import ReferenceNetwork

    network = ReferenceNetwork(*make(work))
    found = network.features(network.latents(picture()[None]))
    if len(np.unique(found)) < 20:
        raise ValueError("the features of the random network are too much alike to compare")
    return found


def new(work: str, folder: str, threads: int) -> Learner:
    return Learner(model_path(work, folder), Settings(capacity=0), threads=threads)


def probabilities(learner: Learner) -> Any:
    return learner.predict(picture()[None]).probabilities


def taught(work: str, folder: str, threads: int) -> Learner:
    learner = new(work, folder, threads)
    lesson = np.repeat(picture()[None], 10, 0)
    for i, image in enumerate(lesson):  # each with another part turned to its negative
        image[:, : 20 * i] ^= 255
    learner.learn(lesson, list("abcdeabcde"))
    return learner


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    images = picture()[None]
    results: list[Any] = [None]
    learner = taught(work, folder, threads) if variant == "predict" else new(work, folder, threads)

    def predict() -> None:
        results[0] = learner.predict(images)

    def whole() -> None:
        results[0] = learner.features(images)

    if variant == "predict":
        return Loaded(predict, lambda: results[0].probabilities, lambda: probabilities(taught(work, folder, 1)), 1)
    return Loaded(whole, lambda: results[0], lambda: features(work), 1)
