"""The first experience makes what every method of an experiment starts from: a network with its prefix frozen, and rows of pictures.

Owns that experience (the whole network trained in torch, or none of it), the export that follows, and the cache of rows.  Knows
no method.  Pictures are not augmented after the first experience: a picture's row is computed once.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..datasets.image_sets import ImageSet
from ..model import Model
from .crops import to_float
from .export import Integers
from .start import Start, decode_bits
from .weights import load_weights, network_of
from .zoo.network import INPUT_MEAN, CutNetwork

READS = ("images", "bits", "stream", "features")
_BATCH = 250
_CHECKED = 20  # pictures on which float network and integer model are compared
_LEAST_EQUAL_BITS = 0.8  # of the shipped ones 94 to 96 % agree, of different networks half


@dataclass(frozen=True)
class BaseSettings:
    """Where the network comes from, and what the first experience does to it.

    Parameters
    ----------
    weights : float weights, ``FOLDER/NAME`` as `weights.save_weights` wrote them.
    model : integer model of the same weights: a shipped name or a file.  Needed where `first_experience` is "frozen".
    first_experience : "frozen" (the prefix stays as it was pre-trained), or "whole": the first experience trains all of the network in
        torch, and what comes of it is folded and calibrated on the pictures of that experience.
    epochs, learning_rate, batch_size : of that training: SGD without momentum in the papers, here with 0.9 and half-cosine to 0.
    image_noise : whether the first experience's pictures are padded to 4 more on each side, cropped at random, and mirrored at random.
    """

    weights: str
    model: str | None = None
    first_experience: str = "frozen"
    epochs: int = 15
    learning_rate: float = 0.0025
    batch_size: int = 50
    image_noise: bool = True

    def __post_init__(self) -> None:
        if self.first_experience not in ("frozen", "whole"):
            raise ValueError(f'first_experience: expected "frozen" or "whole", got {self.first_experience!r}')
        if self.first_experience == "frozen" and self.model is None:
            raise ValueError("model: expected the integer model of the weights, since the first experience is frozen, got none")
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"epochs, batch_size, learning_rate: expected values above 0, got {self.epochs}, {self.batch_size}, {self.learning_rate}"
            )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> BaseSettings:
        """Read plain values; ValueError for a key that is not known."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"base: expected keys out of {', '.join(known)}, got {unknown[0]}")
        return cls(**values)


