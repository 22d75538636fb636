"""The state file: everything that was learned, in one file (docs/formats.md, State)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine import Learner as CoreLearner
from .container import Tensors, pack, read_bytes, take, unpack
from .errors import FormatError
from .model import Model
from .settings import Settings

MAX_NAME = 200
MAX_LESSONS = 2**32 - 1
# Written out, so that every Python, and the device's C++ (engine/device/names.cpp), draw the same line.
_BREAKS = frozenset("\u2028\u2029")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # change the direction of what follows
_BLANKS = frozenset(" \u00a0\u00ad\u1680\u180e\u202f\u205f\u3000\ufeff") | {
    chr(c) for c in (*range(0x2000, 0x200E), *range(0x2060, 0x2065))
}


def is_name(text: object) -> bool:
    """Whether a text can name a class: up to MAX_NAME characters, one of them visible, none of them a control or half a character.

    Neither "." nor "..", which an address would lose; no line breaks, no marks of direction (docs/formats.md).
    """
    if not isinstance(text, str) or not 0 < len(text) <= MAX_NAME or text in (".", ".."):
        return False
    letters = set(text)
    controls = any(c < " " or "\x7f" <= c < "\xa0" or "\ud800" <= c <= "\udfff" for c in letters)
    return not controls and not letters & (_BREAKS | _TURNS) and not letters <= _BLANKS


@dataclass(frozen=True)
class State:
    """Content of a state file; arrays as in docs/formats.md."""

    model: Model
    settings: Settings
    names: list[str]
    experience: int
    weight: NDArray[np.int32]
    past_count: NDArray[np.uint32]
    feature_sums: NDArray[np.int64]
    rows: NDArray[np.uint64]
    labels: NDArray[np.uint16]
    seen: NDArray[np.uint64]
    tail_weight: NDArray[np.int32]  # (0, D_f) where no block is trained
    tail: list[dict[str, NDArray[Any]]]  # values of each trained block


def state_of(model: Model, settings: Settings, names: list[str], core: CoreLearner) -> State:
    """What a core has learned, as copies."""
    return State(
        model=model,
        settings=settings,
        names=list(names),
        experience=int(core.experience),
        weight=core.weight(),
        past_count=core.past_count(),
        feature_sums=core.feature_sums(),
        rows=core.rows(),
        labels=core.labels(),
        seen=core.seen(),
        tail_weight=core.tail_weight(),
        tail=[core.tail_values(i) for i in range(settings.train_blocks)],
    )


def core_of(state: State) -> CoreLearner:
    """A core that has learned just this; ValueError where the settings do not suit the model, MemoryError."""
    settings = state.settings
    sources = [tuple(source) for source in state.model.tail_sources(settings.train_blocks)]
    core = CoreLearner(state.model.network, settings.capacity, settings.seed, settings.for_core(), sources)
    core.restore(
        state.weight.reshape(-1),
        state.past_count,
        state.feature_sums.reshape(-1),
        state.rows.reshape(-1),
        state.labels,
        state.seen,
        state.tail_weight.reshape(-1),
        state.experience,
    )
    for i, values in enumerate(state.tail):
        core.restore_tail(i, values)
    return core


def without_class(state: State, name: str) -> State:
    """The same without a class: its name, head rows, counts, sums and replay rows; ValueError when it is not known.

    A trained tail stays as it is: what it learned from the class's pictures is spread over all of its weights.
    """
    if name not in state.names:
        raise ValueError(f"name: expected one of {', '.join(state.names) or 'no class, since none is known'}, got {name!r}")
    index = state.names.index(name)
    kept = np.arange(len(state.names)) != index
    rows = state.labels != index
    labels = state.labels[rows]
    return replace(
        state,
        names=[other for other in state.names if other != name],
        weight=state.weight[kept],
        past_count=state.past_count[kept],
        feature_sums=state.feature_sums[kept],
        seen=state.seen[kept],
        rows=state.rows[rows],
        labels=labels - (labels > index).astype(np.uint16),
        tail_weight=state.tail_weight[kept] if len(state.tail_weight) else state.tail_weight,
    )


def pack_state(state: State) -> bytes:
    """The content of a state file."""
    metadata = {
        "model": state.model.digest,
        "settings": json.dumps(state.settings.to_dict(), sort_keys=True),
        "names": json.dumps(state.names),
        "experience": str(state.experience),
    }
    tensors: dict[str, Any] = {
        "head.weight": state.weight,
        "head.past_count": state.past_count,
        "head.feature_sum": state.feature_sums,
        "replay.seen": state.seen,
        "replay.rows": state.rows,
        "replay.labels": state.labels,
    }
    if state.settings.train_blocks:
        tensors["tail.weight"] = state.tail_weight
    for i, values in enumerate(state.tail):
        tensors |= {f"tail.{i}.{name}": value for name, value in values.items()}
    if state.model.content is not None:
        tensors["model"] = np.frombuffer(state.model.content, np.uint8)
    return pack("state", metadata, tensors)


def _parse(text: str, kind: type, what: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: {what}: expected JSON") from error
    if not isinstance(value, kind):
        raise FormatError(f"{where}: {what}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _unused_bits(channels: int) -> np.uint64:
    # Mask of the bits of a pixel's last word that carry no channel.
    return np.uint64((2**64 - 1) << ((channels - 1) % 64 + 1) & (2**64 - 1))


def _read_block(tensors: Tensors, key: str, shape: dict[str, tuple[str, int, int]], channels: int, where: str) -> dict[str, NDArray[Any]]:
    # Values of one trained block, checked.
    found: dict[str, NDArray[Any]] = {}
    for name, (dtype, count, limit) in shape.items():
        values: NDArray[Any] = take(tensors, f"{key}.{name}", dtype, (count,), where)
        if np.any(values > limit) or (dtype != "uint64" and np.any(values < -limit)):
            raise FormatError(f"{where}: tensor {key}.{name}: expected magnitudes up to {limit}")
        if name == "bits" and np.any(values[-(-channels // 64) - 1 :: -(-channels // 64)] & _unused_bits(channels)):
            raise FormatError(f"{where}: tensor {key}.bits: expected unused bits to be 0")
        found[name] = values
    return found


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
    metadata, tensors = unpack(content, "state", where)
    digest = metadata.get("model", "")
    inside = tensors.pop("model", None)
    if inside is not None and (inside.dtype != np.uint8 or inside.ndim != 1):
        raise FormatError(f"{where}: tensor model: expected uint8 (bytes,), got {inside.dtype} {inside.shape}")
    if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise FormatError(f"{where}: model: expected a digest of 64 hexadecimal digits, got {digest!r:.80}")
    if model is None:
        model = Model(inside.tobytes(), f"{where}: model") if inside is not None else Model.with_digest(digest)
    if model is None:
        raise FormatError(f"{where}: made for model {digest[:12]}, which is not in this package; open it with the model it was taught on")
    if model.digest != digest:
        raise FormatError(
            f"{where}: made for model {digest[:12]}, but {model.name} is {model.digest[:12]}; open it with the model it was taught on"
        )
    try:
        settings = Settings.from_dict(_parse(metadata.get("settings", ""), dict, "settings", where))
    except (TypeError, ValueError, RecursionError) as error:
        raise error if isinstance(error, FormatError) else FormatError(f"{where}: {error}") from error
    names = _parse(metadata.get("names", ""), list, "names", where)
    if not all(is_name(n) for n in names) or len(set(names)) != len(names) or len(names) > settings.max_classes:
        raise FormatError(f"{where}: names: expected at most {settings.max_classes} different names")
    experience = metadata.get("experience", "")
    if not (experience.isascii() and experience.isdigit() and len(experience) <= 10 and int(experience) <= MAX_LESSONS):
        raise FormatError(f"{where}: experience: expected a count, got {experience!r:.40}")
    classes, network = len(names), model.network
    labels: Any = tensors.get("replay.labels")
    stored = len(labels) if labels is not None and labels.ndim == 1 else 0
    if stored > settings.capacity:
        raise FormatError(f"{where}: replay.rows: expected at most {settings.capacity}, got {stored}")
    arrays: dict[str, Any] = {
        "weight": take(tensors, "head.weight", "int32", (classes, network.feature_count), where),
        "past_count": take(tensors, "head.past_count", "uint32", (classes,), where),
        "feature_sums": take(tensors, "head.feature_sum", "int64", (classes, network.feature_count), where),
        "seen": take(tensors, "replay.seen", "uint64", (classes,), where),
        "rows": take(tensors, "replay.rows", "uint64", (stored, network.latent_words), where),
        "labels": take(tensors, "replay.labels", "uint16", (stored,), where),
    }
    shape = (classes, network.feature_count) if settings.train_blocks else (0, network.feature_count)
    arrays["tail_weight"] = take(tensors, "tail.weight", "int32", shape, where) if settings.train_blocks else np.zeros(shape, np.int32)
    try:
        model.tail_sources(settings.train_blocks)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error
    shapes = model.tail_tensors(settings.train_blocks, settings.weight_bits)
    tail = [_read_block(tensors, f"tail.{i}", shape, network.feature_count, where) for i, shape in enumerate(shapes)]
    if tensors:
        raise FormatError(f"{where}: expected no tensor {sorted(tensors)[0]}")
    words = -(-network.feature_count // 64)
    if np.any(arrays["rows"][:, words - 1 :: words] & _unused_bits(network.feature_count)):
        raise FormatError(f"{where}: replay.rows: expected unused bits to be 0")
    counts = np.bincount(arrays["labels"], minlength=classes)
    if len(counts) > classes or np.any(counts > arrays["seen"]) or np.any(arrays["seen"] >= 2**32):
        raise FormatError(f"{where}: replay.labels: expected classes that were taught, with no more rows than were offered")
    sums, most = arrays["feature_sums"], 127 * arrays["seen"].astype(np.int64)[:, None]
    if np.any(most == 0) or np.any(sums > most) or np.any(sums < -most):  # no abs: that of -2^63 is negative
        raise FormatError(f"{where}: head.feature_sum: expected sums of features in -127..127 of at least one row a class")
    return State(model, settings, names, int(experience), tail=tail, **arrays)
