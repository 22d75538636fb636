"""The model file: a frozen network in integers, checked and handed to the core (docs/formats.md, Model)."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._engine import ModelFile
from ._engine import write_model as _packed
from .disk import label_of, read_bytes, replace_file
from .errors import FormatError

SHIPPED = "quicknet-32"
_FOLDER = Path(__file__).parent / "models"

Tensors = dict[str, NDArray[np.generic]]


class Model:
    """A frozen binary network with a replay cut, as `bitreplay export` writes it.

    Attributes
    ----------
    network : the core's network; immutable.
    digest : 64 hexadecimal digits, the model's name in every state that was taught on it.
    card : what its makers say of it: data, recipe, figures.
    """

    def __init__(self, content: bytes | mmap.mmap, where: str, *, shipped: bool = False) -> None:
        self.file = ModelFile(content, where)  # the core's: the network, and the initial weights of its tail, which stay in `content`
        self.network = self.file.network
        self.digest: str = self.file.digest
        self.shipped = shipped
        try:
            card = json.loads(self.file.card or "{}")
        except (ValueError, RecursionError) as error:  # numbers of thousands of digits
            raise FormatError(f"{where}: card: expected JSON") from error
        self.card: dict[str, Any] = card if isinstance(card, dict) else {}
        self._content = content

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model file.

        Raises
        ------
        FormatError : the file is not a sound model.
        OSError : it cannot be read.
        """
        return cls(read_bytes(Path(path)), str(path))

    @classmethod
    def shipped_names(cls) -> list[str]:
        """Names of the backbones that come with the package."""
        return sorted(p.stem for p in _FOLDER.glob("*.model"))

    @classmethod
    def from_package(cls, name: str = SHIPPED) -> Model:
        """Open a backbone that comes with the package; ValueError if there is none of that name."""
        path = _FOLDER / f"{name}.model"
        if name not in cls.shipped_names():
            raise ValueError(f"model: expected one of {', '.join(cls.shipped_names())}, or a path, got {name!r}")
        with path.open("rb") as file:  # mapped: the system may drop its pages when memory is short
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), str(path), shipped=True)

    @classmethod
    def open(cls, model: Model | str | Path | None) -> Model:
        """The model meant by an argument: a Model, a path, the name of a shipped one, or None for the default."""
        if isinstance(model, Model):
            return model
        if model is None or model in cls.shipped_names():
            return cls.from_package(str(model) if model else SHIPPED)
        return cls.load(model)

    @classmethod
    def with_digest(cls, digest: str) -> Model | None:
        """The shipped backbone of this digest, or None."""
        names = (name for name in cls.shipped_names() if label_of(_FOLDER / f"{name}.model")[1] == digest)
        return next((cls.from_package(name) for name in names), None)

    @property
    def content(self) -> bytes | None:
        """The model file's bytes; None for a backbone that comes with the package."""
        return None if self.shipped else bytes(self._content)

    def file_content(self) -> bytes:
        """The model file's bytes, of a shipped backbone too."""
        return bytes(self._content)

    @property
    def name(self) -> str:
        """Name on the card, where it is one that can be printed, or the beginning of the digest."""
        name = self.card.get("name")
        return name if isinstance(name, str) and name != "" and len(name) <= 80 and name.isprintable() else self.digest[:12]

    def info(self) -> dict[str, Any]:
        """Sizes and card of the model; bytes as the core holds them."""
        return {
            "digest": self.digest,
            "name": self.name,
            "image_size": self.network.image_size,
            "latent_bits": self.network.latent_bits,
            "latent_bytes": self.network.latent_words * 8,
            "features": self.network.feature_count,
            "bytes": {"network": self.network.bytes, "forward_scratch_per_thread": self.network.scratch_bytes},
            "card": self.card,
        }


def write_model(path: Path, network: dict[str, Any], tensors: Tensors, card: dict[str, Any]) -> Model:
    """Write a model file and read it back; FormatError if it is not sound (then nothing is written)."""
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    content = _packed(json.dumps(network, sort_keys=True), json.dumps(card, sort_keys=True), arrays)
    model = Model(content, str(path))
    replace_file(path, content)
    return model
