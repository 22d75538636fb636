"""Model files with a `down`, and features without ReLU: what docs/formats.md says of them is asked for."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from reference.files import pack

from bitreplay import FormatError, Learner, Model, _engine

FLAGS = {"relu": False, "threshold": True, "activation": True}
IN, OUT = 8, 20
PLACE = 3  # of the down: behind a stem of two convolutions and one that widens
PREFIX = f"prefix.{PLACE}"
Tensors = dict[str, np.ndarray]


def tiny(**flags: bool) -> tuple[dict[str, Any], Tensors]:
    network, tensors = tiny_model.make_model(1, image_size=8, widths=(IN, OUT), blocks=(0, 0), stem_strides=(2, 1), down={**FLAGS, **flags})
    assert network["prefix"][PLACE]["op"] == "down"
    return network, tensors


def model(network: dict[str, Any], tensors: Tensors) -> Model:
    return Model(pack("model", {"network": json.dumps(network), "card": "{}"}, tensors), "m")


def with_last(tensors: Tensors, name: str, value: int) -> Tensors:
    values = tensors[f"{PREFIX}.{name}"].copy()
    values.reshape(-1)[-1] = value
    return {**tensors, f"{PREFIX}.{name}": values}


def test_a_model_with_a_down_learns_and_travels_with_its_state(tmp_path: Path) -> None:
    learner = new_learner(model(*tiny()), capacity=3, threads=2)
    assert learner.model.info()["latent_bits"] == 2 * 2 * OUT
    images = tiny_model.random_images(1, 6, 8)
    learner.learn(images, list("ababcc"))
    learner.save(tmp_path / "s")
    assert np.array_equal(Learner.load(tmp_path / "s").predict(images).probabilities, learner.predict(images).probabilities)


def test_the_bytes_of_a_down_are_those_that_it_takes() -> None:
    network, tensors = tiny()
    gc.collect()
    before = _engine.memory()[0]
    sizes = (made := model(network, tensors)).info()["bytes"]
    assert _engine.memory()[0] - before == sizes["network"]
    _engine.reset_memory_peak()
    made.network.latents(tiny_model.random_images(1, 3, 8))
    assert _engine.memory()[1] - before == sizes["network"] + sizes["forward_scratch_per_thread"]


@pytest.mark.parametrize(
    "flags", [{}, {"relu": True}, {"threshold": False}, {"activation": False}, {"threshold": False, "activation": False}]
)
def test_flags_say_which_tensors_there_are(flags: dict[str, bool]) -> None:
    network, tensors = tiny(**flags)
    assert model(network, tensors).network.feature_count == OUT
    op = network["prefix"][PLACE]
    for name in ("relu", "threshold", "activation"):
        if not op[name]:  # false where it is not given
            del op[name]
    without = model(network, tensors)
    images = tiny_model.random_images(2, 3, 8)
    assert np.array_equal(without.network.latents(images), model(*tiny(**flags)).network.latents(images))
    for name, brings in (("threshold", "threshold"), ("activation", "alpha")):
        if name in op:
            with pytest.raises(FormatError, match=rf"expected no tensor prefix\.{PLACE}\."):
                model({**network, "prefix": [*network["prefix"][:PLACE], {k: v for k, v in op.items() if k != name}]}, tensors)
        else:
            with pytest.raises(FormatError, match=rf"tensor prefix\.{PLACE}\.{brings} is missing"):
                model({**network, "prefix": [*network["prefix"][:PLACE], {**op, name: True}]}, tensors)


BAD_VALUES: list[tuple[str, list[Any]]] = [
    ("op", ["Down", "up", None]),
    ("in", [0, 7, 9, 1025, True, "8", None]),
    ("out", [0, 19, 21, 1025, 10**12, 20.0, None]),
    ("shift", [-1, 31, "0", None]),
    ("shortcut_shift", [-1, 47, 1.0, None]),
    *[(name, [0, 1, None, "true"]) for name in ("relu", "threshold", "activation")],
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_VALUES for value in values])
def test_a_description_that_does_not_fit_is_refused(name: str, value: Any) -> None:
    network, tensors = tiny()
    network["prefix"][PLACE][name] = value
    with pytest.raises(
        FormatError, match=rf"m: (network: prefix\[{PLACE}\]\.{name}|tensor prefix\.{PLACE}\.|down: expected 8 input channels)"
    ):
        model(network, tensors)


@pytest.mark.parametrize("name", ["op", "in", "out", "shift", "shortcut_shift"])
def test_a_missing_value_is_refused(name: str) -> None:
    network, tensors = tiny()
    del network["prefix"][PLACE][name]
    with pytest.raises(FormatError, match=rf"prefix\[{PLACE}\]\.{name}: expected"):
        model(network, tensors)


def test_a_tensor_that_does_not_fit_is_refused() -> None:
    network, tensors = tiny()
    names = [name for name in tensors if name.startswith(f"{PREFIX}.")]
    assert len(names) == 4 + 3 + 1 + 4
    for name in names:
        tensor = tensors[name]
        for wrong in (tensor.astype(np.float32), tensor[:-1], tensor[None], np.concatenate([tensor, tensor])):
            with pytest.raises(FormatError, match=rf"tensor {name}: expected {tensor.dtype} "):
                model(network, {**tensors, name: wrong})
        with pytest.raises(FormatError, match=f"tensor {name} is missing"):
            model(network, {key: value for key, value in tensors.items() if key != name})
    with pytest.raises(FormatError, match=rf"tensor prefix\.{PLACE}\.threshold: expected int16 \({IN},\)"):
        model(network, {**tensors, f"{PREFIX}.threshold": np.zeros(OUT, np.int16)})


BOUNDS: list[tuple[str, int, int, str]] = [  # tensor, the last value that is legal, the first that is not, message
    ("mean", 9 * IN, 9 * IN + 1, r"down mean: expected magnitudes up to 72, 9 \* input channels"),
    ("mean", -9 * IN, -9 * IN - 1, r"down mean: expected magnitudes up to 72, 9 \* input channels"),
    ("bias", 2**29, 2**29 + 1, r"down bias: expected magnitudes up to 2\^29"),
    ("bias", -(2**29), -(2**29) - 1, r"down bias: expected magnitudes up to 2\^29"),
    ("shortcut_bias", 2**61 - 1, 2**61, r"shortcut_bias: expected magnitudes below 2\^61"),
    ("shortcut_bias", -(2**61) + 1, -(2**63), r"shortcut_bias: expected magnitudes below 2\^61"),
    ("weight", 2**IN - 1, 2**IN, "down weight: unused bits must be 0"),
    ("weight", 2**IN - 1, 2**63, "down weight: unused bits must be 0"),
    ("shortcut_weight", 2**IN - 1, 2**IN, "down shortcut_weight: unused bits must be 0"),
    ("shortcut_weight", 2**IN - 1, 2**63, "down shortcut_weight: unused bits must be 0"),
]


@pytest.mark.parametrize(("name", "legal", "illegal", "message"), BOUNDS)
def test_parameters_are_legal_up_to_their_bounds(name: str, legal: int, illegal: int, message: str) -> None:
    network, tensors = tiny()
    model(network, with_last(tensors, name, legal))
    with pytest.raises(FormatError, match=f"m: {message}"):
        model(network, with_last(tensors, name, illegal))


@pytest.mark.parametrize("size", [1, 6, 10])
def test_an_odd_map_is_refused(size: int) -> None:
    network, tensors = tiny()
    network["image_size"] = size  # halved by the stem
    with pytest.raises(FormatError, match="down: expected an even map"):
        model(network, tensors)


def test_a_down_behind_the_cut_is_refused() -> None:
    network, tensors = tiny()
    network["tail"][0] = {**network["prefix"][PLACE], "channels": OUT}
    with pytest.raises(FormatError, match=r"tail\[0\]\.op: expected block, got 'down'"):
        model(network, tensors)


@pytest.mark.parametrize("value", [0, 1, None, "false", []])
def test_features_relu_is_true_or_false(value: Any) -> None:
    network, tensors = tiny()
    for legal in (True, False):
        network["features"]["relu"] = legal
        model(network, tensors)
    network["features"]["relu"] = value
    with pytest.raises(FormatError, match=r"features\.relu: expected true or false"):
        model(network, tensors)
