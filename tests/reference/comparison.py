"""Whether a learner and the reference know the same, value by value."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitreplay import Learner

from .branch import ReferenceBranchLearner
from .learner import ReferenceLearner
from .network import pack_bits
from .views import VIEWS


def assert_same(ours: Learner, theirs: ReferenceLearner) -> None:
    """All that is learned: head, counts, memory, and a trained branch where there is one."""
    core = ours._core
    assert core["experience"] == theirs.experience
    assert core["seen"].tolist() == theirs.seen
    assert np.array_equal(core["labels"], theirs.labels)
    assert np.array_equal(core["rows"], theirs.rows)
    if ours.settings.head == "lda":
        assert np.array_equal(core["count"], theirs.known.count)
        assert np.array_equal(core["sums"], theirs.known.sums)
        assert np.array_equal(core["moment"], theirs.known.triangle)
        assert core["saturated"] == theirs.known.saturated
        weight, bias, exponent = core["classifier"]
        expected = theirs.classifier()
        assert exponent == expected.exponent
        assert np.array_equal(weight, expected.weight)
        assert np.array_equal(bias, expected.bias)
    else:
        assert np.array_equal(core["weight"], theirs.weight)
        assert core["past_count"].tolist() == theirs.past_count
    assert core["mixing"] == theirs.mixing
    if isinstance(theirs, ReferenceBranchLearner):
        assert_same_branch(core, theirs, ours.settings.train_blocks)


def assert_same_branch(core: Any, theirs: ReferenceBranchLearner, train_blocks: int) -> None:
    """Blocks and head of the trained branch."""
    assert np.array_equal(core["tail_weight"], theirs.branch)
    assert core["worse"] == theirs.worse
    for i in range(train_blocks):
        block = theirs.tail.blocks[len(theirs.tail.blocks) - train_blocks + i]
        values = core["tail"][i]
        if "shadow" in values:
            assert np.array_equal(values["shadow"], block.shadow.reshape(-1)), i
        else:
            assert np.array_equal(values["bits"], pack_bits(block.shadow < 0).reshape(-1)), i
        for name, master in block.masters.items():
            assert np.array_equal(values[name], master), (i, name)


def assert_same_answers(ours: Learner, theirs: ReferenceLearner, images: NDArray[np.uint8]) -> None:
    """Classes and probabilities of pictures, with any number of views."""
    for views in VIEWS:
        best, probabilities = theirs.predict(images, views=views)
        prediction = ours.predict(images, views=views)
        assert prediction.names == [ours.names[c] for c in best], views
        assert np.array_equal(prediction.probabilities, probabilities.astype(np.float32) / 2**15), views
    usual, said = ours.predict(images), ours.predict(images, views=ours.settings.views)
    assert np.array_equal(usual.probabilities, said.probabilities)