class Base:
    """A start, and rows of the pictures of an experiment; rows are kept under `folder` and mapped into memory."""

    def __init__(self, start: Start, folder: Path, train: ImageSet, test: ImageSet) -> None:
        self.start = start
        self._folder = folder
        self._sets = {"train": train, "test": test}

    def rows(self, reads: str, split: str) -> NDArray[Any]:
        """Rows of all pictures of a split, one a picture, in their order.

        Parameters
        ----------
        reads : "images" uint8 (N, S, S, 3); "bits" uint64 (N, words), latent rows of the integer network; "stream" float16
            (N, H, W, C), the real values at the cut behind its batch norm; "features" float32 (N, D_f), what the frozen tail makes
            of the bits.
        split : "train" or "test".
        """
        if reads not in READS:
            raise ValueError(f"reads: expected one of {', '.join(READS)}, got {reads!r}")
        images = self._sets[split].images
        if reads == "images":
            return images
        bits = self.rows("bits", split) if reads == "features" else None
        path = self._folder / f"{split}-{reads}.npy"
        with _locked(self._folder):
            if not path.exists():
                partial = path.with_suffix(".partial.npy")
                if bits is not None:
                    _write(partial, bits, self._features)
                else:
                    _write(partial, images, self._bits if reads == "bits" else self._stream)
                os.replace(partial, path)
        rows: NDArray[Any] = np.load(path, mmap_mode="r")
        return rows

    def check(self) -> None:
        """ValueError unless float network and integer model are one: nearly all latent bits of some pictures agree."""
        images = np.ascontiguousarray(self._sets["train"].images[:_CHECKED])
        config, network = self.start.network.config, self.start.model.network
        if (config.image_size, config.widths[-1]) == (network.image_size, network.feature_count):
            words = -(-config.widths[-1] // 64)
            bits = np.unpackbits(self._bits(images).view(np.uint8), axis=1, bitorder="little").reshape(-1, 64 * words)[
                :, : config.widths[-1]
            ]
            share = float((bits == (self._stream(images) < 0).reshape(bits.shape)).mean())
            if share >= _LEAST_EQUAL_BITS:
                return
            found = f"{100 * share:.0f} % of the latent bits agree"
        else:
            found = f"maps of {network.feature_count} channels from {network.image_size} pixels"
        raise ValueError(f"model: expected the integer model of the weights, got another, {self.start.model.name}: {found}")

    def _bits(self, images: NDArray[np.uint8]) -> NDArray[np.uint64]:
        latents: NDArray[np.uint64] = self.start.model.network.latents(np.ascontiguousarray(images))
        return latents

    @torch.no_grad()
    def _stream(self, images: NDArray[np.uint8]) -> NDArray[np.float16]:
        network = self.start.network
        x: Tensor = network.cut.norm(network.stream(to_float(images).contiguous(memory_format=torch.channels_last)))
        rows: NDArray[np.float16] = x.permute(0, 2, 3, 1).contiguous().numpy().astype(np.float16)
        return rows

    @torch.no_grad()
    def _features(self, bits: NDArray[np.uint64]) -> NDArray[np.float32]:
        network = self.start.network
        features: NDArray[np.float32] = network.pool(network.tail(decode_bits(np.array(bits), self.start))).numpy()
        return features


def _write(path: Path, inputs: NDArray[Any], of: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    # A batch at a time, so that no array of all rows is in memory.
    first = of(inputs[:_BATCH])
    rows = np.lib.format.open_memmap(path, "w+", first.dtype, (len(inputs), *first.shape[1:]))
    rows[: len(first)] = first
    for i in range(_BATCH, len(inputs), _BATCH):
        rows[i : i + _BATCH] = of(inputs[i : i + _BATCH])
    rows.flush()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _noise(x: Tensor, generator: np.random.Generator) -> Tensor:
    # As the papers: pad of 4, 0 after the scaling, random crop, random mirror; one draw a picture.
    size = x.shape[-1]
    padded = F.pad(x, (4, 4, 4, 4), value=INPUT_MEAN)
    out = torch.empty_like(x)
    for i, (dy, dx) in enumerate(generator.integers(0, 9, (len(x), 2))):
        patch = padded[i, :, dy : dy + size, dx : dx + size]
        out[i] = patch.flip(2) if generator.random() < 0.5 else patch
    return out


def train_whole(network: CutNetwork, data: ImageSet, rows: NDArray[np.int64], settings: BaseSettings, seed: int) -> None:
    """Train all of a network on some pictures, in place; its head is replaced by one of ``len(data.names)`` outputs, all at 0."""
    generator = np.random.default_rng((seed, 1))
    network.head = torch.nn.Linear(network.config.widths[-1], len(data.names), bias=False)
    torch.nn.init.zeros_(network.head.weight)
    network.train()
    steps_an_epoch = max(1, len(rows) // settings.batch_size)
    optimizer = torch.optim.SGD(network.parameters(), settings.learning_rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps_an_epoch * settings.epochs)
    for _ in range(settings.epochs):
        order = generator.permutation(rows)
        for i in range(steps_an_epoch):
            batch = order[i * settings.batch_size : (i + 1) * settings.batch_size]
            x = to_float(data.images[batch]).contiguous(memory_format=torch.channels_last)
            if settings.image_noise:
                x = _noise(x, generator)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(x).float(), torch.from_numpy(data.labels[batch]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            network.clip_weights()
    network.eval()


def make_base(settings: BaseSettings, folder: Path, train: ImageSet, test: ImageSet, first_rows: NDArray[np.int64], seed: int) -> Base:
    """Make what the methods of one seed start from, or find it under `folder`.

    Parameters
    ----------
    settings : where the network comes from.
    folder : where a trained network, its model file and rows are kept; one folder for one set of `settings`, data and, where the
        first experience trains the whole network, seed.
    train, test : pictures.
    first_rows : rows of `train` that make the first experience.
    seed : keys every random draw of the first experience.
    """
    location = Path(settings.weights)
    told, tensors, _ = load_weights(location)
    network = network_of(told["config"], tensors)
    if settings.first_experience == "frozen":
        base = Base(Start(network, Model.open(settings.model)), folder, train, test)
        base.check()
        return base
    weights, model = folder / "weights.pt", folder / "first.model"
    with _locked(folder):
        if not model.exists():
            torch.manual_seed(seed)
            train_whole(network, train, first_rows, settings, seed)
            torch.save(network.state_dict(), folder / "weights.partial")
            os.replace(folder / "weights.partial", weights)
            (folder / "base.json").write_text(json.dumps(asdict(settings) | {"seed": seed}))
            pictures = ImageSet(np.ascontiguousarray(train.images[first_rows]), train.labels[first_rows], train.names)
            Integers(network, pictures).write(model, {"name": f"{location.name}, first experience, seed {seed}"})
        network.head = torch.nn.Linear(network.config.widths[-1], len(train.names), bias=False)
        network.load_state_dict(torch.load(weights, weights_only=True))
    return Base(Start(network.eval(), Model.load(model)), folder, train, test)
