"""A published QuickNet, file of 2020: the imported integers see ImageNet as LCE does (docs/import.md).  The files lie outside the repository."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from real_pictures import DATA

torch = pytest.importorskip("torch", reason="imports need torch (extra import)")
pytest.importorskip("tflite", reason="imports need tflite (extra import)")
parquet = pytest.importorskip("pyarrow.parquet", reason="the pictures need pyarrow (extra import)")
from PIL import Image  # noqa: E402

from bitreplay.training.importers.import_file import import_file  # noqa: E402
from bitreplay.training.importers.quantise import quantise  # noqa: E402
from bitreplay.training.importers.simplify import simplify  # noqa: E402
from bitreplay.training.importers.tflite import read_tflite  # noqa: E402

FILE, PICTURES = DATA / "models" / "quicknet-2020.tflite", DATA / "models" / "imagenet-125.parquet"
pytestmark = pytest.mark.skipif(not (FILE.is_file() and PICTURES.is_file()), reason=f"{FILE} or {PICTURES.name} is missing")
# What LCE 0.16 answers to the 125 pictures, by the file that `benchmarks/imports/lce_files.py rewrite` makes.
LCE = np.array([int(number) for number in (
    "0 8 16 24 32 40 48 44 738 73 80 88 96 357 112 120 128 136 144 152 160 159 176 159 192 200 208 216 224 232 239 248 206 174 343 "
    "280 288 296 307 312 320 76 336 344 352 294 368 376 375 392 400 436 416 620 432 440 448 351 464 472 480 902 496 504 512 520 "
    "528 408 544 552 560 634 576 693 592 600 608 616 624 632 640 648 656 781 672 680 688 850 707 712 798 728 818 657 752 760 768 "
    "432 563 795 800 515 816 474 832 518 848 856 864 843 880 888 896 843 520 920 928 936 944 952 773 968 976 984 992 "
).split()])  # fmt: skip


def test_the_integers_answer_as_lce_does(tmp_path: Path) -> None:
    table = parquet.read_table(PICTURES)
    images = np.stack([np.asarray(Image.open(io.BytesIO(cell["bytes"])).convert("RGB")) for cell in table.column("image").to_pylist()])
    labels = np.array(table.column("label"))
    graph = simplify(read_tflite(FILE.read_bytes(), FILE.name)[0])
    assert graph.classifier is not None
    quantised, _ = quantise(graph, images[::2])
    from bitreplay.model import write_model

    model = write_model(tmp_path / "q.model", quantised.network, quantised.tensors, {})
    rows = model.network.latents(images)
    assert rows.shape == (125, 64)  # 512 bytes
    weight, bias = graph.classifier
    logits = quantised.features(model.network.features_of_latents(rows)) @ weight.T + bias
    answers = logits.argmax(1)
    assert (answers == labels).mean() > 0.64
    assert np.mean([label in best for label, best in zip(labels, np.argsort(-logits)[:, :5], strict=True)]) > 0.83
    assert (answers == LCE).mean() > 0.72
    assert (labels == LCE).mean() == 0.704


def test_its_operations_are_those_of_the_core(tmp_path: Path) -> None:
    found = import_file(FILE, tmp_path / "q.model", calibrate=PICTURES)
    assert found.operations["concat"] == 3
    assert found.operations["block"] + found.operations["binary"] == 13
    assert found.figures["features_correlation"] > 0.9
