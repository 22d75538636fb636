"""The learner: lessons of the head on a frozen network, with a replay memory (docs/method.md, 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from reference_arithmetic import Int64, Uint64, below, divr, draw, permutation, rs
from reference_head import consolidate, learning_rate, logits, prior_logits, softmax, training_step
from reference_network import ReferenceNetwork
from reference_replay import update_memory

UNKNOWN_GHOSTS = 64
PURPOSE_LIVE, PURPOSE_REPLAY, PURPOSE_DEVIATION, PURPOSE_ABSENT = 1, 2, 5, 6


class ReferenceLearner:
    """Head and replay memory on top of a network (method.md, 4 and 5).

    Parameters
    ----------
    network
        The frozen network.
    capacity
        M, rows of the replay memory.
    seed
        Seed of every draw.
    settings
        learning_rate (16 fraction bits), epochs, min_steps, live_batch, replay_batch, ghosts, prior (bool),
        pull (8 fraction bits), class_means (bool).

    Attributes
    ----------
    weight
        Consolidated weights, int32 (K, D_f).
    past_count, seen
        Lists of K ints.
    rows, labels
        The memory in slot order, uint64 (R, words) and uint16 (R,).
    experience
        Lessons so far.

    """

    def __init__(self, network: ReferenceNetwork, capacity: int, seed: int, settings: dict[str, Any]) -> None:
        self.network = network
        self.capacity = capacity
        self.seed = seed
        self.settings = dict(settings)
        self.weight: NDArray[np.int32] = np.zeros((0, network.feature_count), np.int32)
        self.past_count: list[int] = []
        self.seen: list[int] = []
        self.sums: Int64 = np.zeros((0, network.feature_count), np.int64)
        self.rows: Uint64 = np.zeros((0, network.row_words), np.uint64)
        self.labels: NDArray[np.uint16] = np.zeros(0, np.uint16)
        self.experience = 0

    def learn(self, images: NDArray[np.uint8], labels: ArrayLike) -> None:
        """Learn one lesson of uint8 images (N, S, S, 3) and class indices (N,) (method.md, 4.3, 4.4, 5)."""
        self.learn_latents(self.network.latents(images), labels)

    def learn_latents(self, latents: Uint64, labels: ArrayLike) -> None:
        """Learn one lesson of latent rows; `learn` without the prefix."""
        live_labels = [int(c) for c in np.asarray(labels)]
        if not live_labels or len(live_labels) != len(latents):
            raise ValueError("a lesson needs rows, and a label for each")
        known = len(self.past_count)
        fresh = [c for c in dict.fromkeys(live_labels) if c not in range(known)]
        if fresh != list(range(known, known + len(fresh))):
            raise ValueError("new classes are numbered in order of first appearance")
        classes_known = known + len(fresh)
        self.weight = np.concatenate([self.weight, np.zeros((len(fresh), self.network.feature_count), np.int32)])
        self.past_count = self.past_count + [0] * len(fresh)

        self.sums = np.concatenate([self.sums, np.zeros((len(fresh), self.network.feature_count), np.int64)])
        live_features = self.network.features(latents).astype(np.int64)
        for c, row in zip(live_labels, live_features, strict=True):
            self.sums[c] += row

        stored_labels = [int(c) for c in self.labels]
        live_count = [live_labels.count(c) for c in range(classes_known)]
        stored_count = [stored_labels.count(c) for c in range(classes_known)]
        classes = [c for c in range(classes_known) if live_count[c] + stored_count[c]]

        tw = self._train(live_features, live_labels, stored_labels, live_count, stored_count)
        current = [live_count[c] + stored_count[c] for c in classes]
        merged, counts = consolidate(self.weight[classes], tw[classes], [self.past_count[c] for c in classes], current)
        self.weight[classes] = merged
        for c, count in zip(classes, counts, strict=True):
            self.past_count[c] = count

        self.rows, self.labels, self.seen = update_memory(
            self.rows, self.labels, self.seen, latents, live_labels, capacity=self.capacity, seed=self.seed, experience=self.experience
        )
        self.experience += 1

    def rehearse(self) -> None:
        """Train on the stored rows alone (method.md, 8.2)."""
        stored_labels = [int(c) for c in self.labels]
        known = len(self.past_count)
        nothing = np.zeros((0, self.network.feature_count), np.int64)
        self.weight = self._train(nothing, [], stored_labels, [0] * known, [stored_labels.count(c) for c in range(known)]).astype(np.int32)
        self.experience += 1

    def _train(
        self, live_features: Int64, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]
    ) -> Int64:
        """Training weights (K, D_f) after all minibatches; only rows of active classes differ from cw (method.md, 4.2 and 4.3)."""
        settings, n, r, known = self.settings, len(live_labels), len(stored_labels), len(live_count)
        feature_bits = self.network.feature_bits
        stored_features = self.network.features(self.rows).astype(np.int64) if r else np.zeros((0, live_features.shape[1]), np.int64)
        labels = np.array(live_labels + stored_labels)
        seen = [(self.seen[c] if c < len(self.seen) else 0) + live_count[c] for c in range(known)]
        means = np.zeros_like(self.sums)
        absent: list[int] = []
        if settings["class_means"]:
            means = np.stack([np.array([divr(int(v), seen[c]) for v in self.sums[c]], np.int64) for c in range(known)])
            absent = [c for c in range(known) if not live_count[c]] if r == 0 else []
            for c in range(known):
                here = np.flatnonzero(np.array(stored_labels) == c)
                if len(here):
                    now = np.array([divr(int(v), len(here)) for v in stored_features[here].sum(axis=0)], np.int64)
                    stored_features[here] = np.clip(stored_features[here] + means[c] - now, -127, 127)
        features = np.concatenate([live_features, stored_features])

        live_batch = min(settings["live_batch"], n)
        other_batch = min(settings["replay_batch"], r) if r else settings["replay_batch"] if absent else 0
        other_count = stored_count if r else [int(c in absent) for c in range(known)]
        active = [c for c in range(known) if live_count[c] + other_count[c]]
        prior = np.zeros(len(active), np.int64)
        if other_batch and settings["prior"]:
            prior = prior_logits([live_count[c] for c in active], [other_count[c] for c in active], live_batch, other_batch)
        ghosts = 0 if settings["class_means"] and other_batch else settings["ghosts"]
        position = {c: i for i, c in enumerate(active)}
        batches = -(-n // live_batch) if n else -(-r // other_batch)
        steps = max(settings["epochs"] * batches, settings["min_steps"])

        anchor = self.weight[active].astype(np.int64)
        tw = anchor.copy()
        live_order: list[int] = []
        replay_order: list[int] = []
        replay_permutations = 0
        for step in range(steps):
            if step % batches == 0:
                live_order = permutation(n, self.seed, PURPOSE_LIVE, (self.experience << 32) + step // batches)
            begin = step % batches * live_batch
            batch = live_order[begin : begin + live_batch]
            rows, targets = [features[i] for i in batch], [position[live_labels[i]] for i in batch]
            while r and len(replay_order) < other_batch:
                replay_order += permutation(r, self.seed, PURPOSE_REPLAY, (self.experience << 32) + replay_permutations)
                replay_permutations += 1
            for b in range(other_batch):
                index = step * other_batch + b
                e = below(n + r, draw(self.seed, PURPOSE_DEVIATION, self.experience, index))
                deviation = features[e] - means[labels[e]]
                if r:
                    c, own = stored_labels[replay_order[b]], stored_features[replay_order[b]]
                    mixed = np.clip(means[c] + ((205 * (own - means[c]) + 154 * deviation + 128) >> 8), -127, 127)
                    row = mixed if settings["class_means"] else own
                else:
                    c = absent[below(len(absent), draw(self.seed, PURPOSE_ABSENT, self.experience, index))]
                    row = np.clip(means[c] + deviation, -127, 127)
                rows.append(row)
                targets.append(position[c])
            replay_order = replay_order[other_batch:]
            rate = learning_rate(settings["learning_rate"], feature_bits, step, steps, len(rows))
            pull = settings["learning_rate"] * (steps - step) // steps * settings["pull"]
            pulls = np.array([pull if self.past_count[c] else 0 for c in active], np.int64)
            tw = training_step(tw, np.stack(rows), np.array(targets), prior, ghosts, rate, feature_bits, anchor, pulls, self._requant(step))
        result = self.weight.astype(np.int64)
        result[active] = tw
        return result

    def _requant(self, step: int) -> Callable[[Int64], tuple[Int64, int]]:
        """How the gradient of the logits is rounded in a step (method.md, 7.3)."""
        return lambda g: (g, 0)

    def predict(self, images: NDArray[np.uint8], *, mirrored: bool = False) -> tuple[NDArray[np.int64], Int64]:
        """Class indices (N,) and probabilities (N, K) with 15 fraction bits (method.md, 4.1)."""
        if not self.past_count:
            raise ValueError("no class is known yet")
        views = [images, images[:, :, ::-1]] if mirrored else [images]
        said = [logit for view in views for logit in self._logits(self.network.latents(view))]
        logit = rs(np.sum(said, axis=0), len(said).bit_length() - 1)
        return logit.argmax(axis=1), softmax(logit, 0)

    def certainty(self, images: NDArray[np.uint8]) -> Int64:
        """That an image shows something known (N,), 15 fraction bits (method.md, 4.5)."""
        return softmax(ReferenceLearner._logits(self, self.network.latents(images))[0], UNKNOWN_GHOSTS).max(axis=1)

    def _logits(self, latents: Uint64) -> list[Int64]:
        """Of each branch (N, K); there are 2^n of them."""
        return [logits(self.network.features(latents), self.weight, self.network.feature_bits)]
