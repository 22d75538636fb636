"""Where the pictures of a command lie: in a subfolder per class, or side by side in a folder.

Owns what of a folder is taken and what is left out, and says so.  Decoding is `datasets.pictures`'.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ..datasets.image_sets import class_files
from ..datasets.pictures import IMAGE_SUFFIXES, decode_image
from .terminal import note


def _hidden(path: Path, below: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(below).parts)


def _raise(error: OSError) -> NoReturn:
    raise error


def class_pictures(folder: Path) -> list[tuple[Path, str]]:
    """Picture files below the class folders of `folder`, each with the name of its class; what is left out is mentioned.

    Empty if no subfolder holds a picture.
    """
    walk = os.walk(folder, onerror=_raise)  # a folder that cannot be read is an error, not a smaller lesson
    there = [Path(parent, name) for parent, _, names in walk for name in names]
    found = [(path, name) for name, files in class_files(folder) for path in files if not _hidden(path, folder)]
    taken = {path for path, _ in found}
    left_out = sorted(path for path in there if path not in taken and not _hidden(path, folder)) if found else []
    if left_out:
        count = "1 file was" if len(left_out) == 1 else f"{len(left_out)} files were"
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        note(f"{count} left out, such as {left_out[0]}: pictures must be in one subfolder per class and end in one of {suffixes}")
    return found


def flat_pictures(folder: Path) -> list[Path]:
    """Picture files in `folder` itself; ValueError if there are none."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."))
    found = sorted(path for path in files if path.is_file())
    if not found:
        raise ValueError(f"{folder}: expected pictures, or a subfolder per class with pictures in it, found none")
    return found


def read_picture(path: Path, image_size: int) -> NDArray[np.uint8]:
    """Pixels of a picture file, uint8 (S, S, 3); ValueError if it is none, OSError if it cannot be opened."""
    try:
        return decode_image(path, image_size)
    except OSError as error:
        if error.filename is not None:
            raise  # cannot be opened; the text names the file already
        raise ValueError(f"{path}: cannot be read as a picture: {error}") from error
