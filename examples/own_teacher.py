"""Soft labels from a float network of your own, for `bitreplay pretrain --soft-labels`.

python examples/own_teacher.py PICTURES FILE

Put your network in the place of `my_network`: any torch module that maps float pictures to logits, of whatever classes.
"""

import sys
from pathlib import Path

import torch

from bitreplay.datasets.image_sets import cached_split
from bitreplay.training.soft_labels import Crops, make_soft_labels
from bitreplay.training.teachers import Teacher

SIZE = 64


def my_network() -> torch.nn.Module:
    """Float (N, 3, SIZE, SIZE), -1..1, to logits (N, 10)."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10)
    )


if __name__ == "__main__":
    pictures, file = Path(sys.argv[1]), Path(sys.argv[2])
    data = cached_split(pictures, "train", 2 * SIZE, file.with_suffix(".cache"), enlarge=False)
    if data is None:
        sys.exit(f"{pictures}: no training pictures")
    teacher = Teacher("my network", my_network(), image_size=SIZE, mean=127.5, scale=1 / 127.5)
    labels = make_soft_labels(data, file, teacher, crops=Crops(count=4), threads=2)
    print(f"{file}: {labels.complete} crops of {len(data)} pictures")
