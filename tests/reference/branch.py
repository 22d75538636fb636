"""A learner with a trained branch: lessons that train the tail (docs/method.md, 7.6 and 7.7)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import PURPOSE_HELD_BACK, Int64, Uint64, draw, permutation, row_hash, rs
from .head import distillation, learning_rate, log_share, logits, prior_logits, training_step
from .lda import Sums, solve
from .learner import MIXING_BITS, Live, ReferenceLearner
from .mixing import ONE, Held, choose_mixing
from .near_equal import differing_bits
from .network import ReferenceNetwork
from .tail import Minibatch, ReferenceTail, requant_head
from .tail_block import PURPOSE_GRADIENT, TENSOR_HEAD, Moment
from .unknown import LeaveOneOut

PURPOSE_TAIL_LIVE, PURPOSE_TAIL_REPLAY, PURPOSE_VARIATION = 9, 10, 11
MOST_HELD = 256  # rows of a class that the branch is judged by
LEAST_STEPS = 50


class ReferenceBranchLearner(ReferenceLearner):
    """The learner of 4 to 6 as frozen branch, and a trained branch beside it; `branch` (K, D_f) is v."""

    def __init__(self, network: ReferenceNetwork, settings: dict[str, Any], tail: ReferenceTail) -> None:
        super().__init__(network, settings)
        self.tail = tail
        self.branch: Int64 = np.zeros((0, network.feature_count), np.int64)
        self.worse = -1  # the class for whose sake the branch is not heard

    def _requant(self, step: int) -> Callable[[Int64], tuple[Int64, int]]:
        bits = self.tail.settings.gradient_bits
        key = Moment(self.seed, self.experience, step).key(PURPOSE_GRADIENT, TENSOR_HEAD)
        return lambda g: requant_head(g, bits, key)

    def is_held_back(self, row: Uint64) -> bool:
        """Whether a latent row is a candidate for being held back."""
        return bool(self.settings["head"] == "lda" and row_hash(self.seed, row, PURPOSE_HELD_BACK) >> 56 < self.settings["held_back"])

    def roles(self, live: Live) -> list[str]:
        """What each live row is to the branch: held, trained or neither."""
        # OPEN: with CWR* too a row that does not count is neither.
        roles = ["trained" if counts else "neither" for counts in live.counts]
        most = max(512, self.settings["capacity"])
        for i, row in enumerate(live.latents):
            if not live.counts[i]:
                continue
            own = [j for j in np.flatnonzero(live.counts) if live.labels[j] == live.labels[i]]
            smaller = sum(row_hash(self.seed, live.latents[j]) < row_hash(self.seed, row) for j in own)
            held = [r for r, c in zip(self.latents, self.labels, strict=True) if c == live.labels[i] and self.is_held_back(r)]
            if self.is_held_back(row) and smaller < most:
                roles[i] = "held"
            elif self.near is not None and any(differing_bits(row, other) <= self.near for other in held):
                roles[i] = "neither"
        return roles

    def begin(self, classes: int, without: Sums) -> None:
        """Let every class that has not begun begin as LDA knows it, from these sums."""
        found = solve(without, *self.lda_settings)
        shift = found.exponent - 11 - self.network.feature_bits
        for c in range(classes):
            if not self.branch[c].any():
                product = found.weight[c].astype(object) * self.temperature
                first = rs(product, shift) if shift >= 0 else product << -shift
                self.branch[c, : self.lda_width] = np.clip(first, -(1 << 31), (1 << 31) - 1).astype(np.int64)

    def _learn_branch(self, start: Int64 | None, live: Live, classes: int) -> None:
        known, lda = len(self.branch), self.settings["head"] == "lda"
        self.branch = np.concatenate([self.branch, np.zeros((classes - known, self.network.feature_count), np.int64)])
        if start is not None:
            self.branch[known:] = start[known:]
        roles = self.roles(live)
        trained, held = ([i for i, role in enumerate(roles) if role == which] for which in ("trained", "held"))
        stored = [slot for slot, row in enumerate(self.latents) if not self.is_held_back(row)]
        if not stored or (live.labels and not trained):
            if lda and classes > known:
                self.mixing = (ONE, 0)
            return
        if lda:
            others = Sums.none(self.lda_width).with_rows(live.features[held][:, : self.lda_width], [live.labels[i] for i in held], classes)
            self.begin(classes, self.known.less(others))
        self._train_tail(
            live.latents[trained], [live.labels[i] for i in trained], self.latents[stored], [int(self.labels[slot]) for slot in stored]
        )
        self.mixing = self._mix(live, held, known) if lda else (ONE // 2, ONE // 2)

    def _mix(self, live: Live, held: list[int], known: int) -> tuple[int, int]:
        """Choose the scales on the rows that were held back."""
        if not self.settings["held_back"]:
            return ONE, ONE
        kept = [slot for slot, row in enumerate(self.latents) if self.is_held_back(row)]
        latents = np.concatenate([self.latents[kept], live.latents[held]])
        features = np.concatenate([self.stored_features()[kept], live.features[held]])[:, : self.lda_width]
        labels = np.array([int(self.labels[slot]) for slot in kept] + [live.labels[i] for i in held], np.int64)
        order = [i for c in range(len(self.branch)) if self.known.count[c] > 1 for i in np.flatnonzero(labels == c)[:MOST_HELD]]
        judge = LeaveOneOut(self.known, *self.lda_settings)
        frozen = [np.floor(-judge.distances(features[i], int(labels[i])) / 2 * self.temperature + 0.5).astype(np.int64) for i in order]
        branch = logits(self.tail.features_of(latents[order]).astype(np.int8), self.branch, self.network.feature_bits)
        scales, self.worse = choose_mixing(
            Held(labels[order], np.array(frozen, np.int64).reshape(len(order), -1), branch), known, heard=self.mixing[1] > 0
        )
        return scales

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

    def _train_tail(self, live: Uint64, live_labels: list[int], other: Uint64, stored_labels: list[int]) -> None:
        """Train on live rows and on rows of the memory."""
        settings, n, r = self.settings, len(live_labels), len(stored_labels)
        live_count, stored_count = ([labels.count(c) for c in range(len(self.branch))] for labels in (live_labels, stored_labels))
        live_batch, other_batch = min(settings["live_batch"], n), min(settings["tail_replay_batch"], r)
        active = [c for c in range(len(live_count)) if live_count[c] + stored_count[c]]
        position = {c: i for i, c in enumerate(active)}
        prior = np.zeros(len(active), np.int64)
        if settings["prior_correction"]:
            prior = prior_logits([live_count[c] for c in active], [stored_count[c] for c in active], live_batch, other_batch)
            prior += [rs(log_share(len(active), live_count[c] + stored_count[c], n + r) * settings["tail_prior"], 8) for c in active]
        batches = -(-n // live_batch) if n else 1
        passes = settings["tail_passes"] if n else -(-settings["tail_passes"] // 4)
        steps = -(-passes * r // other_batch)
        if n:
            steps = min(steps, max(LEAST_STEPS, settings["tail_epochs"] * batches))
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
            rows = [live[i] for i in batch] + [other[i] for i in stored]
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
            gradients = self.tail.gradients(Minibatch(varied, targets, prior, 0, distilled), v, moment)
            self.tail.step(gradients, moment)
            rate = learning_rate(settings["learning_rate"], self.network.feature_bits, step, steps, len(rows))
            self.branch[active] = training_step(
                v,
                features,
                targets,
                prior,
                0,
                rate,
                self.network.feature_bits,
                self._requant(step),
                distilled,
            )

    def logits(self, images: NDArray[np.uint8], views: int) -> Int64:
        """Logits (N, K) of both branches together (method.md, 4.3 and 7.7)."""
        trained = logits(self._mean(images, views, self.tail.features_of), self.branch, self.network.feature_bits)
        both: Int64 = self.frozen_logits(images, views) + rs(trained * self.mixing[1], MIXING_BITS)
        return both
