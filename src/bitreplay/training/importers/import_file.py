"""A trained network's file becomes a model file: read, fold, calibrate, round, write, compare (docs/import.md)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...datasets.image_sets import IMAGE_COLUMNS, LABEL_COLUMNS
from ...datasets.pictures import IMAGE_SUFFIXES, decode_image
from ...disk import read_bytes
from ...errors import FormatError
from ...model import Model, write_model
from .drawn import drawn_pictures
from .graph import Graph
from .keras import MAGIC
from .larq import read_larq
from .published import published
from .quantise import UNIT_POWER, Calibration, Preprocessing, Progress, Quantised, quantise, silent
from .simplify import simplify
from .tflite import read_tflite

DRAWN = 128
MOST_PICTURES = 4000
COMPARED = 200
# How Larq's networks and most others of ImageNet were shown their pictures.
CROP, FILTER = 224 / 256, "bicubic"

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Parameters
    ----------
    model : as it was written.
    family : of the file: "LCE or TensorFlow Lite", "QuickNet", "Bi-Real Net".
    operations : how many of each kind.
    figures : how near the integers are to the float network, on calibration pictures: `features_correlation`, and with a classifier `same_answers`.
    notes : what the user should know.
    """

    model: Model
    family: str
    operations: dict[str, int]
    figures: dict[str, float]
    notes: tuple[str, ...]


def _read(content: bytes, where: str, image_size: int | None) -> tuple[Graph, str, tuple[float, float] | None]:
    if content.startswith(MAGIC):
        graph, family = read_larq(content, where, image_size or 224)
        return graph, family, None
    if content[4:8] != b"TFL3":
        raise FormatError(f"{where}: expected a file of LCE or TensorFlow Lite (.tflite), or Larq Zoo's Keras weights (.h5)")
    graph, pixels = read_tflite(content, where)
    if image_size not in (None, graph.image_size):
        raise ValueError(f"image_size: expected {graph.image_size}, as the file has it, got {image_size}")
    return graph, "LCE or TensorFlow Lite", pixels


def _chosen(count: int, most: int) -> list[int]:
    return sorted(np.random.default_rng(1).permutation(count)[:most].tolist())


def _from_parquet(files: Iterable[Path], image_size: int, most: int) -> tuple[NDArray[np.uint8], list[Any]]:
    import pyarrow.parquet as pq

    cells: list[tuple[bytes, Any, str]] = []
    for path in files:
        table = pq.read_table(path)
        column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
        if column is None:
            raise ValueError(f"{path}: expected a column image, got {', '.join(table.column_names)}")
        labels = next((table.column(name).to_pylist() for name in LABEL_COLUMNS if name in table.column_names), [None] * len(table))
        for row, (cell, label) in enumerate(zip(table.column(column).to_pylist(), labels, strict=True)):
            cells.append(((cell or {}).get("bytes") or b"", label, f"{path}: picture in row {row}"))
    taken = [cells[i] for i in _chosen(len(cells), most)]
    return _decoded([(BytesIO(data), where) for data, _, where in taken], image_size), [label for _, label, _ in taken]


def _decoded(sources: list[tuple[Path | BytesIO, str]], image_size: int) -> NDArray[np.uint8]:
    images = np.empty((len(sources), image_size, image_size, 3), np.uint8)
    for row, (source, where) in enumerate(sources):
        try:
            images[row] = decode_image(source, image_size)
        except OSError as error:
            raise ValueError(f"{where}: {error}") from error
    return images


def read_pictures(place: Path, image_size: int, most: int = MOST_PICTURES) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """Calibration pictures: those below a folder, or of parquet files; at most so many, drawn from all.

    Returns
    -------
    images : uint8 (N, S, S, 3).
    labels : int64 (N,), by the folder that a picture lies in or the column of its file; None where there is only one.

    Raises
    ------
    ValueError : none are there, or one cannot be read.
    """
    if not place.exists():
        raise ValueError(f"{place}: expected a folder with calibration pictures, found none")
    parquet = [place] if place.suffix == ".parquet" else sorted(place.glob("train*.parquet")) or sorted(place.glob("*.parquet"))
    if parquet:
        images, names = _from_parquet(parquet, image_size, most)
    else:
        files = sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not p.name.startswith("."))
        taken = [files[i] for i in _chosen(len(files), most)]
        images, names = _decoded([(path, str(path)) for path in taken], image_size), [str(path.parent) for path in taken]
    if not len(images):
        raise ValueError(f"{place}: expected calibration pictures, found none")
    number = {name: i for i, name in enumerate(sorted({str(name) for name in names}))}
    return images, np.array([number[str(name)] for name in names], np.int64) if len(number) > 1 else None


