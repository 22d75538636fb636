"""What a run of lessons is judged by: accuracy matrix, average accuracy, forgetting, confusion.

Owns definitions and no data.  The accuracy matrix R is float64 (T, T): R[i, j] is the accuracy (0..1) on the test pictures of
experience j after experience i was learned.  Entries above the diagonal belong to classes not seen yet; nothing reads them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _matrix(matrix: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(matrix, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not len(values):
        raise ValueError(f"matrix: expected (T, T) with T of at least 1, got {values.shape}; a row an experience, a column a test set")
    return values


def average_accuracy(matrix: ArrayLike) -> float:
    """Mean accuracy over all experiences after the last one: mean over j of R[T-1, j].

    Parameters
    ----------
    matrix : accuracy matrix R, float (T, T), 0..1.

    Raises
    ------
    ValueError : `matrix` is not square or is empty.

    References
    ----------
    Lopez-Paz and Ranzato 2017, `arXiv 1706.08840 <https://arxiv.org/abs/1706.08840>`_ (ACC).

    Examples
    --------
    >>> average_accuracy([[1.0, 0.0], [0.5, 1.0]])
    0.75
    """
    return float(_matrix(matrix)[-1].mean())


def forgetting(matrix: ArrayLike) -> float:
    """Mean loss on the earlier experiences after the last one: mean over j < T-1 of (max over j <= i < T-1 of R[i, j]) - R[T-1, j].

    Parameters
    ----------
    matrix : accuracy matrix R, float (T, T), 0..1.

    Returns
    -------
    -1..1; negative if later experiences helped the earlier ones; 0 for a single experience.

    Raises
    ------
    ValueError : `matrix` is not square or is empty.

    References
    ----------
    Chaudhry et al. 2018, `arXiv 1801.10112 <https://arxiv.org/abs/1801.10112>`_ (F).

    Examples
    --------
    >>> forgetting([[1.0, 0.0], [0.5, 1.0]])
    0.5
    """
    values = _matrix(matrix)
    last = len(values) - 1
    return float(np.mean([values[j:last, j].max() - values[last, j] for j in range(last)])) if last else 0.0


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each.

    Parameters
    ----------
    truth, predicted : class numbers, integer (N,), 0..classes-1.
    classes : number of classes K.

    Returns
    -------
    int64 (K, K); rows are the truth, columns the prediction.

    Raises
    ------
    ValueError : lengths differ, or a number is outside 0..classes-1.

    Examples
    --------
    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    rows, columns = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(f"predicted: expected one class number for each of truth {rows.shape}, got {columns.shape}")
    for name, numbers in (("truth", rows), ("predicted", columns)):
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < classes):
            raise ValueError(f"{name}: expected class numbers 0 to {classes - 1}, got {numbers.min()} to {numbers.max()}")
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)
