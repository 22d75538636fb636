"""The reference of a whole tail: from the head into its blocks, and minibatch by minibatch (docs/method.md, 7.3 to 7.6)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference as ref
import reference.tail as rt
import reference.tail_block as rb
import tiny_model
from numpy.typing import NDArray
from reference.arithmetic import exact_product
from reference.head import training_step
from tiny_block import EXPONENT, NOW


def test_the_heads_gradient_of_16_bits_is_that_of_a_head_only_lesson() -> None:
    rng = np.random.default_rng(8)
    tail, batch, tw = tiny_tail(rng, rb.TailSettings(gradient_bits=16))
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
    rng: np.random.Generator, options: rb.TailSettings, *, train_blocks: int = 2, rows: int = 12
) -> tuple[rt.ReferenceTail, rt.Minibatch, NDArray[np.int64]]:
    network, tensors = tiny_model.make_model(3, image_size=8, widths=(8, 12), blocks=(1, 1), tail_blocks=2)
    reference = ref.ReferenceNetwork(network, tensors)
    tail = rt.ReferenceTail.of(reference, train_blocks, [rb.Gate(EXPONENT, clip=5120)] * 2, options)
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
    options = rb.TailSettings(weight_bits=weight_bits, gradient_bits=gradient_bits, parameter_step=5, weight_step=3)
    tail, batch, tw = tiny_tail(np.random.default_rng(10), options)
    tw = 4 * tw

    def loss() -> float:
        p = ref.softmax(ref.logits(tail.features_of(batch.latents), tw, tail.features.feature_bits), 0)
        return float(-np.log(np.maximum(p[np.arange(len(p)), batch.targets], 1) / 32768).mean())

    before, first = loss(), tail.blocks[0].weight
    for t in range(40):
        moment = rb.Moment(step=t, steps=40)
        tail.step(tail.gradients(batch, tw, moment), moment)
    assert loss() < 0.7 * before
    assert (tail.blocks[0].weight != first).any()


@pytest.mark.parametrize("train_blocks", [0, 1])
def test_blocks_below_the_trained_ones_stay(train_blocks: int) -> None:
    tail, batch, tw = tiny_tail(np.random.default_rng(11), rb.TailSettings(), train_blocks=train_blocks)
    before = list(tail.blocks)
    gradients = tail.gradients(batch, tw, NOW)
    assert len(gradients.blocks) == train_blocks
    tail.step(gradients, NOW)
    assert [a is b for a, b in zip(tail.blocks, before, strict=True)] == [train_blocks < 2, train_blocks < 1]


@pytest.mark.parametrize("forward_bits", [16, 8, 4, 2])
def test_features_of_a_row_depend_on_that_row_alone(forward_bits: int) -> None:
    tail, batch, _ = tiny_tail(np.random.default_rng(12), rb.TailSettings(forward_bits=forward_bits))
    together = tail.features_of(batch.latents)
    alone = np.concatenate([tail.features_of(row[None]) for row in batch.latents])
    assert np.array_equal(together, alone)
    assert len(np.unique(together)) <= 2**forward_bits


def test_exact_product_refuses_what_float64_cannot_hold() -> None:
    a = np.full((1, 2), 1 << 26)
    assert exact_product(a, np.ones((2, 1), np.int64)).item() == 1 << 27
    with pytest.raises(AssertionError):
        exact_product(a, np.full((2, 1), 1 << 26))
