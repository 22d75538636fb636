"""Writes docs/performance.md from the run in a file of run.py.

    python benchmarks/speed/report.py benchmarks/results/speed.jsonl

A cell is the median over the rounds of each round's median, and in brackets the smallest and largest of these; × is how many times longer
than ours in the same column.  Where the cycles go, for a bar that is not met, stands in notes.md beside this file.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from run import CONVS, ENGINES, NATIVE_WORK, QUICKNETS

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "docs" / "performance.md"
OURS = "bitreplay"
Row = tuple[str, str, int, str]  # engine, variant, threads, isa
ISA = {"best": "all", "avx2": "AVX2"}


class Run:
    def __init__(self, path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        self.by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for line in lines:
            self.by_kind[line["kind"]].append(line)
        self.machine = self.by_kind["machine"][0]
        self.times: dict[tuple[str, Row], list[float]] = defaultdict(list)  # the rounds' medians
        self.quickest: dict[tuple[str, Row], float] = defaultdict(lambda: math.inf)  # the best single call
        for line in self.by_kind["time"]:
            key = line["work"], row_of(line)
            self.times[key].append(line["median_ms"])
            self.quickest[key] = min(self.quickest[key], line["best_ms"])

    def median(self, work: str, row: Row) -> float | None:
        values = self.times.get((work, row))
        return statistics.median(values) if values else None

    def rows(self, works: tuple[str, ...], threads: int, isa: str) -> list[Row]:
        found = {row: None for work, row in self.times if work in works and row[2] == threads and row[3] == isa}
        return sorted(found, key=lambda row: (row[0] != OURS, [e.name for e in ENGINES].index(row[0])))

    def best(self, work: str, threads: int, isa: str, *starts: tuple[str, str], single: bool = False) -> tuple[Row, float] | None:
        """The fastest row whose engine is the first and whose variant begins with the second of one of `starts`; single: by its best call."""
        found = [
            (row, value)
            for row in self.rows((work,), threads, isa)
            for engine, variant in starts
            if row[0] == engine and row[1].startswith(variant)
            if (value := self.quickest[work, row] if single else self.median(work, row)) is not None
        ]
        return min(found, key=lambda pair: pair[1]) if found else None

    def ready(self, work: str, row: Row) -> dict[str, Any]:
        return next((line for line in self.by_kind["ready"] if line["work"] == work and row_of(line) == row), {})


def row_of(line: dict[str, Any]) -> Row:
    return line["engine"], line["variant"], line["threads"], line["isa"]


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [" | ".join(header), " | ".join("---" for _ in header), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def geometric_mean(values: list[float]) -> float:
    return math.exp(statistics.mean(math.log(v) for v in values))


def time_table(run: Run, works: tuple[str, ...], threads: int, isa: str, mean: bool = False) -> str:
    """Engines in rows, works in columns."""
    rows = run.rows(works, threads, isa)
    own = {work: pair[1] for work in works if (pair := run.best(work, threads, isa, (OURS, "")))}
    result = []
    for row in rows:
        cells, ratios = [], []
        for work in works:
            values = run.times.get((work, row))
            if not values:
                cells.append("–")
                continue
            cell = f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"
            if work in own:
                ratios.append(statistics.median(values) / own[work])
                cell += f" {ratios[-1]:.2f}×"
            cells.append(cell)
        if mean:
            cells.append(f"{geometric_mean(ratios):.2f}×" if len(ratios) == len(works) else "–")
        result.append((f"**{row[0]}**" if row[0] == OURS else row[0], row[1], *cells))
    header = ("engine", "", *(work.removeprefix("conv_") for work in works))
    return table((*header, "geometric mean") if mean else header, result) if result else "Not measured.\n"


def times_tables(run: Run, works: tuple[str, ...], threads: tuple[int, ...] = (1,), mean: bool = False) -> str:
    parts = []
    for isa in ("best", "avx2"):
        for count in threads:
            if run.rows(works, count, isa):
                kept = " kept to AVX2" if isa == "avx2" else ""
                parts += [f"{count} thread{'s' if count > 1 else ''}{kept}, ms:\n", time_table(run, works, count, isa, mean)]
    return "\n".join(parts) or "Not measured.\n"


# Bars: (what, bar, measured in words, met or None)

Bar = tuple[str, str, str, bool | None]
UNMEASURED = "not measured"


KEPT = {"best": "", "avx2": ", both kept to AVX2"}


def ratio_bar(
    run: Run,
    what: str,
    factor: float,
    works: tuple[str, ...],
    ours: str,
    peers: list[tuple[str, str]],
    isa: str = "best",
    peer_isa: str = "",
) -> Bar:
    """The fastest of the peers' rows over ours, geometric mean over the works."""
    means = []
    for single in (True, False):
        ratios = []
        for work in works:
            own = run.best(work, 1, isa, (OURS, ours), single=single)
            peer = run.best(work, 1, peer_isa or isa, *peers, single=single)
            if own is None or peer is None:
                return what, f"≥ {factor:g}×", UNMEASURED, None
            ratios.append(peer[1] / own[1])
        means.append(geometric_mean(ratios))
    each = f" ({', '.join(f'{r:.2f}' for r in ratios)})" if len(ratios) > 1 else ""
    return what, f"≥ {factor:g}×", f"{means[1]:.2f}×{each}; best calls {means[0]:.2f}×", means[1] >= factor


