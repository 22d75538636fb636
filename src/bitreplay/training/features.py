"""The feature layer: whitening behind the pooled stream, and its rounding (docs/method.md, 3.6)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model import Tensors
from .fold import HEADROOM, Floats, affine, exponent_for

SHRINKAGE = 0.02


def whitening(features: Floats, labels: NDArray[np.int64], whiten: bool) -> tuple[Floats, Floats]:
    """Matrix V and centre m of h = V (f - m).

    f comes in units of its own spread, float64 (N, C).  The variance within classes becomes 1 in each direction, but for a shrinkage towards a multiple of
    the identity, and the directions come in the order of the variance between classes.  With ``whiten=False`` V only scales.
    """
    centre = features.mean(0)
    means = np.stack([features[labels == c].mean(0) if np.any(labels == c) else centre for c in range(int(labels.max()) + 1)])
    inside = features - means[labels]
    covariance = inside.T @ inside / len(features)
    if not whiten:
        return np.diag(1.0 / np.sqrt(np.maximum(np.diag(covariance), 1e-12))), centre
    covariance += SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    matrix = vectors @ np.diag(values**-0.5) @ vectors.T
    shares = np.bincount(labels, minlength=len(means)) / len(labels)
    apart = np.sqrt(shares)[:, None] * (means - centre) @ matrix.T
    _, directions = np.linalg.eigh(apart.T @ apart)
    directions = directions[:, ::-1].T  # the most telling one first
    return np.where(directions.sum(1, keepdims=True) < 0, -directions, directions) @ matrix, centre


def feature_layer(
    features: Floats, spread: Floats, matrix: Floats, centre: Floats, *, exponent: int, pixels: int
) -> tuple[dict[str, Any], Tensors]:
    """The feature layer of a model file.

    Parameters
    ----------
    features : means over the map, float64 (N, C), of calibration pictures.
    spread : unit of each channel, float64 (C,).
    matrix, centre : of features / spread, as `whitening` gives them.
    exponent, pixels : of the stream that is pooled.
    """
    pooled_exponent = exponent_for(float(np.abs(features / spread).max()) * HEADROOM)
    ratio = 2.0 ** (pooled_exponent - exponent) / pixels / spread
    pool_shift = min(46, max(0, 28 - math.floor(math.log2(ratio.max()))))
    unit = np.abs(matrix).max(1) / 127.0
    levels = np.rint(matrix / unit[:, None])
    rounded = levels * unit[:, None]
    values = (features / spread - centre) @ rounded.T
    feature_bits = min(12, max(0, exponent_for(float(np.quantile(np.abs(values), 0.999)), 127.0)))
    offset = -rounded @ centre
    shift, multiplier, bias = affine(unit * 2.0 ** (feature_bits - pooled_exponent), offset * 2.0**feature_bits, 46)
    tensors: Tensors = {
        "features.pool_multiplier": np.rint(ratio * 2.0**pool_shift).astype(np.int32),
        "features.weight": levels.astype(np.int8),
        "features.multiplier": multiplier,
        "features.bias": bias.astype(np.int64),
    }
    return {"channels": len(matrix), "pool_shift": pool_shift, "shift": shift, "feature_bits": feature_bits}, tensors
