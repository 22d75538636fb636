"""The learner: lessons of the head on a frozen network, with a replay memory (docs/method.md, 4 to 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arithmetic import Int64, Uint64, divr, permutation, rs
from .head import consolidate, learning_rate, log_share, logits, prior_logits, softmax, training_step
from .lda import LinearClassifier, Sums, solve
from .mixing import frozen_weight, inverse_temperature
from .near_equal import count_once, most_differing
from .network import ReferenceNetwork
from .replay import update_memory
from .views import views_of

PURPOSE_LIVE, PURPOSE_REPLAY = 1, 2
MIXING_BITS = 16


@dataclass(frozen=True)
class Live:
    """The pictures of a lesson: latent rows, features, labels, and which of them count."""

    latents: Uint64
    features: NDArray[np.int8]
    labels: list[int]
    counts: NDArray[np.bool_]


class ReferenceLearner:
    """Head and replay memory on top of a network (method.md, 4 to 6).

    Parameters
    ----------
    network
        The frozen network.
    settings
        What `Settings.for_core` gives: whole numbers and flags, those with a fraction in the fraction bits that the method names.

    Attributes
    ----------
    known
        What LDA is made from; without classes where the head is CWR*.
    weight, past_count
        Of CWR*: consolidated weights, int32 (K, D_f), and K counts; empty where the head is LDA.
    seen
        Pictures of each class.
    rows, labels
        The memory in slot order, uint64 (R, words) and uint16 (R,); with several views features follow a latent row.
    mixing
        Scales of the frozen and of the trained branch, 16 fraction bits.
    experience
        Lessons so far.

    """

    def __init__(self, network: ReferenceNetwork, settings: dict[str, Any]) -> None:
        self.network = network
        self.settings = dict(settings)
        self.seed = int(settings["seed"])
        self.known = Sums.none(self.lda_width)
        self.weight: NDArray[np.int32] = np.zeros((0, network.feature_count), np.int32)
        self.past_count: list[int] = []
        self.seen: list[int] = []
        self.rows: Uint64 = self._memory_rows(np.zeros((0, network.row_words), np.uint64), np.zeros((0, network.feature_count), np.int8))
        self.labels: NDArray[np.uint16] = np.zeros(0, np.uint16)
        self.mixing = (1 << MIXING_BITS, 0)
        self.experience = 0

    @property
    def near(self) -> int | None:
        """In how many bits near-equal rows differ at most (method.md, 5.1)."""
        return most_differing(self.settings["near_equal"], self.network.latent_bits)

    @property
    def lda_width(self) -> int:
        """How many features LDA looks at (method.md, 4.1)."""
        return int(self.settings["lda_features"]) or self.network.feature_count

    @property
    def lda_settings(self) -> tuple[float, float, float]:
        """nu, kappa and the variance of a whitened feature (method.md, 4.2)."""
        nu, kappa = self.settings["shrinkage"] / 256 * self.lda_width, self.settings["pseudo_pictures"] / 256
        return nu, kappa, 2.0 ** (2 * self.network.feature_bits)

    def classifier(self) -> LinearClassifier:
        """LDA as the sums make it (method.md, 4.2)."""
        return solve(self.known, *self.lda_settings)

    @property
    def temperature(self) -> int:
        """a: what brings the scores of LDA to logits (method.md, 7.7)."""
        return inverse_temperature(int(self.known.count.sum()), len(self.known.count))

    def features(self, images: NDArray[np.uint8], views: int) -> NDArray[np.int8]:
        """Features (N, D_f) of pictures: the means over their views (method.md, 1.1)."""
        return self._mean(images, views, self.network.features)

    def _mean(self, images: NDArray[np.uint8], views: int, features: Callable[[Uint64], NDArray[Any]]) -> NDArray[np.int8]:
        total = np.sum([features(self.network.latents(view)).astype(np.int64) for view in views_of(images, views)], axis=0)
        mean: NDArray[np.int8] = divr(total, views).astype(np.int8)
        return mean

    @property
    def latents(self) -> Uint64:
        """Latent rows of the memory."""
        return self.rows[:, : self.network.row_words]

    def _memory_rows(self, latents: Uint64, features: NDArray[np.int8]) -> Uint64:
        """Rows as the memory holds them (method.md, 1.1; docs/formats.md)."""
        if self.settings["views"] == 1:
            return latents
        padded = np.zeros((len(latents), -(-features.shape[1] // 8) * 8), np.int8)
        padded[:, : features.shape[1]] = features
        return np.concatenate([latents, padded.view(np.uint64)], axis=1)

    def stored_features(self) -> NDArray[np.int8]:
        """Features of the memory's rows, as the sums hold them."""
        if self.settings["views"] == 1:
            return self.network.features(self.latents)
        held = np.ascontiguousarray(self.rows[:, self.network.row_words :])
        return held.view(np.int8).reshape(len(held), -1)[:, : self.network.feature_count]

    def learn(self, images: NDArray[np.uint8], labels: ArrayLike) -> None:
        """Learn one lesson of uint8 images (N, S, S, 3) and class indices (N,)."""
        live_labels = [int(c) for c in np.asarray(labels)]
        if not live_labels or len(live_labels) != len(images):
            raise ValueError("a lesson needs pictures, and a label for each")
        known = len(self.seen)
        fresh = [c for c in dict.fromkeys(live_labels) if c not in range(known)]
        if fresh != list(range(known, known + len(fresh))):
            raise ValueError("new classes are numbered in order of first appearance")
        classes = known + len(fresh)
        latents, features = self.network.latents(images), self.features(images, self.settings["views"])
        counts = count_once(latents, live_labels, self.near)
        counting = [int(i) for i in np.flatnonzero(counts)]

        stored_labels = [int(c) for c in self.labels]
        live_count = [live_labels.count(c) for c in range(classes)]
        stored_count = [stored_labels.count(c) for c in range(classes)]
        if self.settings["head"] == "lda":
            self.known = self.known.with_rows(features[counting][:, : self.lda_width], np.array(live_labels)[counting], classes)
            start = None
        else:
            start = self._learn_cwr(features.astype(np.int64), live_labels, stored_labels, live_count, stored_count)
        self._learn_branch(start, Live(latents, features, live_labels, counts), classes)

        self.rows, self.labels = update_memory(
            self.rows, self.labels, self._memory_rows(latents, features)[counting], [live_labels[i] for i in counting],
            capacity=self.settings["capacity"], seed=self.seed, near=self.near, latent_words=self.network.row_words,
        )  # fmt: skip
        self.seen = [a + b for a, b in zip(self.seen + [0] * len(fresh), live_count, strict=True)]
        self.experience += 1

    def rehearse(self) -> None:
        """Train on the stored rows alone (method.md, 8.2)."""
        stored_labels = [int(c) for c in self.labels]
        if not stored_labels or (self.settings["head"] == "lda" and not self.settings["train_blocks"]):
            return
        nothing = np.zeros((0, self.network.feature_count), np.int64)
        none, stored_count = [0] * len(self.seen), [stored_labels.count(c) for c in range(len(self.seen))]
        start = None
        if self.settings["head"] == "cwr":
            start = self._train(nothing, [], stored_labels, none, stored_count)
            self.weight = start.astype(np.int32)
        nobody = Live(self.latents[:0], self.stored_features()[:0], [], np.zeros(0, np.bool_))
        self._learn_branch(start, nobody, len(self.seen))
        self.experience += 1

    def _learn_cwr(
        self, live_features: Int64, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]
    ) -> Int64:
        """A lesson of CWR*; returns tw (K, D_f) before consolidation (method.md, 6)."""
        fresh = len(live_count) - len(self.past_count)
        self.weight = np.concatenate([self.weight, np.zeros((fresh, self.network.feature_count), np.int32)])
        self.past_count = self.past_count + [0] * fresh
        tw = self._train(live_features, live_labels, stored_labels, live_count, stored_count)
        classes = [c for c in range(len(live_count)) if live_count[c] + stored_count[c]]
        current = [live_count[c] + stored_count[c] for c in classes]
        merged, counts = consolidate(self.weight[classes], tw[classes], [self.past_count[c] for c in classes], current)
        self.weight[classes] = merged
        for c, count in zip(classes, counts, strict=True):
            self.past_count[c] = count
        return tw

    def _train(
        self, live_features: Int64, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]
    ) -> Int64:
        """Training weights (K, D_f) after all minibatches; only rows of active classes differ from cw (method.md, 6.2 and 6.3)."""
        settings, n, r = self.settings, len(live_labels), len(stored_labels)
        feature_bits = self.network.feature_bits
        stored_features = self.network.features(self.latents).astype(np.int64)
        live_batch, other_batch = min(settings["live_batch"], n), min(settings["replay_batch"], r)
        active = [c for c in range(len(live_count)) if live_count[c] + stored_count[c]]
        prior = np.zeros(len(active), np.int64)
        if r and settings["prior_correction"]:
            prior = prior_logits([live_count[c] for c in active], [stored_count[c] for c in active], live_batch, other_batch)
        ghosts = 0 if r else settings["ghosts"]
        batches = -(-n // live_batch) if n else -(-r // other_batch)
        steps = settings["epochs"] * batches
        tw = self.weight[active].astype(np.int64)
        live_order: list[int] = []
        replay_order: list[int] = []
        replay_permutations = 0
        for step in range(steps):
            if step % batches == 0:
                live_order = permutation(n, self.seed, PURPOSE_LIVE, (self.experience << 32) + step // batches)
            begin = step % batches * live_batch
            batch = live_order[begin : begin + live_batch]
            while r and len(replay_order) < other_batch:
                replay_order += permutation(r, self.seed, PURPOSE_REPLAY, (self.experience << 32) + replay_permutations)
                replay_permutations += 1
            stored, replay_order = replay_order[:other_batch], replay_order[other_batch:]
            rows = np.concatenate([live_features[batch], stored_features[stored]])
            targets = np.array([active.index(c) for c in [live_labels[i] for i in batch] + [stored_labels[i] for i in stored]])
            rate = learning_rate(settings["learning_rate"], feature_bits, step, steps, len(rows))
            tw = training_step(tw, rows, targets, prior, ghosts, rate, feature_bits, self._requant(step))
        result = self.weight.astype(np.int64)
        result[active] = tw
        return result

    def _requant(self, step: int) -> Callable[[Int64], tuple[Int64, int]]:
        """How the gradient of the logits is rounded in a step (method.md, 7.3)."""
        return lambda g: (g, 0)

    def _learn_branch(self, start: Int64 | None, live: Live, classes: int) -> None:
        """What a lesson does to a trained branch (method.md, 7.6), which this learner has not; start: tw of CWR*."""

    def frozen_logits(self, images: NDArray[np.uint8], views: int) -> Int64:
        """Logits (N, K) of the frozen branch (method.md, 4.3 and 6.1)."""
        rows = self.features(images, views)
        if self.settings["head"] == "lda":
            return self.classifier().logits(rows[:, : self.lda_width], frozen_weight(self.mixing[0], self.temperature))
        scaled: Int64 = rs(logits(rows, self.weight, self.network.feature_bits) * self.mixing[0], MIXING_BITS)
        return scaled

    def logits(self, images: NDArray[np.uint8], views: int) -> Int64:
        """Logits (N, K) of all that is asked (method.md, 4.3)."""
        return self.frozen_logits(images, views)

    def class_priors(self) -> Int64:
        """What is added to logits for the share that each class has (method.md, 7.7)."""
        if not self.settings["class_priors"]:
            return np.zeros(len(self.seen), np.int64)
        return np.array([log_share(1, int(n), int(self.known.count.sum())) for n in self.known.count], np.int64)

    def predict(self, images: NDArray[np.uint8], *, views: int = 1) -> tuple[NDArray[np.int64], Int64]:
        """Class indices (N,) and probabilities (N, K) with 15 fraction bits (method.md, 4.3)."""
        if not self.seen:
            raise ValueError("no class is known yet")
        logit = self.logits(images, views) + self.class_priors()
        return logit.argmax(axis=1), softmax(logit, 0)
