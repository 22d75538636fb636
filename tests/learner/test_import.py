"""What `import bitreplay` costs: no module that learning does not need, and little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_brings_nothing_that_learning_does_not_need() -> None:
    loaded = set(run("import sys, bitreplay; print(*sys.modules)").split())
    assert {"bitreplay", "numpy"} <= loaded
    heavy = {
        "torch", "PIL", "typer", "click", "rich", "starlette", "matplotlib", "sklearn", "scipy", "pyarrow", "lightning",
        "lightning_fabric", "safetensors", "http.server", "asyncio",
    }  # fmt: skip
    assert not heavy & loaded


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc to read resident memory from")
def test_the_shipped_backbone_fits_in_45_mb() -> None:
    code = "from bitreplay import Learner; l = Learner(); print(next(x for x in open('/proc/self/status') if x.startswith('VmRSS')))"
    name, size, unit = run(code).split()
    assert (name, unit) == ("VmRSS:", "kB")
    assert int(size) <= 45_000
