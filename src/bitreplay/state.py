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
MAX_MIXING = 2**20
# Written out, so that every Python, and the device's C++ (engine/files/names.cpp), draw the same line.
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
    """Content of a state file; arrays as in docs/formats.md, empty where they belong to the other kind of head."""

    model: Model
    settings: Settings
    names: list[str]
    experience: int
    rows: NDArray[np.uint64]
    labels: NDArray[np.uint16]
    seen: NDArray[np.uint64]
    count: NDArray[np.int64]  # LDA, with `sums` (K, D_f), `moment` (D_f (D_f + 1) / 2,) and `saturated`
    sums: NDArray[np.int64]
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


_LEARNED = ("rows", "labels", "seen", "count", "sums", "moment", "weight", "past_count", "tail_weight")  # arrays that the core holds


def state_of(model: Model, settings: Settings, names: list[str], core: CoreLearner) -> State:
    """What a core has learned, as copies."""
    return State(
        model=model,
        settings=settings,
        names=list(names),
        experience=int(core.experience),
        saturated=int(core.saturated),
        mixing=core.mixing,
        tail=[core.tail_values(i) for i in range(settings.train_blocks)],
        **{name: getattr(core, name)() for name in _LEARNED},
    )


def core_of(state: State) -> CoreLearner:
    """A core that has learned just this; ValueError where the settings do not suit the model, MemoryError."""
    settings = state.settings
    sources = [tuple(source) for source in state.model.tail_sources(settings.train_blocks)]
    core = CoreLearner(state.model.network, settings.for_core(), sources)
    values: dict[str, Any] = {name: getattr(state, name).reshape(-1) for name in _LEARNED}
    core.restore(values | {"experience": state.experience, "saturated": state.saturated, "mixing": state.mixing})
    for i, block in enumerate(state.tail):
        core.restore_tail(i, block)
    return core


_NO_SUMS: dict[str, Any] = {
    "count": np.zeros(0, np.int64), "sums": np.zeros((0, 0), np.int64), "moment": np.zeros(0, np.int32), "saturated": 0,
}  # fmt: skip


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
    left = [c for c in range(len(state.count)) if c != index]
    i, j = triangle(state.sums.shape[1])
    count, sums = state.count.astype(np.float64), state.sums.astype(np.float64)
    between = sum((sums[c, i] * sums[c, j] / count[c] for c in left), np.zeros(len(i)))
    scatter = state.moment - between - sums[index, i] * sums[index, j] / count[index]
    most = 127 * 127 * count[left].sum()
    return _compact(np.rint(np.clip(scatter * (count[left].sum() / count.sum()) + between, -most, most)).astype(np.int64))


def _compact(values: NDArray[Any]) -> NDArray[Any]:
    # As few bytes as hold the values with room to spare: 32 bits below 2^30 (docs/formats.md).
    small = not values.size or (values.min() > -(2**30) and values.max() < 2**30)
    return values.astype(np.int32 if small else np.int64)


def pack_state(state: State) -> bytes:
    """The content of a state file."""
    metadata = {
        "model": state.model.digest,
        "settings": json.dumps(state.settings.for_core(), sort_keys=True),
        "names": json.dumps(state.names),
        "experience": str(state.experience),
    }
    tensors: dict[str, Any] = {
        "head.mixing": np.array(state.mixing, np.int64),
        "replay.seen": state.seen,
        "replay.rows": state.rows,
        "replay.labels": state.labels,
    }
    if state.settings.head == "lda":
        tensors |= {"head.count": state.count, "head.feature_sum": _compact(state.sums), "head.moment": _compact(state.moment)}
        tensors["head.saturated"] = np.array([state.saturated], np.int64)
    else:
        tensors |= {"head.weight": state.weight, "head.past_count": state.past_count}
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


