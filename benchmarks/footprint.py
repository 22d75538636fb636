"""What it costs to have bitreplay in a process: import time above numpy, resident memory with the shipped backbone.

    python benchmarks/footprint.py

Each figure is the median of seven fresh processes, with the smallest and largest.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

IMPORT = "import time, numpy; t = time.perf_counter(); import bitreplay; print(time.perf_counter() - t)"
LOAD = """
from bitreplay import Learner, Settings
learner = Learner(settings=Settings(capacity=0))
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024)
"""


def measure(code: str) -> dict[str, float]:
    values = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) for _ in range(7)]
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


if __name__ == "__main__":
    print(json.dumps({"import_above_numpy_s": measure(IMPORT), "resident_mb_after_load": measure(LOAD)}))
