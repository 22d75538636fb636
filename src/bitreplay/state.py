"""The state file: everything that was learned, in one file (docs/formats.md, State)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _engine
from .disk import read_bytes
from .errors import FormatError
from .model import Model
from .settings import Settings

MAX_NAME: int = _engine.MAX_NAME
MAX_LESSONS: int = _engine.MAX_LESSONS


def is_name(text: object) -> bool:
    """Whether a text can name a class: the core's rule (docs/formats.md)."""
    return bool(_engine.is_name(text))


@dataclass(frozen=True)
class State:
    """Content of a state file; arrays as in docs/formats.md, empty where they belong to the other kind of head."""

    model: Model
    settings: Settings
    names: list[str]
    experience: int
    rows: NDArray[np.uint64]
    labels: NDArray[np.uint16]
    seen: NDArray[np.uint64]
    count: NDArray[np.int64]  # LDA, with `sums` (K, D_f), `moment` (D_f (D_f + 1) / 2,) and `saturated`
    sums: NDArray[np.int32] | NDArray[np.int64]
    moment: NDArray[np.int32] | NDArray[np.int64]
    saturated: int
    weight: NDArray[np.int32]  # CWR*, with `past_count`
    past_count: NDArray[np.uint32]
    mixing: tuple[int, int]
    tail_weight: NDArray[np.int32]  # (0, D_f) where no block is trained
    tail: list[dict[str, NDArray[Any]]]  # values of each trained block


def row_words(network: Any, settings: Settings) -> int:
    """Words of a row in the replay memory: its latent, and, where there are several views, the means of their features as bytes."""
    return int(network.latent_words) + (-(-int(network.feature_count) // 8) if settings.views > 1 else 0)


def state_of(model: Model, settings: Settings, names: list[str], core: _engine.Learner) -> State:
    """What a core has learned, as copies."""
    learned = {field.name: core[field.name] for field in fields(State)[3:]}
    return State(model, settings, list(names), **learned)


def core_of(state: State) -> _engine.Learner:
    """A core that has learned just this; ValueError where the settings do not suit the model, MemoryError."""
    core = _engine.Learner(state.model.file, state.settings.for_core())
    core.restore(vars(state))
    return core


def triangle(width: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the entries of `State.moment`, in their order."""
    return np.triu_indices(width)


def without_class(state: State, name: str) -> State:
    """The same without a class: its name, head, counts, sums and replay rows (docs/method.md, 4.4); ValueError when it is not known.

    A trained tail stays as it is: what it learned from the class's pictures is spread over all of its weights.
    """
    if name not in state.names:
        raise ValueError(f"name: expected one of {', '.join(state.names) or 'no class, since none is known'}, got {name!r}")
    index = state.names.index(name)
    kept = np.arange(len(state.names)) != index
    rows = state.labels != index
    labels = state.labels[rows]
    changes: dict[str, Any] = {}
    if len(state.count):
        count = state.count[kept]
        changes = {"count": count, "sums": state.sums[kept], "moment": _moment_without(state, index)}
        changes["saturated"] = state.saturated * int(count.sum()) // int(state.count.sum())
    return replace(
        state,
        names=[other for other in state.names if other != name],
        weight=state.weight[kept] if len(state.weight) else state.weight,
        past_count=state.past_count[kept] if len(state.past_count) else state.past_count,
        seen=state.seen[kept],
        rows=state.rows[rows],
        labels=labels - (labels > index).astype(np.uint16),
        tail_weight=state.tail_weight[kept] if len(state.tail_weight) else state.tail_weight,
        **changes,
    )


def _moment_without(state: State, index: int) -> NDArray[Any]:
    # The class's part between classes goes; the scatter within classes, which is that of all, shrinks with the rows.
    i, j = triangle(state.sums.shape[1])
    count, sums = state.count.astype(np.float64), state.sums.astype(np.float64)
    scatter, between = state.moment.astype(np.float64), np.zeros(len(i))
    for c in sorted(
        range(len(count)), key=lambda c: (state.count[c], state.sums[c].tolist())
    ):  # so it does not matter when a class was met
        own = sums[c, i] * sums[c, j] / count[c]
        scatter -= own
        if c != index:
            between += own
    left = count.sum() - count[index]
    most = 127 * 127 * left
    moment: NDArray[Any] = np.rint(np.clip(scatter * (left / count.sum()) + between, -most, most)).astype(np.int64)
    return moment


def pack_state(state: State) -> bytes:
    """The content of a state file."""
    model = state.model
    return _engine.write_state(model.file, not model.shipped, state.settings.for_core(), state.names, vars(state))  # type: ignore[no-any-return]


def read_state(path: Path, model: Model | None) -> State:
    """Read and check a state file.

    Parameters
    ----------
    path : the file.
    model : the model it must have been taught on, or None to take the one in the file or in the package.

    Raises
    ------
    FormatError : the file is not sound, or was made for another model.
    """
    return parse_state(read_bytes(path), model, str(path))


def parse_state(content: bytes, model: Model | None, where: str) -> State:
    """As `read_state`, of a file's content; `where` names it in messages."""
    file = _engine.StateFile(content, where)
    digest: str = file.model_digest
    if model is None:
        inside = file.model()
        model = Model(inside, f"{where}: model") if inside is not None else Model.with_digest(digest)
    if model is None:
        raise FormatError(
            f"{where}: made for model {digest[:12]}, which does not ship with this package; open it with the model it was taught on"
        )
    if model.digest != digest:
        raise FormatError(
            f"{where}: made for model {digest[:12]}, but {model.name} is {model.digest[:12]}; open it with the model it was taught on"
        )
    return State(model, Settings.from_core(file.settings), list(file.names), **file.read(model.file))
