"""Picture sets as arrays: parquet in the Hugging Face image convention, or a folder per class.

Owns the reading of whole data sets for training and experiments.  Single pictures for a lesson are `images.py`'s.  Needs the
``train`` extra for parquet (pyarrow) and the ``demo`` extra for pictures (Pillow); both are imported where they are used.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..disk import replace_file, reserve
from .pictures import IMAGE_SUFFIXES, decode_image, shorter_side

SPLIT_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation", "test")}


@dataclass(frozen=True)
class ImageSet:
    """Pictures and their labels.

    Parameters
    ----------
    images : uint8 (N, S, S, 3), 0..255.
    labels : int64 (N,), 0..len(names)-1.
    names : class names, index = label.
    digest : SHA-256 over the pictures' files in their order, whatever the size they are decoded to; "" where they have none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    digest: str = ""

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


# An encoded picture, as a path or as bytes, and what to say when it cannot be read.
_Source = tuple[Path | bytes, str]


def _open(source: Path | bytes) -> Path | io.BytesIO:
    return source if isinstance(source, Path) else io.BytesIO(source)


# Makes room for the pictures of a set, uint8 of the shape given.
_Room = Callable[[tuple[int, ...]], NDArray[np.uint8]]


def _in_memory(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.empty(shape, np.uint8)


def _decoded(sources: Sequence[_Source], image_size: int, enlarge: bool, room: _Room) -> tuple[NDArray[np.uint8], str]:
    """Pictures of the sources, brought to `image_size`, or, unless they may be enlarged, to the longest of their shorter sides if that is less; and their digest."""
    digest = hashlib.sha256()

    def each(read: Callable[[Path | io.BytesIO], Any]) -> Iterator[Any]:
        for source, where in sources:
            try:
                yield read(_open(source))
            except OSError as error:
                raise ValueError(f"{where}: {error}") from error

    side = image_size if enlarge else min(image_size, max(each(shorter_side)))
    images = room((len(sources), side, side, 3))
    for row, image in enumerate(each(lambda file: decode_image(file, side))):
        images[row] = image
    for source, _ in sources:
        digest.update(hashlib.sha256(source.read_bytes() if isinstance(source, Path) else source).digest())
    return images, digest.hexdigest()


def read_parquet(paths: Iterable[Path], image_size: int, *, enlarge: bool = True, room: _Room = _in_memory) -> ImageSet:
    """Read parquet files with columns ``image`` or ``img`` (struct with ``bytes``) and ``label`` or ``fine_label`` (integer).

    Parameters
    ----------
    paths : files, read in this order.
    image_size : side in pixels that every picture is brought to.
    enlarge : whether a set of smaller pictures is brought to that size, too; else all come in the size of its largest.
    room : gives the array that pictures are decoded into.

    Raises
    ------
    ValueError : a file lacks a column, or a picture cannot be decoded (file and row are named).
    """
    import pyarrow.parquet as pq

    sources: list[_Source] = []
    labels = []
    schema, label_column = None, ""
    for path in paths:
        table = pq.read_table(path)
        schema = table.schema
        image_column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
        label_column = next((name for name in LABEL_COLUMNS if name in table.column_names), "")
        if image_column is None or not label_column:
            raise ValueError(f"{path}: expected columns image and label, got {', '.join(table.column_names)}")
        for row, cell in enumerate(table.column(image_column)):
            value = cell.as_py()
            value = value["bytes"] if isinstance(value, dict) else None
            sources.append((value or b"", f"{path}: picture in row {row} cannot be read"))
        known = len(_class_names(schema, label_column, 0))
        for row, label in enumerate(table.column(label_column).to_pylist()):
            if not isinstance(label, int) or not 0 <= label < (known or 2**31):
                raise ValueError(f"{path}: label in row {row}: expected the number of a class, got {label!r}")
        labels.append(table.column(label_column).to_numpy().astype(np.int64))
    if not sources:
        raise ValueError("paths: expected at least one parquet file with pictures, got none")
    images, digest = _decoded(sources, image_size, enlarge, room)
    all_labels = np.concatenate(labels)
    return ImageSet(images, all_labels, _class_names(schema, label_column, int(all_labels.max()) + 1), digest)


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


def read_folder(folder: Path, image_size: int, *, enlarge: bool = True, room: _Room = _in_memory) -> ImageSet:
    """Read a folder with one subfolder per class; parameters as for `read_parquet`.

    Raises
    ------
    ValueError : no class folder holds a picture, or a picture cannot be decoded (its path is named).
    """
    sources: list[_Source] = []
    labels: list[int] = []
    names: list[str] = []
    for name, files in class_files(folder):
        sources += [(path, f"{path}: cannot be read as a picture") for path in files]
        labels += [len(names)] * len(files)
        names.append(name)
    if not sources:
        raise ValueError(f"{folder}: expected a subfolder per class with pictures in it, found none")
    images, digest = _decoded(sources, image_size, enlarge, room)
    return ImageSet(images, np.array(labels, np.int64), tuple(names), digest)


def _split_place(folder: Path, split: str) -> tuple[list[Path], Path | None]:
    # Parquet files of a split, or the folder of its class folders, or nothing.
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder with a data set, found none; name a folder of pictures or parquet files")
    for name in SPLIT_NAMES[split]:
        files = sorted(folder.glob(f"{name}*.parquet"))
        if files:
            return files, None
        if (folder / name).is_dir():
            return [], folder / name
    return [], folder if split == "train" else None


def read_split(folder: Path, split: str, image_size: int, *, enlarge: bool = True, room: _Room = _in_memory) -> ImageSet | None:
    """Read the "train" or "valid" split of a data set folder; None if there is no such split.  Parameters as for `read_parquet`.

    The folder holds ``train*.parquet`` and ``valid*.parquet`` (or ``val*``, ``test*``), or subfolders of those names with a
    folder per class; a plain folder of class folders counts as "train".

    Raises
    ------
    ValueError : `folder` does not exist, or what is found cannot be read.
    """
    files, root = _split_place(folder, split)
    if files:
        return read_parquet(files, image_size, enlarge=enlarge, room=room)
    return None if root is None else read_folder(root, image_size, enlarge=enlarge, room=room)


def fingerprint(files: Iterable[Path], folder: Path) -> str:
    """Digest of the names below `folder`, sizes and times of files: what changes with them, without reading one."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _wait_for(file: IO[str]) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows: two processes decode the same pictures, and the last one's file stays
        return
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(file, fcntl.LOCK_EX)


def _decode_to(place: Path, folder: Path, split: str, image_size: int, enlarge: bool) -> bool:
    partial = place / "images.partial"

    def on_disk(shape: tuple[int, ...]) -> NDArray[np.uint8]:
        with partial.open("w+b") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            file.flush()
            at = file.tell()
            reserve(file.fileno(), at + math.prod(shape))
        return np.memmap(partial, np.uint8, "r+", at, shape)

    try:
        data = read_split(folder, split, image_size, enlarge=enlarge, room=on_disk)
        if data is None:
            return False
        assert isinstance(data.images, np.memmap)
        data.images.flush()
        partial.replace(place / "images.npy")
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(place / "images.npy")) from error
        raise
    told = {"names": data.names, "labels": data.labels.tolist(), "digest": data.digest}
    replace_file(place / "set.json", json.dumps(told).encode("utf-8", "surrogatepass"))
    return True


def cached_split(folder: Path, split: str, image_size: int, cache: Path, *, enlarge: bool = True) -> ImageSet | None:
    """As `read_split`, decoded once, into a file below `cache` that is mapped into memory.

    A file that is added, changed (by size or time), renamed or removed makes the split be read again.  Processes that ask for the same split wait for the
    one that decodes it.

    Raises
    ------
    OSError : no room for the arrays, or no right to write them.
    """
    files, root = _split_place(folder, split)
    if root is not None:
        files = [path for _, found in class_files(root) for path in found]
        if not files and split != "train":
            return None
    key = hashlib.sha256(f"{split}\0{image_size}\0{enlarge}\0{fingerprint(files, folder)}".encode()).hexdigest()[:16]
    place = cache / f"{split}-{image_size}-{key}"
    if not (place / "set.json").is_file():
        place.mkdir(parents=True, exist_ok=True)
        with (place / "lock").open("w") as lock:
            _wait_for(lock)
            if not (place / "set.json").is_file() and not _decode_to(place, folder, split, image_size, enlarge):
                return None
    told = json.loads((place / "set.json").read_bytes().decode("utf-8", "surrogatepass"))
    images = np.load(place / "images.npy", mmap_mode="r")
    return ImageSet(images, np.array(told["labels"], np.int64), tuple(told["names"]), told["digest"])


def by_name(data: ImageSet, names: Sequence[str], where: str) -> ImageSet:
    """The same pictures with their labels counted as in `names`.

    Raises
    ------
    ValueError : a picture is of a class that is not among `names` (`where` and the class are named).
    """
    number = {name: index for index, name in enumerate(names)}
    used = [data.names[label] for label in np.unique(data.labels)]
    strange = [name for name in used if name not in number]
    if strange:
        raise ValueError(f"{where}: expected the classes of the training pictures, got {strange[0]!r} as well; rename or remove it")
    return replace(data, labels=np.array([number.get(name, -1) for name in data.names], np.int64)[data.labels], names=tuple(names))