def conv_bars(run: Run, isa: str) -> list[Bar]:
    kept, what, alone = KEPT[isa], "3×3 convolutions", ", ours kept to AVX2" if isa == "avx2" else ""
    mark = " ¹" if kept else ""
    bars = [
        ratio_bar(run, f"{what}: OpenVINO's BinaryConvolution alone{kept}{mark}", 1.7, CONVS, "block", [("OpenVINO", "binary")], isa),
        ratio_bar(run, f"{what}: LCE's fastest option{alone}", 4.5, CONVS, "block", [("LCE", "")], isa, "best"),
        ratio_bar(run, f"{what}: ncnn int8{alone}", 2.2, CONVS, "block", [("ncnn", "int8")], isa, "best"),
    ]
    name, peak = f"{what}: share of the fastest inner loop{alone}", roofline(run, "roofline_dot", isa, "tmac_s")
    own = [pair[1] for work in CONVS if (pair := run.best(work, 1, isa, (OURS, "block")))]
    if peak is None or len(own) < len(CONVS):
        return [*bars, (name, "≥ 70 %", UNMEASURED, None)]
    shares = [100 * macs(work) / (time * 1e9) / peak for work, time in zip(CONVS, own, strict=True)]
    value = geometric_mean(shares)
    return [*bars, (name, "≥ 70 %", f"{value:.0f} % ({', '.join(f'{s:.0f}' for s in shares)})", value >= 70)]


def macs(work: str) -> int:
    height, width, c = (int(v) for v in work.removeprefix("conv_").split("x"))
    return height * width * c * c * 9


def network_bars(run: Run) -> list[Bar]:
    bars = []
    for isa in KEPT:
        for work in QUICKNETS:
            bars.append(ratio_bar(run, f"{work}: the OpenVINO graph{KEPT[isa]}", 1.6, (work,), "whole", [("OpenVINO", "binary")], isa))
    for work in QUICKNETS:
        bars.append(ratio_bar(run, f"{work}: LCE", 4.5, (work,), "whole", [("LCE", "")]))
    own = run.best("quicknet", 1, "best", (OURS, "whole"))
    peer = run.best("quicknet", 1, "best", *((engine.name, "MobileNetV1 int8") for engine in ENGINES))
    what, bar = "quicknet: below the fastest MobileNetV1 int8", "> 1×"
    text = f"{peer[1] / own[1]:.2f}× ({number(own[1])} ms against {number(peer[1])} ms, {peer[0][0]})" if own and peer else UNMEASURED
    bars.append((what, bar, text, own[1] < peer[1] if own and peer else None))
    return [
        *bars,
        *(threads_bar(run, *row) for row in (("features of a picture", "whole", 1.75), ("Learner.predict of a picture", "predict", 1.7))),
    ]


def threads_bar(run: Run, what: str, variant: str, least: float) -> Bar:
    one, two = (run.best("quicknet", threads, "best", (OURS, variant)) for threads in (1, 2))
    text, ratio = UNMEASURED, None
    if one and two:
        ratio = one[1] / two[1]
        # Of turns that followed each other: what else the machine did then, it did to both.
        rounds = sorted(a / b for a, b in zip(run.times["quicknet", one[0]], run.times["quicknet", two[0]], strict=False))
        single = run.quickest["quicknet", one[0]] / run.quickest["quicknet", two[0]]
        text = f"{ratio:.2f}× ({rounds[0]:.2f} to {rounds[-1]:.2f} in a round); best calls {single:.2f}×"
    return f"quicknet, {what}: two threads against one", f"≥ {least}×", text, None if ratio is None else ratio >= least