def _compared(quantised: Quantised, seen: Calibration, model: Model, images: NDArray[np.uint8], graph: Graph) -> dict[str, float]:
    count = min(len(images), COMPARED)
    rows = model.network.features_of_latents(model.network.latents(np.ascontiguousarray(images[:count])))
    own, exact = quantised.features(rows), seen.features[:count]
    spread = np.maximum(seen.features.std(0), 0.01 * float(seen.features.std()) + 1e-12)
    pairs = zip((own - seen.features.mean(0)) / spread, (exact - seen.features.mean(0)) / spread, strict=True)
    figures = {"pictures": float(count), "features_correlation": float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs]))}
    if graph.classifier is not None:
        weight, bias = graph.classifier
        same = (own @ weight.T + bias).argmax(1) == (exact @ weight.T + bias).argmax(1)
        figures["same_answers"] = float(same.mean())
    return figures


def import_file(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    calibrate: Path | None = None,
    image_size: int | None = None,
    mean: Triple | None = None,
    spread: Triple | None = None,
    whitening: bool = False,
    card: dict[str, Any] | None = None,
    progress: Progress = silent,
) -> Imported:
    """Import a trained network and write it as a model file.

    Parameters
    ----------
    source : a file of LCE or TensorFlow Lite, or Larq Zoo's Keras weights.
    out : model file to write; replaced atomically.
    name : on the card; by default that of the published network, or of the file.
    calibrate : folder of pictures, or parquet files; None draws some (docs/import.md says what that costs).
    image_size : side of the pictures; only Keras weights do not tell.
    mean, spread : of pixels in 0..1, as the network was trained; by default the file's where it tells, else ImageNet's.
    whitening : whether the features are whitened by the scatter within the classes of the calibration pictures (docs/method.md 3.6).
    card : more for the card; it goes before what is known by itself.
    progress : receives phase, done, total.

    Raises
    ------
    FormatError : the file is not sound, or holds what is not understood; the message names the operation and its place.
    ValueError : the engine has no such operation, or the pictures cannot be read.
    OSError : a file cannot be read or written.
    """
    content = read_bytes(source)
    graph, family, pixels = _read(content, str(source), image_size)
    graph = simplify(graph)
    told = ((pixels[0],) * 3, (pixels[1],) * 3) if pixels is not None else (None, None)
    default = Preprocessing()
    preprocessing = Preprocessing(mean or told[0] or default.mean, spread or told[1] or default.spread)
    notes = []
    if calibrate is None:
        images, labels = drawn_pictures(DRAWN, graph.image_size), None
        notes.append(
            "calibrated on drawn pictures, which costs accuracy; real ones of the kind that it will see are better: --calibrate DIR"
        )
    else:
        images, labels = read_pictures(calibrate, graph.image_size)
    if whitening and labels is None:
        raise ValueError("whitening: expected calibration pictures of several classes, a folder each")
    # Drawn pictures do not tell how far each feature spreads.
    power = UNIT_POWER if calibrate is not None else 0.0
    quantised, seen = quantise(graph, images, preprocessing, labels if whitening else None, progress, unit_power=power)
    digest = hashlib.sha256(content).hexdigest()
    known = published(digest)
    pictures = {
        "size": graph.image_size, "crop": CROP, "filter": FILTER, "mean": list(preprocessing.mean), "spread": list(preprocessing.spread),
    }  # fmt: skip
    own_card = {
        "name": source.stem,
        **(known.card() if known else {}),
        "imported": {"file": source.name, "sha256": digest, "family": family, "calibration": "drawn" if calibrate is None else len(images)},
        "pictures": pictures,
        **(card or {}),
        **({"name": name} if name else {}),
    }
    if "licence" not in own_card:
        notes.append("the file tells no licence; put it on the card: --card FILE with licence and source")
    if pixels is None and mean is None and spread is None and known is None:
        notes.append("the file does not tell how pixels are scaled; ImageNet's mean and spread are taken (--mean, --spread)")
    model = write_model(out, quantised.network, quantised.tensors, own_card)
    operations = Counter(op["op"] for op in quantised.network["prefix"])
    return Imported(model, family, dict(operations), _compared(quantised, seen, model, images, graph), tuple(notes))
