"""One schema: the core's lists of settings and of a block's values, and what follows from them in Python and in the documentation."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from new_learner import new_learner, settings_of
from reference.files import unpack
from test_tail import make

from bitreplay import Settings, TailSettings, _engine
from bitreplay.settings import RANGES, TAIL_NAMES


def test_python_has_the_cores_settings_and_their_initial_values() -> None:
    assert {field.name for field in fields(Settings)} - {"tail"} | set(TAIL_NAMES) == set(RANGES)
    assert [TAIL_NAMES[name] for name in TAIL_NAMES] == [field.name for field in fields(TailSettings)]
    assert Settings(tail=TailSettings()).for_core() == Settings().for_core() | {"train_blocks": 2}
    assert Settings().for_core() == {name: initial if kind != "head" else "lda" for name, kind, initial, *_ in _engine.settings_table()}


def test_every_setting_is_documented() -> None:
    for kind in (Settings, TailSettings):
        documented = re.findall(r"^    ([a-z_, ]+) : ", kind.__doc__ or "", re.M)
        assert sorted(name for names in documented for name in names.split(", ")) == sorted(field.name for field in fields(kind))


@pytest.mark.parametrize("name", RANGES)
def test_what_a_state_has_of_a_setting_is_what_was_set(name: str) -> None:
    allowed = RANGES[name]
    values = {allowed.least, allowed.most, (allowed.least + allowed.most) // 3} if allowed.bits or allowed.kind == "count" else set()
    for value in values | set(allowed.choices if allowed.kind == "one_of" else ()):
        found = allowed.from_core(value) if (name, value) != ("lesson_images", 0) else None
        if (name, value) == ("train_blocks", 0):
            continue  # tail=None
        settings = settings_of({"capacity": 1, "train_blocks": int(name in TAIL_NAMES), name: found})
        assert settings.for_core()[name] == value
        assert Settings.from_core(settings.for_core()) == settings


@pytest.mark.parametrize("weight_bits", [1, 8, 16])
@pytest.mark.parametrize("family", ["quicknet", "reactnet", "birealnet"])
def test_a_state_keeps_the_values_of_a_block_that_the_core_lists(tmp_path: Path, family: str, weight_bits: int) -> None:
    model, _, _ = make(tmp_path, family)
    learner = new_learner(model, capacity=10, train_blocks=1, weight_bits=weight_bits, threads=1)
    _, tensors = unpack(learner.to_bytes(), "state", "s")
    kept = {
        name.removeprefix("tail.0."): (str(values.dtype), values.size) for name, values in tensors.items() if name.startswith("tail.0.")
    }
    assert kept == {name: (str(values.dtype), values.size) for name, values in learner._core["tail"][0].items()}
    assert ("shadow" in kept, "bits" in kept) == (weight_bits > 1, weight_bits == 1)
    assert "multiplier" in kept
