"""Sizes of wheels, with and without the shipped backbones: `python scripts/wheel_sizes.py dist/*.whl [--write docs/install.md]`.

Ends with 1 where a wheel has more than 3 MiB without its backbones.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from pathlib import Path

LIMIT = 3 * 2**20
TABLE = re.compile(r"(<!-- table: wheels -->\n).*?(<!-- end -->)", re.DOTALL)


def without_backbones(wheel: Path) -> int:
    """Return the bytes of a wheel less those that its backbones take in it, compressed."""
    with zipfile.ZipFile(wheel) as archive:
        return wheel.stat().st_size - sum(entry.compress_size for entry in archive.infolist() if entry.filename.endswith(".model"))


def main() -> int:
    """Print the table, or put it between its marks in a page."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("wheels", type=Path, nargs="+")
    arguments.add_argument("--write", type=Path, metavar="PAGE")
    given = arguments.parse_args()
    rows = ["| wheel | MiB | without the backbones, MiB |", "| --- | --- | --- |"]
    sizes = {wheel: without_backbones(wheel) for wheel in sorted(given.wheels)}
    rows += [f"| `{wheel.name}` | {wheel.stat().st_size / 2**20:.2f} | {size / 2**20:.2f} |" for wheel, size in sizes.items()]
    table = "\n".join(rows) + "\n"
    print(table, end="")
    if given.write:
        given.write.write_text(TABLE.sub(lambda found: found[1] + table + found[2], given.write.read_text()))
    return int(max(sizes.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
