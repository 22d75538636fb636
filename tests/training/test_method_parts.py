"""What the methods share: the head, the memory, minibatches, the papers' quantiser, the convolution of small maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the float simulation is tested where torch is installed (extra train)")
from bitreplay.training.layers import BinaryConv2d, QuickNetBlock, ShiftedBlock  # noqa: E402
from bitreplay.training.methods.quantized_latent_replay import quantized_block  # noqa: E402
from bitreplay.training.parts.head import CwrHead, consolidate  # noqa: E402
from bitreplay.training.parts.memory import ReplayMemory  # noqa: E402
from bitreplay.training.parts.steps import minibatches  # noqa: E402
from bitreplay.training.quantizers import affine_quantize, fake_quantize  # noqa: E402
from bitreplay.training.small_maps import small_conv  # noqa: E402


def test_classes_without_rows_are_dropped_and_the_present_ones_load_their_weights() -> None:
    head = CwrHead(3, 4)
    head.cw[:2] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    head.past[:2] = 5
    head.begin(np.array([1, 2, 2]))
    assert torch.equal(head.tw[1], head.cw[1])
    assert float(head.tw[[0, 2, 3]].detach().abs().sum()) == 0
    with torch.no_grad():
        head.tw += 1.0
    head.end()
    assert torch.equal(head.cw[0], torch.tensor([1.0, 2.0, 3.0])), "a class that was absent keeps its weights"
    assert head.past.tolist() == [5, 6, 2, 0]
    assert set(head.predict(torch.randn(50, 3)).tolist()) <= {0, 1, 2}, "a class never seen is never named"


def test_the_softmax_runs_over_what_it_says() -> None:
    x, y = torch.ones(2, 3), torch.tensor([1, 1])
    for softmax, count in (("all", 4), ("present", 1), ("ghosts", 9)):
        head = CwrHead(3, 4, softmax)
        head.begin(np.array([1, 1]))
        assert float(head.loss(x, y).detach()) == pytest.approx(np.log(count), abs=1e-6)
    head = CwrHead(3, 4, "present", prior=True)
    head.begin(np.array([0, 1, 1, 1]))
    # Shares 1/4 and 3/4 of a minibatch as it is: with equal weights the loss is that of the shares themselves.
    loss = head.loss(torch.ones(4, 3), torch.tensor([0, 1, 1, 1]))
    assert float(loss.detach()) == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), abs=1e-6)


def test_consolidation_ignores_an_experience_without_rows() -> None:
    cw, past = torch.randn(3, 4), torch.tensor([1.0, 0.0, 2.0])
    new, counts = consolidate(cw, torch.randn(3, 4), past, torch.zeros(3))
    assert torch.equal(new, cw)
    assert torch.equal(counts, past)


def test_the_memory_is_bounded_balanced_and_keeps_rows_with_their_labels() -> None:
    memory = ReplayMemory(30, np.random.default_rng(0))
    for first in range(0, 8, 2):
        labels = np.repeat([first, first + 1], 40).astype(np.int64)
        memory.offer(labels[:, None] * 10 + np.arange(80)[:, None] % 2 * 0, labels)
        counts = np.bincount(memory.labels)
        present = counts[counts > 0]
        assert len(memory) == 30
        assert present.max() - present.min() <= 1
        assert memory.rows is not None
        assert np.array_equal(memory.rows[:, 0], memory.labels * 10)


def test_the_reservoir_keeps_early_and_late_rows_alike() -> None:
    kept = np.zeros(10)
    for seed in range(200):
        memory = ReplayMemory(20, np.random.default_rng(seed))
        for experience in range(10):
            memory.offer(np.full((50, 1), experience), np.zeros(50, np.int64))
        assert memory.rows is not None
        kept += np.bincount(memory.rows[:, 0], minlength=10)
    assert kept.sum() == 4000
    assert abs(kept - 400).max() < 5 * np.sqrt(400)


def test_pellegrinis_policy_overwrites_a_share_that_falls_with_the_experiences() -> None:
    memory = ReplayMemory(60, np.random.default_rng(0), "random")
    for i in range(1, 5):
        memory.offer(np.full((100, 1), i), np.full(100, i, np.int64))
        assert len(memory) == 60
        assert int((memory.labels == i).sum()) == 60 // i
        assert memory.rows is not None
        assert np.array_equal(memory.rows[:, 0], memory.labels)


def test_an_epoch_passes_once_over_the_live_rows() -> None:
    seen, replayed = [], []
    for done, live, drawn in minibatches(103, 30, 10, 7, 2, np.random.default_rng(0)):
        assert 0 <= done < 1
        assert len(live) == 10
        assert len(drawn) == len(set(drawn)) == 7
        seen.append(live)
        replayed.append(drawn)
    assert len(seen) == 20
    for epoch in range(2):
        assert len(set(np.concatenate(seen[10 * epoch : 10 * epoch + 10]))) == 100
    counts = np.bincount(np.concatenate(replayed), minlength=30)
    assert counts.max() - counts.min() <= 2, "replayed rows go round"
    assert [len(live) for _, live, _ in minibatches(4, 0, 10, 7, 1, np.random.default_rng(0))] == [4]


def test_the_affine_quantiser_is_the_papers() -> None:
    x = torch.tensor([-1.0, -0.4, 0.0, 0.26, 1.0, 3.0])
    assert torch.allclose(affine_quantize(x, 2, -1.0, 1.0), torch.tensor([-1.0, -1 / 3, 1 / 3, 1 / 3, 1.0, 1.0]))  # 1.5 rounds to even: 2
    assert torch.equal(affine_quantize(torch.full((3,), 0.3), 8), torch.full((3,), 0.3)), "a range of one value"
    assert affine_quantize(x, 32) is x
    spread = torch.randn(10_000)
    for bits in (4, 8, 16):
        error = (affine_quantize(spread, bits) - spread).abs().max()
        assert float(error) <= 0.5001 * float(spread.max() - spread.min()) / (2**bits - 1) + 1e-6
    torch.manual_seed(0)
    some = torch.full((20_000,), 0.3)
    drawn = affine_quantize(some, 1, 0.0, 1.0, stochastic=True)
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.02)


def test_gradients_pass_the_quantiser_with_their_own_width() -> None:
    x = torch.randn(50, requires_grad=True)
    g = torch.randn(50)
    fake_quantize(x, 3, 5).backward(g)
    assert x.grad is not None
    assert torch.equal(x.grad, affine_quantize(g, 5))


@pytest.mark.parametrize(
    "block", [QuickNetBlock(16), ShiftedBlock(16, 16), ShiftedBlock(16, 16, dual=True)], ids=["quick", "react", "bireal"]
)
def test_a_quantised_block_at_full_width_is_the_block(block: Any) -> None:
    torch.manual_seed(0)
    for parameter in (p for p in block.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(6, 16, 4, 4)
    plain, quantised = block.train()(x), quantized_block(block, x, 32, 32)
    assert torch.allclose(plain, quantised, atol=1e-5)
    coarse = quantized_block(block, x, 3, 3)
    assert not torch.allclose(plain, coarse, atol=1e-2)


@pytest.mark.parametrize("exact", [True, False])
def test_the_matrix_product_is_the_convolution(exact: bool) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(24, 40)
    s = torch.randn(5, 24, 4, 4).sign()
    results = []
    for product in (None, lambda a, b: small_conv(a, b, exact=exact)):
        layer.product = product
        layer.zero_grad()
        x = s.clone().requires_grad_()
        y = layer(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        assert layer.weight.grad is not None
        results.append((y.detach(), x.grad, layer.weight.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    for plain, fast in zip(results[0][1:], results[1][1:], strict=True):
        assert plain is not None
        assert fast is not None
        assert float((plain - fast).abs().max()) <= (1e-5 if exact else 2e-2) * float(plain.abs().max())
