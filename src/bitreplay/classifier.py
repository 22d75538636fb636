"""A learner as a scikit-learn estimator.  Needs scikit-learn (extra ``demo``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.multiclass import check_classification_targets

from .learner import Learner
from .model import Model
from .settings import Settings


class BitreplayClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Learns pictures in integers, all at once (`fit`) or as they come (`partial_fit`).

    Parameters
    ----------
    model : a `Model`, the path of a model file, the name of a shipped backbone, or None for the default one.
    settings : of the learner; None: `Settings()`.
    threads : as `Learner` takes them.

    Attributes
    ----------
    learner_ : the `Learner`; its names are ``str(label)``.
    classes_ : labels that it knows, sorted, (K,).

    Examples
    --------
    >>> import numpy as np
    >>> from bitreplay.classifier import BitreplayClassifier
    >>> dark, light = np.zeros((2, 32, 32, 3), np.uint8), np.full((2, 32, 32, 3), 200, np.uint8)
    >>> classifier = BitreplayClassifier().fit(np.concatenate([dark, light]), [0, 0, 1, 1])
    >>> classifier.predict(light).tolist()
    [1, 1]
    """

    def __init__(self, model: Model | str | Path | None = None, *, settings: Settings | None = None, threads: int | None = None) -> None:
        self.model = model
        self.settings = settings
        self.threads = threads

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.two_d_array = False
        tags.input_tags.positive_only = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        # What it learned as the bytes of a state file: a learner holds threads.
        values: dict[str, Any] = dict(super().__getstate__())
        if "learner_" in values:
            values["learner_"] = self.learner_.to_bytes()
        return values

    def __setstate__(self, values: dict[str, Any]) -> None:
        if "learner_" in values:
            values = values | {"learner_": Learner.from_bytes(values["learner_"], threads=values["threads"])}
        super().__setstate__(values)

    def fit(self, X: NDArray[np.uint8], y: ArrayLike) -> BitreplayClassifier:  # noqa: N803
        """Forget what was learned, and learn uint8 pictures (N, S, S, 3) of labels (N,)."""
        labels = self._labels(y)
        self.learner_ = Learner(self.model, self.settings or Settings(), threads=self.threads)
        self.classes_ = np.zeros(0, labels.dtype)
        return self._learn(X, labels)

    def partial_fit(self, X: NDArray[np.uint8], y: ArrayLike, classes: ArrayLike | None = None) -> BitreplayClassifier:  # noqa: N803
        """Learn further pictures; labels that are new open classes, so `classes` need not be told and is not read."""
        return self._learn(X, self._labels(y)) if hasattr(self, "learner_") else self.fit(X, y)

    def predict(self, X: NDArray[np.uint8]) -> NDArray[Any]:  # noqa: N803
        """Labels (N,)."""
        best = self.predict_proba(X).argmax(1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def predict_proba(self, X: NDArray[np.uint8]) -> NDArray[np.float32]:  # noqa: N803
        """Probabilities (N, K), columns in the order of `classes_`."""
        if not hasattr(self, "learner_"):
            raise NotFittedError("predict: expected a classifier that has learned pictures; call fit or partial_fit first")
        order = [self.learner_.names.index(str(label)) for label in self.classes_]
        return self.learner_.predict_proba(X)[:, order]

    def _labels(self, y: ArrayLike) -> NDArray[Any]:
        check_classification_targets(y)
        return np.asarray(y)

    def _learn(self, images: NDArray[np.uint8], labels: NDArray[Any]) -> BitreplayClassifier:
        if len(self.classes_) and (self.classes_.dtype.kind == "U") != (labels.dtype.kind == "U"):
            raise ValueError(f"y: expected labels like those learned before ({self.classes_.dtype}), got {labels.dtype}")
        classes = np.union1d(self.classes_, labels)
        self.learner_.learn(images, [str(label) for label in labels])
        self.classes_ = classes
        return self
