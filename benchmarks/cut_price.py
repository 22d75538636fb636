"""The price of the binarised cut: the joint head on CIFAR-10 on the float features of networks with and without it.

    python benchmarks/cut_price.py CIFAR10_FOLDER CHECKPOINT... --pretraining TINY_IMAGENET_FOLDER [--cache FOLDER]

Each checkpoint is treated alike: pooled float features, whitening from the pre-training pictures, scikit-learn's logistic
regression and CWR* in float (`head_twin`), which is the joint head, on all training pictures at once; tested on the test pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from head_twin import HeadOptions, accuracy, cwr_star
from sklearn.linear_model import LogisticRegression

from bitreplay.datasets.image_sets import ImageSet, cached_split, read_split
from bitreplay.training.crops import STORED
from bitreplay.training.evaluation import top1
from bitreplay.training.export import _float_pass, at_size, load_network
from bitreplay.training.features import whitening


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--pretraining", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "backbone.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for checkpoint in args.checkpoints:
        network, state = load_network(checkpoint)
        size = network.config.image_size
        stored, valid = (
            cached_split(args.pretraining, "train", STORED * size, args.cache, enlarge=False),
            cached_split(args.pretraining, "valid", size, args.cache),
        )
        assert stored is not None
        assert valid is not None
        pick = np.sort(np.random.default_rng(0).permutation(len(stored))[:20000])
        own = ImageSet(at_size(stored.images[pick], size), stored.labels[pick], stored.names)
        features, _ = _float_pass(network, own, lambda *_: None, "")
        spread = np.maximum(features.std(0), 0.01 * features.std())
        matrix, centre = whitening(features / spread, own.labels, True)
        sets = {}
        for split in ("train", "valid"):
            pictures = read_split(args.data, split, size)
            assert pictures is not None
            x, _ = _float_pass(network, pictures, lambda *_: None, "")
            sets[split] = ((x / spread - centre) @ matrix.T, pictures.labels)
        (x, y), (xt, yt) = sets["train"], sets["valid"]
        head = [accuracy(cwr_star([(x, y)], 10, HeadOptions(capacity=0, seed=seed))[-1], xt, yt) for seed in range(3)]
        line = {
            "cut": network.config.cut,
            "epochs": state["epoch"],
            "parameters": sum(p.numel() for p in network.parameters()),
            "Tiny-ImageNet top-1 (float), %": round(100 * top1(network, valid), 2),
            "CIFAR-10 joint head (float), %": f"{100 * np.mean(head):.2f} ± {100 * np.std(head, ddof=1):.2f}",
            "CIFAR-10 logistic regression, %": round(100 * LogisticRegression(C=0.01, max_iter=300).fit(x, y).score(xt, yt), 2),
        }
        print(json.dumps(line), flush=True)
        with args.out.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
