"""The reference of a frozen network, which computes what it was asked before only once.

Tests that differ in a learner's settings ask it for the latents and features of the same pictures, and what it says depends on these alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import reference as ref
from numpy.typing import NDArray


class RememberingNetwork(ref.ReferenceNetwork):
    """Answers are read-only: they are given again."""

    def __init__(self, network: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
        super().__init__(network, tensors)
        self._latents: dict[tuple[int, bytes], NDArray[np.uint64]] = {}
        self._features: dict[tuple[int, bytes], NDArray[np.int8]] = {}

    def latents(self, images: NDArray[np.uint8]) -> NDArray[np.uint64]:
        key = len(images), images.tobytes()
        if key not in self._latents:
            self._latents[key] = super().latents(images)
            self._latents[key].flags.writeable = False
        return self._latents[key]

    def features(self, latents: NDArray[np.uint64]) -> NDArray[np.int8]:
        key = len(latents), latents.tobytes()
        if key not in self._features:
            self._features[key] = super().features(latents)
            self._features[key].flags.writeable = False
        return self._features[key]
