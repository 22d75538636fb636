"""Files that are damaged, foreign or hostile from the first byte on are a FormatError before anything is built."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from sealed_files import NO_DIGEST, Shelf, edited, load, parts, with_header

from bitreplay import FormatError, Learner, Model, _engine


def test_the_tools_of_this_module_make_sound_files(shelf: Shelf, tmp_path: Path) -> None:
    assert len(shelf.state_bytes) <= 64 * 1024
    assert shelf.state() == shelf.state_bytes
    for content in (shelf.state_bytes, edited(shelf.state_bytes, lambda header: None)):
        loaded = load(content, tmp_path)
        assert loaded.names == ["a", "b", "c"]
        assert np.array_equal(loaded.predict(shelf.images).probabilities, shelf.learner.predict(shelf.images).probabilities)
    assert Model(shelf.model_bytes, "m").digest == shelf.model.digest


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
        new_learner(tmp_path / "s")
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
