"""Avalanche: its CWR* (Naive with CWRStarPlugin) on cached features; a call is one experience, times are for one step of it."""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from works import Loaded, generator, normal

os.environ["WANDB_MODE"] = "disabled"
warnings.simplefilter("ignore")
# torchvision's wheel is built for GPUs: its operators cannot load beside torch's CPU build, and it fails to import unless the
# schemas of the two that it registers further things for are there.
SCHEMAS = torch.library.Library("torchvision", "DEF")
SCHEMAS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
SCHEMAS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import avalanche  # noqa: E402
from avalanche.benchmarks import tensors_benchmark  # noqa: E402
from avalanche.training.plugins import CWRStarPlugin, EvaluationPlugin  # noqa: E402
from avalanche.training.supervised import Naive  # noqa: E402

PATTERNS, EPOCHS, BATCH = 1536, 4, 128  # 48 steps an experience
EXPERIENCES, CLASSES = 5, 50


class Head(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = torch.nn.Linear(1024, CLASSES, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(x)


def version() -> str:
    return avalanche.__version__


def prepare(work: str, variant: str, folder: str) -> None:
    pass


def load(work: str, variant: str, folder: str, threads: int) -> Loaded:
    torch.set_num_threads(threads)
    rng = generator("avalanche")
    experiences = []
    for i in range(EXPERIENCES):  # ten classes each, apart by their means
        labels = rng.integers(10 * i, 10 * i + 10, PATTERNS)
        means = normal(rng, CLASSES, 1024, scale=0.2)
        experiences.append((torch.from_numpy(normal(rng, PATTERNS, 1024) + means[labels]), torch.from_numpy(labels)))
    benchmark = tensors_benchmark(train_tensors=experiences, test_tensors=experiences[:1], task_labels=[0] * EXPERIENCES)
    model = Head()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        evaluator=EvaluationPlugin(loggers=[]),
        plugins=[CWRStarPlugin(model)],
    )
    stream: list[Any] = list(benchmark.train_stream)
    turn = [0]

    def call() -> None:
        strategy.train(stream[turn[0] % EXPERIENCES], num_workers=0)
        turn[0] += 1

    def learns() -> bool:
        x, labels = experiences[0]
        model.eval()
        with torch.no_grad():
            return bool((model(x)[:, :10].argmax(1) == labels).float().mean() > 0.9)

    return Loaded(call, lambda: None, lambda: None, 1, steps=PATTERNS // BATCH * EPOCHS, check=learns)
