"""What a step of pretraining costs, phase by phase, beside the least its multiply-adds could take on this machine.

python benchmarks/training_step.py [--network quicknet-mini --image-size 64]

Prints a table; appends a line to benchmarks/results/training_step.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as bitreplay pretrain does

import numpy as np
import torch
import torch.nn.functional as F

from bitreplay.datasets.image_sets import ImageSet
from bitreplay.training.batches import Batches
from bitreplay.training.layers import BinaryConv2d
from bitreplay.training.packed_conv import PackedConv, use_packed
from bitreplay.training.recipe import Recipe
from bitreplay.training.zoo.names import config_of
from bitreplay.training.zoo.network import CutNetwork

PHASES = ("batch", "forward", "backward", "optimizer")


def matrix_rate(kind: torch.dtype, size: int = 2048) -> float:
    """Multiply-adds a second of a square matrix product."""
    a, b = torch.randn(size, size).to(kind), torch.randn(size, size).to(kind)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return size**3 / best


def binary_work(network: CutNetwork, image_size: int) -> int:
    """Multiply-adds of the binary convolutions for one picture, forward."""
    found = 0

    def count(module: BinaryConv2d, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal found
        found += output.numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, BinaryConv2d)]
    with torch.no_grad():
        network(torch.zeros(1, 3, image_size, image_size))
    for handle in handles:
        handle.remove()
    return found


def measure(network: CutNetwork, batches: Batches, rounds: int, autocast: bool) -> dict[str, list[float]]:
    optimizer = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}

    def timed(phase: str, call: Callable[[], torch.Tensor | None]) -> torch.Tensor | None:
        begun = time.perf_counter()
        result = call()
        seconds[phase].append(time.perf_counter() - begun)
        return result

    for round_ in range(rounds + 2):
        begun = time.perf_counter()
        batch = batches.make(round_)
        seconds["batch"].append(time.perf_counter() - begun)

        def forward(batch=batch) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                return F.cross_entropy(network(batch.images).float(), batch.labels)

        loss = timed("forward", forward)
        assert loss is not None
        optimizer.zero_grad()
        timed("backward", loss.backward)

        def step() -> None:
            optimizer.step()
            network.clip_weights()

        timed("optimizer", step)
    return {phase: values[2:] for phase, values in seconds.items()}  # the first two warm up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="quicknet-mini")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "training_step.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = config_of(args.network, args.image_size)
    rng = np.random.default_rng(0)
    count = args.batch_size * (args.rounds + 2)
    pictures = rng.integers(0, 256, (count, args.image_size, args.image_size, 3), np.uint8)
    data = ImageSet(pictures, rng.integers(0, config.classes, count), tuple(map(str, range(config.classes))))
    lines = []
    rates = {"float32": matrix_rate(torch.float32), "bfloat16": matrix_rate(torch.bfloat16)}
    for bits in (0, 16, 8):
        torch.manual_seed(0)
        network = CutNetwork(config).to(memory_format=torch.channels_last)
        work = 3 * args.batch_size * binary_work(network.eval(), args.image_size)
        network.train()
        if bits:
            use_packed(network, PackedConv(args.threads, bits))
        batches = Batches(data, None, 0, args.image_size, Recipe(batch_size=args.batch_size, blurred=0.3), 0)
        seconds = measure(network, batches, args.rounds, autocast=True)
        median = {phase: 1e3 * statistics.median(values) for phase, values in seconds.items()}
        lowest = {phase: 1e3 * min(values) for phase, values in seconds.items()}
        lines.append(
            {"convolutions": f"engine, {bits}-bit gradients" if bits else "torch, bfloat16", "median_ms": median, "min_ms": lowest}
        )
        shown = ", ".join(f"{phase} {median[phase]:.1f} ({lowest[phase]:.1f})" for phase in PHASES)
        total = sum(median.values()) - median["batch"]
        print(f"{lines[-1]['convolutions']}: {shown}; step without the batch, which a thread makes beside it, {total:.1f} ms")
    floor = {kind: 1e3 * work / rate for kind, rate in rates.items()}
    print(
        f"binary convolutions, forward and backward: {work / 1e9:.1f} G multiply-adds a step; at this machine's matrix product "
        + ", ".join(f"{kind} ({rates[kind] / 1e9:.0f} G/s) {value:.0f} ms" for kind, value in floor.items())
    )
    result = {"network": args.network, "image_size": args.image_size, "batch_size": args.batch_size, "threads": args.threads}
    result |= {"processor": platform.processor() or platform.machine(), "torch": torch.__version__, "floor_ms": floor, "work": work}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("a") as file:
        file.write(json.dumps(result | {"steps": lines}) + "\n")


if __name__ == "__main__":
    main()
