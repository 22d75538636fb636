"""The views of a picture (docs/method.md, 1.1)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Uint8 = NDArray[np.uint8]
VIEWS = (1, 2, 6)


def enlarged(images: Uint8, size: int) -> Uint8:
    """Bring images (N, c, c, 3) to size x size, bilinear, centres on centres."""
    cut = images.shape[1]
    low, high, part = [], [], []
    for i in range(size):
        t = (2 * i + 1) * cut - size
        low.append(max(t, 0) // (2 * size))
        high.append(min(low[-1] + 1, cut - 1) if t >= 0 else 0)
        part.append(t % (2 * size) if t >= 0 else 0)
    f = np.array(part)
    x = images.astype(np.int64)
    rows = x[:, low] * (2 * size - f)[:, None, None] + x[:, high] * f[:, None, None]
    both = rows[:, :, low] * (2 * size - f)[:, None] + rows[:, :, high] * f[:, None]
    result: Uint8 = ((both + 2 * size**2) // (4 * size**2)).astype(np.uint8)
    return result


def views_of(images: Uint8, views: int) -> list[Uint8]:
    """The first `views` views of uint8 images (N, S, S, 3)."""
    size = images.shape[1]
    cut = 27 * size // 32
    wholes = [images]
    if views > 2:
        wholes += [enlarged(images[:, :cut, :cut], size), enlarged(images[:, size - cut :, size - cut :], size)]
    return [view for whole in wholes for view in (whole, whole[:, :, ::-1])][:views]