def lesson_bars(run: Run) -> list[Bar]:
    bars, work = [], ("learning_step",)
    for variant, factor, share in zip(NATIVE_WORK, (5, 3), (8, 6), strict=True):
        gradient, weight = variant.split(", ")
        for isa in KEPT:
            bars.append(ratio_bar(run, f"learning step, {gradient}: torch{KEPT[isa]}", factor, work, variant, [("torch", "")], isa))
        own = run.best("learning_step", 1, "best", (OURS, variant))
        needed = run.ready("learning_step", own[0]).get("bytes") if own else None
        peers = [line["bytes"] for line in run.by_kind["ready"] if line["engine"] == "torch" and line["work"] == "learning_step"]
        what, bar = f"learning step, {weight}: bytes above the parameters against torch's", f"≤ 1/{share}"
        if needed and peers:
            text = f"{needed / 1e6:.1f} MB against {min(peers) / 1e6:.1f} MB: 1/{min(peers) / needed:.1f}"
            bars.append((what, bar, text, min(peers) / needed >= share))
        else:
            bars.append((what, bar, UNMEASURED, None))
    return bars


def head_bars(run: Run) -> list[Bar]:
    bars, work = [], ("head_step",)
    for isa in KEPT:
        bars.append(ratio_bar(run, f"head step: torch{KEPT[isa]}", 2.5, work, "int8", [("torch", "")], isa))
        bars.append(ratio_bar(run, f"head step: NumPy, its fastest BLAS{KEPT[isa]}", 1.5, work, "int8", [("NumPy", "float32")], isa))
    return [*bars, ratio_bar(run, "head step: Avalanche's CWR*", 12, work, "int8", [("Avalanche", "")])]


def memory_values(run: Run) -> dict[Row, list[dict[str, Any]]]:
    found: dict[Row, list[dict[str, Any]]] = defaultdict(list)
    for line in run.by_kind["memory"]:
        found[row_of(line)].append(line)
    return found


def memory_bar(run: Run) -> Bar:
    values = [line["peak_mb"] for row, lines in memory_values(run).items() if row[:2] == (OURS, "whole") for line in lines]
    what, bar = "resident memory of a process that has loaded QuickNet 224 and predicted, at its peak", "≤ 55 MB"
    return (what, bar, f"{statistics.median(values):.1f} MB", statistics.median(values) <= 55) if values else (what, bar, UNMEASURED, None)


def memory_table(run: Run) -> str:
    rows = []
    for row, lines in memory_values(run).items():
        cells = (statistics.median(line[key] for line in lines) for key in ("import_mb", "rss_mb", "peak_mb"))
        rows.append((f"**{row[0]}**" if row[0] == OURS else row[0], row[1], *(f"{v:.1f}" for v in cells)))
    return table(("engine", "", "after import, MB", "after one prediction, MB", "peak, MB"), rows) if rows else "Not measured.\n"


def roofline(run: Run, work: str, isa: str, key: str) -> float | None:
    values = [line[key] for line in run.by_kind["roofline"] if line["work"] == work and line["isa"] == isa]
    return max(values) if values else None


def roofline_section(run: Run) -> str:
    rows = []
    for isa in ("best", "avx2"):
        peak = roofline(run, "roofline_dot", isa, "tmac_s")
        if peak is None:
            continue
        loop = next(line["loop"] for line in run.by_kind["roofline"] if line["work"] == "roofline_dot" and line["isa"] == isa)
        rows.append((ISA[isa], loop, f"{peak:.2f} T binary MAC/s"))
        for work in CONVS:
            own = run.best(work, 1, isa, (OURS, "block"))
            if own:
                rate = macs(work) / (own[1] * 1e9)
                rows.append((ISA[isa], work, f"{rate:.2f} T MAC/s, {100 * rate / peak:.0f} %; floor {number(macs(work) / peak / 1e9)} ms"))
    bandwidth = roofline(run, "roofline_bandwidth", "best", "gbyte_s")
    if bandwidth:
        rows.append((ISA["best"], "reading memory, 256 MB, one thread", f"{bandwidth:.1f} GB/s"))
    return table(("instructions", "", ""), rows) if rows else "Not measured.\n"


def bars_table(bars: list[Bar]) -> str:
    verdicts = {True: "met", False: "**not met**", None: "–"}
    return table(("against", "bar", "measured", ""), [(what, bar, text, verdicts[met]) for what, bar, text, met in bars])


def lesson_bytes_table(run: Run) -> str:
    rows = []
    for line in run.by_kind["ready"]:
        if line["work"] == "learning_step" and line["isa"] == "best" and "bytes" in line:
            resident = f"{line['resident_bytes'] / 1e6:.0f}" if "resident_bytes" in line else "–"
            parameters = f"{line['parameter_bytes'] / 1e6:.1f}" if "parameter_bytes" in line else "–"
            rows.append((line["engine"], line["variant"], f"{line['bytes'] / 1e6:.1f}", resident, parameters))
    return (
        table(("engine", "", "bytes above the parameters, MB", "growth of the process to its peak, MB", "parameters, MB"), rows)
        if rows
        else ""
    )


