"""The reference's steps of weights and parameters: bounds, averages, worked examples (docs/method.md, 7.1 and 7.5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import reference as ref
import reference.tail_block as rb
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.network import Activation, BlockConstants
from tiny_block import FAMILIES, NOW, stream, tiny_block


def test_decay_changes_at_a_half_three_quarters_and_seven_eighths() -> None:
    assert [rb.Moment(step=t, steps=8).decay for t in range(8)] == [0, 0, 0, 0, 1, 1, 2, 3]
    assert [rb.Moment(step=t, steps=1).decay for t in range(1)] == [0]
    assert [rb.Moment(step=t, steps=3).decay for t in range(3)] == [0, 0, 1]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([8, 16]), st.integers(1, 7), st.integers(0, 27), st.integers(0, 7), st.integers(0, 2**32))
def test_a_weight_step_is_bounded_and_close(bits: int, e: int, size: int, t: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = (1 << (bits - 1)) - 1
    shadow = rng.integers(-limit, limit + 1, (2, 3, 3, 4))
    gradient = rng.integers(-(1 << size), (1 << size) + 1, shadow.shape)
    gradient[1] = 0
    options = rb.TailSettings(weight_bits=bits, weight_step=e)
    moment = rb.Moment(seed=seed, step=t, steps=8)
    new = rb.weight_step(shadow, gradient, options, moment, 0)
    assert np.array_equal(new[1], shadow[1])
    assert np.abs(new).max() <= limit
    old = shadow[0]
    m = int(np.abs(gradient[0]).max())
    if m == 0:
        assert np.array_equal(new, shadow)
        return
    k = min(31, m.bit_length() - (bits - 1 - e) + moment.decay)
    wished = old - gradient[0] / 2.0**k
    inside = (new[0] != limit) & (new[0] != -limit)
    assert (np.abs(new[0] - wished)[inside] < 1).all()
    if k <= 0:
        assert np.array_equal(new[0], np.clip(old - gradient[0] * 2**-k, -limit, limit))
    # 2^-e of the range 2^(b_w - 1), where that is a whole unit: a change below one unit may be rounded up to one
    assert np.abs(new[0] - old).max() <= max(2.0 ** (bits - 1 - e - moment.decay), 1)


def test_weight_steps_are_right_on_average() -> None:
    """What no single step can show: changes of a tenth of a unit arrive."""
    rng = np.random.default_rng(6)
    gradient = rng.integers(-1000, 1001, (1, 3, 3, 8))
    gradient[0, 0, 0, 0], gradient[0, 0, 0, 1], gradient[0, 0, 0, 2] = 1 << 19, 1000, -1000
    options, steps, total = rb.TailSettings(weight_bits=8, weight_step=4), 3000, np.zeros(gradient.shape)
    for t in range(steps):
        total += rb.weight_step(np.zeros_like(gradient), gradient, options, rb.Moment(step=t, steps=10**6), 0)
    unit = 2.0 ** (20 - 3)
    assert np.allclose(total / steps, -gradient / unit, atol=0.01)
    assert total.reshape(-1)[0] == -4 * steps


def test_weight_steps_of_channels_blocks_and_steps_have_noise_of_their_own() -> None:
    gradient = np.tile(np.arange(1, 73).reshape(1, 3, 3, 8), (2, 1, 1, 1))
    shadow = np.zeros_like(gradient)
    options = rb.TailSettings(weight_bits=8, weight_step=6)

    def change(step: int, block: int) -> NDArray[np.int64]:
        return rb.weight_step(shadow, gradient, options, rb.Moment(step=step, steps=100), block)

    a = change(0, 0)
    assert np.array_equal(a, change(0, 0))
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, change(1, 0))
    assert not np.array_equal(a, change(0, 1))


def test_a_weight_step_value_by_value() -> None:
    rng = np.random.default_rng(13)
    shadow, gradient = rng.integers(-127, 128, (2, 2, 3, 3, 4))
    gradient = gradient * np.array([1, 1000]).reshape(2, 1, 1, 1)
    new = rb.weight_step(shadow, gradient, rb.TailSettings(weight_bits=8, weight_step=4), NOW, 6)
    for o in range(2):
        flat = [int(v) for v in gradient[o].reshape(-1)]
        k = max(abs(v) for v in flat).bit_length() - 3
        key = ref.draw(5, 7, (2 << 32) + 3, (6 << 32) + o)
        for i, (before, d) in enumerate(zip(shadow[o].reshape(-1).tolist(), flat, strict=True)):
            after = before - (d + (int(ref.noise(key, i)) >> (32 - k))) // 2**k
            assert new[o].reshape(-1)[i] == min(max(after, -127), 127)


def test_one_bit_weights_flip_where_they_agree_with_the_gradient_and_as_often_as_they_should() -> None:
    gradient = np.zeros((1, 3, 3, 2), np.int64)
    gradient[0, 0, 0], gradient[0, 1, 1], gradient[0, 2, 2] = (255, -255), (64, 64), (255, -1)
    weight = np.ones_like(gradient)
    weight[0, 0, 0, 1] = weight[0, 2, 2, 0] = weight[0, 2, 2, 1] = -1
    options, steps, flips = rb.TailSettings(weight_bits=1, weight_step=3), 4000, np.zeros(gradient.shape)
    for t in range(steps):
        flips += rb.weight_step(weight, gradient, options, rb.Moment(step=t, steps=10**6), 0) != weight
    share = flips / steps
    assert abs(share[0, 0, 0] - 255 / 2048).max() < 0.02  # both agree: +1 with 255, -1 with -255
    assert abs(share[0, 1, 1] - 64 / 2048).max() < 0.012
    assert share[0, 2, 2, 0] == 0  # -1 does not agree with 255
    assert 0 < share[0, 2, 2, 1] < 0.005
    assert share[0, 0, 1].max() == 0


def test_a_parameter_step_worked_example() -> None:
    options = rb.TailSettings(parameter_step=4)
    start = np.array([0, 0, 1 << 22, -(1 << 22)])
    d = np.array([1000, -500, 3, -1])  # 10 bits; range 2^20 and 2^-4 of it: 16 bits; k = -6
    now = rb.Moment(steps=10)
    assert rb.parameter_step("threshold", start, d, 20, options, now).tolist() == [-64000, 32000, (1 << 22) - 192, 64 - (1 << 22)]
    d = d << 20  # 30 bits: k = 14
    assert rb.parameter_step("threshold", start, d, 20, options, now).tolist() == [-64000, 32000, (1 << 22) - 192, 64 - (1 << 22)]
    assert rb.parameter_step("threshold", start, d, 20, replace(options, parameter_step=0), now) is start
    later = rb.parameter_step("threshold", start, d, 20, options, rb.Moment(step=9, steps=10))
    assert (start - later).tolist() == [8000, -4000, 24, -8]
    huge = np.array([(1 << 23) - 2, -(1 << 23) + 2])
    moved = rb.parameter_step("threshold", huge, np.array([-8, 8]), 23, rb.TailSettings(parameter_step=1), now)
    assert moved.tolist() == [(1 << 23) - 1, -(1 << 23) + 1]


def test_masters_are_kept_as_the_table_of_the_method_says() -> None:
    n = 1
    constants = BlockConstants(
        np.zeros(n), np.array([-5]), np.array([77]), 9, False, np.array([-32768]),
        Activation(np.array([40]), np.array([-3]), np.array([8192]), np.array([2048])),
    )  # fmt: skip
    shadow = np.arange(-4, 5).reshape(1, 3, 3, 1).astype(np.int8)
    block = rb.TailBlock.from_constants(shadow, constants, rb.Gate(8, approx=True), 0, 16)
    got = {name: int(master.item()) for name, master in block.masters.items()}
    assert got == {
        "multiplier": -5 * 65536, "bias": 77, "threshold": 1 - 2**23, "alpha": 40 * 256, "beta": -3 * 256, "high": 2**29, "low": 2**27
    }  # fmt: skip
    assert block.constants.threshold is not None
    assert block.constants.threshold.item() == -32768  # floor
    assert block.shadow.reshape(-1).tolist() == [256 * v for v in range(-4, 5)]
    assert block.weight.reshape(-1).tolist() == [-1] * 4 + [1] * 5
    one = rb.TailBlock.from_constants(shadow, constants, rb.Gate(8, approx=True), 0, 1)
    assert np.array_equal(one.weight, block.weight)
    ranges = {name: rb.master_range(name, 8, 9) for name in got}
    assert ranges == {"multiplier": 30, "bias": 17, "threshold": 16, "alpha": 16, "beta": 16, "high": 29, "low": 29}
    assert (rb.master_range("bias", 15, 20), rb.master_range("threshold", 16, 0)) == (29, 23)


def test_masters_begin_at_the_constants_and_stay_in_range() -> None:
    rng = np.random.default_rng(7)
    for family in FAMILIES:
        block = tiny_block(family, 4, rng)
        x = stream(rng, 3, 2, 2, 4)
        for t in range(30):
            y, saved = rb.forward(block, x, 16)
            back = rb.backward(block, saved, np.where(y > 0, 127, -90), 8, rb.Moment(step=t, steps=30), lowest=True)
            block = rb.step(block, back, rb.TailSettings(parameter_step=1), rb.Moment(step=t, steps=30))
        assert np.abs(block.masters["bias"]).max() <= 1 << 29
        assert np.abs(block.constants.multiplier).max() <= 1 << 15
        for name in ("threshold", "alpha", "beta"):
            if name in block.masters:
                assert np.abs(block.masters[name]).max() < 1 << 23
        if family == "reactnet":
            assert (block.constants.activation.high == 8192).all()
