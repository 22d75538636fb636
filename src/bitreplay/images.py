"""Pictures to u8 arrays: decoding, orientation, colour, size (docs/method.md, section 1).

Owns the one rule by which a picture of any size becomes the square input of a network.  Needs Pillow (extra ``demo``), which
is imported on first use.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())


def decode_image(source: Path | IO[bytes], image_size: int) -> NDArray[np.uint8]:
    """Decode one picture to the square input of a network.

    EXIF orientation is applied, transparency and grey become RGB, the largest centred square is cut out and brought to
    `image_size` with an area filter.

    Parameters
    ----------
    source : path or open binary file of any format that Pillow reads.
    image_size : side of the result in pixels.

    Returns
    -------
    uint8 (image_size, image_size, 3), RGB, 0..255.

    Raises
    ------
    OSError : the file cannot be read or is no picture; too large a picture counts as one that cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (Image.DecompressionBombError, SyntaxError, ValueError, EOFError) as error:
        raise OSError(str(error)) from error
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if side != width or side != height:
        picture = picture.crop((left, top, left + side, top + side))
    if side != image_size:
        filter_ = Image.Resampling.BOX if side > image_size else Image.Resampling.BICUBIC
        picture = picture.resize((image_size, image_size), filter_)
    return np.asarray(picture, dtype=np.uint8)
