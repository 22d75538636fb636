"""CWR* beside Avalanche's plugin on the same numbers (optional dependency: avalanche-lib)."""

from __future__ import annotations

import importlib.util
import os
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the twin is tested where torch is installed (extra train)")
if importlib.util.find_spec("avalanche") is None:
    pytest.skip("Avalanche is not installed; CONTRIBUTING.md says how it is", allow_module_level=True)

os.environ["WANDB_MODE"] = "disabled"
# Beside a CPU build of torch, torchvision's operators cannot load; it asks for the schemas of two of them.
SCHEMAS = torch.library.Library("torchvision", "DEF")
SCHEMAS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
SCHEMAS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from avalanche.training.plugins import CWRStarPlugin

from bitreplay.training.parts.head import CwrHead  # noqa: E402


def test_consolidation_is_avalanches_over_many_experiences() -> None:
    classes, features = 12, 20
    rng = np.random.default_rng(0)
    model = torch.nn.Sequential()
    model.add_module("output", torch.nn.Linear(features, classes, bias=False))
    theirs = CWRStarPlugin(model, cwr_layer_name="output", freeze_remaining_model=False)
    ours = CwrHead(features, classes)
    for _ in range(15):
        inside = rng.permutation(classes)[: rng.integers(2, 7)]
        labels = np.repeat(inside, rng.integers(1, 60, len(inside))).astype(np.int64)
        ours.begin(labels)
        strategy = SimpleNamespace(experience=SimpleNamespace(dataset=SimpleNamespace(targets=labels.tolist())))
        theirs.before_training_exp(strategy)
        assert torch.allclose(model.output.weight.detach(), ours.tw.detach(), atol=1e-6), "both load what was consolidated, and 0 otherwise"
        trained = torch.from_numpy(rng.normal(0, 1, (classes, features)).astype(np.float32))
        with torch.no_grad():
            model.output.weight.copy_(trained)
            ours.tw.copy_(trained)
        theirs.after_training_exp(strategy)
        ours.end()
        for c, weights in model.saved_weights.items():
            assert np.allclose(np.asarray(weights), ours.cw[c].numpy(), atol=1e-5), c
        assert {c: n for c, n in enumerate(ours.past.tolist()) if n} == {c: n for c, n in model.past_j.items() if n}
