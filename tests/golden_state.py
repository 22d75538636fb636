"""States of fixed lessons, whose digests every machine is held to: `python tests/golden_state.py` makes and compares them.

Pictures and labels come from SHAKE-128, so no library's generator is part of the promise.  Whoever changes what is computed, what a state holds or a
shipped backbone changes `GOLDEN` in the same commit, and says so in the changelog: devices in the field will give other states from then on.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from new_learner import new_learner
from numpy.typing import NDArray

# Lesson's name: how the learner is made, and the SHA-256 of the state file after two lessons.
GOLDEN: dict[str, tuple[dict[str, Any], str]] = {
    "head": ({"capacity": 20, "seed": 7}, "b5a8b2329ac828d63e37569fae89bcf478dd499e57b55fc4c0625f3cb359e1ec"),
    "views": ({"capacity": 20, "seed": 7, "views": 6}, "dd4f15dd04b89ac2d4cd281b4945daf181ccd86215f68f45abfaa3927b2b6340"),
    "papers": ({"capacity": 20, "seed": 7, "head": "cwr"}, "35af1f7eebd8cb8eba3f6da19433fb16280f3a67b909b4eca8c8d85613dfc257"),
    "tail": (
        {"model": "reactnet-32", "capacity": 20, "seed": 7, "train_blocks": 1, "tail_passes": 2, "held_back": 0.25},
        "449b2b52a3acb7860b604bc1aeee727fa3ea401551d0e94dc9d3677aa0633d0c",
    ),
}


def pictures(seed: str, count: int) -> NDArray[np.uint8]:
    """Make uint8 (count, 32, 32, 3) of blocks of 4 x 4 pixels, the same everywhere."""
    cells = np.frombuffer(hashlib.shake_128(seed.encode()).digest(count * 8 * 8 * 3), np.uint8).reshape(count, 8, 8, 3)
    return cells.repeat(4, axis=1).repeat(4, axis=2)


def golden_digest(name: str, folder: Path) -> str:
    """Teach two lessons of two classes and return the SHA-256 of the state file."""
    learner = new_learner(**GOLDEN[name][0])
    for lesson in (("mug", "spoon"), ("plate", "fork")):
        learner.learn(pictures("".join(lesson), 16), [lesson[i % 2] for i in range(16)])
    path = folder / f"{name}.state"
    learner.save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    from bitreplay import _engine

    with tempfile.TemporaryDirectory() as folder:
        found = {name: golden_digest(name, Path(folder)) for name in GOLDEN}
    for name, digest in found.items():
        print(f"{name} {_engine.isa()} {digest} {'as expected' if digest == GOLDEN[name][1] else 'NOT as expected'}")
    sys.exit(any(digest != GOLDEN[name][1] for name, digest in found.items()))
