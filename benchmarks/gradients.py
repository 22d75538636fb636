"""Cosines of the tail's integer gradients with float autograd on the same bits; writes JSON lines and prints a table.

    python benchmarks/gradients.py DATA [--minibatches 20] [--families quicknet reactnet bireal] [--gradient-bits 16 8 4]

DATA is a folder with CIFAR-10's train*.parquet.  Each minibatch could be the first of the second experience of NC5: 50 live rows (airplane,
ship) and 128 replayed ones (frog, bird), through the tail of the shipped backbone.  The integer gradients are tests/reference/tail.py's,
which the engine equals.  The float ones are autograd's: the same signs, weights, constants and straight-through rules, and nothing
rounded.  Bits "signs" holds the signs of the binary convolutions only; "all" holds the other bits of the forward pass too: which side of
an activation or of the last ReLU a value is on, and which features saturate.

quicknet is the shipped tail.  No backbone of the other families is shipped yet: reactnet and bireal have the same bits and folded batch
norms, the means and scales fitted again to z without ReLU, and small random thresholds and activations; the features are scaled anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy import NC5
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bitreplay import Model, Settings
from bitreplay.datasets.image_sets import read_split
from bitreplay.model import _FOLDER, SHIPPED

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference.files import unpack
from reference.head import prior_logits
from reference.learner import ReferenceLearner
from reference.network import Activation, BlockConstants, BlockValues, ReferenceNetwork, block_constants, block_values
from reference.tail import BlockGradients, Gate, Gradients, Minibatch, Moment, ReferenceTail, TailBlock, TailSettings

LIVE, REPLAYED = 50, 128
ROWS = 1500  # of each experience, for the head's lessons and the minibatches
BARS = {16: 0.999, 8: 0.97}
KINDS = ("head", "weight", "weight, mean over channels", "multiplier", "bias", "threshold", "alpha", "beta", "high", "low")
HEAD_LESSON = Settings(
    capacity=500, head="cwr", near_equal=0, learning_rate=3000 / 2**16, epochs=4, live_batch=LIVE, replay_batch=REPLAYED
).for_core()  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------ the families


@dataclass
class TailNetwork:
    """A tail in the place of a whole network, for lessons of the head on latents."""

    tail: ReferenceTail
    row_words: int
    latent_bits: int

    @property
    def feature_count(self) -> int:
        return self.tail.channels

    @property
    def feature_bits(self) -> int:
        return self.tail.features.feature_bits

    def latents(self, images: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """What `teach` packed into pictures of one pixel."""
        return images[:, 0, 0]

    def features(self, latents: NDArray[np.uint64]) -> NDArray[np.int8]:
        if not len(latents):
            return np.zeros((0, self.feature_count), np.int8)
        parts = np.array_split(latents, max(1, len(latents) // 200))
        return np.concatenate([self.tail.features_of(part) for part in parts]).astype(np.int8)


def fit(constants: BlockConstants, values: BlockValues, with_relu: NDArray[np.int64]) -> BlockConstants:
    """Fold the batch norm again, around z without ReLU: the same gamma and beta."""
    sigma = np.maximum(values.z.std(axis=(0, 1, 2)), 1.0)
    scale = constants.multiplier * with_relu.std(axis=(0, 1, 2)) / sigma
    more = max(0, 13 - int(np.floor(np.log2(np.abs(scale).max()))))
    mean = np.rint(values.z.mean(axis=(0, 1, 2))).astype(np.int64)
    multiplier = np.rint(scale * 2.0**more).astype(np.int64)
    return replace(constants, mean=mean, multiplier=multiplier, bias=constants.bias << more, shift=constants.shift + more)


def random_family(family: str, constants: BlockConstants, exponent: int, rng: np.random.Generator) -> tuple[BlockConstants, Gate, bool]:
    """Give a block thresholds and an activation; its straight-through rule, and whether `high` is trained."""
    channels, one = len(constants.mean), 1 << exponent

    def offsets(spread: float) -> NDArray[np.int64]:
        return np.rint(rng.normal(0, spread * one, channels)).astype(np.int64)

    low = np.rint(8192 * rng.uniform(0.1, 0.4, channels)).astype(np.int64)
    high = np.rint(8192 * (rng.uniform(0.8, 1.2, channels) if family == "bireal" else np.ones(channels))).astype(np.int64)
    changed = replace(
        constants, relu=False, threshold=offsets(0.2), activation=Activation(offsets(0.1), offsets(0.1), high, low)
    )  # fmt: skip
    gate = Gate(exponent, approx=True) if family == "reactnet" else Gate(exponent, clip=one + one // 4)
    return changed, gate, family == "bireal"


def make_tail(family: str, network: ReferenceNetwork, latents: NDArray[np.uint64]) -> ReferenceTail:
    """Build the tail of a family, all of its blocks trained; `latents` are rows to fit statistics on."""
    exponent = network.network["cut"]["exponent"]
    gates = [Gate(exponent, clip=(1 << exponent) * 5 // 4)] * len(network.network["tail"])
    tail = ReferenceTail.of(network, len(gates), gates, TailSettings())
    if family == "quicknet":
        return tail
    rng = np.random.default_rng(7)
    usual = tail.features(tail.streams(latents)[0])
    x = replace(tail, blocks=[]).streams(latents)[0]
    for i, op in enumerate(network.network["tail"]):
        constants, gate, trains_high = random_family(family, block_constants(op, network.tensors, f"tail.{i}"), exponent, rng)
        weight = tail.blocks[i].weight
        values = block_values(x, weight, constants)
        constants = fit(constants, values, np.maximum(values.z, 0))
        shadow = network.tensors[f"tail.{i}.shadow"]
        tail.blocks[i] = TailBlock.from_constants(shadow, constants, gate, i, 8, trains_high=trains_high)
        x = block_values(x, weight, constants).y
    f = tail.features
    plain = replace(f, bias=np.zeros_like(f.bias))
    scale = usual.std(axis=0) / np.maximum(plain(x).std(axis=0), 0.5)
    multiplier = np.clip(np.rint(f.multiplier * scale), -32767, 32767).astype(np.int64)
    centre = replace(plain, multiplier=multiplier)(x).mean(axis=0)
    tail.features = replace(f, multiplier=multiplier, bias=np.rint(-centre * 2.0**f.shift).astype(np.int64))
    return tail


# ------------------------------------------------------------------------------------------------------------------- float, by autograd


class Sign(torch.autograd.Function):
    """Signs that are given; backward the straight-through rule on the real a: |a| <= clip, or ApproxSign 2(1 - |a|)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, given: Tensor, gate: Gate) -> Tensor:
        ctx.save_for_backward(a)
        ctx.gate = gate
        return given

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (a,) = ctx.saved_tensors
        slope = 2 * (1 - a.abs()).clamp(min=0) if ctx.gate.approx else (a.abs() <= ctx.gate.clip / 2**ctx.gate.exponent).to(a.dtype)
        return gradients[0] * slope, None, None


