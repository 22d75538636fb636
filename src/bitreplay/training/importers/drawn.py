"""Pictures drawn from simple statistics of natural images, to calibrate with where there are no real ones.

Dead leaves (Lee, Mumford & Huang 2001): discs whose radii r have a density of r^-3 cover one another, each with a colour of its own; with a texture whose
amplitude falls as 1/f, light that falls off over the picture, and a random exposure.  Such pictures have the spectrum and the edges of photographs, not
their objects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DISCS = 160
_SMALLEST, _LARGEST = 0.02, 0.45  # radius as a share of the side
# Colours vary most along grey, less along blue-yellow, least along red-green (Ruderman et al. 1998).
_AXES = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]]) / np.sqrt([[3.0], [6.0], [2.0]])
_DEVIATIONS = np.array([0.42, 0.12, 0.05])
_MEAN = np.array([0.48, 0.46, 0.41])


def _texture(side: int, rng: np.random.Generator) -> NDArray[np.float64]:
    # 1/f noise of mean 0 and deviation 1.
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.normal(size=(side, side))) / frequency
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(side, side))
    result: NDArray[np.float64] = noise / noise.std()
    return result


def _picture(side: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:side, 0:side] / side
    shown = np.empty((side, side, 3))
    shown[:] = rng.normal(size=3) * _DEVIATIONS @ _AXES
    low, high = _LARGEST**-2.0, _SMALLEST**-2.0
    for radius in (low + (high - low) * rng.random(_DISCS)) ** -0.5:
        y, x = rng.random(2)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        shown[inside] = rng.normal(size=3) * _DEVIATIONS @ _AXES
    shown += (rng.uniform(0.03, 0.15) * _texture(side, rng))[..., None]
    slope = rng.normal(size=2) * 0.2
    shown += ((rows - 0.5) * slope[0] + (columns - 0.5) * slope[1])[..., None]
    shown = _MEAN + rng.normal() * 0.1 + shown * rng.uniform(0.4, 1.0)
    return np.rint(np.clip(shown, 0, 1) * 255).astype(np.uint8)


def drawn_pictures(count: int, side: int, seed: int = 1) -> NDArray[np.uint8]:
    """Draw pictures, uint8 (count, side, side, 3); the same for the same arguments."""
    rng = np.random.default_rng(seed)
    return np.stack([_picture(side, rng) for _ in range(count)])
