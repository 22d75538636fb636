"""States whose digest fits and whose content does not, and which model a state belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from reference.files import pack, unpack
from sealed_files import Shelf, Tensors, load

import bitreplay.disk
import bitreplay.model
from bitreplay import FormatError, Learner
from bitreplay.model import write_model


def test_a_missing_or_additional_tensor_is_refused(either: Shelf, tmp_path: Path) -> None:
    for name in either.state_tensors:
        if name == "model":
            continue
        rest = {key: value for key, value in either.state_tensors.items() if key != name}
        with pytest.raises(FormatError, match=r"tensor (head|replay)\."):
            load(pack("state", either.state_metadata, rest), tmp_path)
    for more in ("more", "head.weight" if either.learner.settings.head == "lda" else "head.moment"):
        with pytest.raises(FormatError, match=rf"expected no tensor {more}"):
            load(either.state({more: np.zeros(1, np.uint8)}), tmp_path)


OTHER_TYPE = {"int64": "uint64", "int32": "float32", "uint32": "int32", "uint64": "int64", "uint16": "int16"}


def test_a_wrong_type_or_shape_is_refused(either: Shelf, tmp_path: Path) -> None:
    for name, tensor in either.state_tensors.items():
        if name == "model":
            continue
        wrong = [
            tensor.astype(OTHER_TYPE[str(tensor.dtype)]), tensor.astype("uint8"), tensor[:-1], np.concatenate([tensor, tensor]), tensor[None],
            tensor.reshape(-1)[0], tensor[:0],
        ]  # fmt: skip
        for value in wrong:
            if value.dtype == tensor.dtype and np.atleast_1d(value).shape == tensor.shape:
                continue
            with pytest.raises(FormatError, match=r"head\.|replay\."):
                load(either.state({name: value}), tmp_path)


def test_values_out_of_range_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    tensors = shelf.state_tensors
    labels, seen = tensors["replay.labels"], tensors["replay.seen"]
    assert len(labels) == 4
    assert seen.tolist() == [1, 3, 2]
    few = {"head.count": np.ones(3, np.int64)}
    wrong: list[tuple[Tensors, str]] = [
        ({"replay.labels": np.array([0, 1, 2, 3], np.uint16)}, "replay.labels"),
        ({"replay.labels": np.array([0, 1, 2, 65535], np.uint16)}, "replay.labels"),
        ({"replay.labels": np.array([0, 0, 1, 2], np.uint16)}, "no more rows than were offered"),
        ({"replay.seen": np.array([1, 0, 2], np.uint64)}, "head.count: expected at least one row of each class, and no more than were seen"),
        ({"replay.seen": np.array([1, 3, 2**32], np.uint64)}, "replay.labels"),
        ({"replay.seen": np.array([1, 3, 2**63], np.uint64)}, "replay.labels"),
        ({"replay.seen": np.array([1, 3, 2**64 - 1], np.uint64)}, "replay.labels"),
        ({"replay.seen": np.array([1, 1, 1], np.uint64), **few, "head.feature_sum": tensors["head.feature_sum"] * 0,
          "head.moment": tensors["head.moment"] * 0}, "no more rows than were offered"),
        ({"replay.rows": np.zeros((5, tensors["replay.rows"].shape[1]), np.uint64), "replay.labels": np.array([0, 1, 1, 1, 2], np.uint16)},
         "expected at most 4, got 5"),
    ]  # fmt: skip
    for values, message in wrong:
        with pytest.raises(FormatError, match=message):
            load(shelf.state(values), tmp_path)
    assert load(shelf.state({"replay.labels": np.array([0, 1, 1, 2], np.uint16)}), tmp_path).info()["replay_rows"] == 4


def test_latent_rows_with_unused_bits_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    # 8 channels in words of 64 bits: the core would never write these bits (docs/method.md 3.1)
    rows = shelf.state_tensors["replay.rows"].copy()
    rows[2, 1] |= np.uint64(1 << 8)
    with pytest.raises(FormatError, match=r"replay\.rows: .*unused bits"):
        load(shelf.state({"replay.rows": rows}), tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        '["a", "b"]', '["a", "b", "c", "d"]', '["a", "b", "b"]', '["a", "b", ""]', '["a", "b", 3]', '["a", "b", null]', '{"a": 1}', '"abc"',
        "", "[", "[" * 100_000, "NaN", '["a", "b", "\\u001b[2J"]', '["a", "b", "\\ud800"]', '["a", "b", "c\\n"]',
    ],
)  # fmt: skip
def test_names_that_learn_would_refuse_are_refused(shelf: Shelf, tmp_path: Path, names: str) -> None:
    with pytest.raises(FormatError):
        load(shelf.state(names=names), tmp_path)


@pytest.mark.parametrize("experience", ["", "-1", "1.0", "1e3", "0x1", " 1", "one", "٣", "²", "1" * 30, "4294967296"])
def test_an_experience_that_is_no_count_is_refused(shelf: Shelf, tmp_path: Path, experience: str) -> None:
    with pytest.raises(FormatError, match="experience: expected a count"):
        load(shelf.state(experience=experience), tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"capacity": -1}, {"capacity": 2**24 + 1}, {"capacity": True}, {"capacity": 4.0}, {"capacity": "4"}, {"capacity": None},
        {"seed": -1}, {"seed": 2**64}, {"max_classes": 2}, {"max_classes": 0}, {"max_classes": 2**16}, {"lesson_images": -1},
        {"learning_rate": 0}, {"learning_rate": 2**18 + 1}, {"learning_rate": 0.02}, {"learning_rate": float("nan")}, {"learning_rate": float("inf")},
        {"learning_rate": 10**400}, {"learning_rate": [1]}, {"learning_rate": True}, {"epochs": 0}, {"epochs": 10**9},
        {"head": "knn"}, {"head": 1}, {"head": "cwr"}, {"views": 0}, {"views": 3}, {"views": 2}, {"views": True}, {"shrinkage": 0}, {"shrinkage": 64 * 256 + 1},
        {"shrinkage": float("nan")}, {"pseudo_pictures": -1}, {"near_equal": 2**15 + 1}, {"near_equal": "0"}, {"live_batch": 0}, {"replay_batch": 0}, {"ghosts": -1}, {"ghosts": 10**9}, {"prior_correction": 1},
        {"tail_passes": 0}, {"tail_passes": 10**9}, {"lda_features": 9}, {"lda_features": 10**4}, {"class_priors": 0}, {"unknown": 1},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_new_would_refuse_are_refused(shelf: Shelf, tmp_path: Path, small_memory: None, values: dict) -> None:
    with pytest.raises(FormatError):
        load(shelf.state(settings=shelf.settings(**values)), tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", "{", "[" * 100_000, '{"capacity":' * 50_000])
def test_settings_that_are_no_settings_are_refused(shelf: Shelf, tmp_path: Path, text: str) -> None:
    with pytest.raises(FormatError, match="settings"):
        load(shelf.state(settings=text), tmp_path)


def test_a_missing_setting_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    for name in json.loads(shelf.state_metadata["settings"]):
        values = json.loads(shelf.state_metadata["settings"])
        del values[name]
        with pytest.raises(FormatError, match="settings: expected"):
            load(shelf.state(settings=json.dumps(values)), tmp_path)


def test_a_state_carries_a_custom_model(shelf: Shelf, tmp_path: Path) -> None:
    assert shelf.state_tensors["model"].tobytes() == shelf.model_bytes
    loaded = load(shelf.state_bytes, tmp_path)
    assert loaded.model.digest == shelf.model.digest
    assert loaded.model.card == {"name": "tiny"}
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == shelf.state_bytes
    for given in (shelf.model, shelf.folder / "tiny.model", str(shelf.folder / "tiny.model")):
        assert load(shelf.state_bytes, tmp_path, model=given).names == ["a", "b", "c"]


def test_a_state_of_another_model_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    network, tensors = tiny_model.make_model(4, image_size=8, widths=(8,), blocks=(1,), stem_strides=(2, 2))
    other = write_model(tmp_path / "other.model", network, tensors, {"name": "other"})
    message = f"made for model {shelf.model.digest[:12]}, but other is {other.digest[:12]}; open it with the model it was taught on"
    with pytest.raises(FormatError, match=message):
        load(shelf.state_bytes, tmp_path, model=other)
    content = np.frombuffer((tmp_path / "other.model").read_bytes(), np.uint8)
    with pytest.raises(FormatError, match=message):  # and when another is inside
        load(shelf.state({"model": content}), tmp_path)


def test_a_carried_model_of_a_wrong_type_or_shape_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    inside = shelf.state_tensors["model"]
    for wrong in (inside.astype(np.uint16), inside[None], inside.reshape(-1, 4), inside.view(np.int8)):
        for given in (None, shelf.model):
            with pytest.raises(FormatError, match="model"):
                load(shelf.state({"model": wrong}), tmp_path, model=given)


@pytest.fixture
def shipped(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The custom model is one that ships with the package, and no other does."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny-8.model").write_bytes(shelf.model_bytes)
    monkeypatch.setattr(bitreplay.model, "_FOLDER", tmp_path / "models")
    return "tiny-8"


def test_a_state_does_not_carry_a_shipped_model(shelf: Shelf, tmp_path: Path, shipped: str) -> None:
    learner = new_learner(shipped, capacity=4, threads=1)
    learner.learn(shelf.images, ["a", "b", "c", "b", "b", "c"])
    learner.save(tmp_path / "s")
    content = (tmp_path / "s").read_bytes()
    metadata, tensors = unpack(content, "state", "s")
    assert "model" not in tensors
    assert metadata["model"] == shelf.model.digest
    loaded = Learner.load(tmp_path / "s")
    assert loaded.names == ["a", "b", "c"]
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == content
    assert np.array_equal(loaded._core["rows"], shelf.learner._core["rows"])
    # with another package it needs its model
    (bitreplay.model._FOLDER / "tiny-8.model").unlink()
    with pytest.raises(FormatError, match=f"made for model {shelf.model.digest[:12]}, which does not ship with this package"):
        Learner.load(tmp_path / "s")
    assert Learner.load(tmp_path / "s", model=shelf.folder / "tiny.model").names == ["a", "b", "c"]