def real(values: NDArray[Any], fraction_bits: int) -> Tensor:
    """Real value of fixed-point numbers, float32."""
    return torch.from_numpy((np.asarray(values, np.float64) / 2.0**fraction_bits).astype(np.float32))


def float_gradients(tail: ReferenceTail, batch: Minibatch, tw: NDArray[np.int64], bits: str) -> Gradients:
    """Gradients of the cross-entropy by autograd through the same tail, on "signs" or "all" bits of the integers' forward pass."""
    last, saved = tail.streams(batch.latents)

    def branch(own: Tensor, theirs: NDArray[np.bool_]) -> Tensor:
        return torch.from_numpy(theirs) if bits == "all" else own

    def leaf(values: NDArray[Any], fraction_bits: int) -> Tensor:
        return real(values, fraction_bits).requires_grad_()

    leaves: list[dict[str, Tensor]] = []
    x = real((saved[0].a if tail.blocks[0].constants.threshold is None else saved[0].a - tail.blocks[0].constants.threshold), 0)
    x = x / 2 ** tail.blocks[0].gate.exponent
    for block, values in zip(tail.blocks, saved, strict=True):
        c, exponent = block.constants, block.gate.exponent
        own = {
            "weight": leaf(block.weight, 0),
            "multiplier": leaf(c.multiplier, c.shift + exponent),
            "bias": leaf(c.bias, c.shift + exponent),
        }
        a = x
        if c.threshold is not None:
            own["threshold"] = leaf(c.threshold, exponent)
            a = x + own["threshold"]
        s = Sign.apply(a, real(values.s, 0), block.gate)
        padded = F.pad(s.permute(0, 3, 1, 2), (1, 1, 1, 1), value=1.0)
        z = F.conv2d(padded, own["weight"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        r = torch.relu(z) if c.relu else z
        x = x + (r - real(c.mean, 0)) * own["multiplier"] + own["bias"]
        if c.activation is not None:
            own |= {name: leaf(getattr(c.activation, name), exponent) for name in ("alpha", "beta")}
            own |= {name: leaf(getattr(c.activation, name), 13) for name in ("high", "low")}
            w = x - own["alpha"]
            x = torch.where(branch(w >= 0, values.w >= 0), own["high"], own["low"]) * w - own["beta"]
        leaves.append(own)
    f = tail.features
    x = x * 2 ** tail.blocks[-1].gate.exponent
    q = torch.where(branch(x > 0, last > 0), x, 0).sum(dim=(1, 2)) * real(f.pool_multiplier, f.pool_shift)
    h = (q @ real(f.weight, 0).T) * real(f.multiplier, f.shift) + real(f.bias, f.shift)
    head = leaf(tw, 27)
    h = torch.where(branch(h.abs() < 127, np.abs(tail.features(last)) < 127), h, h.detach().clamp(-127, 127))
    logit = h / 2**f.feature_bits @ head.T + real(batch.prior, 16)
    F.cross_entropy(logit, torch.from_numpy(batch.targets), reduction="sum").backward()
    blocks = []
    for block, own in zip(tail.blocks, leaves, strict=True):
        numbers = {name: own[name].grad.numpy() for name in block.trained}
        blocks.append(BlockGradients(own["weight"].grad.numpy(), numbers, None))
    return Gradients(head.grad.numpy(), blocks)


# --------------------------------------------------------------------------------------------------------------------- the measurement


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else float(not a.any() and not b.any())


def compare(ours: Gradients, theirs: Gradients) -> Iterator[tuple[str, int | None, float]]:
    """Kind, block and cosine of every gradient."""
    yield "head", None, cosine(ours.head, theirs.head)
    for i, (a, b) in enumerate(zip(ours.blocks, theirs.blocks, strict=True)):
        yield "weight", i, cosine(a.weight, b.weight)
        rows = [cosine(x, y) for x, y in zip(a.weight, b.weight, strict=True) if y.any()]
        yield "weight, mean over channels", i, float(np.mean(rows))
        for name, gradient in a.parameters.items():
            yield name, i, cosine(gradient, b.parameters[name])


@dataclass
class Experiment:
    """Rows of two experiences, and the heads after the first lesson and after the second."""

    tail: ReferenceTail
    live: NDArray[np.uint64]
    live_labels: NDArray[np.int64]
    stored: NDArray[np.uint64]
    stored_labels: NDArray[np.int64]
    heads: dict[str, NDArray[np.int64]]

    @classmethod
    def teach(cls, tail: ReferenceTail, latents: list[NDArray[np.uint64]], labels: list[NDArray[np.int64]]) -> Experiment:
        learner = ReferenceLearner(TailNetwork(tail, latents[0].shape[1], 64 * latents[0].shape[1]), HEAD_LESSON)
        learner.learn(latents[0][:, None, None], labels[0])
        stored, stored_labels = learner.rows, learner.labels.astype(np.int64)
        first = np.concatenate([learner.weight, np.zeros((2, tail.channels), np.int32)]).astype(np.int64)
        learner.learn(latents[1][:, None, None], labels[1])
        heads = {"start": first, "trained": learner.weight.astype(np.int64)}
        return cls(tail, latents[1], labels[1], stored, stored_labels, heads)

    def minibatch(self, number: int) -> Minibatch:
        """The first minibatch of the second lesson, in one of the orders that a seed may give."""
        rng = np.random.default_rng((number, 0x6AD))
        live, stored = (rng.choice(len(rows), count, replace=False) for rows, count in ((self.live, LIVE), (self.stored, REPLAYED)))
        targets = np.concatenate([self.live_labels[live], self.stored_labels[stored]])
        counts = [np.bincount(labels, minlength=4).tolist() for labels in (self.live_labels, self.stored_labels)]
        prior = prior_logits(*counts, LIVE, REPLAYED)
        return Minibatch(np.concatenate([self.live[live], self.stored[stored]]), targets, prior)

    def measure(self, head: str, settings: list[TailSettings], minibatches: int) -> dict[tuple[Any, ...], list[float]]:
        """Cosines by (q_f, q_b, bits, kind, block)."""
        result = defaultdict(list)
        for number in range(minibatches):
            batch, theirs = self.minibatch(number), {}
            for setting in settings:
                tail = replace(self.tail, settings=setting)
                ours = tail.gradients(batch, self.heads[head], Moment(seed=number, experience=1))
                for bits in ("signs", "all"):
                    key = (setting.forward_bits, bits)
                    if key not in theirs:
                        theirs[key] = float_gradients(tail, batch, self.heads[head], bits)
                    for kind, block, value in compare(ours, theirs[key]):
                        result[setting.forward_bits, setting.gradient_bits, bits, kind, block].append(value)
        return result


def read_rows(folder: Path, model: Model) -> tuple[list[NDArray[np.uint64]], list[NDArray[np.int64]]]:
    """Latents and labels (0 to 3) of the first rows of NC5's first two experiences, from the training pictures."""
    train = read_split(folder, "train", model.network.image_size)
    assert train is not None
    names, latents, labels = np.array(train.names)[train.labels], [], []
    for lesson in range(2):
        rows = np.flatnonzero(np.isin(names, NC5[lesson]))[:ROWS]
        latents.append(model.network.latents(train.images[rows]))
        order = {name: 2 * lesson + i for i, name in enumerate(dict.fromkeys(names[rows]))}  # numbered as they come
        labels.append(np.array([order[name] for name in names[rows]]))
    return latents, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--minibatches", type=int, default=20)
    parser.add_argument("--families", nargs="+", default=["quicknet", "reactnet", "bireal"])
    parser.add_argument("--gradient-bits", nargs="+", type=int, default=[16, 8, 4])
    parser.add_argument("--forward-bits", nargs="+", type=int, default=[16])
    parser.add_argument("--heads", nargs="+", default=["start", "trained"])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gradients.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)

    model = Model.from_package()
    metadata, tensors = unpack((_FOLDER / f"{SHIPPED}.model").read_bytes(), "model", SHIPPED)
    network = ReferenceNetwork(json.loads(metadata["network"]), tensors)
    latents, labels = read_rows(args.data, model)
    settings = [
        TailSettings(forward_bits=q_f, gradient_bits=q_b, parameter_step=4) for q_f in args.forward_bits for q_b in args.gradient_bits
    ]
    lines = []
    for family in args.families:
        experiment = Experiment.teach(make_tail(family, network, np.concatenate([rows[:100] for rows in latents])), latents, labels)
        for head in args.heads:
            cosines = experiment.measure(head, settings, args.minibatches)
            for (q_f, q_b, bits, kind, block), values in cosines.items():
                lines.append(
                    {"family": family, "head": head, "forward_bits": q_f, "gradient_bits": q_b, "bits": bits, "kind": kind, "block": block,
                     "median": round(float(np.median(values)), 6), "minimum": round(min(values), 6), "minibatches": len(values),
                     "model": model.digest[:12]}
                )  # fmt: skip
            table([line for line in lines if line["family"] == family and line["head"] == head])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(json.dumps(line) + "\n" for line in lines))


def table(lines: list[dict[str, Any]]) -> None:
    """Print median / minimum of every kind, the worse of the blocks; "<" marks what misses its bar."""
    columns = list(dict.fromkeys((line["forward_bits"], line["gradient_bits"], line["bits"]) for line in lines))
    print(f"\n{lines[0]['family']}, head: {lines[0]['head']}")
    print(f"{'median / minimum':28}" + "".join(f"{f'q_f {q_f}, q_b {q_b}, {bits}':>24}" for q_f, q_b, bits in columns))
    for kind in KINDS:
        cells = []
        for column in columns:
            here = [
                line for line in lines if line["kind"] == kind and (line["forward_bits"], line["gradient_bits"], line["bits"]) == column
            ]
            if here:
                median, minimum = min(line["median"] for line in here), min(line["minimum"] for line in here)
                missed = "<" if median < BARS.get(column[1], -1) and "channels" not in kind else " "
                cells.append(f"{median:.5f} / {minimum:.5f}{missed}")
        if cells:
            print(f"{kind:28}" + "".join(f"{cell:>24}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
