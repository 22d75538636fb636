"""Training the tail in integers (docs/method.md, 7.3 to 7.5): from the head into its blocks, minibatch by minibatch.

Owns no lesson: which rows make a minibatch, and in which order, is 7.6. Tensors are int64 arrays that hold the method's integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import Int64, Uint64, exact_product
from .head import logit_gradient
from .network import (
    BlockValues,
    ReferenceNetwork,
    block_constants,
    pooled,
    tail_stream,
    unpack_bits,
    whitened,
)
from .tail_block import (
    PURPOSE_GRADIENT,
    TENSOR_DH,
    TENSOR_DQ,
    TENSOR_E,
    TENSOR_F,
    TENSOR_HEAD,
    BlockGradients,
    Gate,
    Moment,
    TailBlock,
    TailSettings,
    backward,
    forward,
    forward_round,
    requant,
    step,
)

# ------------------------------------------------------------------------------------------------- from the head to the tail (7.3, 7.4)


@dataclass(frozen=True)
class Features:
    """Constants of 3.6."""

    pool_multiplier: Int64
    pool_shift: int
    weight: Int64
    multiplier: Int64
    bias: Int64
    shift: int
    feature_bits: int
    relu: bool = True

    @classmethod
    def of(cls, network: ReferenceNetwork) -> Features:
        """Take those of a network."""
        spec = network.network["features"]
        p, weight, multiplier, bias = (
            network.tensors[f"features.{name}"].astype(np.int64) for name in ("pool_multiplier", "weight", "multiplier", "bias")
        )
        return cls(p, spec["pool_shift"], weight, multiplier, bias, spec["shift"], spec["feature_bits"], spec.get("relu", True))

    def __call__(self, x: Int64) -> Int64:
        """Features (N, D_f) of the stream behind the tail, not yet rounded to q_f bits (method.md, 3.6)."""
        q = pooled(x, self.pool_multiplier, self.pool_shift, relu=self.relu)
        return whitened(q, self.weight, self.multiplier, self.bias, self.shift).astype(np.int64)


def requant_head(g: Int64, gradient_bits: int, key: int) -> tuple[Int64, int]:
    """Requantise the gradient of the logits; with 16 bits it stays as it is, -32768 included (method.md, 7.3)."""
    return (g, 0) if gradient_bits == 16 else requant(g, gradient_bits, key)


@dataclass(frozen=True)
class HeadGradients:
    """The head's share of a minibatch: dW (T, D_f) with 15 fraction bits of g times a feature, and g (N, H, W, C) for the last block."""

    weight: Int64
    g: Int64


def head_backward(g: Int64, features: Int64, tw: Int64, constants: Features, x: Int64, gradient_bits: int, moment: Moment) -> HeadGradients:
    """From the gradient of the logits to the head's weights and to the tail's output (method.md, 7.3 and 7.4).

    Parameters
    ----------
    g
        (B, T), 15 fraction bits, as in 4.3.
    features
        h (B, D_f) as the head read it.
    tw
        (T, D_f), 27 fraction bits.
    constants
        Of the features.
    x
        Stream behind the tail (B, H, W, C).
    gradient_bits, moment
        q_b, and the minibatch for the keys.

    """

    def key(tensor: int) -> int:
        return moment.key(PURPOSE_GRADIENT, tensor)

    g, shift = requant_head(g, gradient_bits, key(TENSOR_HEAD))
    weight = exact_product(g.T, features) << shift
    dh, _ = requant(exact_product(g, tw >> 16), gradient_bits, key(TENSOR_DH))
    e, _ = requant(np.where(np.abs(features) == 127, 0, dh * constants.multiplier), gradient_bits, key(TENSOR_E))
    dq, _ = requant(exact_product(e, constants.weight), gradient_bits, key(TENSOR_DQ))
    f, _ = requant(dq * constants.pool_multiplier, gradient_bits, key(TENSOR_F))
    passes = x > 0 if constants.relu else np.ones(x.shape, np.bool_)
    return HeadGradients(weight, np.where(passes, f[:, None, None, :], 0))


