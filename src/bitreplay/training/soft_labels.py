"""Soft labels: a teacher's answers for fixed crops of every picture, computed once (docs/method.md, section 2.5).

Owns the file: a header that names the teacher, the crops and the pictures, then the likeliest classes of each answer in bytes, mapped into
memory.  The layout is that of safetensors.  A file grows crop by crop; what is finished can be learned from while the rest is made.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.image_sets import ImageSet
from ..disk import reserve
from .crops import Boxes, cut, draw_boxes
from .teachers import Teacher

KIND = "bitreplay soft labels 1"
_HEADER_BYTES = 4096
_CHUNK = 1000  # pictures that are labelled between two marks in the file
_BATCH = 100
_CLASSES = 2**16  # of a teacher: their numbers take two bytes
_TEXT = 200


@dataclass(frozen=True)
class Crops:
    """The crops of a data set that a teacher looks at: `count` of each picture, drawn by `crops.draw_boxes` from `seed`.

    Parameters
    ----------
    count : crops of each picture.
    seed : keys the draw; crop number c of all pictures comes from a generator of its own, so more crops can follow.
    smallest, stretch : as for `draw_boxes`.
    """

    count: int = 4
    seed: int = 1
    smallest: float = 0.35
    stretch: float = 1.25

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"crops: expected 1 or more, got {self.count}")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"smallest: expected a share of the picture's area above 0 and at most 1, got {self.smallest}")
        if not 1 <= self.stretch <= 4:
            raise ValueError(f"stretch: expected a ratio of sides from 1 to 4, got {self.stretch}")

    def boxes(self, number: int, pictures: int) -> Boxes:
        """Where crop `number` of each of the pictures lies."""
        return draw_boxes(pictures, self.smallest, self.stretch, np.random.default_rng((self.seed, number)))


@dataclass(frozen=True)
class _Header:
    pictures: str  # digest of the data set (`ImageSet.digest`)
    count: int
    classes: int
    kept: int
    teacher: str
    teacher_digest: str
    teacher_image_size: int
    crops: Crops = field(default_factory=Crops)

    def layout(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of each array, in the order in which they stand in the file."""
        chunks = -(-self.count // _CHUNK)
        return {
            "classes": ("U16", (self.crops.count, self.count, self.kept)),
            "levels": ("U8", (self.crops.count, self.count, self.kept)),
            "done": ("U8", (self.crops.count, chunks)),
        }

    def check(self) -> None:
        """ValueError unless every value is of its type and within its range: before a size is computed from them."""
        whole = (self.count, self.classes, self.kept, self.teacher_image_size, self.crops.count, self.crops.seed)
        texts = (self.pictures, self.teacher, self.teacher_digest)
        if any(type(value) is not int for value in whole) or any(type(text) is not str or len(text) > _TEXT for text in texts):
            raise ValueError(f"expected whole numbers, and texts of at most {_TEXT} characters")
        if not 1 <= self.kept <= self.classes <= _CLASSES or not 1 <= self.count <= 2**40 or self.crops.seed < 0:
            raise ValueError(
                f"expected 1 <= kept <= classes <= {_CLASSES} and at least one picture, got {self.kept}, {self.classes}, {self.count}"
            )

    def bytes(self) -> bytes:
        """The file up to its arrays."""
        head: dict[str, object] = {"__metadata__": {"kind": KIND, "header": json.dumps(asdict(self))}}
        at = 0
        for name, (dtype, shape) in self.layout().items():
            end = at + math.prod(shape) * _BYTES[dtype].itemsize
            head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
            at = end
        text = json.dumps(head).encode()
        return (_HEADER_BYTES - 8).to_bytes(8, "little") + text.ljust(_HEADER_BYTES - 8)

    def size(self) -> int:
        """Bytes of the whole file."""
        return _HEADER_BYTES + sum(math.prod(shape) * _BYTES[dtype].itemsize for dtype, shape in self.layout().values())


_BYTES: dict[str, np.dtype[Any]] = {"U16": np.dtype("<u2"), "U8": np.dtype("u1")}


def _read_header(path: Path) -> _Header:
    wrong = ValueError(f"{path}: expected soft labels that bitreplay soft-labels wrote, got something else")
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES)
    try:
        told = json.loads(start[8:])["__metadata__"]
        if told["kind"] != KIND:
            raise wrong
        values = json.loads(told["header"])
        header = _Header(**{**values, "crops": Crops(**values["crops"])})
        header.check()
        if start != header.bytes() or path.stat().st_size != header.size():
            raise wrong
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise wrong from error
    return header


