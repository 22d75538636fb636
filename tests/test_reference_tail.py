"""The reference of tail training against small independent checks: loops, differences, bounds, averages (docs/method.md, 7)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import reference as ref
import reference.tail as rt
import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.arithmetic import exact_product
from reference.head import training_step
from reference.network import Activation, BlockConstants, binary_conv, block_values

FAMILIES = ("quicknet", "reactnet", "bireal")
EXPONENT = 12  # tiny_model's streams have a spread of about 4000 units: about 1 in this unit
NOW = rt.Moment(seed=5, experience=2, step=3, steps=20)


def tiny_block(family: str, channels: int, rng: np.random.Generator, *, weight_bits: int = 8, number: int = 0) -> rt.TailBlock:
    def around(spread: float) -> NDArray[np.int64]:
        return np.rint(rng.normal(0, spread, channels)).astype(np.int64)

    relu = family == "quicknet"
    activation = None
    if not relu:
        high = np.full(channels, 8192) if family == "reactnet" else 8192 + around(1000)
        activation = Activation(around(300), around(300), high, 2000 + around(800))
    constants = BlockConstants(
        around(3), around(6000), around(1 << 13), 3, relu, None if relu else around(500), activation
    )  # fmt: skip
    gate = rt.Gate(EXPONENT, approx=True) if family == "reactnet" else rt.Gate(EXPONENT, clip=5120)
    shadow = rng.integers(-127, 128, (channels, 3, 3, channels)).astype(np.int8)
    return rt.TailBlock.from_constants(shadow, constants, gate, number, weight_bits, trains_high=family != "reactnet")


def stream(rng: np.random.Generator, n: int, height: int, width: int, channels: int) -> NDArray[np.int64]:
    return np.rint(rng.normal(0, 4000, (n, height, width, channels))).astype(np.int64)


# ------------------------------------------------------------------------------------------------------------------ noise and rounding


def test_noise_is_the_formula_in_python_integers() -> None:
    mask = 0xFFFFFFFF
    for key, i in product((0, 0x0123456789ABCDEF, (1 << 64) - 1), (0, 1, 77, mask, mask + 2)):
        h = ((i & mask) * 0x9E3779B1 + (key & mask)) & mask ^ (key >> 32)
        h ^= h >> 16
        h = h * 0x85EBCA6B & mask
        h ^= h >> 13
        h = h * 0xC2B2AE35 & mask
        h ^= h >> 16
        assert int(ref.noise(key, i)) == h
    assert int(ref.noise(0, 0)) == 0


def test_noise_has_balanced_bits_and_no_relation_between_keys() -> None:
    a, b = (ref.noise(ref.draw(1, 7, 0, k), np.arange(1 << 16)) for k in (0, 1))
    for bit in range(32):
        assert abs(((a >> bit) & 1).mean() - 0.5) < 0.01
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.015
    assert abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < 0.015


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-(1 << 46), 1 << 46), min_size=1, max_size=20),
    st.integers(2, 16),
    st.integers(0, 46),
    st.integers(0, (1 << 64) - 1),
)
def test_requant_keeps_the_largest_and_errs_by_less_than_a_unit(values: list[int], bits: int, down: int, key: int) -> None:
    t = np.array(values) >> down
    m, s = rt.requant(t, bits, key)
    limit = 2 ** (bits - 1) - 1
    largest = max(abs(int(v)) for v in t)
    assert s == 0 or largest >> (s - 1) > limit  # no smaller shift would fit
    assert largest >> s <= limit
    assert abs(int(np.abs(m).max())) <= limit
    for exact, mantissa in zip(t.tolist(), m.tolist(), strict=True):
        error = abs(exact - (mantissa << s))
        clipped = abs(mantissa) == limit and abs(exact) > limit << s
        if s == 0:
            assert error == 0
        elif bits > 4 and not clipped:
            assert 2 * error <= 1 << s
        else:
            assert error < 1 << s


def test_requant_worked_examples() -> None:
    t = np.array([1000, -1000, 12, -12, 4, -4, 3])
    m, s = rt.requant(t, 8, 0)
    assert s == 3
    assert m.tolist() == [125, -125, 2, -1, 1, 0, 0]  # halves go up
    assert rt.requant(np.array([1023, -1023]), 8, 0)[0].tolist() == [127, -127]  # 127.875 rounds to 128, which does not fit
    assert rt.requant(np.array([32767, -32767, 5]), 16, 0)[1] == 0
    assert rt.requant(np.zeros(3, np.int64), 2, 0)[1] == 0


@pytest.mark.parametrize("scale", [37, 1 << 40])
def test_requant_of_few_bits_is_right_on_average(scale: int) -> None:
    t = scale * np.array([100, -100, 33, -33, 7, -7, 1, 0])
    total = np.zeros(len(t))
    draws = 4000
    for i in range(draws):
        m, s = rt.requant(t, 4, ref.draw(0, 8, i, 0))
        total += m * 2.0**s
    unit = 2.0**s
    limited = np.clip(t / unit, -7, 7)  # OPEN: a largest value between 7 and 8 units is always clipped to 7
    assert np.allclose(total / draws / unit, limited, atol=0.04)
    assert total[-1] == 0


def test_forward_rounding_worked_examples() -> None:
    x = np.array([32767, -32768, 127, 128, -128, -129, 0])
    assert rt.forward_round(x, 8, 16).tolist() == [32512, -32512, 0, 256, 0, -256, 0]
    assert rt.forward_round(x, 16, 16).tolist() == x.tolist()
    assert rt.forward_round(np.array([127, -127, 8, 7, -8]), 4, 8).tolist() == [112, -112, 16, 0, 0]
    assert rt.forward_round(np.array([127, -127]), 9, 8).tolist() == [127, -127]
    once = rt.forward_round(np.arange(-32768, 32768), 5, 16)
    assert np.array_equal(rt.forward_round(once, 5, 16), once)


# -------------------------------------------------------------------------------------------------------------------- a block, forward


def test_a_block_is_its_formula_value_by_value() -> None:
    rng = np.random.default_rng(1)
    for family in FAMILIES:
        block = tiny_block(family, 3, rng)
        c, x = block.constants, stream(rng, 2, 3, 2, 3)
        v = block_values(x, block.weight, c)
        for n, i, j, o in np.ndindex(x.shape):
            z = 0
            for a, b, k in np.ndindex(3, 3, 3):
                row, column = i + a - 1, j + b - 1
                inside = 0 <= row < 3 and 0 <= column < 2
                t = 0 if c.threshold is None else c.threshold[k]
                sign = -1 if inside and x[n, row, column, k] + t < 0 else 1
                z += sign * (-1 if block.shadow[o, a, b, k] < 0 else 1)
            assert v.z[n, i, j, o] == z
            r = max(z, 0) if c.relu else z
            scaled = ((r - c.mean[o]) * c.multiplier[o] + c.bias[o] + 4) // 8
            u = np.clip(x[n, i, j, o] + np.clip(scaled, -32768, 32767), -32768, 32767)
            y = u
            if c.activation is not None:
                w = np.clip(u - c.activation.alpha[o], -32768, 32767)
                slope = c.activation.high[o] if w >= 0 else c.activation.low[o]
                y = np.clip(np.clip((w * slope + 4096) // 8192, -32768, 32767) - c.activation.beta[o], -32768, 32767)
            assert v.y[n, i, j, o] == y


def test_both_sums_of_a_block_saturate_one_after_the_other() -> None:
    constants = BlockConstants(np.zeros(1, np.int64), np.array([16383]), np.zeros(1, np.int64), 0, relu=False)
    x = np.full((1, 1, 1, 1), -30000)  # its sign is -1, all nine taps of the weight are -1: z = -8 + 1
    y = block_values(x, -np.ones((1, 3, 3, 1), np.int64), constants).y
    assert y.item() == -32768
    y = block_values(x, np.ones((1, 3, 3, 1), np.int64), constants).y  # z = 7, 114681 saturates to 32767 first
    assert y.item() == 2767


# ------------------------------------------------------------------------------------------------------------------- a block, backward


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 2, 4), (3, 2, 4, 3)])
def test_gradients_of_weights_and_signs_by_loops(shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(2)
    n, height, width, channels = shape
    gz, s = rng.integers(-127, 128, shape), rng.choice([-1, 1], shape)
    weight = rng.choice([-1, 1], (channels, 3, 3, channels))
    dw, da = np.zeros_like(weight), np.zeros(shape, np.int64)
    for b, y, x, a, c in np.ndindex(n, height, width, 3, 3):
        row, column = y + a - 1, x + c - 1
        inside = 0 <= row < height and 0 <= column < width
        for o, i in np.ndindex(channels, channels):
            dw[o, a, c, i] += gz[b, y, x, o] * (s[b, row, column, i] if inside else 1)
            if inside:
                da[b, row, column, i] += gz[b, y, x, o] * weight[o, a, c, i]
    assert np.array_equal(rt.weight_gradient(gz, s), dw)
    assert np.array_equal(rt.input_gradient(gz, weight), da)
    assert (dw * weight).sum() == (gz * binary_conv(s, weight)).sum()  # z is linear in the weights


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_parameters_by_differences(family: str) -> None:
    """With the signs held, the real-valued block is linear in each parameter between its kinks: differences are derivatives."""
    rng = np.random.default_rng(3)
    block = tiny_block(family, 6, rng)
    c, x = block.constants, stream(rng, 4, 3, 3, 6) // 4  # nothing saturates
    saved = block_values(x, block.weight, c)
    g = rng.integers(-32767, 32768, x.shape)
    ours = rt.backward(block, saved, g, 16, NOW, lowest=True)

    def loss(values: dict[str, NDArray[np.float64]]) -> float:
        y = x + ((saved.r - c.mean) * values["multiplier"] + values["bias"]) / 8
        if c.activation is not None:
            w = y - values["alpha"]
            y = w * np.where(saved.w >= 0, values["high"], values["low"]) / 8192 - values["beta"]
        return float((g * y).sum())

    start = {name: (master >> rt.HIDDEN_BITS[name]).astype(np.float64) for name, master in block.masters.items()}
    names = [name for name in block.trained if name != "threshold"]
    assert ("high" in names) == (family == "bireal")
    for name in names:
        expected = np.zeros(6)
        for channel in range(6):
            moved = {key: value.copy() for key, value in start.items()}
            moved[name][channel] += 1
            expected[channel] = loss(moved) - loss(start)
        got = ours.parameters[name].astype(np.float64)
        assert got @ expected / np.linalg.norm(got) / np.linalg.norm(expected) > 0.9999999, name
    assert np.array_equal(ours.parameters["bias"] != 0, np.ones(6, bool))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gradient_bits", [16, 8, 3])
def test_gradient_of_the_stream_by_loops(family: str, gradient_bits: int) -> None:
    rng = np.random.default_rng(4)
    block = tiny_block(family, 6, rng, number=1)  # 54 products: z may be 0
    c, x = block.constants, stream(rng, 2, 2, 3, 6)
    saved = block_values(x, block.weight, c)
    limit = (1 << (gradient_bits - 1)) - 1
    g = rng.integers(-limit, limit + 1, x.shape)
    got = rt.backward(block, saved, g, gradient_bits, NOW, lowest=False)

    def key(tensor: int) -> int:
        return ref.draw(5, 8, (2 << 32) + 3, 16 + tensor)

    gu = g if saved.p is None else rt.requant(g * saved.p, gradient_bits, key(1))[0]
    gz, s1 = rt.requant(gu * c.multiplier, gradient_bits, key(2))
    if c.relu:
        gz[saved.z <= 0] = 0
    da = rt.input_gradient(gz, block.weight)
    k = 3 + EXPONENT - s1
    total, threshold = np.zeros_like(x), [0] * 6
    for index in np.ndindex(x.shape):
        a = int(x[index]) + (0 if c.threshold is None else int(c.threshold[index[3]]))
        if family == "reactnet":
            d = (int(da[index]) * max((1 << EXPONENT) - abs(a), 0) + (1 << EXPONENT - 2)) // (1 << EXPONENT - 1)
        else:
            d = int(da[index]) if abs(a) <= 5120 else 0
        threshold[index[3]] += d
        total[index] = int(gu[index]) * 2**k + d if k >= 0 else int(gu[index]) + d * 2**-k
    assert np.array_equal(got.x, rt.requant(total, gradient_bits, key(4))[0])
    assert np.array_equal(got.weight, rt.weight_gradient(gz, saved.s))
    if c.threshold is not None:
        assert got.parameters["threshold"].tolist() == threshold


def test_the_lowest_block_asks_for_no_gradient_that_nobody_reads() -> None:
    rng = np.random.default_rng(5)
    for family in FAMILIES:
        block = tiny_block(family, 4, rng)
        x = stream(rng, 2, 2, 2, 4)
        saved = block_values(x, block.weight, block.constants)
        g = rng.integers(-127, 128, x.shape)
        lowest = rt.backward(block, saved, g, 8, NOW, lowest=True)
        assert lowest.x is None
        assert ("threshold" in lowest.parameters) == (family != "quicknet")
        assert "threshold" not in rt.backward(block, saved, g, 8, NOW, lowest=True, trains_parameters=False).parameters
        assert np.array_equal(lowest.weight, rt.backward(block, saved, g, 8, NOW, lowest=False).weight)


# ----------------------------------------------------------------------------------------------------------------------------- steps


def test_decay_changes_at_a_half_three_quarters_and_seven_eighths() -> None:
    assert [rt.Moment(step=t, steps=8).decay for t in range(8)] == [0, 0, 0, 0, 1, 1, 2, 3]
    assert [rt.Moment(step=t, steps=1).decay for t in range(1)] == [0]
    assert [rt.Moment(step=t, steps=3).decay for t in range(3)] == [0, 0, 1]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([8, 16]), st.integers(1, 7), st.integers(0, 27), st.integers(0, 7), st.integers(0, 2**32))
def test_a_weight_step_is_bounded_and_close(bits: int, e: int, size: int, t: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = (1 << (bits - 1)) - 1
    shadow = rng.integers(-limit, limit + 1, (2, 3, 3, 4))
    gradient = rng.integers(-(1 << size), (1 << size) + 1, shadow.shape)
    gradient[1] = 0
    options = rt.TailSettings(weight_bits=bits, weight_step=e)
    moment = rt.Moment(seed=seed, step=t, steps=8)
    new = rt.weight_step(shadow, gradient, options, moment, 0)
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
    options, steps, total = rt.TailSettings(weight_bits=8, weight_step=4), 3000, np.zeros(gradient.shape)
    for t in range(steps):
        total += rt.weight_step(np.zeros_like(gradient), gradient, options, rt.Moment(step=t, steps=10**6), 0)
    unit = 2.0 ** (20 - 3)
    assert np.allclose(total / steps, -gradient / unit, atol=0.01)
    assert total.reshape(-1)[0] == -4 * steps


def test_weight_steps_of_channels_blocks_and_steps_have_noise_of_their_own() -> None:
    gradient = np.tile(np.arange(1, 73).reshape(1, 3, 3, 8), (2, 1, 1, 1))
    shadow = np.zeros_like(gradient)
    options = rt.TailSettings(weight_bits=8, weight_step=6)

    def change(step: int, block: int) -> NDArray[np.int64]:
        return rt.weight_step(shadow, gradient, options, rt.Moment(step=step, steps=100), block)

    a = change(0, 0)
    assert np.array_equal(a, change(0, 0))
    assert not np.array_equal(a[0], a[1])
    assert not np.array_equal(a, change(1, 0))
    assert not np.array_equal(a, change(0, 1))


def test_a_weight_step_value_by_value() -> None:
    rng = np.random.default_rng(13)
    shadow, gradient = rng.integers(-127, 128, (2, 2, 3, 3, 4))
    gradient = gradient * np.array([1, 1000]).reshape(2, 1, 1, 1)
    new = rt.weight_step(shadow, gradient, rt.TailSettings(weight_bits=8, weight_step=4), NOW, 6)
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
    options, steps, flips = rt.TailSettings(weight_bits=1, weight_step=3), 4000, np.zeros(gradient.shape)
    for t in range(steps):
        flips += rt.weight_step(weight, gradient, options, rt.Moment(step=t, steps=10**6), 0) != weight
    share = flips / steps
    assert abs(share[0, 0, 0] - 255 / 2048).max() < 0.02  # both agree: +1 with 255, -1 with -255
    assert abs(share[0, 1, 1] - 64 / 2048).max() < 0.012
    assert share[0, 2, 2, 0] == 0  # -1 does not agree with 255
    assert 0 < share[0, 2, 2, 1] < 0.005
    assert share[0, 0, 1].max() == 0


def test_a_parameter_step_worked_example() -> None:
    options = rt.TailSettings(parameter_step=4)
    start = np.array([0, 0, 1 << 22, -(1 << 22)])
    d = np.array([1000, -500, 3, -1])  # 10 bits; range 2^20 and 2^-4 of it: 16 bits; k = -6
    now = rt.Moment(steps=10)
    assert rt.parameter_step("threshold", start, d, 20, options, now).tolist() == [-64000, 32000, (1 << 22) - 192, 64 - (1 << 22)]
    d = d << 20  # 30 bits: k = 14
    assert rt.parameter_step("threshold", start, d, 20, options, now).tolist() == [-64000, 32000, (1 << 22) - 192, 64 - (1 << 22)]
    assert rt.parameter_step("threshold", start, d, 20, replace(options, parameter_step=0), now) is start
    later = rt.parameter_step("threshold", start, d, 20, options, rt.Moment(step=9, steps=10))
    assert (start - later).tolist() == [8000, -4000, 24, -8]
    huge = np.array([(1 << 23) - 2, -(1 << 23) + 2])
    moved = rt.parameter_step("threshold", huge, np.array([-8, 8]), 23, rt.TailSettings(parameter_step=1), now)
    assert moved.tolist() == [(1 << 23) - 1, -(1 << 23) + 1]


def test_masters_are_kept_as_the_table_of_the_method_says() -> None:
    n = 1
    constants = BlockConstants(
        np.zeros(n), np.array([-5]), np.array([77]), 9, False, np.array([-32768]),
        Activation(np.array([40]), np.array([-3]), np.array([8192]), np.array([2048])),
    )  # fmt: skip
    shadow = np.arange(-4, 5).reshape(1, 3, 3, 1).astype(np.int8)
    block = rt.TailBlock.from_constants(shadow, constants, rt.Gate(8, approx=True), 0, 16)
    got = {name: int(master.item()) for name, master in block.masters.items()}
    assert got == {
        "multiplier": -5 * 65536, "bias": 77, "threshold": 1 - 2**23, "alpha": 40 * 256, "beta": -3 * 256, "high": 2**29, "low": 2**27
    }  # fmt: skip
    assert block.constants.threshold is not None
    assert block.constants.threshold.item() == -32768  # floor
    assert block.shadow.reshape(-1).tolist() == [256 * v for v in range(-4, 5)]
    assert block.weight.reshape(-1).tolist() == [-1] * 4 + [1] * 5
    one = rt.TailBlock.from_constants(shadow, constants, rt.Gate(8, approx=True), 0, 1)
    assert np.array_equal(one.weight, block.weight)
    ranges = {name: rt.master_range(name, 8, 9) for name in got}
    assert ranges == {"multiplier": 30, "bias": 17, "threshold": 16, "alpha": 16, "beta": 16, "high": 29, "low": 29}
    assert (rt.master_range("bias", 15, 20), rt.master_range("threshold", 16, 0)) == (29, 23)


def test_masters_begin_at_the_constants_and_stay_in_range() -> None:
    rng = np.random.default_rng(7)
    for family in FAMILIES:
        block = tiny_block(family, 4, rng)
        x = stream(rng, 3, 2, 2, 4)
        for t in range(30):
            y, saved = rt.forward(block, x, 16)
            back = rt.backward(block, saved, np.where(y > 0, 127, -90), 8, rt.Moment(step=t, steps=30), lowest=True)
            block = rt.step(block, back, rt.TailSettings(parameter_step=1), rt.Moment(step=t, steps=30))
        assert np.abs(block.masters["bias"]).max() <= 1 << 29
        assert np.abs(block.constants.multiplier).max() <= 1 << 15
        for name in ("threshold", "alpha", "beta"):
            if name in block.masters:
                assert np.abs(block.masters[name]).max() < 1 << 23
        if family == "reactnet":
            assert (block.constants.activation.high == 8192).all()


# -------------------------------------------------------------------------------------------------------------- the head and the tail


def test_the_heads_gradient_of_16_bits_is_that_of_a_head_only_lesson() -> None:
    rng = np.random.default_rng(8)
    tail, batch, tw = tiny_tail(rng, rt.TailSettings(gradient_bits=16))
    got = tail.gradients(batch, tw, NOW).head
    h = tail.features_of(batch.latents)
    rate = 1 << 10
    stepped = training_step(tw, h, batch.targets, batch.prior, 0, rate, tail.features.feature_bits)
    assert np.array_equal(stepped, tw - ref.rs(got * rate, 16))


def test_from_the_head_to_the_tail_by_hand() -> None:
    f = rt.Features(
        pool_multiplier=np.array([3, 5]), pool_shift=0, weight=np.array([[2, -1], [1, 4]]), multiplier=np.array([7, 11]),
        bias=np.zeros(2, np.int64), shift=0, feature_bits=4
    )  # fmt: skip
    g, h, tw = np.array([[100, -100]]), np.array([[5, 127]]), np.array([[3, 2], [1, -2]]) << 16
    x = np.array([[[[1, 1], [0, -5]]]])
    got = rt.head_backward(g, h, tw, f, x, 16, NOW)
    assert got.weight.tolist() == [[500, 12700], [-500, -12700]]
    # dh = (200, 400), e = (1400, 0: |h| = 127), dq = (2800, -1400), f = (8400, -7000)
    assert got.g.tolist() == [[[[8400, -7000], [0, 0]]]]
    got = rt.head_backward(g, h, tw, replace(f, relu=False), x, 16, NOW)
    assert got.g.tolist() == [[[[8400, -7000], [8400, -7000]]]]
    got = rt.head_backward(np.array([[-32768, 32767]]), h, tw, f, x, 16, NOW)
    assert got.weight[0].tolist() == [-32768 * 5, -32768 * 127]
    got = rt.head_backward(np.array([[-32768, 32767]]), h, tw, f, x, 8, NOW)
    assert got.weight[0].tolist() == [-64 * 512 * 5, -64 * 512 * 127]  # -2^15 has 16 bits: s = 9


def tiny_tail(
    rng: np.random.Generator, options: rt.TailSettings, *, train_blocks: int = 2, rows: int = 12
) -> tuple[rt.ReferenceTail, rt.Minibatch, NDArray[np.int64]]:
    network, tensors = tiny_model.make_model(3, image_size=8, widths=(8, 12), blocks=(1, 1), tail_blocks=2)
    reference = ref.ReferenceNetwork(network, tensors)
    tail = rt.ReferenceTail.of(reference, train_blocks, [rt.Gate(EXPONENT, clip=5120)] * 2, options)
    latents = reference.latents(tiny_model.random_images(9, rows, 8))
    tw = np.rint(rng.normal(0, 1 << 23, (3, 12))).astype(np.int64)
    batch = rt.Minibatch(latents, rng.integers(0, 3, rows), np.zeros(3, np.int64))
    assert np.array_equal(
        tail.features(tail.streams(latents)[0]) if options.forward_bits == 16 else 0,
        reference.features(latents) if options.forward_bits == 16 else 0,
    )
    return tail, batch, tw


@pytest.mark.parametrize("weight_bits", [16, 8, 1])
@pytest.mark.parametrize("gradient_bits", [16, 8, 4])
def test_steps_of_the_tail_alone_lower_the_loss(weight_bits: int, gradient_bits: int) -> None:
    options = rt.TailSettings(weight_bits=weight_bits, gradient_bits=gradient_bits, parameter_step=5, weight_step=3)
    tail, batch, tw = tiny_tail(np.random.default_rng(10), options)
    tw = 4 * tw

    def loss() -> float:
        p = ref.softmax(ref.logits(tail.features_of(batch.latents), tw, tail.features.feature_bits), 0)
        return float(-np.log(np.maximum(p[np.arange(len(p)), batch.targets], 1) / 32768).mean())

    before, first = loss(), tail.blocks[0].weight
    for t in range(40):
        moment = rt.Moment(step=t, steps=40)
        tail.step(tail.gradients(batch, tw, moment), moment)
    assert loss() < 0.7 * before
    assert (tail.blocks[0].weight != first).any()


@pytest.mark.parametrize("train_blocks", [0, 1])
def test_blocks_below_the_trained_ones_stay(train_blocks: int) -> None:
    tail, batch, tw = tiny_tail(np.random.default_rng(11), rt.TailSettings(), train_blocks=train_blocks)
    before = list(tail.blocks)
    gradients = tail.gradients(batch, tw, NOW)
    assert len(gradients.blocks) == train_blocks
    tail.step(gradients, NOW)
    assert [a is b for a, b in zip(tail.blocks, before, strict=True)] == [train_blocks < 2, train_blocks < 1]


@pytest.mark.parametrize("forward_bits", [16, 8, 4, 2])
def test_features_of_a_row_depend_on_that_row_alone(forward_bits: int) -> None:
    tail, batch, _ = tiny_tail(np.random.default_rng(12), rt.TailSettings(forward_bits=forward_bits))
    together = tail.features_of(batch.latents)
    alone = np.concatenate([tail.features_of(row[None]) for row in batch.latents])
    assert np.array_equal(together, alone)
    assert len(np.unique(together)) <= 2**forward_bits


def test_exact_product_refuses_what_float64_cannot_hold() -> None:
    a = np.full((1, 2), 1 << 26)
    assert exact_product(a, np.ones((2, 1), np.int64)).item() == 1 << 27
    with pytest.raises(AssertionError):
        exact_product(a, np.full((2, 1), 1 << 26))
