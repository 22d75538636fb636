"""Pictures as a page sends them, and lessons through the API."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette", reason="serving needs Starlette (extra serve)")
pytest.importorskip("httpx2", reason="the test client needs httpx2 (extra test)")
from PIL import Image
from starlette.testclient import TestClient

SIZE = 16
COLOURS = {"red": (240, 20, 30), "green": (30, 200, 40), "blue": (20, 40, 230)}


def picture(name: str, seed: int = 0, size: int = 40) -> bytes:
    noise = np.random.default_rng(seed).integers(-20, 21, (size, size, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def teach(client: TestClient, name: str, colour: str | None = None, count: int = 10) -> Any:
    files = [("picture", (f"{i}.png", picture(colour or name, i))) for i in range(count)]
    return client.post("/api/v1/lessons", data={"name": name}, files=files)


def names(client: TestClient) -> list[str]:
    return [entry["name"] for entry in client.get("/api/v1/state").json()["classes"]]
