"""A learner from settings by their names in a state file, for tests that vary one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bitreplay import Learner, Model, Settings
from bitreplay.settings import TAIL_NAMES


def settings_of(values: dict[str, Any]) -> Settings:
    """Those of the tail count only where one is trained."""
    trained = values.get("train_blocks", 0) != 0
    return Settings.from_dict({name: value for name, value in values.items() if trained or name not in TAIL_NAMES})


def new_learner(model: Model | str | Path | None = None, *, threads: int | None = None, **values: Any) -> Learner:
    """A learner that knows nothing yet."""
    return Learner(model, settings_of(values), threads=threads)
