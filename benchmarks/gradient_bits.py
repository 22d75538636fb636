"""Whether 8-bit gradients are enough to pre-train with: the same short runs with torch's convolutions in bfloat16 and with the engine's.

python benchmarks/gradient_bits.py PICTURES OUT [--epochs 2 --seeds 2]

Appends a line a run to benchmarks/results/gradient_bits.jsonl; `python benchmarks/report.py` makes docs/backbone.md's table of them.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch

from bitreplay.training.pretrain import pretrain
from bitreplay.training.recipe import Recipe
from bitreplay.training.zoo.names import config_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", default="quicknet-mini")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bits", type=int, nargs="+", default=[0, 16, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gradient_bits.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = config_of(args.network, args.image_size)
    for seed in range(1, args.seeds + 1):
        for bits in args.bits:
            recipe = Recipe(epochs=args.epochs, seed=seed, gradient_bits=bits, cut_start=0, cut_ramp=0, warmup_steps=100)
            state = pretrain(args.pictures, args.out / f"{bits}-{seed}", config, recipe, cache=args.out / "cache")
            last = state["history"][-1]
            line = {"gradient_bits": bits, "seed": seed, "epochs": args.epochs, "network": args.network, "image_size": args.image_size}
            line |= {
                "loss": round(last["loss"], 4),
                "top1": round(100 * last["valid_top1"], 2),
                "seconds": [x["seconds"] for x in state["history"]],
            }
            print(json.dumps(line), flush=True)
            args.results.parent.mkdir(parents=True, exist_ok=True)
            with args.results.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
