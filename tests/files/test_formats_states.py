"""What docs/formats.md says a reader of states refuses, one error and one test each, where its sisters here have none."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from new_learner import new_learner
from reference.files import pack, unpack
from tail_model import make
from taught_state import Taught, Tensors, last

import bitreplay.learner
from bitreplay import FormatError, Learner, _engine
from bitreplay.state import parse_state


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return Taught(tmp_path_factory.mktemp("states"), train_blocks=1)


def test_the_state_of_these_tests_is_sound(taught: Taught) -> None:
    assert len(taught.content) <= 64 * 1024
    assert taught.changed() == taught.content
    loaded = Learner.from_bytes(taught.content, threads=1)
    assert np.array_equal(loaded.predict(taught.images).probabilities, taught.learner.predict(taught.images).probabilities)


SETTINGS: list[tuple[str, list[Any]]] = [
    ("head", ["knn", None, 1, ["lda"] * 1000]),
    ("views", [0, 3, 7, True, "2", 2.5, [1] * 1000]),
    ("shrinkage", [0, 64 * 256 + 1, 128.0, float("nan"), True, "1", [1] * 1000]),
    ("pseudo_pictures", [-1, 256_001, float("inf"), None]),
    ("near_equal", [-1, 32_769, 0.1, True]),
    ("held_back", [-1, 129, 0.1, True]),
    ("train_blocks", [-1, 257, 1.0]),
    ("forward_bits", [1, 17]),
    ("gradient_bits", [1, 17]),
    ("weight_bits", [0, 2, 32, True, [8]]),
    ("weight_step", [0, 21]),
    ("parameter_step", [-1, 21]),
    ("tail_epochs", [0, 10_001]),
    ("tail_prior", [-1, 257, 0.5, True]),
    ("tail_replay_batch", [0, 257]),
    ("tail_noise", [-1, 129]),
    ("tail_mirror", [1, None]),
    ("tail_distillation", [0, "yes"]),
    ("live_batch", [257]),
    ("replay_batch", [257]),
    ("seed", [1.5]),
    ("lesson_images", [2**24 + 1, True, "5"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS for value in values], ids=lambda v: str(v)[:20])
def test_a_setting_out_of_its_range_is_refused(taught: Taught, name: str, value: Any) -> None:
    with pytest.raises(FormatError, match=f"s: {name}: expected ") as caught:
        parse_state(taught.changed(**{name: value}), None, "s")
    assert len(str(caught.value)) < 300


def test_more_trained_blocks_than_the_model_has_are_refused(taught: Taught) -> None:
    with pytest.raises(FormatError, match="s: train_blocks: expected at most 2, the blocks behind the cut of the model, got 3"):
        parse_state(taught.changed(train_blocks=3), None, "s")


def test_a_tail_without_replay_memory_is_refused(taught: Taught) -> None:
    empty = {"replay.rows": taught.tensors["replay.rows"][:0], "replay.labels": taught.tensors["replay.labels"][:0]}
    with pytest.raises(FormatError, match="s: train_blocks: expected 0 with capacity 0"):
        parse_state(taught.changed(empty, capacity=0), None, "s")


def test_minibatches_that_32_bits_cannot_sum_are_refused(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet", channels=6, image_size=64)  # 16 x 16 pixels at the cut: 256 rows fill 2^16
    learner = new_learner(model, capacity=4, train_blocks=1, threads=1, live_batch=1, tail_replay_batch=254)
    words, tensors = unpack(learner.to_bytes(), "state", "s")
    settings = {**json.loads(words["settings"]), "tail_replay_batch": 255}
    words = {**{key: words[key] for key in ("model", "names", "experience")}, "settings": json.dumps(settings)}
    with pytest.raises(FormatError, match=r"^state: settings: tail_replay_batch: too many rows a step .*; lower it"):
        Learner.from_bytes(pack("state", words, tensors))


def test_settings_are_named_without_their_control_characters(taught: Taught) -> None:
    with pytest.raises(FormatError, match="settings: expected") as caught:
        parse_state(taught.changed(None, **{"\x1b[2J\ud800": 1}), None, "s")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("depth", [10, 400, 900, *range(950, 1000)])
def test_settings_nested_as_deep_as_json_may_be_are_refused(taught: Taught, depth: int) -> None:
    with pytest.raises(FormatError):
        parse_state(
            pack("state", {**taught.words, "settings": '{"shrinkage": ' + "[" * depth + "]" * depth + "}"}, taught.tensors), None, "s"
        )


@pytest.mark.parametrize("digest", ["", "9f31c0", "\x1b[2J" * 16, "\u0663" * 64, "A" * 64])
def test_a_model_digest_that_is_none_is_refused(taught: Taught, digest: str) -> None:
    with pytest.raises(FormatError, match="s: model: expected a digest of 64 hexadecimal digits") as caught:
        parse_state(pack("state", {**taught.words, "model": digest}, taught.tensors), None, "s")
    assert str(caught.value).isprintable()


VALUES: list[tuple[str, int | None, int, str]] = [  # tensor, the last value that is legal, the first that is not, message
    ("head.count", 2, 3, "head.count: expected at least one"),
    ("head.count", 1, 0, "head.count: expected at least one"),
    ("head.count", None, -1, "head.count: expected at least one"),
    ("head.count", None, 2**63 - 1, "head.count: expected at least one"),
    ("head.feature_sum", 127 * 2, 127 * 2 + 1, "head.feature_sum: expected sums"),
    ("head.feature_sum", -127 * 2, -127 * 2 - 1, "head.feature_sum: expected sums"),
    ("head.feature_sum", None, 2**31 - 1, "head.feature_sum: expected sums"),
    ("head.feature_sum", None, -(2**31), "head.feature_sum: expected sums"),
    ("head.moment", 127**2 * 20, 127**2 * 20 + 1, "head.moment: expected sums"),  # the last is on the diagonal
    ("head.moment", 0, -1, "head.moment: expected sums"),
    ("head.moment", None, -(2**31), "head.moment: expected sums"),
    ("head.saturated", 20 * 6, 20 * 6 + 1, "head.saturated: expected a count"),
    ("head.saturated", 0, -1, "head.saturated: expected a count"),
    ("head.mixing", 2**20, 2**20 + 1, "head.mixing: expected weights"),
    ("head.mixing", 0, -1, "head.mixing: expected weights"),
    ("replay.labels", 2, 3, "replay.labels: expected classes"),
    ("tail.0.multiplier", 2**31 - 1, -(2**31), "tail.0.multiplier: expected magnitudes up to 2147483647"),
    ("tail.0.high", -(2**31) + 1, -(2**31), "tail.0.high: expected magnitudes up to 2147483647"),
    ("tail.0.low", 2**31 - 1, -(2**31), "tail.0.low: expected magnitudes up to 2147483647"),
    ("tail.0.bias", -(2**29), -(2**29) - 1, "tail.0.bias: expected magnitudes up to 536870912"),
    ("tail.0.threshold", 2**23 - 1, 2**23, "tail.0.threshold: expected magnitudes up to 8388607"),
    ("tail.0.alpha", 2**23 - 1, 2**23, "tail.0.alpha: expected magnitudes up to 8388607"),
    ("tail.0.beta", -(2**23) + 1, -(2**23), "tail.0.beta: expected magnitudes up to 8388607"),
    ("tail.0.shadow", -127, -128, "tail.0.shadow: expected magnitudes up to 127"),
]


@pytest.mark.parametrize(("name", "legal", "illegal", "message"), VALUES)
def test_values_of_a_state_are_legal_up_to_their_bounds(taught: Taught, name: str, legal: int | None, illegal: int, message: str) -> None:
    tensors = {**taught.tensors, **sums(taught, [9, 9, 2])}
    if legal is not None:
        loaded = Learner.from_bytes(taught.changed({**tensors, **last(name, legal)(tensors)}), threads=1)
        assert loaded.predict(taught.images).probabilities.shape == (4, 3)
    with pytest.raises(FormatError, match=f"s: (tensor )?{message}"):
        parse_state(taught.changed({**tensors, **last(name, illegal)(tensors)}), None, "s")


@pytest.mark.parametrize(("name", "last_legal"), [("head.feature_sum", 127 * 2), ("head.moment", 127**2 * 20)])
def test_sums_of_64_bits_are_legal_up_to_the_same_bounds(taught: Taught, name: str, last_legal: int) -> None:
    tensors = {**taught.tensors, **sums(taught, [9, 9, 2])}
    tensors[name] = tensors[name].astype(np.int64)
    loaded = Learner.from_bytes(taught.changed({**tensors, **last(name, last_legal)(tensors)}), threads=1)
    assert loaded.predict(taught.images).probabilities.shape == (4, 3)
    assert unpack(loaded.to_bytes(), "state", "s")[1][name].dtype == np.int32  # as few bytes as hold them
    for illegal in (last_legal + 1, 2**63 - 1, -(2**63), -(2**63) + 1):  # -2^63 has no magnitude in 64 bits
        with pytest.raises(FormatError, match=f"s: {name}: expected sums"):
            parse_state(taught.changed({**tensors, **last(name, illegal)(tensors)}), None, "s")


def test_sums_are_written_with_64_bits_from_two_to_the_thirtieth_on(taught: Taught) -> None:
    many = 2**31
    for value, dtype in ((2**30 - 1, np.int32), (2**30, np.int64), (-(2**30) + 1, np.int32), (-(2**30), np.int64)):
        tensors = {**taught.tensors, **sums(taught, [9, 9, many])}
        for name in ("head.feature_sum", "head.moment"):
            if name == "head.moment" and value < 0:
                continue
            tensors[name] = last(name, value)({name: tensors[name].astype(np.int64)})[name]
        learner = Learner.from_bytes(taught.changed(tensors), threads=1)
        written = unpack(learner.to_bytes(), "state", "s")[1]
        assert written["head.feature_sum"].dtype == dtype
        assert np.array_equal(written["head.feature_sum"], tensors["head.feature_sum"])
        assert np.array_equal(written["head.moment"], tensors["head.moment"])
        assert Learner.from_bytes(learner.to_bytes()).to_bytes() == learner.to_bytes()


def sums(taught: Taught, seen: list[int]) -> Tensors:
    """Of pictures that show nothing: so many of each class."""
    count = np.array(seen, np.int64)
    nothing = {name: taught.tensors[name] * 0 for name in ("head.feature_sum", "head.moment", "head.saturated")}
    return {"replay.seen": count.astype(np.uint64), "head.count": count, **nothing}


def test_a_class_that_was_never_taught_is_refused(taught: Taught) -> None:
    rows, labels = taught.tensors["replay.rows"], taught.tensors["replay.labels"]
    kept = labels != 2
    tensors = {"replay.rows": rows[kept], "replay.labels": labels[kept], **sums(taught, [9, 9, 0])}
    with pytest.raises(FormatError, match=r"head\.count: expected at least one row of each class"):
        parse_state(taught.changed(tensors), None, "s")


def test_a_class_of_the_papers_head_that_was_never_taught_is_refused(tmp_path: Path) -> None:
    taught = Taught(tmp_path, head="cwr")
    kept = taught.tensors["replay.labels"] != 2
    tensors = {name: taught.tensors[name][kept] for name in ("replay.rows", "replay.labels")}
    with pytest.raises(FormatError, match=r"replay\.seen: expected at least one picture of each class"):
        parse_state(taught.changed({**tensors, "replay.seen": np.array([9, 9, 0], np.uint64)}), None, "s")


def test_tensors_of_the_other_head_are_refused(taught: Taught, tmp_path: Path) -> None:
    papers = Taught(tmp_path, head="cwr", train_blocks=1)
    with pytest.raises(FormatError, match=r"s: tensor head\.weight is missing"):
        parse_state(taught.changed(head="cwr"), None, "s")
    with pytest.raises(FormatError, match=r"s: tensor head\.count is missing"):
        parse_state(papers.changed(head="lda"), None, "s")
    for name in ("head.count", "head.moment"):
        with pytest.raises(FormatError, match=f"s: expected no tensor {name}"):
            parse_state(papers.changed({name: taught.tensors[name]}), None, "s")
    for name in ("head.weight", "head.past_count"):
        with pytest.raises(FormatError, match=f"s: expected no tensor {name}"):
            parse_state(taught.changed({name: papers.tensors[name]}), None, "s")


def test_features_behind_a_latent_row_are_checked(tmp_path: Path) -> None:
    taught = Taught(tmp_path, views=2)
    network = taught.model.network
    rows = taught.tensors["replay.rows"]
    assert rows.shape[1] == network.latent_words + 1  # six features, in one word
    held = np.ascontiguousarray(rows[:, network.latent_words :]).view(np.int8)
    assert not held[:, 6:].any()
    assert held[:, :6].any()
    for place, value, legal in ((0, -127, True), (5, 127, True), (0, -128, False), (5, -128, False), (6, 1, False), (7, -1, False)):
        changed = held.copy()
        changed[-1, place] = value
        content = taught.changed({"replay.rows": np.concatenate([rows[:, : network.latent_words], changed.view(np.uint64)], axis=1)})
        if legal:
            assert Learner.from_bytes(content).to_bytes() == content
        else:
            with pytest.raises(FormatError, match=r"s: replay\.rows: expected features in -127\.\.127"):
                parse_state(content, None, "s")
    for views in (1, 6):
        if views == 1:
            with pytest.raises(FormatError, match=r"s: tensor replay\.rows: expected uint64"):
                parse_state(taught.changed(views=views), None, "s")
        else:
            assert parse_state(taught.changed(views=views), None, "s").settings.views == 6  # a row looks the same


@pytest.mark.parametrize(
    "name", ["head.count", "head.saturated", "head.mixing", "tail.weight", "tail.0.shadow", "tail.0.multiplier", "tail.0.threshold"]
)
def test_a_wrong_type_or_shape_of_a_state_is_refused(taught: Taught, name: str) -> None:
    tensor = taught.tensors[name]
    for wrong in (tensor.astype(np.float32), tensor.astype(np.uint64), tensor[:-1], np.concatenate([tensor, tensor]), tensor[None]):
        with pytest.raises(FormatError, match=rf"s: tensor {name}: expected {tensor.dtype} \("):
            parse_state(taught.changed({name: wrong}), None, "s")


def test_a_tail_that_the_settings_do_not_have_is_refused(taught: Taught) -> None:
    with pytest.raises(FormatError, match=r"s: expected no tensor tail\.0\.alpha"):
        parse_state(taught.changed(train_blocks=0), None, "s")
    for bits, name in [(1, "bits"), (16, "shadow")]:
        with pytest.raises(FormatError, match=rf"s: tensor tail\.0\.{name}"):
            parse_state(taught.changed(weight_bits=bits), None, "s")


def test_a_replay_memory_larger_than_the_machine_is_refused(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(bitreplay.learner, "core_of", no_memory)
    with pytest.raises(
        FormatError, match=r"state: settings: capacity: 4 rows take \d+ bytes, more than this machine has free; use one with more memory"
    ):
        Learner.from_bytes(taught.content)
    with pytest.raises(ValueError, match="threads: expected at least 1"):
        Learner.from_bytes(taught.content, threads=0)  # an argument, not the file


def test_loading_reserves_the_replay_memory_once(taught: Taught) -> None:
    content = taught.changed(capacity=100_000)
    gc.collect()
    before = _engine.memory()[0]
    _engine.reset_memory_peak()
    loaded = Learner.from_bytes(content, threads=1)
    assert _engine.memory()[1] - before < 1.5 * loaded.info()["bytes"]["replay_rows"]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_declared_replay_memory_is_not_touched_before_it_is_used(taught: Taught) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    content = taught.changed(capacity=2**22)
    before = resident()
    loaded = Learner.from_bytes(content, threads=1)
    assert loaded.info()["bytes"]["replay_rows"] >= 2**22 * 8
    assert resident() - before < 1 << 22