# --------------------------------------------------------------------------------------------------------------------- the whole tail


@dataclass(frozen=True)
class Minibatch:
    """Rows of one step: latents (B, words), targets (B,) as positions in the active classes, and the softmax of 4.2."""

    latents: Uint64
    targets: NDArray[np.int64]
    prior: Int64
    ghosts: int = 0
    distilled: Int64 | int = 0


@dataclass(frozen=True)
class Gradients:
    """Of the head (T, D_f), and of the trained blocks, lowest first."""

    head: Int64
    blocks: list[BlockGradients]


@dataclass
class ReferenceTail:
    """All blocks behind the cut, of which the last `train_blocks` learn.

    Attributes
    ----------
    channels, map_size
        Of the stream.
    alpha
        Of the cut (3.5).
    blocks
        All of them, lowest first.
    train_blocks
        How many of the last learn.
    features
        Constants of 3.6.
    settings
        Of 7.1 to 7.5.

    """

    channels: int
    map_size: int
    alpha: Int64
    blocks: list[TailBlock]
    train_blocks: int
    features: Features
    settings: TailSettings = field(default_factory=TailSettings)

    @classmethod
    def of(cls, network: ReferenceNetwork, train_blocks: int, gates: Sequence[Gate], settings: TailSettings) -> ReferenceTail:
        """Begin with the tail of a network."""
        ops: list[dict[str, Any]] = network.network["tail"]
        blocks = [
            TailBlock.from_constants(
                network.tensors[f"tail.{i}.shadow"],
                block_constants(op, network.tensors, f"tail.{i}"),
                gate,
                i,
                settings.weight_bits,
                trains_high=op.get("train_high", True),
            )
            for i, (op, gate) in enumerate(zip(ops, gates, strict=True))
        ]
        alpha = network.tensors["cut.alpha"].astype(np.int64)
        return cls(network.channels, network.map_size, alpha, blocks, train_blocks, Features.of(network), settings)

    def streams(self, latents: Uint64) -> tuple[Int64, list[BlockValues]]:
        """Stream behind the last block, and what every block saved (method.md, 3.5 and 7.2)."""
        q = self.settings.forward_bits
        words = latents.reshape(len(latents), self.map_size, self.map_size, -1)
        x = forward_round(tail_stream(unpack_bits(words, self.channels), self.alpha), q, 16)
        kept = []
        for block in self.blocks:
            x, saved = forward(block, x, q)
            kept.append(saved)
        return x, kept

    def features_of(self, latents: Uint64) -> Int64:
        """Features (N, D_f) as the head reads them (method.md, 3.6 and 7.2)."""
        return forward_round(self.features(self.streams(latents)[0]), self.settings.forward_bits, 8)

    def gradients(self, batch: Minibatch, tw: Int64, moment: Moment) -> Gradients:
        """All gradients of a minibatch; tw (T, D_f) are the head's training weights (method.md, 7.4)."""
        q_b = self.settings.gradient_bits
        x, kept = self.streams(batch.latents)
        h = forward_round(self.features(x), self.settings.forward_bits, 8)
        g = logit_gradient(tw, h, batch.targets, batch.prior, batch.ghosts, self.features.feature_bits, batch.distilled)
        head = head_backward(g, h, tw, self.features, x, q_b, moment)
        lowest, result, top = len(self.blocks) - self.train_blocks, [], head.g
        for i in range(len(self.blocks) - 1, lowest - 1, -1):
            trains = self.settings.parameter_step > 0
            back = backward(self.blocks[i], kept[i], top, q_b, moment, lowest=i == lowest, trains_parameters=trains)
            result.append(back)
            if back.x is not None:
                top = back.x
        return Gradients(head.weight, result[::-1])

    def step(self, gradients: Gradients, moment: Moment) -> None:
        """Step every trained block; the head's own step is 4.3's."""
        lowest = len(self.blocks) - self.train_blocks
        for i, back in enumerate(gradients.blocks):
            self.blocks[lowest + i] = step(self.blocks[lowest + i], back, self.settings, moment)
