"""Reads a file of Keras weights in a process of its own: from standard input, as an archive of arrays on standard output.

HDF5's library may hang or crash on a damaged file, and a process can be ended.  Run by `keras`; imports nothing of this package.
"""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

_ROOM = 4  # times the file's size: what its data sets may hold
_MOST_LAYERS, _MOST_WEIGHTS = 4096, 16
_SECONDS, _BYTES = 20, 4 << 30


def _text(name: Any) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _limit(size: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has none of this; the parent's clock remains
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_BYTES + 8 * size, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _arrays(content: bytes) -> dict[str, NDArray[np.float32]]:
    # "number of the layer|its name|weight", in the file's order.
    room, found = _ROOM * len(content), dict[str, NDArray[np.float32]]()
    with h5py.File(io.BytesIO(content), "r") as file:
        root = file.get("model_weights", file)
        names = [_text(name) for name in np.asarray(root.attrs["layer_names"]).reshape(-1)[:_MOST_LAYERS].tolist()]
        for i, name in enumerate(names):
            group = root[name]
            for path in np.asarray(group.attrs["weight_names"]).reshape(-1)[:_MOST_WEIGHTS].tolist():
                data = group[_text(path)]
                if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external or data.dtype.kind != "f":
                    raise ValueError(f"layer {name[:80]!r}: expected arrays of floats")
                room -= data.size * 4
                if room < 0:
                    raise ValueError(f"layer {name[:80]!r}: expected weights of about the file's size")
                values = np.asarray(data[()], np.float32)
                if not np.isfinite(values).all():
                    raise ValueError(f"layer {name[:80]!r}: expected finite weights")
                weight = _text(path).rpartition("/")[2].partition(":")[0]
                found[f"{i}|{name[:80].replace('|', '?').replace('/', '?')}|{weight[:80]}"] = values
    return found


def main() -> None:
    """Do it; on standard error what is wrong, with exit code 1."""
    content = sys.stdin.buffer.read()
    _limit(len(content))
    try:
        arrays = _arrays(content)
    except Exception as error:  # whatever the library makes of a damaged file
        sys.exit(f"{error}" if type(error) is ValueError else f"{type(error).__name__}: {str(error)[:200]}")
    stored: dict[str, Any] = {f"array{i}": values for i, values in enumerate(arrays.values())}
    np.savez(sys.stdout.buffer, names=np.array(list(arrays), np.str_), **stored)


if __name__ == "__main__":
    main()
