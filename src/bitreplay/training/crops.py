"""Random crops of whole batches: where they lie, and what a network of any size sees there (docs/method.md, section 2.4).

Owns the rule by which a box of a stored picture becomes a square input.  Student and teacher look at one box through it, each at its own size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STORED = 2  # pictures are kept at up to this many times the network's size, so that a crop of half the side loses nothing


@dataclass(frozen=True)
class Boxes:
    """Where each picture is cut, and whether it is mirrored.

    Parameters
    ----------
    edges : float32 (N, 4), top, left, height, width as shares of the picture's side, inside 0..1.
    mirrored : bool (N,).
    """

    edges: NDArray[np.float32]
    mirrored: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.mirrored)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> Boxes:
        return Boxes(self.edges[rows], self.mirrored[rows])


def whole(count: int) -> Boxes:
    """The whole of each of `count` pictures, not mirrored."""
    return Boxes(np.tile(np.array([0, 0, 1, 1], np.float32), (count, 1)), np.zeros(count, np.bool_))


def draw_boxes(count: int, smallest: float, stretch: float, generator: np.random.Generator) -> Boxes:
    """A random box and a fair coin for the mirror image, for each of `count` pictures.

    Parameters
    ----------
    count : pictures N.
    smallest : smallest area of a box as a share of the picture's, above 0 and at most 1; the area is uniform from there to 1, before what would
        reach beyond the picture is cut off.
    stretch : largest ratio of the sides, at least 1; its logarithm is uniform on both sides of 0.
    generator : what is drawn from: five numbers a picture.
    """
    area, shape, top, left, coin = generator.random((5, count))
    side = np.sqrt(smallest + (1 - smallest) * area)
    ratio = np.exp((2 * shape - 1) * math.log(stretch) / 2)
    height, width = np.minimum(side * ratio, 1), np.minimum(side / ratio, 1)
    edges = np.stack([top * (1 - height), left * (1 - width), height, width], 1).astype(np.float32)
    return Boxes(edges, coin < 0.5)


def to_float(images: NDArray[np.uint8]) -> Tensor:
    """Pixels as float (N, 3, S, S), 0..255, of uint8 (N, S, S, 3)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()


def _bicubic(x: Tensor) -> Tensor:
    # Keys' kernel with a = -1/2, as Pillow has it.
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _sampling(start: Tensor, length: Tensor, stored: int, size: int) -> Tensor:
    # (N, size, stored): the share of each stored pixel in each pixel of the result.  A box filter where the picture shrinks, bicubic where it grows
    # (`pictures.fit_image`); what lies beyond the box counts for nothing, and the shares sum to one.
    step = (length * stored / size)[:, None, None]
    first, last = (start * stored)[:, None, None], ((start + length) * stored)[:, None, None]
    centre = first + (torch.arange(size)[None, :, None] + 0.5) * step
    pixel = torch.arange(stored)[None, None, :].float()
    shrinks = step > 1
    weight = torch.zeros(())
    if not bool(shrinks.all()):
        weight = _bicubic(pixel + 0.5 - centre) * ((pixel + 1 > first + 1e-4) & (pixel < last - 1e-4))
    if bool(shrinks.any()):
        overlap = (torch.minimum(pixel + 1, centre + step / 2) - torch.maximum(pixel, centre - step / 2)).clamp_(min=0)
        weight = torch.where(shrinks, overlap, weight)
    return weight / weight.sum(2, keepdim=True)


def cut(images: NDArray[np.uint8], boxes: Boxes, size: int) -> Tensor:
    """Bring one box of each picture to a square.

    Parameters
    ----------
    images : uint8 (N, S, S, 3), 0..255.
    boxes : one a picture.
    size : side of the result in pixels.

    Returns
    -------
    float32 (N, 3, size, size), 0..255, channels last in memory.  A box that is the whole of a picture of that size gives its pixels.

    Notes
    -----
    Two products of matrices a picture, ``rows @ picture @ columns``, so that a batch of boxes of all sizes is one call.
    """
    edges, mirrored = torch.from_numpy(boxes.edges), torch.from_numpy(boxes.mirrored)
    stored = images.shape[1]
    rows = _sampling(edges[:, 0], edges[:, 2], stored, size)
    columns = _sampling(edges[:, 1], edges[:, 3], stored, size)
    columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    return _resample(torch.from_numpy(np.require(images, requirements=["C", "W"])).float(), rows, columns)


def enlarge(images: Tensor, size: int) -> Tensor:
    """Bring float (N, 3, S, S), 0..255, channels last, to a larger `size`, as `cut` does."""
    shares = _sampling(torch.zeros(1), torch.ones(1), images.shape[2], size).expand(len(images), -1, -1)
    return _resample(images.permute(0, 2, 3, 1), shares, shares)


def _resample(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    count, stored, size = len(images), images.shape[1], rows.shape[1]
    planes = images.permute(0, 1, 3, 2)  # (N, S, 3, S): rows, colours, columns
    narrow = torch.bmm(planes.reshape(count, stored * 3, stored), columns.transpose(1, 2))
    done = torch.bmm(rows, narrow.view(count, stored, 3 * size)).view(count, size, 3, size).clamp_(0, 255)
    return done.permute(0, 2, 1, 3).contiguous(memory_format=torch.channels_last)