class SoftLabels:
    """A file of soft labels, mapped into memory.

    Parameters
    ----------
    path : written by `make_soft_labels`, to the end or in part.
    write : whether answers are going to be put in.

    Raises
    ------
    ValueError : the file is something else, or cut short.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        self.header = _read_header(path)
        self._arrays: dict[str, np.memmap[Any, np.dtype[Any]]] = {}
        at = _HEADER_BYTES
        for name, (dtype, shape) in self.header.layout().items():
            self._arrays[name] = np.memmap(path, _BYTES[dtype], "r+" if write else "r", at, shape)
            at += self._arrays[name].nbytes

    @property
    def identity(self) -> str:
        """Digest of what was asked: the same for every file of this teacher, these pictures and these crops."""
        return hashlib.sha256(self.header.bytes()).hexdigest()

    @property
    def complete(self) -> int:
        """How many crops, from the first on, are labelled for every picture."""
        return int(np.cumprod(self._arrays["done"].all(1)).sum())

    def require(self, data: ImageSet, where: Path) -> None:
        """ValueError unless these are labels of these pictures, with one crop finished at least."""
        if self.header.pictures != data.digest or self.header.count != len(data):
            raise ValueError(
                f"{self.path}: made for other pictures (digest {self.header.pictures[:12]}, {self.header.count} pictures) than those of {where} "
                f"({data.digest[:12]}, {len(data)}); make them for these: bitreplay soft-labels"
            )
        if not self.complete:
            raise ValueError(
                f"{self.path}: no crop is labelled for every picture yet; run the same bitreplay soft-labels command again to continue it"
            )

    def targets(self, crops: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The teacher's answers for crop ``crops[i]`` of picture ``rows[i]``.

        Returns
        -------
        classes : int64 (N, kept), the likeliest classes.
        shares : float32 (N, kept), their probabilities.
        """
        found = self._arrays["classes"][crops, rows].astype(np.int64)
        if int(found.max(initial=0)) >= self.header.classes:
            raise ValueError(f"{self.path}: expected classes below {self.header.classes}, got {found.max()}; make the labels again")
        classes = torch.from_numpy(found)
        shares = torch.from_numpy(self._arrays["levels"][crops, rows].astype(np.float32)).div_(255.0).square_()
        return classes, shares / shares.sum(1, keepdim=True).clamp_(min=1.0)

    def missing(self) -> list[tuple[int, int]]:
        """(crop, first picture) of each chunk that is not labelled yet."""
        return [(int(crop), int(chunk) * _CHUNK) for crop, chunk in np.argwhere(self._arrays["done"] == 0)]

    def put(self, crop: int, first: int, probabilities: NDArray[np.float32]) -> None:
        """Write the answers for a chunk of pictures, float (N, classes), and mark it as done once they are on the disk."""
        if not np.isfinite(probabilities).all():
            raise ValueError("teacher: expected finite logits, got infinite ones or NaN")
        kept = self.header.kept
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :kept]
        levels = np.rint(255 * np.sqrt(np.take_along_axis(probabilities, best, 1)))
        rows = slice(first, first + len(probabilities))
        self._arrays["classes"][crop, rows] = best
        self._arrays["levels"][crop, rows] = levels
        for array in self._arrays.values():
            array.flush()
        self._arrays["done"][crop, first // _CHUNK] = 1


def cross_entropy(logits: Tensor, classes: Tensor, shares: Tensor) -> Tensor:
    """Mean cross-entropy with a teacher's answers; what it gives to other classes than the likeliest is spread evenly over them.

    Parameters
    ----------
    logits : float (N, K).
    classes, shares : as `SoftLabels.targets` gives them.
    """
    log_p = F.log_softmax(logits, 1)
    found = log_p.gather(1, classes)
    others = logits.shape[1] - classes.shape[1]
    rest = (1.0 - shares.sum(1)) / others if others else torch.zeros(len(logits))
    return -((shares * found).sum(1) + rest.to(logits.device) * (log_p.sum(1) - found.sum(1))).mean()


def make_soft_labels(
    data: ImageSet,
    path: Path,
    teacher: Teacher,
    *,
    crops: Crops,
    kept: int = 5,
    threads: int = 1,
    progress: Callable[[str, int, int], object] = lambda phase, done, total: None,
) -> SoftLabels:
    """Ask a teacher for every crop of every picture that `path` does not answer yet.

    Parameters
    ----------
    data : training pictures, decoded (`data.cached_split`), with their digest.
    path : file to write, or to go on with after an interruption.
    teacher : who answers.
    crops : which crops.
    kept : classes of each answer that are kept, the likeliest.
    threads : of the teacher.
    progress : receives phase, crops of pictures done, total.

    Raises
    ------
    ValueError : `path` holds something else: other pictures, another teacher or other crops.
    OSError : no room; all of the file's bytes are taken before the work begins.

    Notes
    -----
    Each picture takes 3 bytes per crop and kept class: 100,000 pictures, four crops and five classes are 6 MB.
    """
    first = data.images[:1]
    digest = teacher.digest()
    answers = teacher.answers(threads)
    classes = answers(cut(first, Crops().boxes(0, 1), teacher.image_size)).shape[1]
    if not 1 <= kept <= classes:
        raise ValueError(f"kept: expected 1 to {classes}, the teacher's classes, got {kept}")
    header = _Header(data.digest, len(data), classes, kept, teacher.name, digest, teacher.image_size, crops)
    header.check()
    if path.exists():
        old = _read_header(path)
        if old != header:
            names = [
                name
                for name in ("pictures", "teacher", "teacher_digest", "teacher_image_size", "kept", "crops")
                if getattr(old, name) != getattr(header, name)
            ]
            raise ValueError(f"{path}: was begun with different {', '.join(names)}; choose another file, or repeat the original settings")
    else:
        _reserve(path, header)
    labels = SoftLabels(path, write=True)
    total = crops.count * len(data)
    done = total
    missing = labels.missing()
    done -= sum(min(_CHUNK, len(data) - at) for _, at in missing)
    progress("soft labels", done, total)
    boxes: dict[int, Boxes] = {}
    for crop, at in missing:
        if crop not in boxes:
            boxes = {crop: crops.boxes(crop, len(data))}
        chunk = []
        for i in range(at, min(at + _CHUNK, len(data)), _BATCH):
            rows = slice(i, min(i + _BATCH, at + _CHUNK, len(data)))
            logits = answers(cut(data.images[rows], boxes[crop][rows], teacher.image_size))
            chunk.append(torch.from_numpy(logits).softmax(1).numpy())
            done += len(logits)
            progress("soft labels", done, total)
        labels.put(crop, at, np.concatenate(chunk))
    return labels


def _reserve(path: Path, header: _Header) -> None:
    # All bytes are taken now: a page of a mapped file that finds no room later would end the process.
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(header.bytes())
            file.flush()
            reserve(file.fileno(), header.size())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OSError(error.errno or errno.EIO, error.strerror, str(path)) from error
