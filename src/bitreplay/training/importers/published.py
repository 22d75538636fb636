"""Networks that others publish, by the SHA-256 of their files: what the card of an import says of them, and where `bitreplay fetch` gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LARQ = "https://github.com/larq/zoo/releases/download"
_LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Published:
    """A file of weights.

    Parameters
    ----------
    name : of the network.
    folder, file : of the release.
    sha256 : as larq-zoo 2.4.0 lists it.
    top1, top5 : published, on ImageNet's validation pictures, per cent.
    base : where the releases are.
    """

    name: str
    folder: str
    file: str
    sha256: str
    top1: float
    top5: float
    base: str = _LARQ

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"{self.base}/{self.folder}/{self.file}"

    def card(self) -> dict[str, Any]:
        """What is known of it."""
        return {
            "name": self.name, "licence": _LICENCE, "source": self.url, "data": "ImageNet (ILSVRC 2012), 1,000 classes; its terms: research use of the pictures",
            "published": {"top1": self.top1, "top5": self.top5},
        }  # fmt: skip


PUBLISHED = (
    Published("quicknet", "quicknet-v1.0", "quicknet_weights.h5", "8aba9e4e5f8d342faef04a0b2ae8e562da57dbb7d15162e8b3e091c951ba756c", 63.3, 84.6),
    Published("quicknet-small", "quicknet-v1.0", "quicknet_small_weights.h5", "1ac3b07df7f5a911dd0b49febb2486428ddf1ca130297c403815dfae5a1c71a2", 59.4, 81.8),
    Published("quicknet-large", "quicknet-v1.0", "quicknet_large_weights.h5", "c5158e8a59147b31370becd937825f4db8a5cdf308314874f678f596629be45c", 66.9, 87.0),
    Published("birealnet", "birealnet-v0.3.0", "birealnet_weights.h5", "6e6efac1584fcd60dd024198c87f42eb53b5ec719a5ca1f527e1fe7e8b997117", 57.47, 79.84),
)  # fmt: skip


def published(sha256: str) -> Published | None:
    """The published file of this digest, or None."""
    return next((found for found in PUBLISHED if found.sha256 == sha256), None)


def named(name: str) -> Published:
    """The published file of this network; ValueError if there is none."""
    for found in PUBLISHED:
        if found.name == name:
            return found
    raise ValueError(f"name: expected one of {', '.join(found.name for found in PUBLISHED)}, got {name!r}")
