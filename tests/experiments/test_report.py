"""The report: tables and plots from lines of results."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from PIL import Image

from bitreplay.experiments import markdown, report
from bitreplay.experiments.markdown import embed
from bitreplay.experiments.report import bytes_within, report_parts, write_report


def result(label: str, seed: int, final: float, **more: Any) -> dict[str, Any]:
    line = {
        "key": f"{label} {seed} {more.get('split')}", "protocol": "p", "split": "test", "base": "b", "label": label, "series": label, "run": label,
        "axes": [], "method": "m", "settings": {}, "seed": seed, "accuracy": [final / 2, final], "matrix": [[1.0, 0.0], [final, 1.0]],
        "final": final, "forgetting": 1 - final, "at_once": False, "experiences": 2, "replay_row_bytes": None, "replay_bytes": None,
        "step_peak_bytes": None, "seconds_learning": 1.5, "seconds_total": 2.0, "environment": {"cpu": "c", "isa": "avx2", "threads": 1}, "commit": "abc",
    }  # fmt: skip
    return {**line, **more}


def tables(lines: list[dict[str, Any]], against: tuple[str, ...] = ()) -> dict[str, str]:
    return {part.name: part.table for _, parts in report_parts(lines, against) for part in parts}


JOINT = {"at_once": True, "accuracy": [0.8], "matrix": None, "forgetting": None}


def test_final_accuracy_is_mean_and_deviation_over_seeds() -> None:
    notes = [{"flipped": 0.0}, {"flipped": 0.02}, {"flipped": 0.031}]
    lines = [
        result("a", 0, 0.6, notes=notes),
        result("a", 1, 0.7),
        result("b", 0, 0.5),
        result("j", 0, 0.8, **JOINT),
        result("k", 0, 0.7, **JOINT),
    ]
    assert tables(lines)["final p-b"] == (
        "| method | final accuracy | below joint | forgetting | replay bytes | flipped an experience, % | seeds |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        "| a | 65.00 ± 7.07 | 15.00 | 35.00 ± 7.07 |  | 2.00 to 3.10 | 2 |\n"
        "| b | 50.00 | 30.00 | 50.00 |  |  | 1 |\n"
        "| j | 80.00 | 0.00 |  |  |  | 1 |\n"
        "| k | 70.00 | 10.00 |  |  |  | 1 |"
    )


def test_differences_are_of_the_same_seed() -> None:
    lines = [result("a", 0, 0.6), result("a", 1, 0.7), result("a", 2, 0.1), result("b", 1, 0.65), result("b", 0, 0.57), result("c", 7, 0.5)]
    assert tables(lines, ("b",))["paired p-b"].splitlines()[2:] == ["| a | +4.00 ± 1.41 | 2 |"]
    assert tables(lines, ("a",))["paired p-b"].splitlines()[2:] == ["| b | -4.00 ± 1.41 | 2 |"]
    with pytest.raises(ValueError, match="against: expected a label out of a, b, c, got 'd'"):
        tables(lines, ("d",))


def test_accuracy_after_each_experience_and_matrix() -> None:
    lines = [result("a", 0, 0.6), result("a", 1, 0.8), result("n", 0, 0.5, accuracy=[None, 0.5], matrix=None), result("j", 0, 0.8, **JOINT)]
    found = tables(lines)
    assert found["experiences p-b"].splitlines()[2:] == ["| a | 35.0 ± 7.1 | 70.0 ± 14.1 |", "| n |  | 50.0 |"]
    assert found["matrix p-b a"].splitlines()[2:] == ["| 1 | 100.0 | 0.0 |", "| 2 | 70.0 | 100.0 |"]
    assert {name for name in found if name.startswith("matrix")} == {"matrix p-b a"}


def test_many_experiences_are_thinned_out() -> None:
    lines = [result("a", 0, 0.5, accuracy=[0.5] * 391, matrix=None)]
    header = tables(lines)["experiences p-b"].splitlines()[0]
    assert header.startswith("| method | 20 | 40 |")
    assert header.endswith("| 380 | 391 |")


@pytest.mark.parametrize(
    ("points", "target", "text", "value"),
    [
        ([(100, 0.6)], 0.5, "<= 100", None),
        ([(100, 0.4), (400, 0.4)], 0.5, "> 400", None),
        ([(100, 0.4), (400, 0.6)], 0.5, "200", 200),
        ([(100, 0.4), (400, 0.5), (1600, 0.9)], 0.5, "400", 400),
        ([(100, 0.4), (400, 0.3), (1600, 0.5)], 0.45, "1,131", 1131.4),
    ],
)
def test_bytes_at_which_a_curve_reaches_a_target(points: list[tuple[float, float]], target: float, text: str, value: float | None) -> None:
    found = bytes_within(points, target)
    assert found[0] == text
    assert found[1] == (None if value is None else pytest.approx(value, abs=0.05))


def test_accuracy_against_replay_bytes() -> None:
    lines = [
        *(result(f"bits {m}", 0, f, series="bits", replay_bytes=m) for m, f in ((400, 0.8), (100, 0.74))),
        *(result(f"float {m}", s, f + s / 100, series="float", replay_bytes=m) for m, f in ((1000, 0.7), (4000, 0.78)) for s in (0, 2)),
        *(result(f"8-bit {m}", 0, f, series="8-bit", replay_bytes=m) for m, f in ((500, 0.6), (900, 0.61))),
        result("none", 0, 0.7, series="none", replay_bytes=0),
        result("j", 0, 0.8, **JOINT),
    ]
    assert tables(lines)["memory p-b"].splitlines()[2:] == [
        "| bits | 100: 74.00; 400: 80.00 | 200 | 1.0 |",
        "| float | 1,000: 71.00; 4,000: 79.00 | 2,828 | 14.1 |",
        "| 8-bit | 500: 60.00; 900: 61.00 | > 900 |  |",
    ]
    assert "memory p-b" not in tables(lines[-2:])


def test_grids_are_tables() -> None:
    def cell(down: int, across: int, more: str, final: float) -> dict[str, Any]:
        settings = {"gradient_bits": down, "weight_bits": across, "master": more}
        return result(f"{down} {across} {more}", 0, final, run="g", axes=list(settings), settings=settings)

    lines = [cell(16, 8, "own", 0.1), cell(8, 8, "own", 0.2), cell(8, 16, "own", 0.3), cell(8, 16, "copy", 0.4)]
    found = tables(lines)
    assert found["grid p-b g, master own"].splitlines() == [
        "| gradient_bits \\ weight_bits | 8 | 16 |", "| --- | --- | --- |", "| 8 | 20.00 | 30.00 |", "| 16 | 10.00 |  |",
    ]  # fmt: skip
    assert found["grid p-b g, master copy"].splitlines()[2:] == ["| 8 | 40.00 |"]


def test_what_is_not_comparable_is_kept_apart_and_said(tmp_path: Path) -> None:
    lines = [result("a", 0, 0.5), result("a", 1, 0.6, commit="def"), result("a", 0, 0.9, split="valid"), result("a", 0, 0.7, base="c")]
    names = [group.name for group, _ in report_parts(lines)]
    assert names == ["p-b", "p-valid-b", "p-c"]
    file, _ = write_report(lines, tmp_path)
    text = file.read_text()
    assert "commit abc, def (several: figures may not be comparable)" in text
    assert "measured on pictures held out of the training set" in text
    assert "must not be compared with one another" in text


def test_a_report_has_its_plots_beside_it(tmp_path: Path) -> None:
    lines = [result(f"a {m}", s, 0.5 + m / 1000, series="a", run="a", replay_bytes=m) for m in (10, 100) for s in (0, 1)]
    lines.append(result("j", 0, 0.8, **JOINT))
    file, found = write_report(lines, tmp_path / "r", svg=True)
    links = [line.partition("(")[2].rstrip(")") for line in file.read_text().splitlines() if line.startswith("![")]
    assert links == ["experiences-p-b.png", "memory-p-b.png"]
    for link in links:
        with Image.open(tmp_path / "r" / link) as plot:
            assert plot.size == (960, 600)
            assert len(set(plot.convert("L").tobytes())) > 10
        assert (tmp_path / "r" / link).with_suffix(".svg").exists()
    assert set(found) == {"final p-b", "experiences p-b", "memory p-b", "matrix p-b a 100", "cost p-b"}
    with pytest.raises(ValueError, match="results: expected at least one finished run, got none"):
        write_report([], tmp_path / "none")


def test_tables_are_put_between_their_marks() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end -->\nb\n<!-- table: y -->\nkept\n<!-- end -->\n"
    assert embed(text, {"x": "new", "z": "?"}) == (text.replace("old", "new"), ["x"])
    with pytest.raises(ValueError, match="expected the marks <!-- table: x --> and <!-- end -->, found no <!-- end -->"):
        embed("<!-- table: x -->", {"x": "new"})


def test_examples() -> None:
    for module in (markdown, report):
        assert doctest.testmod(module).failed == 0
