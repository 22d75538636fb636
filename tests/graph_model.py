"""Small random graphs that a model file may hold (docs/method.md, 3.8 to 3.11), their values as lively as those of `tiny_model`."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference as ref
import tiny_model
from numpy.typing import NDArray

STD = 3000.0  # of every value, in its units
KINDS = (
    "conv",
    "grouped",
    "depthwise",
    "binary",
    "grouped binary",
    "block",
    "affine",
    "activate",
    "add",
    "concat",
    "gate",
    "max_pool",
    "average_pool",
)
MOST = 24  # channels, but for those of a grouped binary convolution


class Graph:
    """One under construction, with what each value is on random images.

    Parameters
    ----------
    seed : of everything random.
    image_size : S.
    """

    def __init__(self, seed: int, image_size: int) -> None:
        self.rng = np.random.default_rng((seed, 0x96A9))
        self.ops: list[dict[str, Any]] = []
        self.tensors: dict[str, NDArray[Any]] = {}
        self.values = [ref.input_values(tiny_model.random_images(seed, 12, image_size))]
        self.image_size = image_size

    def _append(self, op: dict[str, Any], read: list[int], **tensors: NDArray[Any]) -> int:
        name = f"prefix.{len(self.ops)}"
        self.tensors |= {f"{name}.{key}": value for key, value in tensors.items()}
        if read != [len(self.ops)] or self.rng.random() < 0.3:
            op = {**op, "from": read}
        self.ops.append({**op, "exponent": 8})
        self.values.append(ref.operation(op, [self.values[k] for k in read], self.tensors, name))
        return len(self.ops)

    def _affine(self, sums: NDArray[np.int64], block: bool = False, wide: bool = False) -> tuple[int, NDArray[Any], NDArray[Any]]:
        # Shift, multipliers (with `wide` int32) and biases that bring sums (..., C) to the usual spread; in the ranges of a block, where asked for.
        mean, std = sums.reshape(-1, sums.shape[-1]).mean(0), sums.reshape(-1, sums.shape[-1]).std(0)
        ratio = STD * self.rng.uniform(0.5, 1.5, len(mean)) * self.rng.choice([-1, 1], len(mean)) / np.maximum(std, 1.0)
        shift = int(np.clip((29 if wide else 13) - np.floor(np.log2(np.abs(ratio).max())), 0, 46 if wide else 30))
        multiplier = (
            np.rint(ratio * 2.0**shift).astype(np.int32) if wide else np.clip(np.rint(ratio * 2.0**shift), -32768, 32767).astype(np.int16)
        )
        bias = np.rint((self.rng.normal(0, STD / 2, len(mean)) - ratio * mean) * 2.0**shift)
        return shift, multiplier, np.clip(bias, -(2**29), 2**29).astype(np.int32) if block else bias.astype(np.int64)

    def _window(self, kernels: tuple[int, ...], strides: tuple[int, ...], side: int) -> dict[str, Any]:
        kernel = int(self.rng.choice([k for k in kernels if k <= side]))
        window: dict[str, Any] = {"kernel": kernel, "stride": int(self.rng.choice(strides))}
        if self.rng.random() < 0.6:
            window["pad"] = self.rng.integers(0, kernel, 4).tolist()
        return window

    def convolution(self, kind: str, read: int) -> int:
        """A conv, dense, grouped or depth-wise."""
        x = self.values[read]
        channels, depthwise = x.shape[-1], kind == "depthwise"
        groups = int(self.rng.choice([g for g in range(2, channels + 1) if channels % g == 0])) if kind == "grouped" and channels > 1 else 1
        out = channels if depthwise else groups * int(self.rng.integers(1, max(2, MOST // groups) + 1))
        window = self._window((1, 3) if depthwise else (1, 2, 3, 5, 7), (1, 2) if depthwise else (1, 2, 3), min(x.shape[1:3]))
        kernel = window["kernel"]
        largest = min(127, 65535 // (kernel * kernel * channels))
        shape = (out, kernel, kernel) if depthwise else (out, kernel, kernel, channels // groups)
        wide = bool(self.rng.random() < 0.3)
        if wide:
            largest = 65535 // (kernel * kernel * channels)
        weight = np.clip(self.rng.integers(-largest, largest + 1, shape), -32768, 32767).astype(np.int16 if wide else np.int8)
        shift, multiplier, bias = self._affine(ref.conv_sums(x, weight, ref.Window.of(window), groups), wide=wide)
        op = {
            "op": "conv",
            "in": channels,
            "out": out,
            **window,
            "depthwise": depthwise,
            "relu": bool(self.rng.random() < 0.3),
            "shift": shift,
        }
        op |= {"wide": True} if wide else {}
        return self._append(op | ({"groups": groups} if groups > 1 else {}), [read], weight=weight, multiplier=multiplier, bias=bias)

    def binary(self, kind: str, read: int) -> int:
        """A binary convolution by itself."""
        channels, groups = self.values[read].shape[-1], 1
        if kind == "grouped binary":
            groups = int(self.rng.integers(2, 4))
            read = self.convolution_to(64 * groups, read)
            channels = 64 * groups
        x = self.values[read]
        out = groups * int(self.rng.integers(1, 10)) if groups > 1 else int(self.rng.choice([3, 20, 65, 70]))
        window = self._window((1, 3), (1, 2), min(x.shape[1:3]))
        flags = {
            "relu": bool(self.rng.random() < 0.5),
            "zero_pad": bool(self.rng.random() < 0.5),
            "threshold": bool(self.rng.random() < 0.5),
        }
        weight = ref.pack_bits(self.rng.random((out, window["kernel"], window["kernel"], channels // groups)) < 0.5)
        own = {"threshold": self.rng.normal(0, STD, channels).astype(np.int16)} if flags["threshold"] else {}
        taps = window["kernel"] ** 2 * channels // groups
        mean = self.rng.integers(-taps // 4, taps // 4 + 1, out).astype(np.int16)
        negative = (x + own["threshold"] if own else x) < 0
        signs, weights = ref.signs(negative), ref.signs(ref.unpack_bits(weight, channels // groups))
        z = ref.binary_conv(signs, weights, ref.Window.of(window), outside=0 if flags["zero_pad"] else 1, groups=groups)
        shift, multiplier, bias = self._affine((np.maximum(z, 0) if flags["relu"] else z) - mean, block=True)
        op = {"op": "binary", "in": channels, "out": out, **window, **flags, "shift": shift}
        op |= {"groups": groups} if groups > 1 else {}
        return self._append(op, [read], weight=weight, mean=mean, multiplier=multiplier, bias=bias, **own)

    def block(self, read: int) -> int:
        """A residual block."""
        x = self.values[read]
        channels, zero_pad = x.shape[-1], bool(self.rng.random() < 0.5)
        weight = ref.pack_bits(self.rng.random((channels, 3, 3, channels)) < 0.5)
        z = ref.binary_conv(ref.signs(x < 0), ref.signs(ref.unpack_bits(weight, channels)), outside=0 if zero_pad else 1)
        shift, multiplier, bias = self._affine(np.maximum(z, 0), block=True)
        mean = np.zeros(channels, np.int16)
        op = {"op": "block", "channels": channels, "shift": shift, "zero_pad": zero_pad}
        return self._append(op, [read], weight=weight, mean=mean, multiplier=multiplier, bias=bias)

    def convolution_to(self, out: int, read: int, size: tuple[int, int] | None = None) -> int:
        """A 1x1 convolution to so many channels; with a size from a value that is averaged to 1x1 first."""
        x = self.values[read]
        weight = self.rng.integers(-127, 128, (out, 1, 1, x.shape[-1])).astype(np.int8)
        shift, multiplier, bias = self._affine(ref.conv_sums(x, weight, ref.Window(1)))
        op = {"op": "conv", "in": x.shape[-1], "out": out, "kernel": 1, "stride": 1, "depthwise": False, "relu": False, "shift": shift}
        return self._append(op, [read], weight=weight, multiplier=multiplier, bias=bias)

    def add(self, kind: str, read: int) -> int:
        """An operation of the kind that reads a value, with what it needs beside; returns its value's number."""
        x = self.values[read]
        channels, rng = x.shape[-1], self.rng
        if kind in ("conv", "grouped", "depthwise"):
            return self.convolution(kind, read)
        if kind in ("binary", "grouped binary"):
            return self.binary(kind, read)
        if kind == "block":
            return self.block(read)
        if kind == "affine":
            wide = bool(rng.random() < 0.5)
            shift, multiplier, bias = self._affine(x, wide=wide)
            op = {"wide": wide, "op": "affine", "channels": channels, "relu": bool(rng.random() < 0.3), "shift": shift}
            return self._append(op, [read], multiplier=multiplier, bias=bias)
        if kind == "activate":
            values = {
                name: rng.normal(mean, 1500, channels).astype(np.int16)
                for name, mean in (("alpha", 0), ("beta", 0), ("high", 8192), ("low", 2048))
            }
            return self._append({"op": "activate", "channels": channels}, [read], **values)
        if kind == "add":
            others = [k for k, value in enumerate(self.values) if value.shape == x.shape]
            multipliers = rng.integers(-20000, 20001, 2).tolist()
            return self._append(
                {"op": "add", "channels": channels, "multipliers": multipliers, "shift": 14, "relu": bool(rng.random() < 0.3)},
                [read, int(rng.choice(others))],
            )
        if kind == "concat":
            others = [k for k, value in enumerate(self.values) if value.shape[1:3] == x.shape[1:3] and value.shape[-1] <= MOST]
            read_too = rng.choice(others, int(rng.integers(1, 4))).tolist()
            total = channels + sum(self.values[k].shape[-1] for k in read_too)
            return self._append({"op": "concat", "channels": total}, [read, *read_too])
        if kind == "gate":
            whole = {"op": "average_pool", "channels": channels, "kernel": min(x.shape[1:3]), "stride": 4, "pad": [0, 0, 0, 0]}
            mean = self._append(whole, [read])
            if self.values[mean].shape[1:3] != (1, 1):
                return mean
            return self._append({"op": "gate", "channels": channels}, [read, self.convolution_to(channels, mean)])
        window = self._window((1, 2, 3, 5, 7) if kind == "max_pool" else (1, 2, 3, 4, 8), (1, 2, 3, 4), min(x.shape[1:3]))
        return self._append(
            {"op": kind, "channels": channels, **window} | ({"relu": bool(rng.random() < 0.3)} if kind == "max_pool" else {}), [read]
        )

    def finish(self, cut: bool) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Put a cut, or the features alone, behind the last value."""
        x = self.values[-1]
        channels = x.shape[-1]
        network: dict[str, Any] = {"image_size": self.image_size, "prefix": self.ops, "tail": []}
        tensors = dict(self.tensors)
        if cut:
            network["cut"] = {"channels": channels, "exponent": 8}
            tensors |= {
                "cut.threshold": np.median(x.reshape(-1, channels), 0).astype(np.int32), "cut.direction": self.rng.integers(0, 2, channels).astype(np.uint8),
                "cut.alpha": self.rng.integers(1000, 9000, channels).astype(np.int16),
            }  # fmt: skip
        pooled = np.abs(x).sum((1, 2)).max() + 1 if not cut else 9000 * x.shape[1] * x.shape[2]
        pool_shift = 28
        tensors["features.pool_multiplier"] = np.full(channels, max(1, int(20000 / pooled * 2.0**pool_shift)), np.int32)
        tensors["features.weight"] = np.diag(self.rng.integers(60, 128, channels)).astype(np.int8)
        tensors["features.multiplier"] = np.full(channels, 8000, np.int16)
        tensors["features.bias"] = self.rng.integers(-(2**27), 2**27, channels)
        network["features"] = {
            "channels": channels,
            "pool_shift": pool_shift,
            "shift": 25,
            "feature_bits": 5,
            "relu": bool(self.rng.random() < 0.5),
        }
        return network, tensors


def make_graph(
    seed: int, *, image_size: int = 13, operations: int = 9, cut: bool = False
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Make a random legal graph, of one kind of operation after the other; some also read values from further before."""
    graph = Graph(seed, image_size)
    kinds = graph.rng.permutation(KINDS)[:operations].tolist()
    last = graph.convolution("conv", 0) if graph.rng.random() < 0.7 else graph.add("affine", 0)
    for kind in kinds:
        last = graph.add(kind, last)
    return graph.finish(cut)
