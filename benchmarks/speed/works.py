"""The works that are measured: their data, made from a seed, and what plain NumPy computes from them.

Knows no engine and needs NumPy alone (any version from 1.26): every environment imports it.  Maps are (C, H, W), weights
(out, in, k, k), a sign is negative for x < 0 only, binary convolutions are padded with +1, all others with 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CONVS = ("conv_56x56x64", "conv_28x28x128", "conv_14x14x256", "conv_7x7x512")
QUICKNETS = {  # blocks and widths of the stages
    "quicknetsmall": ((4, 4, 4, 4), (32, 64, 256, 512)),
    "quicknet": ((4, 4, 4, 4), (64, 128, 256, 512)),
    "quicknetlarge": ((6, 8, 12, 6), (64, 128, 256, 512)),
}
IMAGE_SIZE = 224
STE_WINDOW = 1.25


@dataclass
class Loaded:
    """A work that an engine has made ready."""

    call: Callable[[], object]  # what is timed
    output: Callable[[], Any]  # of the last call, as an array
    expected: Callable[[], Any]  # the same from NumPy, after one call
    agreement: float  # 1: equal; below 1: the least correlation with what is expected
    base: Callable[[], Any] | None = None  # taken from both before they are correlated: what another picture gives, for networks
    steps: int = 1  # that one call makes: times are divided by it
    check: Callable[[], bool] | None = None  # in place of a comparison, where there is chance in the work


def generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Any:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def signs(x: Any) -> Any:
    return np.where(x < 0, np.float32(-1), np.float32(1))


def conv2d(x: Any, weight: Any, stride: int = 1, pad: tuple[int, int] = (1, 1), value: float = 0.0) -> Any:
    """Convolution of (C, H, W); weights (out, C, k, k), or (C, 1, k, k) for a depth-wise one; pad before and behind."""
    x = np.pad(x, ((0, 0), pad, pad), constant_values=value)
    kernel = weight.shape[-1]
    rows, columns = ((size - kernel) // stride + 1 for size in x.shape[1:])
    depthwise = weight.shape[1] == 1 and len(x) > 1
    result = np.zeros((len(weight), rows, columns), np.float32)
    for a in range(kernel):
        for b in range(kernel):
            tap = x[:, a : a + stride * rows : stride, b : b + stride * columns : stride][:, :rows, :columns]
            result += weight[:, :, a, b, None] * tap if depthwise else np.tensordot(weight[:, :, a, b], tap, 1)
    return result


def channels(vector: Any) -> Any:
    return vector[:, None, None]


# One convolution


@dataclass
class Conv:
    x: Any  # (C, H, W)
    sign: Any  # weights, -1 or 1
    scale: Any  # of the batch norm behind the ReLU
    offset: Any
    weight: Any  # of the float and int8 engines

    def dots(self) -> Any:
        return conv2d(signs(self.x), self.sign, value=1.0)

    def block(self) -> Any:
        return self.x + np.maximum(self.dots(), 0) * channels(self.scale) + channels(self.offset)

    def real(self) -> Any:
        return conv2d(self.x, self.weight)


def conv(name: str) -> Conv:
    height, width, c = (int(v) for v in name.removeprefix("conv_").split("x"))
    rng = generator(name)
    return Conv(
        normal(rng, c, height, width),
        signs(normal(rng, c, c, 3, 3)),
        normal(rng, c, scale=(9 * c) ** -0.5),
        normal(rng, c, scale=0.1),
        normal(rng, c, c, 3, 3, scale=(9 * c) ** -0.5),
    )


def conv_macs(name: str) -> int:
    height, width, c = (int(v) for v in name.removeprefix("conv_").split("x"))
    return height * width * c * c * 9


# Whole networks: lists of layers that an engine walks through


@dataclass
class Layer:
    kind: str  # conv, depthwise, block, maxpool (2/1), mean (over the map), dense
    weight: Any = None
    scale: Any = None  # per output channel; None: 1
    offset: Any = None
    stride: int = 1
    relu: bool = False  # before the layer for maxpool and mean, behind it for the others
    pad: tuple[int, int] = (0, 0)


def image(name: str = "image") -> Any:
    """Four patches of colour and some noise: with noise alone, all pictures give nearly the same pooled features."""
    rng, half = generator(name), IMAGE_SIZE // 2
    return np.kron(normal(rng, 3, 2, 2, scale=2.0), np.ones((half, half), np.float32)) + normal(rng, 3, IMAGE_SIZE, IMAGE_SIZE, scale=0.3)


def quicknet(name: str) -> list[Layer]:
    blocks, widths = QUICKNETS[name]
    rng = generator(name)

    def affine(c: int, scale: float = 1.0) -> tuple[Any, Any]:
        return normal(rng, c, scale=scale), normal(rng, c, scale=0.1)

    def convolution(c: int, out: int, kernel: int, stride: int, relu: bool = False) -> Layer:
        weight = normal(rng, out, c, kernel, kernel, scale=(kernel * kernel * c) ** -0.5)
        return Layer("conv", weight, *affine(out), stride, relu, same(kernel, stride))

    def same(kernel: int, stride: int, even: bool = True) -> tuple[int, int]:  # "same", the odd row behind
        return (0, 0) if kernel == 1 else (0, 1) if stride == 2 and even else (1, 1)

    c = widths[0]
    layers = [
        convolution(3, c // 4, 3, 2, relu=True),
        Layer("depthwise", normal(rng, c // 4, 1, 3, 3, scale=1 / 3), *affine(c // 4), 2, pad=same(3, 2)),
        convolution(c // 4, c, 1, 1),
    ]
    for count, width in zip(blocks, widths, strict=True):
        if width != c:
            blur = np.broadcast_to(np.outer((1, 2, 1), (1, 2, 1)).astype(np.float32) / 16, (c, 1, 3, 3)).copy()
            layers += [Layer("maxpool", relu=True), Layer("depthwise", blur, stride=2, pad=same(3, 2, even=False))]
            layers += [convolution(c, width, 1, 1)]
            c = width
        for _ in range(count):
            layers.append(
                Layer("block", signs(normal(rng, c, c, 3, 3)), *affine(c, 0.2 * (9 * c) ** -0.5))
            )  # small steps: a flipped sign stays one
    return [*layers, Layer("mean", relu=True), Layer("dense", normal(rng, 1000, c, scale=c**-0.5), offset=normal(rng, 1000))]


def mobilenet() -> list[Layer]:
    """MobileNetV1, width 1, batch norm folded into the weights."""
    rng, c = generator("mobilenet"), 32
    layers = [Layer("conv", normal(rng, c, 3, 3, 3, scale=(2 / 27) ** 0.5), None, normal(rng, c, scale=0.1), 2, True, (0, 1))]
    for out, stride in [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]:
        pad = (0, 1) if stride == 2 else (1, 1)
        layers.append(Layer("depthwise", normal(rng, c, 1, 3, 3, scale=(2 / 9) ** 0.5), None, normal(rng, c, scale=0.1), stride, True, pad))
        layers.append(Layer("conv", normal(rng, out, c, 1, 1, scale=(2 / c) ** 0.5), None, normal(rng, out, scale=0.1), 1, True))
        c = out
    return [*layers, Layer("mean"), Layer("dense", normal(rng, 1000, c, scale=c**-0.5), offset=normal(rng, 1000))]


def loaded_network(call: Callable[[], object], output: Callable[[], Any], layers: Callable[[], list[Layer]], agreement: float) -> Loaded:
    """A network that has run on `image()`."""
    return Loaded(call, output, lambda: run_layers(layers(), image()), agreement, lambda: run_layers(layers(), image("another")))


def run_layers(layers: list[Layer], x: Any) -> Any:
    for layer in layers:
        if layer.relu and layer.kind in ("maxpool", "mean"):
            x = np.maximum(x, 0)
        if layer.kind == "maxpool":
            x = np.maximum(np.maximum(x[:, :-1, :-1], x[:, :-1, 1:]), np.maximum(x[:, 1:, :-1], x[:, 1:, 1:]))
        elif layer.kind == "mean":
            x = x.mean((1, 2))
        elif layer.kind == "dense":
            x = layer.weight @ x + layer.offset
        elif layer.kind == "block":
            dots = conv2d(signs(x), layer.weight, value=1.0)
            x = x + np.maximum(dots, 0) * channels(layer.scale) + channels(layer.offset)
        else:
            x = conv2d(x, layer.weight, layer.stride, layer.pad)
            x = x if layer.scale is None else x * channels(layer.scale)
            x = x if layer.offset is None else x + channels(layer.offset)
            x = np.maximum(x, 0) if layer.relu else x
    return x


# One step of the head


def softmax_gradient(logits: Any, labels: Any) -> Any:
    """Gradient of the mean cross-entropy by the logits."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return p / np.float32(len(labels))


