"""The scikit-learn estimator: scikit-learn's own checks as far as pictures allow, and what it adds."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import tiny_model

pytest.importorskip("sklearn", reason="the estimator needs scikit-learn (extra demo)")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from bitreplay import Settings
from bitreplay.classifier import BitreplayClassifier

PICTURES = tiny_model.random_images(3, 30, 32)
PICTURES[::3] //= 4
PICTURES[1::3] = 255 - PICTURES[1::3] // 4
LABELS = np.array(["dark", "light", "grey"] * 10)


class OfRows(BitreplayClassifier):
    """With scikit-learn's usual tags: without them its checks are not made."""

    def __sklearn_tags__(self) -> Any:
        return super(BitreplayClassifier, self).__sklearn_tags__()


# These feed rows of floats, sparse matrices or one column, which are no pictures: they get our message about images.
NO_PICTURES = {
    "check_fit_score_takes_y", "check_estimators_overwrite_params", "check_dont_overwrite_parameters", "check_estimators_fit_returns_self",
    "check_readonly_memmap_input", "check_n_features_in_after_fitting", "check_positive_only_tag_during_fit", "check_estimators_dtypes",
    "check_dtype_object", "check_estimators_empty_data_messages", "check_pipeline_consistency", "check_estimators_nan_inf",
    "check_estimator_sparse_tag", "check_estimator_sparse_array", "check_estimator_sparse_matrix", "check_estimators_pickle",
    "check_array_api_input", "check_f_contiguous_array_estimator", "check_classifier_data_not_an_array", "check_classifiers_one_label",
    "check_classifiers_classes", "check_estimators_partial_fit_n_features", "check_classifiers_train", "check_supervised_y_2d",
    "check_methods_sample_order_invariance", "check_methods_subset_invariance", "check_fit2d_1sample", "check_fit2d_1feature",
    "check_dict_unchanged", "check_fit_idempotent", "check_fit_check_is_fitted", "check_n_features_in", "check_fit2d_predict1d",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_that_feed_no_pictures() -> None:
    checked = set()
    for estimator, check in estimator_checks_generator(OfRows(settings=Settings(capacity=0), threads=1)):
        name = getattr(check, "func", check).__name__
        if name not in NO_PICTURES:
            check(estimator)
            checked.add(name)
    assert {"check_get_params_invariance", "check_set_params", "check_no_attributes_set_in_init", "check_estimators_unfitted"} <= checked


def test_a_copy_through_bytes_knows_the_same() -> None:
    taught = BitreplayClassifier(threads=1).fit(PICTURES, LABELS)
    again = pickle.loads(pickle.dumps(taught))
    assert np.array_equal(again.predict_proba(PICTURES), taught.predict_proba(PICTURES))
    assert again.partial_fit(PICTURES[:1], ["new"]).classes_.tolist() == ["dark", "grey", "light", "new"]
    assert pickle.loads(pickle.dumps(BitreplayClassifier(threads=2))).threads == 2


def test_it_learns_at_once_and_as_pictures_come(tmp_path: Any) -> None:
    at_once = BitreplayClassifier(threads=1).fit(PICTURES, LABELS)
    in_parts = BitreplayClassifier(threads=1)
    for part in (slice(0, 11), slice(11, 30)):
        in_parts.partial_fit(PICTURES[part], LABELS[part])
    assert at_once.classes_.tolist() == in_parts.classes_.tolist() == ["dark", "grey", "light"]
    assert np.array_equal(at_once.predict_proba(PICTURES), in_parts.predict_proba(PICTURES))
    assert at_once.score(PICTURES, LABELS) == 1
    assert at_once.predict(PICTURES[:1]).tolist() == ["dark"]
    at_once.fit(PICTURES[:2], [7, 5])
    assert at_once.classes_.tolist() == [5, 7]
    assert at_once.predict(PICTURES[:2]).tolist() == [7, 5]


def test_it_works_inside_scikit_learn() -> None:
    classifier = clone(BitreplayClassifier("quicknet-32", settings=Settings(capacity=0), threads=1))
    assert classifier.get_params()["settings"] == Settings(capacity=0)
    assert cross_val_score(classifier, PICTURES, LABELS, cv=3).mean() > 0.8


def test_what_does_not_fit_is_said() -> None:
    classifier = BitreplayClassifier(threads=1)
    with pytest.raises(NotFittedError, match="call fit or partial_fit first"):
        classifier.predict(PICTURES)
    with pytest.raises(ValueError, match="images: expected uint8"):
        classifier.fit(PICTURES.astype(float), LABELS)
    classifier.fit(PICTURES[:2], [1, 2])
    with pytest.raises(ValueError, match="labels like those learned before"):
        classifier.partial_fit(PICTURES[:2], ["1", "3"])
