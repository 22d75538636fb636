"""bitreplay through its Python binding: one picture to the int8 features in front of the head, equal to tests/reference.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from bitreplay._engine import Runner, isa
from random_models import make, picture
from works import Loaded

import bitreplay
from bitreplay.model import Model, write_model

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


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    runner = Runner(Model.load(model_path(work, folder)).network, threads)
    images = picture()[None]
    results: list[Any] = [None]

    def call() -> None:
        results[0] = runner.features_of_latents(runner.latents(images))

    return Loaded(call, lambda: results[0], lambda: features(work), 1)
