"""The CWR* head in float (docs/method.md, 6): temporary weights that are trained, consolidated weights that predict.

Lomonaco et al. 2020, "Rehearsal-free continual learning over small non-iid batches" (`arXiv 1907.03799 <https://arxiv.org/abs/1907.03799>`_).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

GHOSTS = 8


def consolidate(cw: Tensor, tw: Tensor, past: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
    """Mix what an experience taught into what was known.

    Parameters
    ----------
    cw, tw : consolidated and temporary weights, float (K, D).
    past, current : samples of each class seen before and in this experience, float (K,); classes with no current sample stay as they are.

    Returns
    -------
    New cw and new past.

    Examples
    --------
    >>> cw, tw = torch.tensor([[1.0, -1.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> consolidate(cw, tw, torch.tensor([90.0, 0.0]), torch.tensor([10.0, 30.0]))
    (tensor([[ 1., -1.],
            [-1.,  1.]]), tensor([100.,  30.]))
    """
    inside = current > 0
    if not bool(inside.any()):
        return cw, past
    mean = tw[inside].mean()
    share = torch.sqrt(past[inside] / current[inside])[:, None]
    new = cw.clone()
    new[inside] = (share * cw[inside] + (tw[inside] - mean)) / (share + 1.0)
    return new, past + current


class CwrHead(nn.Module):
    """Bias-free linear head with CWR* consolidation.

    Parameters
    ----------
    features : D.
    classes : K.
    softmax : over which classes the cross-entropy runs: "all" (the papers: all K, those that are absent start at 0 and are thrown
        away), "present" (those of the experience alone) or "ghosts" (those and eight of constant logit 0).
    prior : whether the log share of each class in the minibatch is added to its logit in training.
    """

    past: Tensor
    cw: Tensor

    def __init__(self, features: int, classes: int, softmax: str = "all", prior: bool = False) -> None:
        super().__init__()
        if softmax not in ("all", "present", "ghosts"):
            raise ValueError(f'softmax: expected "all", "present" or "ghosts", got {softmax!r}')
        self.softmax, self.prior = softmax, prior
        self.tw = nn.Parameter(torch.zeros(classes, features))
        self.register_buffer("cw", torch.zeros(classes, features))
        self.register_buffer("past", torch.zeros(classes))
        self._current = torch.zeros(classes)
        self._absent = torch.zeros(classes)

    @torch.no_grad()
    def begin(self, labels: NDArray[np.int64]) -> None:
        """Start an experience of these current and replay samples, each counted once."""
        classes = len(self.tw)
        self._current = torch.from_numpy(np.bincount(labels, minlength=classes)).float()
        inside = self._current > 0
        self._absent = torch.where(inside, 0.0, -torch.inf)
        self.tw.copy_(torch.where(inside[:, None], self.cw, 0.0))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of float (B, D) features and int64 (B,) labels."""
        return F.cross_entropy(self.adjusted(F.linear(x, self.tw), y), y)

    def adjusted(self, logits: Tensor, y: Tensor) -> Tensor:
        """Logits as the softmax of training sees them: float (B, K), (B, K + 8) with ghosts."""
        if self.prior:
            share = torch.bincount(y, minlength=len(self.tw)).float() / len(y) * (self._current > 0).sum()
            logits = logits + torch.log(share.clamp(min=0.125 / len(y)))
        if self.softmax != "all":
            logits = logits + self._absent
        return F.pad(logits, (0, GHOSTS)) if self.softmax == "ghosts" else logits

    @torch.no_grad()
    def end(self) -> None:
        """Consolidate."""
        cw, past = consolidate(self.cw, self.tw, self.past, self._current)
        self.cw.copy_(cw)
        self.past.copy_(past)

    @torch.no_grad()
    def predict(self, x: Tensor, weight: Tensor | None = None) -> NDArray[np.int64]:
        """Class numbers of float (B, D) features, among the classes seen; `weight` stands in for cw."""
        logits = F.linear(x, self.cw if weight is None else weight).masked_fill(self.past == 0, -torch.inf)
        found: NDArray[np.int64] = logits.argmax(1).numpy()
        return found
