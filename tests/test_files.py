"""Files: what is damaged, foreign or hostile is a FormatError before anything is built; a save is whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from reference.files import pack, unpack

import bitreplay.container
import bitreplay.model
from bitreplay import FormatError, Learner, Model, _engine
from bitreplay.model import write_model

NO_DIGEST = b"0" * 64
MAX_BYTES = 50_000_000  # no file of this module may make the reader allocate more

Tensors = dict[str, np.ndarray]


# -- tools --------------------------------------------------------------------------------------------------------------------


def seal(body: bytes) -> bytes:
    """Put the right digest in place of the first 64 zeros."""
    assert NO_DIGEST in body
    return body.replace(NO_DIGEST, hashlib.sha256(body).hexdigest().encode(), 1)


def with_header(text: bytes, data: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return seal(len(text).to_bytes(8, "little") + text + data)


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header with its digest zeroed, and the data."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["digest"] = NO_DIGEST.decode()
    return header, content[8 + length :]


def edited(content: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the file with a changed header and a digest that fits."""
    header, data = parts(content)
    edit(header)
    return with_header(json.dumps(header).encode(), data)


class Shelf:
    """Files of one learner: taught on a custom model, which its state carries."""

    def __init__(self, folder: Path, head: str = "lda") -> None:
        self.folder = folder
        self.network, self.tensors = tiny_model.make_model(3, image_size=8, widths=(8,), blocks=(1,), stem_strides=(2, 2))
        self.model = write_model(folder / "tiny.model", self.network, self.tensors, {"name": "tiny"})
        self.model_bytes = (folder / "tiny.model").read_bytes()
        self.learner = Learner.new(self.model, capacity=4, threads=1, near_equal=0, head=head)
        self.images = tiny_model.random_images(1, 6, 8)
        self.learner.learn(self.images, ["a", "b", "c", "b", "b", "c"])
        self.learner.save(folder / "s")
        self.state_bytes = (folder / "s").read_bytes()
        metadata, self.state_tensors = unpack(self.state_bytes, "state", "s")
        self.state_metadata = {key: value for key, value in metadata.items() if key != "digest"}

    def state(self, tensors: Tensors | None = None, **metadata: str) -> bytes:
        """Return the state with other content, sealed."""
        return pack("state", {**self.state_metadata, **metadata}, {**self.state_tensors, **(tensors or {})})

    def settings(self, **values: Any) -> str:
        return json.dumps({**json.loads(self.state_metadata["settings"]), **values})


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="session", params=["lda", "cwr"])
def either(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A shelf for each kind of head."""
    return Shelf(tmp_path_factory.mktemp("either"), request.param)


def load(content: bytes, folder: Path, **arguments: Any) -> Learner:
    path = folder / "file"
    path.write_bytes(content)
    return Learner.load(path, **arguments)


@pytest.fixture
def small_memory() -> Iterator[None]:
    """Fails the test that makes Python, numpy or the core allocate much; for hostile sizes."""
    _engine.reset_memory_peak()
    before = _engine.memory()[0]
    tracemalloc.start()
    yield
    python_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert python_peak < MAX_BYTES
    assert _engine.memory()[1] - before < MAX_BYTES


def test_the_tools_of_this_module_make_sound_files(shelf: Shelf, tmp_path: Path) -> None:
    assert len(shelf.state_bytes) <= 64 * 1024
    assert shelf.state() == shelf.state_bytes
    for content in (shelf.state_bytes, edited(shelf.state_bytes, lambda header: None)):
        loaded = load(content, tmp_path)
        assert loaded.names == ["a", "b", "c"]
        assert np.array_equal(loaded.predict(shelf.images).probabilities, shelf.learner.predict(shelf.images).probabilities)
    assert Model(shelf.model_bytes, "m").digest == shelf.model.digest


# -- damage -------------------------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    content = shelf.state_bytes
    header = 8 + int.from_bytes(content[:8], "little")
    for length in [*range(header + 9), *range(header + 9, len(content), 11), len(content) - 1]:
        with pytest.raises(FormatError):
            _engine.StateFile(content[:length], "s")
    for length in [0, 7, 8, 100, header, len(content) // 2, len(content) - 1]:
        with pytest.raises(FormatError, match="cut short"):
            load(content[:length], tmp_path)


def test_every_flipped_byte_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    content = shelf.state_bytes
    header = 8 + int.from_bytes(content[:8], "little")
    for place in [*range(header), *range(header, len(content), 13)]:
        for change in (0x01, 0x20, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= change
            with pytest.raises(FormatError):
                _engine.StateFile(bytes(damaged), "s")
    for place in [*range(0, header, 97), *range(header, len(content), 997)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(FormatError):
            load(bytes(damaged), tmp_path)


def test_a_flipped_byte_inside_the_carried_model_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    for place in range(0, len(shelf.model_bytes), 211):
        damaged = np.frombuffer(shelf.model_bytes, np.uint8).copy()
        damaged[place] ^= 0x10
        with pytest.raises(FormatError, match=r"file: model: "):
            load(shelf.state({"model": damaged}), tmp_path)  # its own digest fits: the model's does not


def test_bytes_too_many_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="digest"):
        load(shelf.state_bytes + b"\0", tmp_path)
    header, data = parts(shelf.state_bytes)
    with pytest.raises(FormatError, match="tensors cannot be read"):
        load(with_header(json.dumps(header).encode(), data + b"\0" * 8), tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 200, b"P6 1 1 255 \0\0\0", b"{}" * 50, (2).to_bytes(8, "little") + b"{}"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(FormatError, match="expected a bitreplay state"):
        load(content, tmp_path)
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(FormatError, match="expected a bitreplay model"):
        Model.load(tmp_path / "m")


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Learner.load(tmp_path / "none")
    with pytest.raises(IsADirectoryError):
        Learner.load(tmp_path)


def test_a_file_too_large_is_refused_unread(tmp_path: Path, small_memory: None) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match=f"expected at most {1 << 30} bytes, got {1 << 40}"):
        Learner.load(tmp_path / "sparse")


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/stdin"])
def test_what_is_no_plain_file_is_refused_unread(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    if not Path(name).exists():
        pytest.skip(f"this system has no {name}")
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} is read, without end"))
    for read in (Learner.load, Model.load):
        with pytest.raises((FormatError, OSError), match=name):
            read(name)


def test_a_model_is_no_state_and_a_state_no_model(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="expected a bitreplay state, got 'model'"):
        load(shelf.model_bytes, tmp_path)
    (tmp_path / "s").write_bytes(shelf.state_bytes)
    with pytest.raises(FormatError, match="expected a bitreplay model, got 'state'"):
        Learner.new(tmp_path / "s")
    with pytest.raises(FormatError, match="expected a bitreplay state, got 'picture'"):
        load(shelf.state(bitreplay="picture"), tmp_path)


@pytest.mark.parametrize("version", ["2", "", "01", "1.0", "x"])
def test_another_version_is_refused(shelf: Shelf, tmp_path: Path, version: str) -> None:
    with pytest.raises(FormatError, match=f"expected version 1, got '{version}'; install"):
        load(shelf.state(version=version), tmp_path)


def test_missing_metadata_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    for key in ("bitreplay", "version", "digest", "model", "settings", "names", "experience"):
        header, data = parts(shelf.state_bytes)
        del header["__metadata__"][key]
        header["__metadata__"]["spare"] = NO_DIGEST.decode()
        with pytest.raises(FormatError):
            load(with_header(json.dumps(header).encode(), data), tmp_path)


def test_a_digest_that_is_no_text_of_64_digits_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    own = json.loads(shelf.state_bytes[8 : 8 + int.from_bytes(shelf.state_bytes[:8], "little")])["__metadata__"]["digest"].encode()
    for other in (b"\\ud800" * 10 + b"0000", b"F" * 64, b"0" * 64, own.upper(), b" " * 64):
        with pytest.raises(FormatError):
            load(shelf.state_bytes.replace(own, other, 1), tmp_path)


# -- hostile headers ----------------------------------------------------------------------------------------------------------


def change(name: str, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(values)


def add(**entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header.update(extra={"dtype": "U8", "shape": [0], "data_offsets": [0, 0], **entry})


HUGE = 1 << 40
HEADERS = {
    "huge shape": change("head.feature_sum", shape=[HUGE, 8]),
    "product of the shape overflows": change("head.feature_sum", shape=[1 << 32, 1 << 32]),
    "empty and huge": change("replay.labels", shape=[HUGE, 0]),
    "largest dimension": change("replay.labels", shape=[2**64 - 1, 0]),
    "dimension above 64 bits": change("replay.labels", shape=[2**64]),
    "negative dimension": change("replay.labels", shape=[-4]),
    "fractional dimension": change("replay.labels", shape=[4.0]),
    "70 dimensions": change("replay.labels", shape=[1] * 69 + [4]),
    "huge offsets": change("replay.labels", data_offsets=[HUGE, HUGE + 8]),
    "offsets beyond the data": change("replay.rows", data_offsets=[0, HUGE]),
    "offsets backwards": change("replay.labels", data_offsets=[8, 0]),
    "negative offset": change("replay.labels", data_offsets=[-8, 0]),
    "offsets of another": lambda header: header["replay.seen"].update(data_offsets=header["replay.rows"]["data_offsets"]),
    "no offsets": lambda header: header["replay.labels"].pop("data_offsets"),
    "no object": lambda header: header.update({"replay.labels": 7}),
    "type that is none": change("replay.labels", dtype="U17"),
    "type numpy has not": change("replay.labels", dtype="BF16"),
    "type of four bits": change("replay.labels", dtype="F4", shape=[16]),
    "empty tensor beside": add(),
    "huge empty tensor beside": add(shape=[2**63, 0]),
    "metadata that are no text": lambda header: header["__metadata__"].update(spare=5),
    "metadata that are no object": lambda header: header.update({"__metadata__": [NO_DIGEST.decode()]}),
}


OF_A_MODEL = {
    "head.feature_sum": "features.weight", "replay.labels": "cut.direction", "replay.rows": "prefix.0.weight", "replay.seen": "cut.alpha",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused(shelf: Shelf, tmp_path: Path, small_memory: None, name: str) -> None:
    for content in (shelf.state_bytes, shelf.model_bytes):
        kind = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["bitreplay"]
        header, data = parts(content)
        if kind == "model":  # the same attack on tensors of a model
            names = {v: k for k, v in OF_A_MODEL.items()}
            header = {names.get(key, key): value for key, value in header.items()}
        HEADERS[name](header)
        if kind == "model":
            header = {OF_A_MODEL.get(key, key): value for key, value in header.items()}
        hostile = with_header(json.dumps(header).encode(), data)
        with pytest.raises(FormatError):
            load(hostile, tmp_path) if kind == "state" else Model(hostile, "m")


@pytest.mark.parametrize(
    "extra",
    [b"NaN", b"-Infinity", b"9" * 5000, b"[" * 3000 + b"]" * 3000, b"[" * 300_000 + b"]" * 300_000, b'{"a":' * 100_000, b'"\\ud800"'],
)
def test_hostile_json_in_the_header_is_refused(shelf: Shelf, tmp_path: Path, small_memory: None, extra: bytes) -> None:
    header, data = parts(shelf.state_bytes)
    with pytest.raises(FormatError):
        load(with_header(json.dumps(header).encode()[:-1] + b', "extra": ' + extra + b"}", data), tmp_path)


@pytest.mark.parametrize("length", [0, 1, 1 << 31, (1 << 63) - 1, (1 << 64) - 1])
def test_a_hostile_length_of_the_header_is_refused(shelf: Shelf, tmp_path: Path, small_memory: None, length: int) -> None:
    with pytest.raises(FormatError):
        load(length.to_bytes(8, "little") + shelf.state_bytes[8:], tmp_path)


# -- states whose digest fits and whose content does not -------------------------------------------------------------------------


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


# -- which model --------------------------------------------------------------------------------------------------------------


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
    learner = Learner.new(shipped, capacity=4, threads=1)
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
    assert np.array_equal(loaded._core.rows(), shelf.learner._core.rows())
    # with another package it needs its model
    (bitreplay.model._FOLDER / "tiny-8.model").unlink()
    with pytest.raises(FormatError, match=f"made for model {shelf.model.digest[:12]}, which is not in this package"):
        Learner.load(tmp_path / "s")
    assert Learner.load(tmp_path / "s", model=shelf.folder / "tiny.model").names == ["a", "b", "c"]


# -- model files --------------------------------------------------------------------------------------------------------------

CONV = {"op": "conv", "in": 3, "out": 4, "kernel": 1, "stride": 1, "depthwise": False, "relu": True, "shift": 0, "exponent": 8}
BLOCK = {"op": "block", "channels": 4, "shift": 0, "exponent": 8}
POOL = {"op": "pool", "channels": 4, "exponent": 8}


def plain(*prefix: dict[str, Any], image_size: int = 4, tail: int = 1) -> tuple[dict[str, Any], Tensors]:
    """Make a network of these operations whose parameters are all 0, legal or not; its tensors have the shapes that it asks for."""
    channels, tensors = 3, {}
    operations = [(f"prefix.{i}", operation) for i, operation in enumerate(prefix)]
    channels = next((o.get("out", o["channels"] if o["op"] == "block" else None) for o in reversed(prefix) if o["op"] != "pool"), 3)
    block = {**BLOCK, "channels": channels}
    operations += [(f"tail.{i}", block) for i in range(tail)]
    for name, operation in operations:
        if operation["op"] == "conv":
            out, kernel = operation["out"], operation["kernel"]
            shape = (out, kernel, kernel) if operation["depthwise"] else (out, kernel, kernel, operation["in"])
            tensors[f"{name}.weight"] = np.zeros(shape, np.int8)
            tensors[f"{name}.multiplier"] = np.zeros(out, np.int16)
            tensors[f"{name}.bias"] = np.zeros(out, np.int64)
        elif operation["op"] == "block":
            c = operation["channels"]
            tensors[f"{name}.weight"] = np.zeros((c, 3, 3, (c + 63) // 64), np.uint64)
            tensors[f"{name}.mean"] = np.zeros(c, np.int16)
            tensors[f"{name}.multiplier"] = np.zeros(c, np.int16)
            tensors[f"{name}.bias"] = np.zeros(c, np.int32)
            if name.startswith("tail"):
                tensors[f"{name}.shadow"] = np.zeros((c, 3, 3, c), np.int8)
    for name, dtype in (("threshold", np.int32), ("direction", np.uint8), ("alpha", np.int16)):
        tensors[f"cut.{name}"] = np.zeros(channels, dtype)
    tensors["features.pool_multiplier"] = np.zeros(channels, np.int32)
    tensors["features.weight"] = np.zeros((channels, channels), np.int8)
    tensors["features.multiplier"] = np.zeros(channels, np.int16)
    tensors["features.bias"] = np.zeros(channels, np.int64)
    features = {"channels": channels, "pool_shift": 0, "shift": 0, "feature_bits": 5}
    cut = {"channels": channels, "exponent": 8}
    network = {"image_size": image_size, "prefix": list(prefix), "cut": cut, "tail": [block] * tail, "features": features}
    return json.loads(json.dumps(network)), tensors


def model_file(network: dict[str, Any] | str, tensors: Tensors) -> bytes:
    text = network if isinstance(network, str) else json.dumps(network)
    return pack("model", {"network": text, "card": "{}"}, tensors)


def test_a_plain_network_is_a_model() -> None:
    model = Model(model_file(*plain(CONV, POOL, BLOCK)), "m")
    assert model.info()["latent_bits"] == 2 * 2 * 4
    assert Model(model_file(*plain(tail=0)), "m").network.feature_count == 3
    learner = Learner.new(model, capacity=2)
    learner.learn(np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"])
    assert learner.predict(np.zeros((1, 4, 4, 3), np.uint8)).names == ["a"]  # all equal: the first


BAD_VALUES: list[tuple[tuple[str | int, ...], Any]] = [
    *[(("image_size",), value) for value in (0, -1, 1025, 10**12, True, "4", 4.0, None)],
    *[(("prefix",), value) for value in (None, {}, "conv", 5, [7], [[]], [None])],
    *[(("prefix", 0, "op"), value) for value in ("exec", "Conv", None, 1, ["conv"])],
    *[(("prefix", 0, "in"), value) for value in (0, 1, 4, 2049, 10**12, True)],
    *[(("prefix", 0, "out"), value) for value in (0, 3, 5, 2049, 10**12)],
    *[(("prefix", 0, "kernel"), value) for value in (0, 2, 3, 5, 1.0)],
    *[(("prefix", 0, "stride"), value) for value in (0, 3, -1, None)],
    *[(("prefix", 0, "shift"), value) for value in (-1, 47, 10**9, "0")],
    *[(("prefix", 0, name), value) for name in ("depthwise", "relu") for value in (0, 1, None, "false")],
    (("prefix", 0, "depthwise"), True),
    *[(("prefix", 2, "channels"), value) for value in (0, 3, 5, 1025, 10**12)],
    *[(("prefix", 2, "shift"), value) for value in (-1, 31)],
    *[(("prefix", 1, "channels"), value) for value in (0, 3, 5, "4")],
    *[(("cut",), value) for value in (None, [], 4)],
    *[(("cut", "channels"), value) for value in (0, 3, 5, 10**12)],
    *[(("tail",), value) for value in (None, {}, [POOL], [CONV])],
    *[(("tail", 0, "op"), value) for value in ("pool", "conv", None)],
    *[(("tail", 0, "channels"), value) for value in (3, 5)],
    *[(("features",), value) for value in (None, [])],
    *[(("features", "channels"), value) for value in (0, 3, 5, None)],
    *[(("features", "pool_shift"), value) for value in (-1, 47)],
    *[(("features", "shift"), value) for value in (-1, 47)],
    *[(("features", "feature_bits"), value) for value in (-1, 13, 4.0)],
]


@pytest.mark.parametrize(("path", "value"), BAD_VALUES, ids=lambda v: str(v)[:40])
def test_a_description_that_does_not_fit_is_refused(small_memory: None, path: tuple[str | int, ...], value: Any) -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    place: Any = network
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(FormatError):
        Model(model_file(network, tensors), "m")


def test_a_missing_value_is_refused() -> None:
    for path in [(), ("prefix", 0), ("prefix", 2), ("cut",), ("tail", 0), ("features",)]:
        keys = plain(CONV, POOL, BLOCK)[0]
        for key in path:
            keys = keys[key]
        for name in keys:
            if name == "exponent":  # read by nothing yet
                continue
            network, tensors = plain(CONV, POOL, BLOCK)
            place: Any = network
            for key in path:
                place = place[key]
            del place[name]
            with pytest.raises(FormatError):
                Model(model_file(network, tensors), "m")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 200_000, '{"image_size":' * 100_000, "NaN", '{"image_size": NaN}'])
def test_a_description_that_is_none_is_refused(small_memory: None, text: str) -> None:
    with pytest.raises(FormatError, match="network"):
        Model(model_file(text, plain(CONV, POOL, BLOCK)[1]), "m")


def test_a_tensor_of_a_model_that_does_not_fit_is_refused() -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    for name, tensor in tensors.items():
        for wrong in (tensor.astype(np.float32), tensor[:-1], tensor[None], np.concatenate([tensor, tensor])):
            with pytest.raises(FormatError, match=rf"tensor {name}: expected {tensor.dtype} "):
                Model(model_file(network, {**tensors, name: wrong}), "m")
        with pytest.raises(FormatError, match=f"tensor {name} is missing"):
            Model(model_file(network, {key: value for key, value in tensors.items() if key != name}), "m")
    with pytest.raises(FormatError, match=r"expected no tensor prefix\.1\.weight"):
        Model(model_file(network, {**tensors, "prefix.1.weight": np.zeros(3, np.int8)}), "m")


BOUNDS: list[tuple[str, Any, Any]] = [  # tensor, the last value that is legal, the first that is not
    ("prefix.0.bias", 2**61 - 1, 2**61),
    ("prefix.0.bias", -(2**61) + 1, -(2**61)),
    ("prefix.2.bias", 2**29, 2**29 + 1),
    ("prefix.2.bias", -(2**29), -(2**29) - 1),
    ("tail.0.bias", 2**29, 2**29 + 1),
    ("cut.threshold", 32768, 32769),
    ("cut.threshold", -32768, -32769),
    ("cut.direction", 1, 2),
    ("cut.alpha", -32767, -32768),
    ("features.pool_multiplier", 0, -1),
    ("features.bias", 2**61 - 1, 2**61),
    ("features.bias", -(2**61) + 1, -(2**63)),
    ("prefix.2.weight", 15, 16),  # 4 channels: 4 bits of the word
    ("prefix.2.weight", 15, 2**63),
]


@pytest.mark.parametrize(("name", "legal", "illegal"), BOUNDS)
def test_parameters_are_legal_up_to_their_bounds(name: str, legal: int, illegal: int) -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    changed = tensors[name].copy()
    changed.reshape(-1)[-1] = legal
    Model(model_file(network, {**tensors, name: changed}), "m")
    changed.reshape(-1)[-1] = illegal
    with pytest.raises(FormatError):
        Model(model_file(network, {**tensors, name: changed}), "m")


@pytest.mark.parametrize("legal", [True, False])
def test_weights_whose_sums_would_overflow_are_refused(legal: bool) -> None:
    weights = np.array([-128] * 511 + [127 if legal else -128], np.int8)  # 65535 or 65536 in all
    wide, narrow = {**CONV, "out": 512}, {**CONV, "in": 512, "out": 2}
    for name, prefix in (("prefix.1.weight", (wide, narrow)), ("features.weight", (wide,))):
        network, tensors = plain(*prefix, tail=0)
        tensors[name].reshape(-1, 512)[-1] = weights
        if legal:
            assert Model(model_file(network, tensors), "m").network.feature_count == prefix[-1]["out"]
        else:
            with pytest.raises(FormatError, match="65536"):
                Model(model_file(network, tensors), "m")


def test_shadow_weights_of_another_sign_than_the_bits_are_refused(shelf: Shelf) -> None:
    shadow = shelf.tensors["tail.0.shadow"]
    assert ((shadow < 0) == np.unpackbits(shelf.tensors["tail.0.weight"].view(np.uint8), axis=-1, bitorder="little")[..., :8]).all()
    changed = shadow.copy()
    changed[0, 0, 0, 0] = -1 if changed[0, 0, 0, 0] >= 0 else 1
    with pytest.raises(FormatError, match="shadow"):
        Model(model_file(shelf.network, {**shelf.tensors, "tail.0.shadow": changed}), "m")


def test_maps_that_do_not_fit_are_refused(small_memory: None) -> None:
    cases = [
        (plain(CONV, POOL, image_size=3), "pool: expected an even map"),
        (plain({**CONV, "stride": 2}, POOL, image_size=5), "pool: expected an even map"),
        (plain(CONV, POOL, image_size=1), "pool: expected an even map"),
        (plain(CONV, image_size=257), "at most 65536 pixels"),
        (plain({**CONV, "out": 65}, image_size=1024), r"more than 2\^26 values"),
        (plain(CONV, *[BLOCK] * 200, tail=57), "more than 256 operations"),
        (plain(*[CONV, {**CONV, "in": 4, "out": 3}] * 129), "at most 256 operations"),
        (plain({**CONV, "out": 1025}), "channels: expected 1 to 1024"),
    ]
    for (network, tensors), message in cases:
        with pytest.raises(FormatError, match=message):
            Model(model_file(network, tensors), "m")
    assert Model(model_file(*plain(CONV, image_size=256)), "m").info()["latent_bits"] == 4 * 65536


def test_a_card_is_shown_and_never_trusted() -> None:
    network, tensors = plain(CONV)
    text = json.dumps(network)
    assert Model(pack("model", {"network": text}, tensors), "m").card == {}
    assert Model(pack("model", {"network": text, "card": "[1]"}, tensors), "m").card == {}
    for card in ("", "{", "[" * 200_000, "[" * 33 + "]" * 33, '{"name": "\\ud800"}', "1" * 5000):
        with pytest.raises(FormatError, match="card: expected JSON"):
            Model(pack("model", {"network": text, "card": card}, tensors), "m")


def test_a_model_that_is_not_sound_is_not_written(tmp_path: Path) -> None:
    network, tensors = plain(CONV, POOL, image_size=3)
    with pytest.raises(FormatError):
        write_model(tmp_path / "m", network, tensors, {})
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_gives_the_same_bytes() -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    backwards = dict(reversed(tensors.items()))
    assert len({model_file(network, t) for t in (tensors, backwards) for _ in range(3)}) == 1


# -- atomic saving --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(shelf: Shelf, tmp_path: Path) -> tuple[Learner, Path, bytes]:
    """A learner with a lesson more than the file at the path holds, and that file's bytes."""
    path = tmp_path / "folder" / "state"
    path.parent.mkdir()
    path.write_bytes(shelf.state_bytes)
    learner = Learner.load(path)
    learner.learn(shelf.images, ["d"] * 6)
    return learner, path, shelf.state_bytes


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("function", ["open", "fsync", "chmod", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()]
)
def test_a_save_that_fails_leaves_the_old_file(
    saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch, function: str, error: BaseException
) -> None:
    learner, path, old = saved
    descriptors = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with monkeypatch.context() as patch:
        patch.setattr(bitreplay.container.os, function, failing(error))
        with pytest.raises(type(error)) as caught:
            learner.save(path)
    if isinstance(error, OSError):
        assert caught.value.errno == error.errno
        assert caught.value.filename == str(path)
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors
    learner.save(path)  # and when there is room again, it is saved
    assert Learner.load(path).names == ["a", "b", "c", "d"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_leaves_the_old_file(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, old = saved
    real = os.fdopen

    def full(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return real(os.open("/dev/full", os.O_WRONLY), mode)

    with monkeypatch.context() as patch:
        patch.setattr(bitreplay.container.os, "fdopen", full)
        with pytest.raises(OSError, match="No space left") as caught:
            learner.save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_a_folder_that_cannot_be_synced_leaves_one_whole_file(
    saved: tuple[Learner, Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, path, _ = saved
    learner.save(tmp_path / "elsewhere")
    real, calls = os.fsync, []

    def second_fails(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 1:
            raise OSError(errno.EINVAL, "Invalid argument")  # what some file systems say of folders
        real(descriptor)

    monkeypatch.setattr(bitreplay.container.os, "fsync", second_fails)
    learner.save(path)  # the file is in place: nothing has failed that the caller could repair
    assert len(calls) == 2
    assert path.read_bytes() == (tmp_path / "elsewhere").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["state"]


def test_the_file_is_synced_before_it_is_renamed(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, _ = saved
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def recorded_replace(source: str, target: Path) -> None:
        assert Path(source).parent == path.parent  # the same file system
        assert Learner.load(source).names == ["a", "b", "c", "d"]  # whole already
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(bitreplay.container.os, "fsync", recorded_fsync)
    monkeypatch.setattr(bitreplay.container.os, "replace", recorded_replace)
    learner.save(path)
    assert steps == ["file", "rename", "folder"]


def test_a_file_that_may_not_be_written_stays(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, old = saved
    path.chmod(0o444)
    if os.geteuid() == 0:  # root may write everything: say what another user would hear
        monkeypatch.setattr(bitreplay.container.os, "access", lambda name, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match="state"):
        learner.save(path)
    assert path.read_bytes() == old
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert [p.name for p in path.parent.iterdir()] == ["state"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(saved: tuple[Learner, Path, bytes]) -> None:
    learner, path, old = saved
    path.parent.chmod(0o555)
    try:
        with pytest.raises(PermissionError):
            learner.save(path)
        assert path.read_bytes() == old
    finally:
        path.parent.chmod(0o755)


def test_a_path_that_cannot_be_a_file_is_an_error(saved: tuple[Learner, Path, bytes], tmp_path: Path) -> None:
    learner, path, old = saved
    for target, error in [(path.parent, IsADirectoryError), (tmp_path / "none" / "s", FileNotFoundError), (path / "s", NotADirectoryError)]:
        with pytest.raises(error) as caught:
            learner.save(target)
        assert str(target) in str(caught.value)
        assert ".partial" not in str(caught.value).partition("->")[0]  # the caller's path, not ours
    assert path.read_bytes() == old
    assert [p.name for p in path.parent.iterdir()] == ["state"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


def test_saving_through_a_link_keeps_the_link(saved: tuple[Learner, Path, bytes], tmp_path: Path) -> None:
    learner, path, old = saved
    first, second = tmp_path / "link", tmp_path / "link to link"
    first.symlink_to(path)
    second.symlink_to(first)
    learner.save(second)
    assert first.is_symlink()
    assert second.is_symlink()
    assert not path.is_symlink()
    assert path.read_bytes() != old
    assert Learner.load(second).names == ["a", "b", "c", "d"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link", "link to link"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o777])
def test_saving_keeps_the_mode_of_the_file(saved: tuple[Learner, Path, bytes], mode: int) -> None:
    learner, path, _ = saved
    path.chmod(mode)
    learner.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_new_files_have(saved: tuple[Learner, Path, bytes], mask: int) -> None:
    learner, path, _ = saved
    before = os.umask(mask)
    try:
        learner.save(path.parent / "new")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((path.parent / "new").stat().st_mode) == 0o666 & ~mask


def test_a_relative_path_and_a_long_name_can_be_saved(saved: tuple[Learner, Path, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    learner, path, _ = saved
    monkeypatch.chdir(path.parent)
    learner.save("here")
    name = "n" * 255  # the longest that file systems take
    learner.save(name)
    assert (path.parent / "here").read_bytes() == (path.parent / name).read_bytes()