def checks_section(run: Run) -> str:
    versions = {line["engine"]: line["version"] for line in (*run.by_kind["ready"], *run.by_kind["memory"]) if "version" in line}
    lines = [f"* Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}."]
    seen: dict[str, set[str]] = defaultdict(set)
    for kind in ("missing", "failed"):
        for line in run.by_kind[kind]:
            seen[f"{kind}: {line['engine']}: {line['reason']}"].add(
                f"{line['work']} ({line['variant']}, {line['threads']} thr., {ISA[line['isa']]})"
            )
    lines += [f"* {what}: {', '.join(sorted(works))}." for what, works in seen.items()]
    if not seen:
        lines.append("* Nothing was missing and nothing failed.")
    return "\n".join(lines) + "\n"


def write(run: Run) -> str:
    m = run.machine
    others = [line["others"] for line in run.by_kind["time"]]
    busy = (
        f"Other processes took {statistics.mean(others):.2f} cores on average while an engine was timed, {max(others):.2f} at most."
        if others
        else ""
    )
    notes = HERE / "notes.md"
    bars = [*conv_bars(run, "best"), *conv_bars(run, "avx2"), *network_bars(run), *lesson_bars(run), *head_bars(run), memory_bar(run)]
    parts = [
        "# Performance\n\nMade by `python benchmarks/speed/run.py --out benchmarks/results/speed.jsonl` and `python benchmarks/speed/report.py "
        "benchmarks/results/speed.jsonl`; do not edit.\n",
        f"{m['date']}, commit {m['commit']}. {m['cpu']} (family {m['cpu_family']}), {m['cores']} cores, {m['memory_gib']} GiB, Linux {m['kernel']}, "
        f"Python {m['python']}; {', '.join(m['flags'])}. {m['rounds']} rounds of {m['seconds']:g} s an engine, in turn. {busy}\n",
        "A cell is the median over the rounds of each round's median and, in brackets, the smallest and largest of these; × is how many times longer than "
        "ours in the same column. Batch 1.\n",
        "Before it is timed, every result is compared with NumPy's. Binary convolutions alone and our networks must be equal; other convolutions and gradients must correlate to ≥ .999; other networks must correlate, after the "
        "result for another picture was subtracted (float ≥ .99, int8 and bfloat16 ≥ .9). Avalanche must have learned its first classes.\n",
        "## Bars\n",
        "Compared with the fastest variant of each peer, by the medians; beside it the ratio of the best single calls, which other work on the machine disturbs least.\n",
        bars_table(bars),
        "¹ `ONEDNN_MAX_CPU_ISA=AVX2` does not restrict OpenVINO's BinaryConvolution to AVX2: it only loses VPOPCNTDQ, and its byte shuffles stay 512 bits wide. "
        "Its float layers do follow. ncnn, ONNX Runtime and LCE have no switch (LCE's binary kernel is portable C++ anyway); torch and NumPy follow theirs.\n",
        *([notes.read_text()] if notes.exists() else []),
        "## Roofline\n\nThe fastest inner loop of xor and popcount that we know, from L1, compared with whole convolutions; and memory bandwidth.\n",
        roofline_section(run),
        "## 3×3 convolutions\n\nOurs: int16 residual stream in and out; threshold, packing, convolution, ReLU, scale, offset and shortcut. *binary*, *indirect* and *default* are "
        "the convolution alone, float in and out, binarised inside; *block* adds ReLU, batch norm and shortcut. int8 and fp32 are convolutions of the same size.\n",
        times_tables(run, CONVS, mean=True),
        "## Whole networks, 224×224×3\n\nRandom weights. Ours: up to the features in front of the head (*whole*), and everything that `Learner.predict` does with five known classes (*predict*). The others have a dense layer to 1,000 classes. *bf16*: OpenVINO chooses the "
        "precision of the float layers. MobileNetV1 ran in the rounds of QuickNet.\n",
        times_tables(run, QUICKNETS, (1, 2)),
        "## The learning step\n\n178 binary latents (4×4×512; 50 current, 128 replay samples) through three binary blocks of 512 channels, pooling and a head of 10 classes: forward, "
        "backward, one step of everything. torch: eager, straight-through signs, batch norm with frozen statistics. Its bytes are the peak of its own "
        "allocator (profiler), gradients included; the growth of the process also includes what its convolutions allocate for themselves.\n",
        times_tables(run, ("learning_step",)),
        lesson_bytes_table(run),
        "## A step of the trained head\n\nOf CWR\\* and of the tail's own head; LDA takes no steps. 128 patterns of 1,024 features, 50 classes: softmax, cross-entropy, step. Avalanche: one of the 48 steps of an experience.\n",
        times_tables(run, ("head_step",)),
        "## Memory of a process\n\nA fresh Python process that loads one network and runs it once.\n",
        memory_table(run),
        "## What ran\n",
        checks_section(run),
    ]
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(sys.argv[0]).name} FILE")
    TARGET.write_text(write(Run(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
