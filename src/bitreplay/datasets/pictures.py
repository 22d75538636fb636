"""Pictures to u8 arrays: decoding, orientation, colour, size (docs/method.md, section 1).

Owns the one rule by which a picture of any size becomes the square input of a network.  Needs Pillow (extra ``demo``), which
is imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

    Source = str | Path | Image.Image | NDArray[np.uint8]

_BAND = 128  # rows
IMAGE_SUFFIXES = frozenset(".avif .bmp .gif .jfif .jp2 .jpe .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split())


def _to_rgb(picture: Image.Image) -> Image.Image:
    from PIL import Image

    if picture.mode.startswith("I"):  # 16 bits and more: convert would clip all above 255 to white
        values = np.asarray(picture.convert("I"), np.int64)
        return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        return _on_white(picture)
    return picture.convert("RGB")


def _on_white(picture: Image.Image) -> Image.Image:
    # In bands: whole layers of a large picture would take its memory four times.
    from PIL import Image

    width, height = picture.size
    result = Image.new("RGB", picture.size)
    for top in range(0, height, _BAND):
        layer = picture.crop((0, top, width, min(height, top + _BAND))).convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        result.paste(Image.alpha_composite(ground, layer).convert("RGB"), (0, top))
    return result


def fit_image(picture: Image.Image, image_size: int) -> NDArray[np.uint8]:
    """Cut out the largest centred square of an RGB picture and bring it to `image_size`: with a box filter when it shrinks, bicubic when it grows."""
    from PIL import Image

    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if side != width or side != height:
        picture = picture.crop((left, top, left + side, top + side))
    if side != image_size:
        filter_ = Image.Resampling.BOX if side > image_size else Image.Resampling.BICUBIC
        picture = picture.resize((image_size, image_size), filter_)
    return np.asarray(picture, dtype=np.uint8)


def load_pictures(sources: Iterable[Source], image_size: int) -> NDArray[np.uint8]:
    """Bring pictures of any size to the square input of a network, as `decode_image` does.

    Parameters
    ----------
    sources : paths, Pillow images, or arrays uint8 (H, W, 3) or (H, W), RGB or grey, 0..255.
    image_size : side of the results in pixels, `Learner.image_size`.

    Returns
    -------
    uint8 (N, image_size, image_size, 3), RGB, 0..255.

    Raises
    ------
    TypeError, ValueError : what is none of these.
    OSError : a file cannot be read or is no picture.

    Examples
    --------
    >>> import numpy as np
    >>> load_pictures([np.zeros((60, 80, 3), np.uint8), np.full((32, 32), 7, np.uint8)], 32).shape
    (2, 32, 32, 3)
    """
    found = [_load_picture(source, image_size) for source in sources]
    return np.stack(found) if found else np.zeros((0, image_size, image_size, 3), np.uint8)


class PictureFiles:
    """Pictures that are decoded when they are asked for: `Learner.learn` takes thousands of them without having them all in memory.

    Parameters
    ----------
    sources : as `load_pictures` takes them.
    image_size : side of the results in pixels, `Learner.image_size`.
    read : what brings one source to uint8 (image_size, image_size, 3); None: as `load_pictures` does.

    Examples
    --------
    >>> import numpy as np
    >>> PictureFiles([np.zeros((60, 80, 3), np.uint8)] * 5, 32)[1:4].shape
    (3, 32, 32, 3)
    """

    def __init__(self, sources: Sequence[Source], image_size: int, read: Callable[[Any, int], NDArray[np.uint8]] | None = None) -> None:
        self._sources, self._size, self._read = sources, image_size, read or _load_picture

    def __len__(self) -> int:
        return len(self._sources)

    def __getitem__(self, some: slice) -> NDArray[np.uint8]:
        chosen = self._sources[some]
        images = np.empty((len(chosen), self._size, self._size, 3), np.uint8)
        for number, source in enumerate(chosen):
            images[number] = self._read(source, self._size)
        return images


def _load_picture(source: object, image_size: int) -> NDArray[np.uint8]:
    from PIL import Image

    if isinstance(source, str | Path):
        return decode_image(Path(source), image_size)
    if isinstance(source, Image.Image):
        return fit_image(_upright(source), image_size)
    if not isinstance(source, np.ndarray):
        raise TypeError(f"sources: expected paths, Pillow images or uint8 arrays, got {type(source).__name__}")
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] != 3) or 0 in source.shape:
        raise ValueError(
            f'sources: expected uint8 (H, W, 3) or (H, W), got {source.dtype} {source.shape}; scale to 0..255, .astype("uint8"), channels last'
        )
    return fit_image(Image.fromarray(np.ascontiguousarray(source)).convert("RGB"), image_size)


def _upright(picture: Image.Image) -> Image.Image:
    # As a viewer shows it, in RGB.
    from PIL import ImageOps

    return _to_rgb(ImageOps.exif_transpose(picture))


def shorter_side(source: Path | IO[bytes]) -> int:
    """The shorter side of a picture in pixels, from its header alone; OSError as for `decode_image`."""
    from PIL import Image

    try:
        with Image.open(source) as opened:
            return min(opened.size)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(str(error)) from error


def decode_image(source: Path | IO[bytes], image_size: int, formats: tuple[str, ...] | None = None) -> NDArray[np.uint8]:
    """Decode one picture to the square input of a network.

    EXIF orientation is applied, transparency is laid on white, grey (16 bits too) becomes RGB, the largest centred square is cut
    out and brought to `image_size`: with a box filter when it shrinks, bicubic when it grows.

    Parameters
    ----------
    source : path or open binary file of any format that Pillow reads.
    image_size : side of the result in pixels.
    formats : those that are tried, by Pillow's names; None for all.

    Returns
    -------
    uint8 (image_size, image_size, 3), RGB, 0..255.

    Raises
    ------
    OSError : the file cannot be read or is no picture; too large a picture counts as one that cannot be read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(source, formats=formats) as opened:
            opened.draft("RGB", (2 * image_size, 2 * image_size))  # a large JPEG is decoded at a fraction of its size
            ImageOps.exif_transpose(opened, in_place=True)
            picture = _to_rgb(opened)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they like on a damaged file
        raise OSError(str(error)) from error
    return fit_image(picture, image_size)
