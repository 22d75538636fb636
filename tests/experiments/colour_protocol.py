"""A protocol on pictures of four colours, and its runs with a stand-in for networks and methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from fake_training import FakeWorkbench

from bitreplay.experiments.perform import Place
from bitreplay.experiments.plan import plan_runs
from bitreplay.experiments.protocol import Protocol, parse_protocol
from bitreplay.experiments.results import read_results
from bitreplay.experiments.schedule import Done, run_all

FAKE = FakeWorkbench()


def values(**changes: Any) -> dict[str, Any]:
    """A protocol as its file gives it."""
    return {
        "name": "colours",
        "data": {"set": "folder", "image_size": 8, "valid": 0.3},
        "stream": {"kind": "nc", "groups": [["green", "red"], ["blue"], ["white"]]},
        "base": {"weights": "some"},
        "runs": [{"label": "mean", "method": "mean", "seeds": 2}],
        **changes,
    }


def protocol(**changes: Any) -> Protocol:
    return parse_protocol(values(**changes), "colours.toml")


def carry_out(plan: Protocol, pictures: Path, out: Path, split: str = "test", **options: Any) -> tuple[list[dict[str, Any]], list[Done]]:
    """Results and failures of all runs of a protocol."""
    place = Place(pictures, out, Path("weights"))
    runs = plan_runs(plan, split=split, weights=place.weights)
    failed = run_all(plan, runs, place, FAKE, threads=1, **options)
    file = out / "results.jsonl"
    return (read_results(file) if file.exists() else []), failed
