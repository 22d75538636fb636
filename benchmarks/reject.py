"""How well "I don't know" works: what is called unknown of known and of unknown things; writes JSON lines.

    python benchmarks/reject.py DATA [--split valid] [--seeds 5] [--train-blocks 2] [--out benchmarks/results/reject.jsonl]

DATA as in `accuracy`.  A device learns K random classes, in lessons of one; it is asked about pictures of these (false rejects), of the other
classes, which are the hard case since they are much alike, and of scikit-learn's handwritten digits (false accepts).
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
from accuracy import load
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from bitreplay import Learner, Model


def digits(size: int) -> NDArray[np.uint8]:
    pictures = (load_digits().images / 16 * 255).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((size, size)).convert("RGB")) for p in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", choices=["valid", "test"], default="test")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--train-blocks", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/reject.jsonl"))
    args = parser.parse_args()
    size = Model.open(None).network.image_size
    train, test = load(args.data, args.split, size)
    others = digits(size)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    for count in args.classes:
        for seed in range(args.seeds):
            known = np.random.default_rng(seed).permutation(len(train.names))[:count]
            learner = Learner.new(seed=seed, train_blocks=args.train_blocks)
            for c in known:
                rows = np.flatnonzero(train.labels == c)
                learner.learn(train.images[rows], [train.names[c]] * len(rows))
            is_known = np.isin(test.labels, known)
            for share in (0.05, 0.1, 0.2):
                said = learner.predict(test.images, reject=share).unknown
                line = {"classes": count, "seed": seed, "train_blocks": args.train_blocks, "split": args.split, "reject": share,
                        "false_reject": float(said[is_known].mean()), "false_accept": float(1 - said[~is_known].mean()),
                        "false_accept_digits": float(1 - learner.predict(others, reject=share).unknown.mean()), "commit": commit}  # fmt: skip
                print(json.dumps(line), flush=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
