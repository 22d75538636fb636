"""Model files: descriptions, tensors and parameters that do not fit are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from plain_network import BLOCK, CONV, POOL, model_file, plain
from reference.files import pack
from sealed_files import Shelf

from bitreplay import FormatError, Model
from bitreplay.model import write_model


def test_a_plain_network_is_a_model() -> None:
    model = Model(model_file(*plain(CONV, POOL, BLOCK)), "m")
    assert model.info()["latent_bits"] == 2 * 2 * 4
    assert Model(model_file(*plain(tail=0)), "m").network.feature_count == 3
    learner = new_learner(model, capacity=2)
    learner.learn(np.zeros((2, 4, 4, 3), np.uint8), ["a", "b"])
    assert learner.predict(np.zeros((1, 4, 4, 3), np.uint8)).names == ["a"]  # all equal: the first


BAD_VALUES: list[tuple[tuple[str | int, ...], Any]] = [
    *[(("image_size",), value) for value in (0, -1, 1025, 10**12, True, "4", 4.0, None)],
    *[(("prefix",), value) for value in (None, {}, "conv", 5, [7], [[]], [None])],
    *[(("prefix", 0, "op"), value) for value in ("exec", "Conv", None, 1, ["conv"])],
    *[(("prefix", 0, "in"), value) for value in (0, 1, 4, 2049, 10**12, True)],
    *[(("prefix", 0, "out"), value) for value in (0, 3, 5, 2049, 10**12)],
    *[(("prefix", 0, "kernel"), value) for value in (0, 2, 3, 5, 1.0)],
    *[(("prefix", 0, "stride"), value) for value in (0, 5, -1, None)],
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
            if name in ("exponent", "depthwise", "relu"):  # read by nothing yet; false where missing
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
        (plain(*[CONV, {**CONV, "in": 4, "out": 3}] * 257), "at most 512 operations"),
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
