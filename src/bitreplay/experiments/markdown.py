"""Tables in Markdown, and files that keep generated tables between marks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

END = "<!-- end -->"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Examples
    --------
    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def replace_between(text: str, start: str, end: str, content: str) -> str:
    """Put `content` between the first mark `start` and the next mark `end`; ValueError where one of them is missing."""
    head, found, rest = text.partition(start)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"expected the marks {start} and {end}, found no {end if found else start}")
    return f"{head}{start}\n{content}\n{end}{tail}"


def embed(text: str, tables: Mapping[str, str]) -> tuple[str, list[str]]:
    """Write tables between the marks ``<!-- table: NAME -->`` and ``<!-- end -->`` of a text.

    Returns
    -------
    The new text, and the names that were found and written; names that are not in `tables` are left as they are.
    """
    written = []
    for name in re.findall(r"<!-- table: (.+?) -->", text):
        if name in tables:
            text = replace_between(text, f"<!-- table: {name} -->", END, tables[name])
            written.append(name)
    return text, written
