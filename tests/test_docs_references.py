"""What documents and comments point to exists: sections of docs/method.md, files, functions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = [
    path
    for folder, endings in (
        ("src", (".py", ".cpp")),
        ("engine", (".h", ".cpp", ".inc")),
        ("tests", (".py",)),
        ("benchmarks", (".py",)),
        ("docs", (".md",)),
    )
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in endings and "build" not in path.parts
]
SECTIONS = set(re.findall(r"^#+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs" / "method.md").read_text(), re.M))


def test_the_specification_has_every_section_that_is_cited() -> None:
    cited = {
        (number, path.relative_to(ROOT))
        for path in CODE
        for number in re.findall(r"(?:METHOD|method\.md[`)]?)[,;:]? (\d+(?:\.\d+)?)\b", path.read_text())
    }
    assert len(cited) > 50
    assert sorted(f"{path}: {number}" for number, path in cited if number not in SECTIONS) == []


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/extend.md", "README.md"])
def test_files_that_a_document_names_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    linked = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    for target in linked:
        assert ((ROOT / document).parent / target).exists(), target
    for name in set(
        re.findall(r"`((?:engine|src|tests|docs|benchmarks|cmake|scripts|training|experiments|datasets|cli)/[\w/.*-]+)`", text)
    ):
        place = ROOT / "src" / "bitreplay" / name if name.split("/")[0] in ("training", "experiments", "datasets", "cli") else ROOT / name
        assert list(place.parent.glob(place.name)) or place.exists(), name


def test_functions_that_extend_md_names_are_there() -> None:
    code = "\n".join(path.read_text() for path in CODE if path.suffix != ".md")
    named = set(re.findall(r"`(\w+)\(\)`|`([a-z]+_[a-z_]+)` of `", (ROOT / "docs" / "extend.md").read_text()))
    names = {first or second for first, second in named}
    assert names
    for name in names:
        assert re.search(rf"\b{name}\(", code), name
