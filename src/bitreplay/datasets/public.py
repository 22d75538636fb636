"""Named sets of pictures for experiments, from the folder into which a user unpacked the public distribution.

Owns the layouts: CIFAR-10 and CIFAR-100 (the binary version, or parquet), Tiny-ImageNet (its folders, or parquet), CORe50 (`core50`), any
folder of class folders.  Downloads nothing and reads no pickle: each message says where the set is found.  Reading of single files is
`data`'s.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import core50
from .image_sets import SPLIT_NAMES, ImageSet, class_files, fingerprint, read_split
from .pictures import decode_image, fit_image

CIFAR10_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version (cifar-10-batches-bin)"
CIFAR100_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version (cifar-100-binary)"
TINY_IMAGENET_HOME = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

_CIFAR_SIDE = 32


@dataclass(frozen=True, eq=False)
class PictureSets:
    """Pictures to learn and pictures to be tested on.

    Parameters
    ----------
    train, test : the two splits; same class names.
    train_files, test_files : file of each picture, relative to the set's folder, where it has one of its own; else empty.
    videos : int64 (N,), number of the film that a training picture was cut from, where pictures are frames; else None.
    """

    train: ImageSet
    test: ImageSet
    train_files: tuple[str, ...] = ()
    test_files: tuple[str, ...] = ()
    videos: NDArray[np.int64] | None = None


def _no_set(folder: Path, tried: Sequence[str], home: str) -> ValueError:
    return ValueError(f"{folder}: expected {home.split(',')[-1].strip()}, looked for {', '.join(tried)}; the set is at {home}")


def _decoded(root: Path, files: Sequence[str], image_size: int) -> NDArray[np.uint8]:
    images = np.empty((len(files), image_size, image_size, 3), np.uint8)
    for row, file in enumerate(files):
        try:
            images[row] = decode_image(root / file, image_size)
        except OSError as error:
            raise ValueError(f"{root / file}: cannot be read as a picture: {error}") from error
    return images


# -- parquet, for the sets that are handed around in it --------------------------------------------------------------------------------


def _parquet(folder: Path, image_size: int) -> PictureSets | None:
    for place in (folder, folder / "data", folder / "plain_text", folder / "cifar100"):
        if any(place.glob("train*.parquet")):
            train, test = read_split(place, "train", image_size), read_split(place, "valid", image_size)
            if train is None or test is None:
                raise ValueError(f"{place}: expected test*.parquet or valid*.parquet beside train*.parquet, found none")
            return PictureSets(train, test)
    return None


# -- CIFAR --------------------------------------------------------------------------------------------------------------------------------


def _cifar_records(paths: Sequence[Path], names: tuple[str, ...], label_bytes: int, image_size: int) -> ImageSet:
    """Records of `label_bytes` labels, the last of which counts, and 3 planes of 32 x 32."""
    record = label_bytes + 3 * _CIFAR_SIDE**2
    images, labels = [], []
    for path in paths:
        content = np.fromfile(path, np.uint8)
        if not len(content) or len(content) % record:
            raise ValueError(f"{path}: expected records of {record} bytes, got {len(content)} bytes; unpack the set again")
        rows = content.reshape(-1, record)
        found = rows[:, label_bytes - 1].astype(np.int64)
        if found.max() >= len(names):
            raise ValueError(f"{path}: record {int(found.argmax())}: expected a class below {len(names)}, got {found.max()}")
        labels.append(found)
        images.append(rows[:, label_bytes:].reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1))
    pixels = np.ascontiguousarray(np.concatenate(images))
    if image_size != _CIFAR_SIDE:
        from PIL import Image

        pixels = np.stack([fit_image(Image.fromarray(image), image_size) for image in pixels])
    return ImageSet(pixels, np.concatenate(labels), names)


def _cifar(
    folder: Path, image_size: int, place: str, files: tuple[Sequence[str], Sequence[str]], names: str, home: str, skip: int
) -> PictureSets:
    for root in (folder / place, folder):
        wanted = [names, *files[0], *files[1]]
        missing = [name for name in wanted if not (root / name).is_file()]
        if len(missing) == len(wanted):
            continue
        if missing:
            raise ValueError(f"{root}: expected {', '.join(wanted)}, found no {missing[0]}; the set is at {home}")
        classes = tuple((root / names).read_text().split())
        train, test = (_cifar_records([root / name for name in part], classes, skip, image_size) for part in files)
        return PictureSets(train, test)
    raise _no_set(folder, ["train*.parquet", f"{place}/{files[0][0]}", files[0][0]], home)


def _read_cifar10(folder: Path, image_size: int) -> PictureSets:
    batches = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _cifar(folder, image_size, "cifar-10-batches-bin", (batches, ["test_batch.bin"]), "batches.meta.txt", CIFAR10_HOME, 1)


def _read_cifar100(folder: Path, image_size: int) -> PictureSets:
    return _cifar(folder, image_size, "cifar-100-binary", (["train.bin"], ["test.bin"]), "fine_label_names.txt", CIFAR100_HOME, 2)


# -- Tiny-ImageNet ----------------------------------------------------------------------------------------------------------------------


def _read_tiny_imagenet(folder: Path, image_size: int) -> PictureSets:
    for root in (folder / "tiny-imagenet-200", folder):
        if (root / "wnids.txt").is_file():
            break
    else:
        raise _no_set(folder, ["train*.parquet", "tiny-imagenet-200/wnids.txt", "wnids.txt"], TINY_IMAGENET_HOME)
    # Sorted ids, as in the parquet files: wnids.txt has them in an order of its own.
    ids = sorted((root / "wnids.txt").read_text().split())
    number = {wnid: index for index, wnid in enumerate(ids)}
    words = {}
    if (root / "words.txt").is_file():
        for line in (root / "words.txt").read_text().splitlines():
            wnid, _, word = line.partition("\t")
            words[wnid] = word.partition(",")[0].strip()
    names = tuple(f"{wnid} {words[wnid]}" if words.get(wnid) else wnid for wnid in ids)
    train_files, train_labels = [], []
    for wnid in ids:
        found = sorted((root / "train" / wnid / "images").glob("*.JPEG"))
        if not found:
            raise ValueError(f"{root / 'train' / wnid / 'images'}: expected *.JPEG, found none; the set is at {TINY_IMAGENET_HOME}")
        train_files += [path.relative_to(root).as_posix() for path in found]
        train_labels += [number[wnid]] * len(found)
    notes = root / "val" / "val_annotations.txt"
    if not notes.is_file():
        raise ValueError(
            f"{notes}: expected the classes of the pictures in val/images, found no such file; the set is at {TINY_IMAGENET_HOME}"
        )
    test_files, test_labels = [], []
    for row, text in enumerate(notes.read_text().splitlines(), 1):
        parts = text.split("\t")
        if len(parts) < 2 or parts[1] not in number:
            raise ValueError(f"{notes}: line {row}: expected a picture and one of the ids of wnids.txt, got {text[:60]!r}")
        test_files.append(f"val/images/{parts[0]}")
        test_labels.append(number[parts[1]])
    train = ImageSet(_decoded(root, train_files, image_size), np.array(train_labels, np.int64), names)
    test = ImageSet(_decoded(root, test_files, image_size), np.array(test_labels, np.int64), names)
    return PictureSets(train, test, tuple(train_files), tuple(test_files))


# -- CORe50 -------------------------------------------------------------------------------------------------------------------------------


def _read_core50(folder: Path, image_size: int, level: str) -> PictureSets:
    root = core50.picture_folder(folder)
    names = core50.OBJECTS if level == "object" else core50.CATEGORIES

    def read(pictures: list[core50.Picture]) -> tuple[ImageSet, tuple[str, ...]]:
        files = tuple(picture.file for picture in pictures)
        return ImageSet(_decoded(root, files, image_size), core50.labels_of(pictures, level), names), files

    learned, tested = core50.list_pictures(folder)
    (train, train_files), (test, test_files) = read(learned), read(tested)
    return PictureSets(train, test, train_files, test_files, np.array([picture.video for picture in learned], np.int64))


# -- any folder ---------------------------------------------------------------------------------------------------------------------------


def _folder_files(folder: Path, root: Path) -> dict[str, list[str]]:
    return {name: [path.relative_to(folder).as_posix() for path in paths] for name, paths in class_files(root)}


def _read_any_folder(folder: Path, image_size: int, test_share: float) -> PictureSets:
    train_root = folder / "train" if (folder / "train").is_dir() else folder
    train_of = _folder_files(folder, train_root)
    if not train_of:
        raise ValueError(
            f"{folder}: expected a subfolder per class with pictures in it, or train/ and test/ with such subfolders, found none in {train_root}"
        )
    test_of: dict[str, list[str]] = {}
    if train_root != folder:
        test_root = next((folder / name for name in ("test", *SPLIT_NAMES["valid"]) if (folder / name).is_dir()), None)
        if test_root is None:
            raise ValueError(f"{folder}: expected test/ or valid/ beside train/, found neither")
        test_of = _folder_files(folder, test_root)
        strange = sorted(set(test_of) - set(train_of))
        if strange or not test_of:
            what = f"{strange[0]}" if strange else "no pictures"
            raise ValueError(f"{test_root}: expected the classes of {train_root}, got {what}")
    else:
        for index, (name, files) in enumerate(train_of.items()):
            held = round(test_share * len(files))
            if not 0 < held < len(files):
                raise ValueError(
                    f"{train_root / name}: expected pictures to learn and to test on, got {len(files)} with a share of {test_share} held out"
                )
            order = np.random.default_rng((0, index)).permutation(len(files))
            test_of[name] = [files[row] for row in sorted(order[:held])]
            train_of[name] = [files[row] for row in sorted(order[held:])]
    names = tuple(train_of)

    def read(files_of: dict[str, list[str]]) -> tuple[ImageSet, tuple[str, ...]]:
        files = tuple(file for name in names for file in files_of.get(name, []))
        labels = [index for index, name in enumerate(names) for _ in files_of.get(name, [])]
        return ImageSet(_decoded(folder, files, image_size), np.array(labels, np.int64), names), files

    (train, train_files), (test, test_files) = read(train_of), read(test_of)
    return PictureSets(train, test, train_files, test_files)


# -- all of them --------------------------------------------------------------------------------------------------------------------------

_PARQUET_TOO: dict[str, Callable[[Path, int], PictureSets]] = {
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "tiny-imagenet": _read_tiny_imagenet,
}
SETS = (*_PARQUET_TOO, "core50", "folder")


def require_folder(name: str, folder: Path) -> None:
    """ValueError, with where to get the set `name`, unless `folder` is a folder."""
    if not folder.is_dir():
        home = {"cifar10": CIFAR10_HOME, "cifar100": CIFAR100_HOME, "tiny-imagenet": TINY_IMAGENET_HOME, "core50": core50.HOME}.get(name)
        hint = f"; the set is at {home}" if home else ""
        raise ValueError(f"{folder}: expected a folder with {name}, found none{hint}")


def load_set(name: str, folder: Path, image_size: int, *, labels: str = "object", test_share: float = 0.2) -> PictureSets:
    """Read a set of pictures by name.

    Parameters
    ----------
    name : one of `SETS`.
    folder : where it was unpacked: the folder that holds the distribution's own folder, or that folder itself.
    image_size : side in pixels that every picture is brought to.
    labels : "object" or "category"; of core50 only.
    test_share : share of each class that is held out where a plain folder has no test pictures of its own (drawn with seed 0).

    Raises
    ------
    ValueError : the set is not there (the message says where it was looked for and where to get it), or a file of it is damaged.
    """
    if name not in SETS:
        raise ValueError(f"set: expected one of {', '.join(SETS)}, got {name!r}")
    if labels not in core50.LEVELS:
        raise ValueError(f"labels: expected one of {', '.join(core50.LEVELS)}, got {labels!r}")
    require_folder(name, folder)
    if name == "core50":
        return _read_core50(folder, image_size, labels)
    if name == "folder":
        return _read_any_folder(folder, image_size, test_share)
    found = _parquet(folder, image_size)
    return found if found is not None else _PARQUET_TOO[name](folder, image_size)


def hold_out(sets: PictureSets, share: float) -> PictureSets:
    """Make a validation set of a share of the training pictures; the test pictures are dropped, so that nobody looks at them.

    Pictures are drawn with seed 0; where they are frames of films, the end of every film is held out instead, since neighbouring frames are nearly equal.

    Raises
    ------
    ValueError : nothing, or everything, would be held out.
    """
    train = sets.train
    if sets.videos is None:
        order = np.random.default_rng(0).permutation(len(train))
        kept = order[: len(train) - round(share * len(train))]
        held = order[len(kept) :]
    else:
        # Rows of a film are in the order of its frames.
        place = np.empty(len(train))
        for video in np.unique(sets.videos):
            rows = np.flatnonzero(sets.videos == video)
            place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        kept, held = np.flatnonzero(place < 1 - share), np.flatnonzero(place >= 1 - share)
    if not len(kept) or not len(held):
        raise ValueError(f"valid: expected a share that leaves pictures on both sides, got {share} of {len(train)}")

    def part(rows: NDArray[np.int64]) -> ImageSet:
        return ImageSet(train.images[rows], train.labels[rows], train.names)

    def files(rows: NDArray[np.int64]) -> tuple[str, ...]:
        return tuple(sets.train_files[row] for row in rows) if sets.train_files else ()

    videos = None if sets.videos is None else sets.videos[kept]
    return PictureSets(part(kept), part(held), files(kept), files(held), videos)


# -- decoded once ---------------------------------------------------------------------------------------------------------------------------


def _all_files(folder: Path) -> list[Path]:
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def load_cached(name: str, folder: Path, image_size: int, cache: Path, *, labels: str = "object", test_share: float = 0.2) -> PictureSets:
    """As `load_set`, decoded once: arrays are kept below `cache` and mapped into memory, where processes share them.

    A changed file below `folder` (by size or time) makes it be read again.
    """
    kind = {"core50": labels, "folder": str(test_share)}.get(name, "")
    key = hashlib.sha256(f"{name}\0{image_size}\0{kind}\0{fingerprint(_all_files(folder), folder)}".encode()).hexdigest()[:16]
    place = cache / f"{name}-{image_size}-{key}"
    if not (place / "set.json").is_file():
        sets = load_set(name, folder, image_size, labels=labels, test_share=test_share)
        place.mkdir(parents=True, exist_ok=True)
        arrays = {"train": sets.train.images, "test": sets.test.images}
        for split, images in arrays.items():
            partial = place / f"{split}.{os.getpid()}.npy"
            np.save(partial, images)
            partial.replace(place / f"{split}.npy")
        told = {
            "names": sets.train.names,
            "labels": [sets.train.labels.tolist(), sets.test.labels.tolist()],
            "files": [sets.train_files, sets.test_files],
            "videos": None if sets.videos is None else sets.videos.tolist(),
        }
        partial = place / f"set.{os.getpid()}.json"
        partial.write_text(json.dumps(told), encoding="utf-8", errors="surrogatepass")
        partial.replace(place / "set.json")
    told = json.loads((place / "set.json").read_text(encoding="utf-8", errors="surrogatepass"))
    # Copy on write: pages are shared, and arrays count as writable, which torch asks for.
    train, test = (
        ImageSet(np.load(place / f"{split}.npy", mmap_mode="c"), np.array(found, np.int64), tuple(told["names"]))
        for split, found in zip(("train", "test"), told["labels"], strict=True)
    )
    videos = None if told["videos"] is None else np.array(told["videos"], np.int64)
    return PictureSets(train, test, tuple(told["files"][0]), tuple(told["files"][1]), videos)
