"""Published weights, downloaded once and checked (extra ``import``: pooch)."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from .published import Published


def cached_file(found: Published, cache: Path | None = None, mirror: str | None = None) -> Path:
    """The file of published weights, from the cache or downloaded.

    Parameters
    ----------
    found : what to get.
    cache : folder for downloads; None for the system's.
    mirror : another place of the same releases.

    Raises
    ------
    OSError : it cannot be downloaded, or is not what was published; the message says where it is and what to do.
    """
    import pooch

    pooch.get_logger().setLevel(logging.ERROR)  # what is said is said by us
    source = replace(found, base=mirror.rstrip("/")) if mirror else found
    folder = cache or Path(pooch.os_cache("bitreplay"))
    try:
        path = pooch.retrieve(source.url, known_hash=f"sha256:{found.sha256}", fname=found.file, path=folder)
    except (OSError, ValueError) as error:
        changed = isinstance(error, ValueError)
        why = f"its SHA-256 is not {found.sha256}, as it was published" if changed else f"cannot be downloaded ({_first_line(error)})"
        raise OSError(f"{source.url}: {why}; with the file from elsewhere: bitreplay import FILE OUT") from error
    return Path(path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