@dataclass
class Head:
    x: Any  # (128, 1024)
    labels: Any
    weight: Any  # (50, 1024), before the step
    rate: float = 0.05

    def update(self) -> Any:
        """What one step adds to the weights."""
        gradient = softmax_gradient(self.x.astype(np.float64) @ self.weight.T.astype(np.float64), self.labels)
        return -self.rate * gradient.T @ self.x


def head() -> Head:
    rng = generator("head")
    return Head(normal(rng, 128, 1024), rng.integers(0, 50, 128), normal(rng, 50, 1024, scale=0.05))


# One learning step below the head: binary latents through three blocks of 512 channels at 4x4


@dataclass
class Lesson:
    latents: Any  # (178, 512, 4, 4), -1 or 1
    labels: Any
    weights: list[Any]  # real weights behind the signs, (512, 512, 3, 3)
    mean: list[Any]  # statistics of the batch norms, frozen
    sigma: list[Any]
    gamma: list[Any]  # their scales and offsets, trained
    beta: list[Any]
    head: Any  # (10, 512)
    bias: Any
    rate: float = 0.1

    def parameters(self) -> list[Any]:
        """Per block weights, gamma, beta; head, bias."""
        return [p for group in zip(self.weights, self.gamma, self.beta, strict=True) for p in group] + [self.head, self.bias]

    def gradients(self) -> list[Any]:
        """Of the mean cross-entropy by the parameters, in their order."""
        x, stack = self.latents, []
        for w, mean, sigma, gamma, beta in zip(self.weights, self.mean, self.sigma, self.gamma, self.beta, strict=True):
            z = batched_conv(signs(x), signs(w), 1.0)
            normed = (np.maximum(z, 0) - channels(mean)) / channels(sigma)
            stack.append((x, z, normed))
            x = x + normed * channels(gamma) + channels(beta)
        pooled = np.maximum(x, 0).mean((2, 3))
        g = softmax_gradient(pooled @ self.head.T + self.bias, self.labels)
        result = [g.T @ pooled, g.sum(0)]
        dx = np.where(x > 0, (g @ self.head)[:, :, None, None] / np.float32(x.shape[2] * x.shape[3]), np.float32(0))
        for i in (2, 1, 0):
            x, z, normed = stack[i]
            dz = np.where(z > 0, dx * channels(self.gamma[i] / self.sigma[i]), np.float32(0))
            dw = batched_weight_gradient(signs(x), dz, 1.0) * (np.abs(self.weights[i]) < STE_WINDOW)
            result = [dw, (dx * normed).sum((0, 2, 3)), dx.sum((0, 2, 3)), *result]
            if i:
                turned = signs(self.weights[i])[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
                dx = dx + batched_conv(dz, turned, 0.0) * (np.abs(x) < STE_WINDOW)
        return result

    def scaled(self, gradients: list[Any]) -> Any:
        """All in one vector, each kind of parameter with about the same weight."""
        sizes = (np.sqrt((g.astype(np.float64) ** 2).mean()) for g in self.gradients())
        return np.concatenate([np.asarray(g, np.float64).reshape(-1) / size for g, size in zip(gradients, sizes, strict=True)])


def _taps(x: Any, value: float) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=value)
    height, width = x.shape[2:]
    for a in range(3):
        for b in range(3):
            tap = padded[:, :, a : a + height, b : b + width]
            yield a, b, np.ascontiguousarray(tap.transpose(0, 2, 3, 1)).reshape(-1, x.shape[1])


