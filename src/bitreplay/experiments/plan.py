"""Which runs a protocol stands for, and which of them have a result already.

Owns the keys of runs: what a result depends on.  Reads files of weights and of results, runs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .protocol import BasePlan, Data, Protocol, StreamPlan
from .results import NAME, Line, read_results
from .workbench import Workbench

SPLITS = ("test", "valid")


@dataclass(frozen=True)
class Run:
    """One run: everything that determines its result, and what the tables call it.

    `key` is a digest of the former, `base_key` of what its base depends on.
    """

    key: str
    base_key: str
    label: str
    series: str
    plan: str
    axes: tuple[str, ...]
    data: Data
    stream: StreamPlan
    split: str
    base: BasePlan
    method: str
    settings: dict[str, Any]
    seed: int


def digest(*parts: Any) -> str:
    """Sixteen hex digits that stand for plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def base_values(base: BasePlan, weights: Path) -> dict[str, Any]:
    """Settings of a base, as a `Workbench` takes them: a bare name means float weights in the folder of weights and the model of that name."""
    place = base.weights if "/" in base.weights else str(weights / base.weights)
    name = Path(base.weights).name
    model = {} if base.first_experience == "whole" else {"model": name}
    return {"weights": place, "first_experience": base.first_experience, **model, **base.options}


def _content(base: BasePlan, weights: Path) -> str:
    """Digest of the files that a base is made from, as far as they are there."""
    values = base_values(base, weights)
    place = Path(values["weights"])
    files = sorted(place.parent.glob(f"{place.name}-[0-9]*.safetensors"))
    model = values.get("model")
    if isinstance(model, str):
        shipped = Path(__file__).parents[1] / "models" / f"{model}.model"
        files += [path for path in (shipped, Path(model)) if path.is_file()][:1]
    found = hashlib.sha256()
    for file in files:
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def plan_runs(protocol: Protocol, *, split: str, weights: Path, only: Sequence[str] = (), seeds: Sequence[int] | None = None) -> list[Run]:
    """Multiply a protocol out.

    Parameters
    ----------
    protocol : what `read_protocol` gave.
    split : "test", or "valid" for the pictures held out of the training set.
    weights : folder of float weights.
    only : labels, of runs as they stand in the protocol or multiplied out; none for all.
    seeds : instead of the protocol's.

    Raises
    ------
    ValueError : a label of `only` is not in the protocol.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, got {split!r}")
    known = {name for plan in protocol.runs for label, _, _ in plan.expanded() for name in (label, plan.label)}
    unknown = [label for label in only if label not in known]
    if unknown:
        labels = ", ".join(dict.fromkeys(label for plan in protocol.runs for label, _, _ in plan.expanded()))
        raise ValueError(f"only: expected labels out of {labels}; got {unknown[0]}")
    data = {**asdict(protocol.data), "valid": protocol.data.valid if split == "valid" else None}
    runs = []
    for base in protocol.bases:
        content = _content(base, weights)
        made_of = [data, split, {**asdict(base), "name": ""}, content]
        whole = base.first_experience == "whole"
        for plan in protocol.runs:
            if plan.bases and base.name not in plan.bases:
                continue
            for label, series, settings in plan.expanded():
                if only and label not in only and plan.label not in only:
                    continue
                for seed in plan.seeds if seeds is None else seeds:
                    stream = asdict(protocol.stream)
                    base_key = digest(made_of, [stream, seed] if whole else None)
                    key = digest(protocol.name, made_of, stream, plan.method, settings, seed)
                    runs.append(
                        Run(key, base_key, label, series, plan.label, tuple(plan.grid), protocol.data, protocol.stream, split, base,
                            plan.method, settings, seed)
                    )  # fmt: skip
    return runs


def check_runs(runs: Sequence[Run], weights: Path, workbench: Workbench) -> None:
    """Find out before anything runs whether methods and bases take their settings; ValueError names the run."""
    for label, run in {run.label: run for run in runs}.items():
        try:
            workbench.check_method(run.method, dict(run.settings))
        except (ValueError, TypeError) as error:
            raise ValueError(f"run {label!r}: {error}") from error
    for name, run in {run.base.name: run for run in runs}.items():
        try:
            workbench.check_base(base_values(run.base, weights))
        except (ValueError, TypeError) as error:
            raise ValueError(f"base {name!r}: {error}") from error


def split_runs(runs: Sequence[Run], out: Path) -> tuple[list[Run], list[Run], list[tuple[Run, Line]]]:
    """Divide runs into those without a result, those with one, and those whose result stands under another label (with its line)."""
    file = out / NAME
    by_key: dict[str, dict[str, Line]] = {}
    for line in read_results(file) if file.exists() else []:
        by_key.setdefault(line["key"], {})[line["label"]] = line
    missing: list[Run] = []
    done: list[Run] = []
    renamed: list[tuple[Run, Line]] = []
    for run in runs:
        lines = by_key.get(run.key, {})
        if run.label in lines:
            done.append(run)
        elif lines:
            renamed.append((run, next(iter(lines.values()))))
        else:
            missing.append(run)
    return missing, done, renamed
