"""Files with changed content whose digest fits, and a shelf of sound ones to change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_model
from new_learner import new_learner
from reference.files import pack, unpack

from bitreplay import Learner
from bitreplay.model import write_model

NO_DIGEST = b"0" * 64
Tensors = dict[str, np.ndarray]


def seal(body: bytes) -> bytes:
    """Put the right digest in place of the first 64 zeros."""
    assert NO_DIGEST in body
    return body.replace(NO_DIGEST, hashlib.sha256(body).hexdigest().encode(), 1)


def with_header(text: bytes, data: bytes) -> bytes:
    text += b" " * (-len(text) % 8)
    return seal(len(text).to_bytes(8, "little") + text + data)


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header with its digest zeroed, and the data."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["digest"] = NO_DIGEST.decode()
    return header, content[8 + length :]


def edited(content: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the file with a changed header and a digest that fits."""
    header, data = parts(content)
    edit(header)
    return with_header(json.dumps(header).encode(), data)


class Shelf:
    """Files of one learner: taught on a custom model, which its state carries."""

    def __init__(self, folder: Path, head: str = "lda") -> None:
        self.folder = folder
        self.network, self.tensors = tiny_model.make_model(3, image_size=8, widths=(8,), blocks=(1,), stem_strides=(2, 2))
        self.model = write_model(folder / "tiny.model", self.network, self.tensors, {"name": "tiny"})
        self.model_bytes = (folder / "tiny.model").read_bytes()
        self.learner = new_learner(self.model, capacity=4, threads=1, near_equal=0, head=head)
        self.images = tiny_model.random_images(1, 6, 8)
        self.learner.learn(self.images, ["a", "b", "c", "b", "b", "c"])
        self.learner.save(folder / "s")
        self.state_bytes = (folder / "s").read_bytes()
        metadata, self.state_tensors = unpack(self.state_bytes, "state", "s")
        self.state_metadata = {key: value for key, value in metadata.items() if key != "digest"}

    def state(self, tensors: Tensors | None = None, **metadata: str) -> bytes:
        """Return the state with other content, sealed."""
        return pack("state", {**self.state_metadata, **metadata}, {**self.state_tensors, **(tensors or {})})

    def settings(self, **values: Any) -> str:
        return json.dumps({**json.loads(self.state_metadata["settings"]), **values})


def load(content: bytes, folder: Path, **arguments: Any) -> Learner:
    path = folder / "file"
    path.write_bytes(content)
    return Learner.load(path, **arguments)
