"""A learner with a trained branch: lessons that train the tail (docs/method.md, 7.6)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from reference_arithmetic import Int64, Uint64, draw, permutation, rs
from reference_head import distillation, learning_rate, log_share, logits, prior_logits, training_step
from reference_learner import ReferenceLearner
from reference_network import ReferenceNetwork
from reference_tail import PURPOSE_GRADIENT, TENSOR_HEAD, Minibatch, Moment, ReferenceTail, requant_head

PURPOSE_TAIL_LIVE, PURPOSE_TAIL_REPLAY, PURPOSE_VARIATION = 9, 10, 11


class ReferenceBranchLearner(ReferenceLearner):
    """The learner of 4 and 5 as frozen branch, and a trained branch beside it.

    `settings` has those with tail_ before them as well; `branch` (K, D_f) is v.
    """

    def __init__(self, network: ReferenceNetwork, capacity: int, seed: int, settings: dict[str, Any], tail: ReferenceTail) -> None:
        super().__init__(network, capacity, seed, settings)
        self.tail = tail
        self.branch: Int64 = np.zeros((0, network.feature_count), np.int64)
        self._latents: Uint64 = np.zeros((0, network.row_words), np.uint64)

    def learn_latents(self, latents: Uint64, labels: ArrayLike) -> None:
        """Learn one lesson of latent rows."""
        self._latents = latents
        super().learn_latents(latents, labels)

    def _requant(self, step: int) -> Callable[[Int64], tuple[Int64, int]]:
        bits = self.tail.settings.gradient_bits
        key = Moment(self.seed, self.experience, step).key(PURPOSE_GRADIENT, TENSOR_HEAD)
        return lambda g: requant_head(g, bits, key)

    def _train(
        self, live_features: Int64, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]
    ) -> Int64:
        tw = super()._train(live_features, live_labels, stored_labels, live_count, stored_count)
        self.branch = np.concatenate([self.branch, tw[len(self.branch) :]])
        if stored_labels:
            self._train_tail(live_labels, stored_labels, live_count, stored_count)
        return tw

    def vary(self, row: Uint64, number: int) -> Uint64:
        """Mirror a row or not, and turn some of its bits over."""

        def random(index: int) -> int:
            return draw(self.seed, PURPOSE_VARIATION, (self.experience << 32) | number, index)

        size, channels = self.tail.map_size, self.tail.channels
        maps = row.reshape(size, size, -1)
        if self.settings["tail_mirror"] and random(0) & 1:
            maps = maps[:, ::-1]
        words = maps.shape[-1]
        result = [int(w) for w in maps.reshape(-1)]
        for j in range(len(result)):
            mask = 0
            if self.settings["tail_noise"]:
                for k in range(8):
                    r = random(8 * (j + 1) + k)
                    mask = mask | r if (self.settings["tail_noise"] >> k) & 1 else mask & r
            if j % words == words - 1 and channels % 64:
                mask &= (1 << (channels % 64)) - 1
            result[j] ^= mask
        return np.array(result, np.uint64)

    def _train_tail(self, live_labels: list[int], stored_labels: list[int], live_count: list[int], stored_count: list[int]) -> None:
        settings, n, r = self.settings, len(live_labels), len(stored_labels)
        live_batch, other_batch = min(settings["live_batch"], n), min(settings["tail_replay_batch"], r)
        active = [c for c in range(len(live_count)) if live_count[c] + stored_count[c]]
        position = {c: i for i, c in enumerate(active)}
        prior = np.zeros(len(active), np.int64)
        if settings["prior"]:
            prior = prior_logits([live_count[c] for c in active], [stored_count[c] for c in active], live_batch, other_batch)
            prior += [rs(log_share(len(active), live_count[c] + stored_count[c], n + r) * settings["tail_prior"], 8) for c in active]
        ghosts = 0 if settings["class_means"] else settings["ghosts"]
        batches = -(-n // live_batch) if n else 1
        passes = settings["tail_passes"] if n else -(-settings["tail_passes"] // 4)
        steps = -(-passes * r // other_batch)
        if n:
            steps = min(steps, settings["tail_epochs"] * batches)
        live_order: list[int] = []
        replay_order: list[int] = []
        permutations = 0
        absent = [position[c] for c in active if not live_count[c]]
        before, before_v = copy.deepcopy(self.tail), self.branch[active]
        for step in range(steps):
            if step % batches == 0:
                live_order = permutation(n, self.seed, PURPOSE_TAIL_LIVE, (self.experience << 32) + step // batches)
            begin = step % batches * live_batch
            batch = live_order[begin : begin + live_batch]
            while len(replay_order) < other_batch:
                replay_order += permutation(r, self.seed, PURPOSE_TAIL_REPLAY, (self.experience << 32) + permutations)
                permutations += 1
            stored, replay_order = replay_order[:other_batch], replay_order[other_batch:]
            rows = [self._latents[i] for i in batch] + [self.rows[i] for i in stored]
            labels = [live_labels[i] for i in batch] + [stored_labels[i] for i in stored]
            first = step * (live_batch + other_batch)
            varied = np.stack([self.vary(row, first + b) for b, row in enumerate(rows)])
            targets = np.array([position[c] for c in labels])
            moment = Moment(self.seed, self.experience, step, steps)
            v = self.branch[active]
            features = self.tail.features_of(varied)
            distilled: Int64 | int = 0
            if settings["tail_distillation"] and absent and n:
                bits = self.network.feature_bits
                distilled = distillation(logits(features, v, bits), logits(before.features_of(varied), before_v, bits), absent)
            gradients = self.tail.gradients(Minibatch(varied, targets, prior, ghosts, distilled), v, moment)
            self.tail.step(gradients, moment)
            rate = learning_rate(settings["learning_rate"], self.network.feature_bits, step, steps, len(rows))
            self.branch[active] = training_step(
                v,
                features,
                targets,
                prior,
                ghosts,
                rate,
                self.network.feature_bits,
                v,
                np.zeros(len(active), np.int64),
                self._requant(step),
                distilled,
            )

    def _logits(self, latents: Uint64) -> list[Int64]:
        trained = logits(self.tail.features_of(latents).astype(np.int8), self.branch, self.network.feature_bits)
        return [*super()._logits(latents), trained]
