"""Networks to train: gradients of sign, the binary convolution, the cut, and every network by name (docs/method.md, 2)."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="training is tested where torch is installed (extra train)")

from bitreplay.training.layers import BinaryConv2d, QuickNetBlock, ReplayCut, Transition  # noqa: E402
from bitreplay.training.packed_conv import PackedConv, use_packed  # noqa: E402
from bitreplay.training.quantizers import approx_sign, ste_sign  # noqa: E402
from bitreplay.training.zoo.names import config_of, names  # noqa: E402
from bitreplay.training.zoo.network import CutNetwork, NetworkConfig  # noqa: E402


def test_sign_is_plus_one_at_zero_and_its_gradients_are_the_stated_ones() -> None:
    values = [-2.0, -1.25, -1.2, -0.5, -0.0, 0.0, 0.5, 1.2, 1.3]
    for function, expected in (
        (ste_sign, [0, 1, 1, 1, 1, 1, 1, 1, 0]),
        (approx_sign, [0, 0, 0, 1, 2, 2, 1, 0, 0]),
    ):
        x = torch.tensor(values, requires_grad=True)
        y = function(x)
        assert y.tolist() == [-1, -1, -1, -1, 1, 1, 1, 1, 1]
        y.sum().backward()
        assert x.grad is not None
        assert torch.allclose(x.grad, torch.tensor(expected, dtype=torch.float32))


def test_binary_convolution_pads_with_plus_one_in_both_passes() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 5)
    s = torch.randn(2, 3, 6, 6).sign()
    y = layer(s)
    padded = torch.nn.functional.pad(s, (1, 1, 1, 1), value=1.0)
    weight = torch.where(layer.weight < 0, -1.0, 1.0).detach().requires_grad_()
    expected = torch.nn.functional.conv2d(padded, weight)
    assert torch.equal(y, expected)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    expected.backward(gradient)
    assert layer.weight.grad is not None
    assert torch.allclose(layer.weight.grad, weight.grad, atol=1e-4)


def test_the_cut_gives_one_bit_a_value_at_full_strength_and_blends_before() -> None:
    cut = ReplayCut(4).eval()
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(cut(x).abs(), torch.full_like(x, 0.8))
    bits = cut(x)
    cut.strength = 0.25
    assert torch.allclose(cut(x), 0.75 * cut.norm(x) + 0.25 * bits, atol=1e-6)
    assert torch.equal(ReplayCut(4, binary=False).eval()(x), cut.norm(x))


def test_the_transition_halves_the_map() -> None:
    assert Transition(8, 12)(torch.randn(1, 8, 6, 6)).shape == (1, 12, 3, 3)


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("size", [32, 64, 224])
def test_every_network_by_name_has_its_cut_where_it_says(name: str, size: int) -> None:
    config = config_of(name, size)
    small = replace(config, widths=tuple(8 for _ in config.widths))  # the shape of maps does not depend on widths
    network = CutNetwork(small).eval()
    with torch.no_grad():
        stream = network.stream(torch.zeros(1, 3, size, size))
    assert stream.shape[2] == size // config.shrink == {32: 4, 64: 4, 224: 14 if name.endswith("mini") else 7}[size]
    assert len(network.tail) == config.tail_blocks
    assert config_of(name, size, cut="none", tail_blocks=1).tail_blocks == 1


def test_impossible_networks_are_refused() -> None:
    for name, size, message in (("resnet", 32, "network: expected one of quicknet-small"), ("quicknet", 30, "multiple of 32")):
        with pytest.raises(ValueError, match=message):
            config_of(name, size)
    for values, message in (
        ({"family": "resnet"}, "family: expected one of"),
        ({"stem_strides": (1,)}, "stem_strides: expected 2 of 1 or 2 for quicknet"),
        ({"family": "reactnet", "tail_blocks": 4}, "tail_blocks: expected 0 to 3"),
        ({"image_size": 36}, "image_size: expected a multiple of 8"),
    ):
        with pytest.raises(ValueError, match=message):
            NetworkConfig(**values)


def test_the_engines_kernels_convolve_as_torch_does() -> None:
    torch.manual_seed(0)
    block = QuickNetBlock(12).to(memory_format=torch.channels_last)
    x = torch.randn(3, 12, 5, 5).contiguous(memory_format=torch.channels_last)
    results = []
    for bits in (0, 16):
        if bits:
            use_packed(block, PackedConv(2, bits))
        given = x.clone().requires_grad_()
        block.zero_grad()
        y = block(given)
        (y * torch.arange(75.0).view(3, 1, 5, 5)).sum().backward()
        assert given.grad is not None
        assert block.conv.weight.grad is not None
        results.append((y.detach(), given.grad, block.conv.weight.grad.clone(), block.norm.weight.grad))
    for plain, packed in zip(*results, strict=True):
        assert torch.allclose(plain, packed, atol=3e-4 * float(plain.abs().max()))
    reference = BinaryConv2d(4, 4)
    reference.packed = PackedConv(1, 8)
    wide = torch.tensor([1.3, 1.25, -0.0, -2.0]).view(1, 4, 1, 1).requires_grad_()
    reference.of_sign(wide).sum().backward()
    assert wide.grad is not None
    assert (wide.grad.flatten() != 0).tolist() == [False, True, True, False]