def _read_sums(tensors: Tensors, classes: int, width: int, seen: NDArray[np.uint64], where: str) -> dict[str, Any]:
    # What LDA is made from, checked.
    def wide_or_not(name: str, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = "int64" if name in tensors and tensors[name].dtype == np.int64 else "int32"
        return take(tensors, name, dtype, shape, where)

    count: Any = take(tensors, "head.count", "int64", (classes,), where)
    sums, moment = wide_or_not("head.feature_sum", (classes, width)), wide_or_not("head.moment", (width * (width + 1) // 2,))
    saturated: Any = take(tensors, "head.saturated", "int64", (1,), where)
    if np.any(count < 1) or np.any(count > seen.astype(np.int64)):
        raise FormatError(f"{where}: head.count: expected at least one row of each class, and no more than were seen")
    rows = int(count.sum())
    wide = sums.astype(np.int64)
    if np.any(wide > 127 * count[:, None]) or np.any(wide < -127 * count[:, None]):  # no abs: that of -2^63 is negative
        raise FormatError(f"{where}: head.feature_sum: expected sums of features in -127..127")
    most, square = moment.astype(np.int64), 127 * 127 * rows
    if np.any(most > square) or np.any(most < -square) or np.any(most[_diagonal(width)] < 0):
        raise FormatError(f"{where}: head.moment: expected sums of products of features in -127..127")
    if not 0 <= saturated[0] <= rows * width:
        raise FormatError(f"{where}: head.saturated: expected a count of features")
    return {"count": count, "sums": wide, "moment": moment, "saturated": int(saturated[0])}


def _diagonal(width: int) -> NDArray[np.int64]:
    return np.cumsum(np.r_[0, np.arange(width, 1, -1)])[:width].astype(np.int64)


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
        settings = Settings.from_core(_parse(metadata.get("settings", ""), dict, "settings", where))
    except (TypeError, ValueError, RecursionError) as error:
        raise error if isinstance(error, FormatError) else FormatError(f"{where}: {error}") from error
    names = _parse(metadata.get("names", ""), list, "names", where)
    if not all(is_name(n) for n in names) or len(set(names)) != len(names) or len(names) > settings.max_classes:
        raise FormatError(f"{where}: names: expected at most {settings.max_classes} different names")
    experience = metadata.get("experience", "")
    if not (experience.isascii() and experience.isdigit() and len(experience) <= 10 and int(experience) <= MAX_LESSONS):
        raise FormatError(f"{where}: experience: expected a count, got {experience!r:.40}")
    classes, network = len(names), model.network
    if settings.lda_features > network.feature_count:
        raise FormatError(
            f"{where}: settings: lda_features: expected at most the {network.feature_count} features of the model, got {settings.lda_features}"
        )
    labels: Any = tensors.get("replay.labels")
    stored = len(labels) if labels is not None and labels.ndim == 1 else 0
    if stored > settings.capacity:
        raise FormatError(f"{where}: replay.rows: expected at most {settings.capacity}, got {stored}")
    width = network.feature_count
    arrays: dict[str, Any] = {
        "seen": take(tensors, "replay.seen", "uint64", (classes,), where),
        "rows": take(tensors, "replay.rows", "uint64", (stored, row_words(network, settings)), where),
        "labels": take(tensors, "replay.labels", "uint16", (stored,), where),
    }
    mixing: Any = take(tensors, "head.mixing", "int64", (2,), where)
    if np.any(mixing < 0) or np.any(mixing > MAX_MIXING):
        raise FormatError(f"{where}: head.mixing: expected weights from 0 to {MAX_MIXING}")
    arrays["mixing"] = (int(mixing[0]), int(mixing[1]))
    arrays |= _read_sums(tensors, classes, settings.lda_features or width, arrays["seen"], where) if settings.head == "lda" else _NO_SUMS
    arrays["weight"], arrays["past_count"] = np.zeros((0, width), np.int32), np.zeros(0, np.uint32)
    if settings.head == "cwr":
        arrays["weight"] = take(tensors, "head.weight", "int32", (classes, width), where)
        arrays["past_count"] = take(tensors, "head.past_count", "uint32", (classes,), where)
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
    latents, further = np.split(arrays["rows"], [network.latent_words], axis=1)
    if np.any(latents[:, words - 1 :: words] & _unused_bits(network.feature_count)):
        raise FormatError(f"{where}: replay.rows: expected unused bits to be 0")
    features = np.ascontiguousarray(further).view(np.int8)
    if np.any(features == -128) or np.any(features[:, width:]):
        raise FormatError(f"{where}: replay.rows: expected features in -127..127")
    counts = np.bincount(arrays["labels"], minlength=classes)
    if len(counts) > classes or np.any(counts > arrays["seen"]) or np.any(arrays["seen"] >= 2**32):
        raise FormatError(f"{where}: replay.labels: expected classes that were taught, with no more rows than were offered")
    if np.any(arrays["seen"] == 0):
        raise FormatError(f"{where}: replay.seen: expected at least one picture of each class")
    return State(model, settings, names, int(experience), tail=tail, **arrays)
