"""The reference of a trained block, there and back, against small independent checks: rounding, formulas, loops, differences (docs/method.md, 7.2 to 7.4)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import reference as ref
import reference.tail_block as rb
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.network import BlockConstants, binary_conv, block_values
from tiny_block import EXPONENT, FAMILIES, NOW, stream, tiny_block


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
    m, s = rb.requant(t, bits, key)
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
    m, s = rb.requant(t, 8, 0)
    assert s == 3
    assert m.tolist() == [125, -125, 2, -1, 1, 0, 0]  # halves go up
    assert rb.requant(np.array([1023, -1023]), 8, 0)[0].tolist() == [127, -127]  # 127.875 rounds to 128, which does not fit
    assert rb.requant(np.array([32767, -32767, 5]), 16, 0)[1] == 0
    assert rb.requant(np.zeros(3, np.int64), 2, 0)[1] == 0


@pytest.mark.parametrize("scale", [37, 1 << 40])
def test_requant_of_few_bits_is_right_on_average(scale: int) -> None:
    t = scale * np.array([100, -100, 33, -33, 7, -7, 1, 0])
    total = np.zeros(len(t))
    draws = 4000
    for i in range(draws):
        m, s = rb.requant(t, 4, ref.draw(0, 8, i, 0))
        total += m * 2.0**s
    unit = 2.0**s
    limited = np.clip(t / unit, -7, 7)  # OPEN: a largest value between 7 and 8 units is always clipped to 7
    assert np.allclose(total / draws / unit, limited, atol=0.04)
    assert total[-1] == 0


def test_forward_rounding_worked_examples() -> None:
    x = np.array([32767, -32768, 127, 128, -128, -129, 0])
    assert rb.forward_round(x, 8, 16).tolist() == [32512, -32512, 0, 256, 0, -256, 0]
    assert rb.forward_round(x, 16, 16).tolist() == x.tolist()
    assert rb.forward_round(np.array([127, -127, 8, 7, -8]), 4, 8).tolist() == [112, -112, 16, 0, 0]
    assert rb.forward_round(np.array([127, -127]), 9, 8).tolist() == [127, -127]
    once = rb.forward_round(np.arange(-32768, 32768), 5, 16)
    assert np.array_equal(rb.forward_round(once, 5, 16), once)


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
    assert np.array_equal(rb.weight_gradient(gz, s), dw)
    assert np.array_equal(rb.input_gradient(gz, weight), da)
    assert (dw * weight).sum() == (gz * binary_conv(s, weight)).sum()  # z is linear in the weights


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_parameters_by_differences(family: str) -> None:
    """With the signs held, the real-valued block is linear in each parameter between its kinks: differences are derivatives."""
    rng = np.random.default_rng(3)
    block = tiny_block(family, 6, rng)
    c, x = block.constants, stream(rng, 4, 3, 3, 6) // 4  # nothing saturates
    saved = block_values(x, block.weight, c)
    g = rng.integers(-32767, 32768, x.shape)
    ours = rb.backward(block, saved, g, 16, NOW, lowest=True)

    def loss(values: dict[str, NDArray[np.float64]]) -> float:
        y = x + ((saved.r - c.mean) * values["multiplier"] + values["bias"]) / 8
        if c.activation is not None:
            w = y - values["alpha"]
            y = w * np.where(saved.w >= 0, values["high"], values["low"]) / 8192 - values["beta"]
        return float((g * y).sum())

    start = {name: (master >> rb.HIDDEN_BITS[name]).astype(np.float64) for name, master in block.masters.items()}
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
    got = rb.backward(block, saved, g, gradient_bits, NOW, lowest=False)

    def key(tensor: int) -> int:
        return ref.draw(5, 8, (2 << 32) + 3, 16 + tensor)

    gu = g if saved.p is None else rb.requant(g * saved.p, gradient_bits, key(1))[0]
    gz, s1 = rb.requant(gu * c.multiplier, gradient_bits, key(2))
    if c.relu:
        gz[saved.z <= 0] = 0
    da = rb.input_gradient(gz, block.weight)
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
    assert np.array_equal(got.x, rb.requant(total, gradient_bits, key(4))[0])
    assert np.array_equal(got.weight, rb.weight_gradient(gz, saved.s))
    if c.threshold is not None:
        assert got.parameters["threshold"].tolist() == threshold


def test_the_lowest_block_asks_for_no_gradient_that_nobody_reads() -> None:
    rng = np.random.default_rng(5)
    for family in FAMILIES:
        block = tiny_block(family, 4, rng)
        x = stream(rng, 2, 2, 2, 4)
        saved = block_values(x, block.weight, block.constants)
        g = rng.integers(-127, 128, x.shape)
        lowest = rb.backward(block, saved, g, 8, NOW, lowest=True)
        assert lowest.x is None
        assert ("threshold" in lowest.parameters) == (family != "quicknet")
        assert "threshold" not in rb.backward(block, saved, g, 8, NOW, lowest=True, trains_parameters=False).parameters
        assert np.array_equal(lowest.weight, rb.backward(block, saved, g, 8, NOW, lowest=False).weight)
