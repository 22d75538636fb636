"""One engine and one work in a process of their own: makes it ready, checks its result, then times it whenever it is told to.

    worker.py MODULE VARIANT WORK THREADS FOLDER [prepare | memory]

Without a last word: one JSON line when ready, then one for each line on standard input, which holds the seconds to measure.
`prepare` only writes the model files to FOLDER; `memory` loads and calls once, and tells what the process then holds.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import statistics
import sys
import time
from typing import Any

import numpy as np
from works import Loaded


def status_mb(field: str) -> float:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def check(loaded: Loaded) -> dict[str, Any]:
    """Call once and compare; ValueError if the result is not what NumPy says."""
    loaded.call()
    if loaded.check is not None:
        if not loaded.check():
            raise ValueError("the check of this work fails")
        return {"checked": "learns"}
    got, expected = np.asarray(loaded.output()), np.asarray(loaded.expected())
    got, expected = got.reshape(-1), expected.reshape(-1)
    if got.size != expected.size:
        raise ValueError(f"expected {expected.size} values, got {got.size}")
    if loaded.agreement == 1:
        if not np.array_equal(got, expected):
            raise ValueError(f"expected NumPy's values, {int((got != expected).sum())} differ")
        return {"checked": "equal"}
    base = 0.0 if loaded.base is None else np.asarray(loaded.base(), np.float64).reshape(-1)
    correlation = float(np.corrcoef(got - base, expected - base)[0, 1])
    if not correlation >= loaded.agreement:
        raise ValueError(f"expected a correlation of at least {loaded.agreement} with NumPy, got {correlation:.5f}")
    return {"checked": f"correlation {correlation:.6f}"}


def measure(loaded: Loaded, seconds: float) -> dict[str, Any]:
    """Median and best of single calls, at least five, after a warm-up of a tenth of the time."""
    clock, call = time.perf_counter, loaded.call
    end = clock() + seconds / 10
    call()
    while clock() < end:
        call()
    times: list[float] = []
    gc.disable()
    end = clock() + seconds
    while len(times) < 5 or clock() < end:
        began = clock()
        call()
        times.append(clock() - began)
    gc.enable()
    scale = 1e3 / loaded.steps
    return {"median_ms": statistics.median(times) * scale, "best_ms": min(times) * scale, "calls": len(times)}


def main() -> None:
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    module, variant, work, threads, folder, *last = sys.argv[1:]
    engine = importlib.import_module(module)
    if last == ["prepare"]:
        engine.prepare(work, variant, folder)
        return
    imported = status_mb("VmRSS")
    more = engine.facts(work, variant, folder) if hasattr(engine, "facts") and not last else {}
    loaded = engine.load(work, variant, folder, int(threads))
    if last == ["memory"]:
        loaded.call()
        figures = {"version": engine.version(), "import_mb": imported, "rss_mb": status_mb("VmRSS"), "peak_mb": status_mb("VmHWM")}
        print(json.dumps(figures), file=out)
        return
    print(json.dumps({"version": engine.version(), **more, **check(loaded)}), file=out)
    for line in sys.stdin:
        print(json.dumps(measure(loaded, float(line))), file=out)


if __name__ == "__main__":
    main()
