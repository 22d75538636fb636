"""Picture sets as arrays: parquet in the Hugging Face image convention, or a folder per class.

Owns the reading of whole data sets for training and experiments.  Single pictures for a lesson are `images.py`'s.  Needs the
``train`` extra for parquet (pyarrow) and the ``demo`` extra for pictures (Pillow); both are imported where they are used.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .images import IMAGE_SUFFIXES, decode_image

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation", "test")}


@dataclass(frozen=True)
class ImageSet:
    """Pictures and their labels.

    Parameters
    ----------
    images : uint8 (N, S, S, 3), 0..255.
    labels : int64 (N,), 0..len(names)-1.
    names : class names, index = label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


# Names of the two columns: ours, and those that CIFAR goes by on the hub (of CIFAR-100 the fine labels are meant).
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label")


def _class_names(schema: object, column: str, count: int) -> tuple[str, ...]:
    metadata = getattr(schema, "metadata", None) or {}
    if b"huggingface" in metadata:
        feature = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {}).get(column, {})
        names = feature.get("names") or feature.get("class_label", {}).get("names")
        if isinstance(names, dict):
            names = [names[str(i)] for i in range(len(names))]
        if names:
            return tuple(names)
    return tuple(str(i) for i in range(count))


def read_parquet(paths: Iterable[Path], image_size: int) -> ImageSet:
    """Read parquet files with columns ``image`` or ``img`` (struct with ``bytes``) and ``label`` or ``fine_label`` (integer).

    Parameters
    ----------
    paths : files, read in this order.
    image_size : side in pixels that every picture is brought to.

    Raises
    ------
    ValueError : a file lacks a column, or a picture cannot be decoded (file and row are named).
    """
    import pyarrow.parquet as pq

    images, labels = [], []
    schema, label_column = None, ""
    for path in paths:
        table = pq.read_table(path)
        schema = table.schema
        image_column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
        label_column = next((name for name in LABEL_COLUMNS if name in table.column_names), "")
        if image_column is None or not label_column:
            raise ValueError(f"{path}: expected columns image and label, got {', '.join(table.column_names)}")
        for row, cell in enumerate(table.column(image_column)):
            try:
                value = cell.as_py()
                value = value["bytes"] if isinstance(value, dict) else None
                images.append(decode_image(io.BytesIO(value or b""), image_size))
            except OSError as error:
                raise ValueError(f"{path}: picture in row {row} cannot be read: {error}") from error
        known = len(_class_names(schema, label_column, 0))
        for row, label in enumerate(table.column(label_column).to_pylist()):
            if not isinstance(label, int) or not 0 <= label < (known or 2**31):
                raise ValueError(f"{path}: label in row {row}: expected the number of a class, got {label!r}")
        labels.append(table.column(label_column).to_numpy().astype(np.int64))
    if not images:
        raise ValueError("paths: expected at least one parquet file with pictures, got none")
    all_labels = np.concatenate(labels)
    return ImageSet(np.stack(images), all_labels, _class_names(schema, label_column, int(all_labels.max()) + 1))


def class_files(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Name and sorted picture files of each class folder below `folder`, sorted by name."""
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(
            p
            for p in child.rglob("*")
            if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file() and not any(part.startswith(".") for part in p.relative_to(child).parts)
        )
        if files:
            yield child.name, files


def read_folder(folder: Path, image_size: int) -> ImageSet:
    """Read a folder with one subfolder per class.

    Raises
    ------
    ValueError : no class folder holds a picture, or a picture cannot be decoded (its path is named).
    """
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    names: list[str] = []
    for name, files in class_files(folder):
        for path in files:
            try:
                images.append(decode_image(path, image_size))
            except OSError as error:
                raise ValueError(f"{path}: cannot be read as a picture: {error}") from error
        labels += [len(names)] * len(files)
        names.append(name)
    if not images:
        raise ValueError(f"{folder}: expected a subfolder per class with pictures in it, found none")
    return ImageSet(np.stack(images), np.array(labels, np.int64), tuple(names))


def read_split(folder: Path, split: str, image_size: int) -> ImageSet | None:
    """Read the "train" or "valid" split of a data set folder; None if there is no such split.

    The folder holds ``train*.parquet`` and ``valid*.parquet`` (or ``val*``, ``test*``), or subfolders of those names with a
    folder per class; a plain folder of class folders counts as "train".

    Raises
    ------
    ValueError : `folder` does not exist, or what is found cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a data set, found none; name a folder of pictures or parquet files")
    for name in SPLIT_NAMES[split]:
        files = sorted(folder.glob(f"{name}*.parquet"))
        if files:
            return read_parquet(files, image_size)
        if (folder / name).is_dir():
            return read_folder(folder / name, image_size)
    return read_folder(folder, image_size) if split == "train" else None
