"""Counts lines of code of the engine and the package: neither blank nor comment nor docstring.

python scripts/code_lines.py [COMMIT]
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("engine", "src")


def git(*words: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def python_lines(text: str) -> int:
    """Lines that hold a token of code."""
    lines: set[int] = set()
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        alone = token.type == tokenize.STRING and before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
        if token.type not in nothing and not alone:
            lines |= set(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return len(lines)


def cpp_lines(text: str) -> int:
    """Lines that hold more than a comment."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    return sum(1 for line in text.splitlines() if re.sub(r"//.*", "", line).strip())


def main() -> None:
    """Print the counts of a commit."""
    commit = sys.argv[1] if len(sys.argv) > 1 else "HEAD"
    totals = dict.fromkeys(FOLDERS, 0)
    for name in git("ls-tree", "-r", "--name-only", commit, *FOLDERS).splitlines():
        suffix = Path(name).suffix
        if suffix in (".py", ".cpp", ".h", ".inc"):
            text = git("show", f"{commit}:{name}")
            totals[name.split("/")[0]] += python_lines(text) if suffix == ".py" else cpp_lines(text)
    print(", ".join(f"{folder} {count:,}" for folder, count in totals.items()), f"in all {sum(totals.values()):,}")


if __name__ == "__main__":
    main()
