"""What docs/formats.md says a reader of headers and models refuses, one error and one test each, where its sisters here have none; damage; memory."""

from __future__ import annotations

import gc
import json
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from plain_network import BLOCK, CONV, POOL, model_file, plain
from reference.files import MAX_HEADER, pack, unpack
from safetensors.numpy import load
from sealed_files import parts, with_header
from taught_state import Taught, last

import bitreplay.learner
from bitreplay import FormatError, Model, _engine
from bitreplay.state import parse_state

FULL = os.environ.get("BITREPLAY_ALL_DAMAGE") == "1"  # every bit as well, and 10,000 damages of a shipped model
SHIPPED = sorted((Path(bitreplay.learner.__file__).parent / "models").glob("*.model"))


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return Taught(tmp_path_factory.mktemp("formats"), train_blocks=1)


# -- the header ---------------------------------------------------------------------------------------------------------------


def edit_first(**values: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header["head.saturated"].update(values)


HEADERS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a field more": (edit_first(more=1), "dtype, shape and data_offsets"),
    "a type that is no text": (edit_first(dtype=["I64"]), "a known dtype"),
    "nine sizes": (edit_first(shape=[1] * 9), "at most 8 sizes"),
    "a size that is true": (edit_first(shape=[1, True]), "at most 8 sizes"),
    "a size beyond the file": (edit_first(shape=[0, 1 << 40], data_offsets=[0, 0]), "that the file can hold"),
    "three offsets": (edit_first(data_offsets=[0, 8, 8]), "two data_offsets"),
    "a hole": (lambda header: header.pop("head.saturated"), "data that begin where those before end"),
    "a name that clears the screen": (lambda header: header.update({"\x1b[2J": header.pop("model")}), "can be printed"),
    "a name without end": (lambda header: header.update({"a" * 81: header.pop("model")}), "at most 80 characters"),
    "the name of half a character": (lambda header: header.update({"\ud800": header.pop("model")}), "without its header"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_describes_no_arrays_is_refused(taught: Taught, name: str) -> None:
    change, message = HEADERS[name]
    header, data = parts(taught.content)
    change(header)
    with pytest.raises(FormatError, match=message) as caught:
        parse_state(with_header(json.dumps(header).encode(), data), None, "s")
    assert str(caught.value).isprintable()


def test_values_that_lie_askew_are_refused(taught: Taught) -> None:
    header, data = parts(taught.content)
    askew = {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "b": {"dtype": "I16", "shape": [1], "data_offsets": [1, 3]}}
    with pytest.raises(FormatError, match="'b': expected data at a multiple of the size of a value"):
        parse_state(with_header(json.dumps({"__metadata__": header["__metadata__"], **askew}).encode(), data[:3]), None, "s")


def test_a_header_in_another_encoding_is_refused(taught: Taught) -> None:
    header, data = parts(taught.content)
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        text = json.dumps(header).encode(encoding)
        with pytest.raises(FormatError, match="without its header"):
            parse_state(len(text).to_bytes(8, "little") + text + data, None, "s")


def test_a_header_of_more_than_two_mebibytes_is_refused_unread_and_not_written(taught: Taught) -> None:
    for length, message in [(MAX_HEADER, "without its header"), (MAX_HEADER + 8, f"{MAX_HEADER + 8} bytes, more than {MAX_HEADER}")]:
        with pytest.raises(FormatError, match=message):
            parse_state(length.to_bytes(8, "little") + b" " * (MAX_HEADER + 8), None, "s")
    with pytest.raises(ValueError, match="give shorter names"):
        pack("state", {**taught.words, "names": json.dumps(["a" * MAX_HEADER])}, taught.tensors)


def test_what_is_read_is_what_safetensors_reads(taught: Taught) -> None:
    for content in (taught.content, *(path.read_bytes() for path in SHIPPED)):
        kind = "state" if content is taught.content else "model"
        words, tensors = unpack(content, kind, "file")
        theirs = load(content)
        assert words["bitreplay"] == kind
        assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()} == {
            n: (a.dtype, a.shape, a.tobytes()) for n, a in theirs.items()
        }


# -- models -------------------------------------------------------------------------------------------------------------------

BAD_VALUES: list[tuple[str, str, list[Any]]] = [
    ("prefix", "relu", [0, None, "true"]),
    ("prefix", "threshold", [0, None, "true"]),
    ("prefix", "activation", [0, None, "true"]),
    ("tail", "threshold", [1, None]),
    ("tail", "activation", [1, None]),
    ("tail", "shift", [-1, 31, None]),
    ("tail", "approx_sign", [1, None, "yes"]),
    ("tail", "train_high", [0, None]),
    ("tail", "clip", [-1, 2**31, 1.5, None, True]),
    ("tail", "exponent", [-17, 31, 2.0, None, "8"]),
]


@pytest.mark.parametrize(("part", "name", "value"), [(part, name, v) for part, name, values in BAD_VALUES for v in values], ids=str)
def test_a_block_whose_description_does_not_fit_is_refused(part: str, name: str, value: Any) -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    place = 2 if part == "prefix" else 0
    network[part][place][name] = value
    with pytest.raises(FormatError, match=rf"m: network: {part}\[{place}\]\.{name}: expected "):
        Model(model_file(network, tensors), "m")


def test_the_exponent_of_a_tail_with_approx_sign_is_at_least_0() -> None:
    for exponent, approx, legal in [(-16, False, True), (0, True, True), (-1, True, False)]:
        network, tensors = plain(CONV, POOL, BLOCK)
        network["tail"][0] |= {"exponent": exponent, "approx_sign": approx}
        if legal:
            assert Model(model_file(network, tensors), "m").network.feature_count == 4
        else:
            with pytest.raises(FormatError, match=r"tail\[0\]\.exponent: expected 0 to 30, got -1"):
                Model(model_file(network, tensors), "m")


def test_more_than_256_operations_behind_the_cut_are_refused() -> None:
    network, tensors = plain(CONV)
    with pytest.raises(FormatError, match=r"network\.tail: expected a list of at most 256 operations"):
        Model(model_file({**network, "tail": network["tail"] * 257}, tensors), "m")


@pytest.mark.parametrize("part", ["prefix.2", "tail.0"])
def test_flags_of_a_block_say_which_tensors_there_are(part: str) -> None:
    for flag, names in {"threshold": ["threshold"], "activation": ["alpha", "beta", "high", "low"]}.items():
        network, tensors = plain(CONV, POOL, BLOCK)
        more = {f"{part}.{name}": np.zeros(4, np.int16) for name in names}
        with pytest.raises(FormatError, match=rf"expected no tensor {part}\."):
            Model(model_file(network, {**tensors, **more}), "m")
        network["prefix" if part == "prefix.2" else "tail"][int(part[-1])][flag] = True
        assert Model(model_file(network, {**tensors, **more}), "m").network.feature_count == 4
        for name, tensor in more.items():
            with pytest.raises(FormatError, match=f"tensor {name} is missing"):
                Model(model_file(network, {**tensors, **{key: value for key, value in more.items() if key != name}}), "m")
            for wrong in (tensor.astype(np.int32), tensor[:-1], tensor[None]):
                with pytest.raises(FormatError, match=rf"tensor {name}: expected int16 \(4,\)"):
                    Model(model_file(network, {**tensors, **more, name: wrong}), "m")


BOUNDS = [
    ("prefix.2.mean", 36, 37, "block mean: expected magnitudes up to 36"),
    ("prefix.2.mean", -36, -37, "block mean: expected magnitudes up to 36"),
    ("tail.0.mean", 36, 37, "block mean: expected magnitudes up to 36"),
    ("tail.0.bias", -(2**29), -(2**29) - 1, r"block bias: expected magnitudes up to 2\^29"),
    ("tail.0.weight", None, 16, "block weight: unused bits must be 0"),
    ("cut.alpha", 32767, -32768, "cut alpha: expected -32767 to 32767"),
    ("features.pool_multiplier", 2**31 - 1, -(2**31), "pool_multiplier: expected 0 to 2147483647"),
]


@pytest.mark.parametrize(("name", "legal", "illegal", "message"), BOUNDS)
def test_values_of_a_model_are_legal_up_to_their_bounds(name: str, legal: int | None, illegal: int, message: str) -> None:
    network, tensors = plain(CONV, POOL, BLOCK)
    if legal is not None:
        Model(model_file(network, {**tensors, **last(name, legal)(tensors)}), "m")
    with pytest.raises(FormatError, match=f"m: {message}"):
        Model(model_file(network, {**tensors, **last(name, illegal)(tensors)}), "m")


@pytest.mark.parametrize("name", ["\x1b[2J", "", 5, ["a"], "a" * 81, "a\nb"])
def test_a_card_whose_name_cannot_be_printed_is_not_named(name: Any) -> None:
    network, tensors = plain(CONV)
    model = Model(pack("model", {"network": json.dumps(network), "card": json.dumps({"name": name})}, tensors), "m")
    assert model.name == model.digest[:12]


# -- damage -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, pytest.param(True, marks=pytest.mark.skipif(not FULL, reason="takes a minute"))])
def test_every_byte_and_every_length_counts(taught: Taught, large: bool) -> None:
    content, rng = taught.content, random.Random(1)
    if large:  # a whole state of the shipped backbone: five classes, 40 rows
        learner = new_learner(capacity=40, threads=1)
        learner.learn(tiny_model.random_images(1, 40, 32), list("abcde" * 8))
        content = learner.to_bytes()
    assert len(content) <= 64 * 1024
    for place in range(len(content)):
        for change in [rng.randrange(1, 256), *([1 << bit for bit in range(8)] if FULL and not large else [])]:
            damaged = bytearray(content)
            damaged[place] ^= change
            with pytest.raises(FormatError):
                parse_state(bytes(damaged), None, "s")
        with pytest.raises(FormatError):
            parse_state(content[:place], None, "s")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Flip some bytes, cut, put bytes in, or put a piece of the file elsewhere."""
    at, other, size = rng.randrange(len(content)), rng.randrange(len(content)), rng.choice([1, 8, 64, 4096])
    kind = rng.randrange(4)
    if kind == 0:
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 10, 1000])):
            changed[rng.randrange(len(content)) if rng.random() < 0.9 else rng.randrange(4096)] ^= rng.randrange(1, 256)
        return bytes(changed)
    if kind == 1:
        return content[:at]
    if kind == 2:
        return content[:at] + rng.randbytes(size) + content[at:]
    return content[:at] + content[other : other + size] + content[at + rng.choice([0, size]) :]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_damaged_shipped_model_is_refused_or_predicts_the_same(path: Path) -> None:
    content, rng = path.read_bytes(), random.Random(path.stem)
    sound = Model(content, "m")
    image = tiny_model.random_images(3, 1, sound.network.image_size)
    same = 0
    for _ in range(10_000 // len(SHIPPED) if FULL else 100):
        try:
            model = Model(damaged(content, rng), "m")
        except FormatError:
            continue
        same += 1
        latents = model.network.latents(image)
        assert np.array_equal(latents, sound.network.latents(image))
        assert np.array_equal(model.network.features_of_latents(latents), sound.network.features_of_latents(latents))
    assert same <= 50  # a piece that was put over one just like it


# -- memory -------------------------------------------------------------------------------------------------------------------


def taken(read: Callable[[], object]) -> int:
    """Peak of what Python, numpy and the engine allocate."""
    gc.collect()
    before = _engine.memory()[0]
    _engine.reset_memory_peak()
    tracemalloc.start()
    try:
        read()
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1] + _engine.memory()[1] - before
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_reading_a_shipped_model_takes_half_its_bytes(path: Path) -> None:
    content = path.read_bytes()
    assert taken(lambda: Model(content, "m")) < len(content) / 2


def test_reading_takes_at_most_twice_the_file() -> None:
    wide = {**CONV, "out": 2048}, {**CONV, "in": 2048, "out": 2048}, {**CONV, "in": 2048, "out": 8}  # dense weights take 16 bits each
    for network, tensors in (plain(*wide, tail=0), plain({**CONV, "out": 512}, image_size=1, tail=4)):
        content = model_file(network, tensors)
        assert taken(lambda content=content: Model(content, "m")) < 2 * len(content) + (1 << 18)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b"[[[]]],", b'"\xf0\x9f\x8d\xb5",'])
def test_a_header_of_many_values_takes_no_more_than_its_bytes(unit: bytes) -> None:
    text = b'{"__metadata__":[' + unit * ((MAX_HEADER - 100) // len(unit)) + b"0]}"
    content = len(text).to_bytes(8, "little") + text
    assert taken(lambda: Model(content, "m")) < len(content)
