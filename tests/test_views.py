"""The views of a picture (docs/method.md, 1.1): the reference by hand, and the core against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference as ref
import tiny_model
from new_learner import new_learner

from bitreplay.model import write_model


def test_enlarging_by_hand() -> None:
    line = np.array([0, 100, 200], np.uint8)  # 3 pixels to 4: t = (2i + 1) * 3 - 4 = -1, 5, 11, 17, of 8
    image = np.broadcast_to(line[:, None], (1, 3, 3, 3))
    assert ref.enlarged(image, 4)[0, 0, :, 0].tolist() == [0, 63, 138, 200]  # 62.5 and 137.5 round up
    assert ref.enlarged(image.transpose(0, 2, 1, 3), 4)[0, :, 1, 0].tolist() == [0, 63, 138, 200]


@pytest.mark.parametrize("size", [4, 8, 12, 32, 33])
def test_views_show_what_they_should(size: int) -> None:
    image = np.random.default_rng(size).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    views = ref.views_of(image, 6)
    assert len(views) == 6
    assert [len(ref.views_of(image, count)) for count in ref.VIEWS] == list(ref.VIEWS)
    for whole, mirrored in zip(views[::2], views[1::2], strict=True):
        assert np.array_equal(mirrored, whole[:, :, ::-1])
        assert whole.shape == image.shape
    plain = np.full_like(image, 77)
    assert all(np.array_equal(view, plain) for view in ref.views_of(plain, 6))
    cut = 27 * size // 32
    for view, corner in ((views[2], image[:, :cut, :cut]), (views[4], image[:, size - cut :, size - cut :])):
        assert np.array_equal(view[:, 0, 0], corner[:, 0, 0])  # the first pixel lies before the first centre
        assert int(view.max()) <= int(corner.max())
        assert int(view.min()) >= int(corner.min())
        assert abs(view.astype(float).mean() - corner.mean()) < 12


@pytest.mark.parametrize("size", [8, 12, 16, 24])
@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_core_learns_the_means_over_the_views(tmp_path: Path, size: int, views: int) -> None:
    network, tensors = tiny_model.make_model(3, image_size=size, widths=(8, 12), blocks=(1, 1))
    model = write_model(tmp_path / "tiny.model", network, tensors, {})
    reference = ref.ReferenceNetwork(network, tensors)
    learner = new_learner(model, views=views, near_equal=0, capacity=30, threads=3)
    images = tiny_model.random_images(4, 20, size)
    learner.learn(images, [str(i) for i in range(20)])  # a class for each: its sum is the picture's features
    seen = np.stack([reference.features(reference.latents(view)).astype(np.int64) for view in ref.views_of(images, views)])
    assert np.array_equal(learner._core["sums"], ref.divr(seen.sum(0), views))
    assert np.array_equal(learner.features(images), seen[0])  # of the picture as it is
    assert learner._core["count"].tolist() == [1] * 20
