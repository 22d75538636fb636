"""Every machine and instruction set writes the states that `golden_state.py` has the digests of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from golden_state import GOLDEN


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "neon"])
def test_the_states_of_fixed_lessons_have_their_digests(isa: str) -> None:
    script = Path(__file__).with_name("golden_state.py")
    result = subprocess.run([sys.executable, str(script)], env=os.environ | {"BITREPLAY_ISA": isa}, capture_output=True, text=True)
    if "not available on this processor" in result.stderr or "expected scalar or" in result.stderr:
        pytest.skip(f"this processor has no {isa}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(f"{name} {isa} " in result.stdout for name in GOLDEN)
