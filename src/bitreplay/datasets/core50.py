"""CORe50 as it is published: pictures in folders of sessions and objects, and run files that say what comes when.

Owns the layout: ``core50_128x128/sX/oY/C_XX_YY_ZZZ.png``, and ``batches_filelists/SCENARIO/runN/train_batch_NN_filelist.txt`` with
``test_filelist.txt`` beside them, each line a picture and a label.  Labels of the NC files differ from run to run (they count classes as
they come), so the class of a picture is taken from its folder, and the label in the file only has to agree with it within a run.
Lomonaco and Maltoni 2017, `arXiv 1705.03550 <https://arxiv.org/abs/1705.03550>`_; NICv2: `arXiv 1907.03799
<https://arxiv.org/abs/1907.03799>`_.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HOME = "https://vlomonaco.github.io/core50, files core50_128x128.zip, batches_filelists.zip and batches_filelists_NICv2.zip"
TEST_SESSIONS = frozenset((3, 7, 10))
CATEGORIES = ("plug_adapter", "mobile_phone", "scissor", "light_bulb", "can", "glass", "ball", "marker", "cup", "remote_control")
OBJECTS_A_CATEGORY = 5
OBJECTS = tuple(f"{name}{number + 1}" for name in CATEGORIES for number in range(OBJECTS_A_CATEGORY))
LEVELS = ("object", "category")

_PICTURE = re.compile(r"s(\d+)/o(\d+)/C_0*(\d+)_0*(\d+)_(\d+)\.png")
_BATCH = re.compile(r"train_batch_(\d+)_filelist\.txt")


@dataclass(frozen=True, order=True)
class Picture:
    """Where a picture comes from; the order is that of sessions, objects and frames as numbers."""

    session: int
    object: int
    frame: int
    file: str

    @property
    def video(self) -> int:
        """Number of the 15 seconds of film that the picture was cut from."""
        return self.session * 1000 + self.object


@dataclass(frozen=True)
class RunFiles:
    """What one run learns and is tested on: picture files, relative to the folder of pictures."""

    experiences: dict[str, tuple[str, ...]]
    test: tuple[str, ...]


def parse_picture(file: str) -> Picture | None:
    """Session, object and frame of a path such as ``s11/o1/C_11_01_000.png``; None if it is none, or contradicts itself."""
    found = _PICTURE.fullmatch(file)
    if found is None:
        return None
    session, number, again, number_again, frame = (int(part) for part in found.groups())
    if (session, number) != (again, number_again) or not 1 <= number <= len(OBJECTS):
        return None
    return Picture(session, number, frame, file)


def class_of(picture: Picture, level: str) -> int:
    """Class number at level "object" (0..49) or "category" (0..9)."""
    return picture.object - 1 if level == "object" else (picture.object - 1) // OBJECTS_A_CATEGORY


def picture_folder(folder: Path) -> Path:
    """Folder that holds the sessions, below `folder` or itself; ValueError says where was looked."""
    tried = [folder / "core50_128x128", folder]
    for path in tried:
        if any(path.glob("s*/o*")):
            return path
    looked = " and ".join(str(path) for path in tried)
    raise ValueError(f"{folder}: expected CORe50's folders s1/o1 ... s11/o50, looked in {looked}; the set is at {HOME}")


def list_pictures(folder: Path) -> tuple[list[Picture], list[Picture]]:
    """Pictures to learn and to be tested on (sessions 3, 7, 10), in order; ValueError where one of the two is missing."""
    root = picture_folder(folder)
    found = (parse_picture(path.relative_to(root).as_posix()) for path in root.glob("s*/o*/C_*.png"))
    pictures = sorted(picture for picture in found if picture is not None)
    train = [picture for picture in pictures if picture.session not in TEST_SESSIONS]
    test = [picture for picture in pictures if picture.session in TEST_SESSIONS]
    for name, part in (("training sessions 1, 2, 4, 5, 6, 8, 9, 11", train), ("test sessions 3, 7, 10", test)):
        if not part:
            raise ValueError(f"{root}: expected pictures of the {name}, such as s1/o1/C_01_01_000.png, found none; the set is at {HOME}")
    return train, test


def labels_of(pictures: list[Picture], level: str) -> NDArray[np.int64]:
    """Class numbers, int64 (N,)."""
    return np.array([class_of(picture, level) for picture in pictures], np.int64)


def run_folder(folder: Path, scenario: str, run: int) -> Path:
    """Folder with the files of a run; `scenario` is the published name, such as NC_inc or NIC_v2_391."""
    tried = [folder / parent / scenario / f"run{run}" for parent in ("batches_filelists", "batches_filelists_NICv2", ".")]
    for path in tried:
        if path.is_dir():
            return path
    looked = ", ".join(str(path) for path in tried)
    raise ValueError(f"{folder}: expected the run files of {scenario}, run {run}, looked in {looked}; they are at {HOME}")


def _read_list(path: Path, number_of: dict[int, int], label_of: dict[int, int]) -> tuple[str, ...]:
    files = []
    for line, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip():
            continue
        file, _, label = text.strip().rpartition(" ")
        picture = parse_picture(file.strip())
        if picture is None or not label.isdigit():
            raise ValueError(f'{path}: line {line}: expected a picture and a label, as "s11/o1/C_11_01_000.png 0", got {text[:80]!r}')
        # One label an object throughout a run, and one object (or category) a label: anything else is a mixture of files.
        number = int(label)
        known = label_of.setdefault(picture.object, number)
        owner = number_of.setdefault(number, picture.object)
        together = (owner - 1) // OBJECTS_A_CATEGORY == (picture.object - 1) // OBJECTS_A_CATEGORY
        if known != number or not together:
            raise ValueError(
                f"{path}: line {line}: expected label {known} for object {picture.object}, as in the files before it, got {number}; "
                "the files of a run belong together"
                if known != number
                else f"{path}: line {line}: label {number}: expected objects of one category, got {owner} and {picture.object}"
            )
        files.append(picture.file)
    if not files:
        raise ValueError(f"{path}: expected pictures, found none")
    return tuple(files)


def read_run(folder: Path, scenario: str, run: int) -> RunFiles:
    """Read the lists of one run.

    Parameters
    ----------
    folder : CORe50's folder.
    scenario : "NC_inc", "NI_inc", "NIC_v2_391", or another folder of lists of the same form.
    run : number of the run, 0 to 9 in the published files.

    Raises
    ------
    ValueError : the lists are missing, have gaps, or hold lines that are none (file and line are named).
    """
    where = run_folder(folder, scenario, run)
    batches: dict[int, Path] = {}
    for path in sorted(where.iterdir()):
        found = _BATCH.fullmatch(path.name)
        if found is not None:
            number = int(found[1])  # written 00, 000 or 0
            if number in batches:
                raise ValueError(f"{path}: expected one file of experience {number}, found {batches[number].name} as well")
            batches[number] = path
    if sorted(batches) != list(range(len(batches))) or not batches:
        gap = next(number for number in range(len(batches) + 1) if number not in batches)
        raise ValueError(f"{where}: expected train_batch_00_filelist.txt and its successors, found none of experience {gap}")
    test = where / "test_filelist.txt"
    if not test.is_file():
        raise ValueError(f"{where}: expected test_filelist.txt beside the training lists, found none")
    number_of: dict[int, int] = {}
    label_of: dict[int, int] = {}
    experiences = {f"batch {number}": _read_list(batches[number], number_of, label_of) for number in range(len(batches))}
    return RunFiles(experiences, _read_list(test, number_of, label_of))
