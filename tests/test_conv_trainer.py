"""The convolution that training runs on: exact forward, gradients equal to the reference's on the rounded values (docs/method.md, 2.6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reference.network import binary_conv, unpack_bits
from reference.tail_block import input_gradient, weight_gradient

from bitreplay import _engine

Float = NDArray[np.float32]


def signs(x: Float) -> NDArray[np.int64]:
    return np.where(x < 0, -1, 1).astype(np.int64)


def expected(x: Float, weight: Float, g: Float, clip: float, bits: int) -> tuple[Float, Float, Float]:
    s, w = signs(x), signs(weight).reshape(len(weight), 3, 3, -1)
    z = binary_conv(s, w).astype(np.float32)
    top = np.abs(g).max()
    if top == 0:
        return z, np.zeros_like(x), np.zeros_like(weight)
    scale = np.float32(2 ** (bits - 1) - 1) / top
    rounded = np.rint(g * scale).astype(np.int64)
    unit = np.float32(1) / scale
    dx = input_gradient(rounded, w).astype(np.float32) * unit
    dw = weight_gradient(rounded, s).astype(np.float32).reshape(weight.shape) * unit
    return z, np.where(np.abs(x) <= np.float32(clip), dx, np.float32(0)), dw


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 63, 64, 65, 72, 128, 130])),
    bits=st.sampled_from([8, 11, 16]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_reference_at_any_size(shape: tuple[int, int, int, int], bits: int, threads: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels = shape[3]
    x = rng.normal(0, 1, shape).astype(np.float32)
    weight = rng.normal(0, 1, (channels, 9, channels)).astype(np.float32)
    g = (rng.normal(0, 1, shape) * 10.0 ** rng.integers(-6, 4)).astype(np.float32)
    for values in (x, weight):  # what sits on an edge: both zeros count as +1, the clip lets its own value through
        values.flat[:: max(1, values.size // 7)] = rng.choice(np.array([0.0, -0.0, 1.25, -1.25], np.float32))
    trainer = _engine.ConvTrainer(threads)
    z, packed, gate = trainer.forward(x, weight, 1.25)
    dx, dw = trainer.backward(g, packed, gate, weight, bits)
    for found, right in zip((z, dx, dw), expected(x, weight, g, 1.25, bits), strict=True):
        assert found.dtype == np.float32
        assert np.array_equal(found, right)
    assert np.array_equal(unpack_bits(packed, channels), x < 0)
    assert np.array_equal(unpack_bits(gate, channels), np.abs(x) <= 1.25)


def test_a_batch_too_large_for_sums_of_32_bits_is_taken_in_parts() -> None:
    rng = np.random.default_rng(0)
    x = np.full((300, 16, 16, 2), -1, np.float32)  # 76,800 positions: 16-bit gradients of one sign would not fit
    weight = rng.normal(0, 1, (2, 9, 2)).astype(np.float32)
    g = np.ones_like(x)
    trainer = _engine.ConvTrainer(2)
    _, packed, gate = trainer.forward(x, weight, 1.25)
    dx, dw = trainer.backward(g, packed, gate, weight, 16)
    one, _ = trainer.backward(g[:1], packed[:1], gate[:1], weight, 16)
    assert np.array_equal(dx, np.broadcast_to(one, dx.shape))
    # The middle tap saw -1 everywhere; the others +1 where they look beyond the map.
    assert np.allclose(dw[:, 4], -76_800)
    assert np.allclose(dw[:, 1], -300 * (16 * 15 - 16))


def test_no_gradient_gives_none_and_one_that_is_not_finite_is_passed_on() -> None:
    x, weight = np.ones((2, 3, 3, 5), np.float32), np.ones((5, 9, 5), np.float32)
    trainer = _engine.ConvTrainer(1)
    _, packed, gate = trainer.forward(x, weight, 1.25)
    for found in trainer.backward(np.zeros_like(x), packed, gate, weight, 8):
        assert not found.any()
    for strange in (np.inf, np.nan):
        g = np.ones_like(x)
        g[1, 2, 1, 3] = strange
        for found in trainer.backward(g, packed, gate, weight, 8):
            assert not np.isfinite(found).any()
    for found in trainer.backward(np.full_like(x, 1e-44), packed, gate, weight, 8):  # too small to be scaled
        assert not found.any()


def test_what_does_not_fit_is_refused() -> None:
    x, weight = np.ones((2, 3, 3, 5), np.float32), np.ones((5, 9, 5), np.float32)
    trainer = _engine.ConvTrainer(1)
    _, packed, gate = trainer.forward(x, weight, 1.25)
    with pytest.raises(ValueError, match=r"weight: expected \(C, 9, C\)"):
        trainer.forward(x, weight[:4], 1.25)
    with pytest.raises(ValueError, match=r"expected values \(N, H, W, C\), each from 1"):
        trainer.forward(x[:, :0], weight, 1.25)
    with pytest.raises(ValueError, match="bits, gate: expected what forward gave for these rows"):
        trainer.backward(x[:1], packed, gate, weight, 8)
    for bits in (7, 17):
        with pytest.raises(ValueError, match="gradient_bits: expected 8 to 16"):
            trainer.backward(x, packed, gate, weight, bits)