def batched_conv(x: Any, weight: Any, value: float) -> Any:
    n, _, height, width = x.shape
    total = sum(tap @ weight[:, :, a, b].T for a, b, tap in _taps(x, value))
    return total.reshape(n, height, width, -1).transpose(0, 3, 1, 2)


def batched_weight_gradient(x: Any, dz: Any, value: float) -> Any:
    rows = np.ascontiguousarray(dz.transpose(0, 2, 3, 1)).reshape(-1, dz.shape[1])
    result = np.empty((dz.shape[1], x.shape[1], 3, 3), np.float32)
    for a, b, tap in _taps(x, value):
        result[:, :, a, b] = rows.T @ tap
    return result


def lesson(rows: int = 178, c: int = 512, side: int = 4, classes: int = 10) -> Lesson:
    rng = generator("lesson")
    fan = 9 * c
    blocks = range(3)
    return Lesson(
        signs(normal(rng, rows, c, side, side)),
        rng.integers(0, classes, rows),
        [normal(rng, c, c, 3, 3, scale=0.5) for _ in blocks],
        [np.full(c, 0.4 * fan**0.5, np.float32) for _ in blocks],
        [np.full(c, 0.6 * fan**0.5, np.float32) for _ in blocks],
        [normal(rng, c, scale=0.3) + np.float32(0.5) for _ in blocks],
        [normal(rng, c, scale=0.2) for _ in blocks],
        normal(rng, classes, c, scale=0.05),
        normal(rng, classes, scale=0.05),
    )
