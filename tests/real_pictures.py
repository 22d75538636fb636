"""Where real pictures lie: BITREPLAY_DATA, or a folder beside the checkout."""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(os.environ.get("BITREPLAY_DATA", Path(__file__).parents[2] / "shared" / "data"))
