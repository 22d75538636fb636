"""Writes docs/accuracy.md and the tables of README and docs/serve.md from the runs in benchmarks/results.

python benchmarks/report.py
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bitreplay import Learner, Model
from bitreplay.experiments.markdown import replace_between, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS = "bitreplay, two classes a lesson"
ONE = "bitreplay, one class a lesson"
# Of the experiments in README's table: how the label begins, what the row is called.
TRAINED = {
    "engine (8,8,8), M = ": "the tail trained",
    "engine (8,8,8), two passes, prior .75, mirrored, M = ": "the tail trained, two passes, prior .75, mirrored",
    "engine (8,8,8), two passes, mirrored, M = 1500": "the tail trained, two passes, mirrored",
}
JOINT_TAIL = "joint, tail and head, in float"
JOINT = "joint: the same head, all data at once"

Runs = dict[tuple[str, int | None], list[dict[str, Any]]]


def read(name: str) -> list[dict[str, Any]]:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def grouped(lines: list[dict[str, Any]], split: str) -> Runs:
    runs: Runs = defaultdict(list)
    for line in lines:
        if line["split"] == split:
            runs[line["method"], line["capacity"]].append(line)
    return runs


def percent(lines: list[dict[str, Any]]) -> str:
    values = [100 * line["accuracy"] for line in lines]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def below(lines: list[dict[str, Any]], joint: list[dict[str, Any]]) -> str:
    gap = statistics.mean(100 * line["accuracy"] for line in joint) - statistics.mean(100 * line["accuracy"] for line in lines)
    return f"{gap:.2f}"


def accuracy_rows(runs: Runs) -> list[tuple[str, ...]]:
    joint = runs.get((JOINT, 0))
    rows = []
    for (method, capacity), lines in runs.items():
        rows.append(
            (method, "" if capacity is None else f"{capacity:,}", percent(lines), below(lines, joint) if joint else "", str(len(lines)))
        )
    return rows


def short_table(runs: Runs, experiments: list[dict[str, Any]]) -> str:
    joint = runs[JOINT, 0]
    rows = [("all at once: joint, head alone", "", percent(joint), "")]
    for method, label in ((OURS, "two classes a lesson"), (ONE, "one class a lesson")):
        for (name, capacity), lines in sorted(runs.items(), key=lambda item: item[0][1] or 0):
            if name == method and capacity is not None:
                row_bytes = lines[0].get("row_bytes", 0) * capacity
                rows.append((label, f"{capacity:,} rows, {row_bytes / 1e6:.2f} MB", percent(lines), below(lines, joint)))
    main = [{**r, "accuracy": r["final"]} for r in experiments if r["protocol"] == "cifar10-nc5" and r["split"] == "test"]
    bound = [r for r in main if r["label"] == JOINT_TAIL]
    rows.append(("all at once: joint, tail and head, in float", "", percent(bound), ""))
    for begin, name in TRAINED.items():
        for capacity in sorted({r["settings"]["capacity"] for r in main if r["label"].startswith(begin)}):
            found = [r for r in main if r["label"].startswith(begin) and r["settings"]["capacity"] == capacity]
            memory = f"{capacity:,} rows, {found[0]['replay_bytes'] / 1e6:.2f} MB"
            rows.append((f"two classes a lesson, {name}", memory, percent(found), below(found, bound)))
    return table(("", "replay memory", "accuracy, %", "below joint"), rows)


def gradient_parts(lines: list[dict[str, Any]]) -> list[str]:
    """Section on the gradients, from benchmarks/gradients.py: the block and the minibatch that do worst."""
    cells: dict[tuple[str, str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["bits"] == "signs" and line["forward_bits"] == 16 and line["gradient_bits"] in (16, 8):
            cells[line["head"], line["kind"], line["family"], line["gradient_bits"]].append(line)
    families = list(dict.fromkeys(key[2] for key in cells))
    columns = [(family, bits) for family in families for bits in (16, 8)]
    rows = []
    for head, kind in dict.fromkeys((key[0], key[1]) for key in cells):
        row = [f"{head}: {kind}"]
        for family, bits in columns:
            found = cells.get((head, kind, family, bits))
            row.append(f"{min(c['median'] for c in found):.5f} / {min(c['minimum'] for c in found):.5f}" if found else "")
        rows.append(tuple(row))
    return [
        "\n## The tail's gradients against float autograd\n\n"
        "Cosine, median / minimum over 20 minibatches of 50 live and 128 replayed rows of the second lesson of nc5, of the worse block. *start*: new classes have no weights yet, as in the first minibatch; "
        "*trained*: the head as it is after the lesson, when gradients are small. Same binary signs, everything else in float. quicknet is the shipped tail; reactnet and bireal are the same bits with random thresholds and activations.\n\n"
        + commands("python benchmarks/gradients.py CIFAR10_FOLDER"),
        table(("parameter", *(f"{family}, q_b {bits}" for family, bits in columns)), rows),
        "",
    ]


def mean_sd(lines: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> str:
    values = [100 * value(line) for line in lines]
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def by(lines: list[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line["split"] == "test":
            groups[tuple(line[key] for key in keys)].append(line)
    return groups


def merge_parts(lines: list[dict[str, Any]]) -> list[str]:
    rows = []
    for (halves, blocks, lessons, equal), found in by(lines, "halves", "train_blocks", "lessons", "equal_tails").items():
        columns = (lambda r: r["in_turn"], lambda r: r["merged"], lambda r: r["in_turn"] - r["merged"])
        tail = "head alone" if blocks == 0 else f"{blocks} blocks, {'equal' if equal else 'different'} tails"
        rows.append((halves, tail, str(lessons), *(mean_sd(found, column) for column in columns), str(len(found))))
    return [
        "\n## Two devices merged\n\n"
        "One device was taught one half of CIFAR-10, another the other half; then the one took over the other's state. Beside it one device that was taught both halves in turn. "
        "Halves are five classes each, or half of the pictures of every class; 1,500 rows each; test pictures; paired by seed.\n\n"
        + commands("python benchmarks/merge.py CIFAR10_FOLDER", "python benchmarks/merge.py CIFAR10_FOLDER --train-blocks 2 --lessons 2"),
        table(("halves", "trained", "lessons a half", "both in turn, %", "merged, %", "lost, points", "seeds"), rows),
    ]


def reject_parts(lines: list[dict[str, Any]]) -> list[str]:
    rows = []
    for (blocks, classes, share), found in by(lines, "train_blocks", "classes", "reject").items():
        columns = (lambda r: r["false_reject"], lambda r: r["false_accept"], lambda r: r["false_accept_digits"])
        trained = "head alone" if blocks == 0 else f"{blocks} blocks"
        rows.append((trained, str(classes), f"{100 * share:.0f}", *(mean_sd(found, column) for column in columns), str(len(found))))
    return [
        '\n## "I don\'t know"\n\n'
        "`predict(reject=…)`: the threshold is set so that this share of the remembered rows is called unknown. CIFAR-10's test pictures: K random classes are known, each taught in a lesson of its own; "
        "*false reject*: pictures of these that are called unknown; *false accept*: pictures of the other classes that are not, and handwritten digits (scikit-learn's) that are not. "
        "Off by default: it holds what it promises of known things, but the classes of CIFAR-10 that nobody taught look known to this small network more often than not.\n\n"
        + commands("python benchmarks/reject.py CIFAR10_FOLDER", "python benchmarks/reject.py CIFAR10_FOLDER --train-blocks 2 --seeds 3"),
        table(("trained", "known classes", "asked for, %", "false reject, %", "false accept, %", "of digits, %", "seeds"), rows),
    ]


def page_table(lines: list[dict[str, Any]]) -> str:
    last = {line["train_blocks"]: line for line in lines}
    rows = []
    for blocks, line in sorted(last.items()):
        for when in ("idle", "learning"):
            found = line[when]
            figures = [f"{found[key]:.1f}" for key in ("a_second", "median_ms", "p95_ms", "largest_ms")]
            rows.append(
                ("head alone" if blocks == 0 else f"{blocks} blocks", when, *figures, str(found["predictions"]), str(line["cores"]))
            )
    return table(("trained", "", "a second", "median, ms", "95 %, ms", "largest, ms", "predictions", "cores"), rows)


def in_lessons(experiments: list[dict[str, Any]], base: str, label: str) -> str:
    """Accuracy of one label in five lessons of two classes."""
    protocol = "cifar10-nc5" if base == "quicknet-32" else "cifar10-nc5-reactnet"
    found = [r for r in experiments if (r["protocol"], r["split"], r["base"], r["label"]) == (protocol, "test", base, label)]
    return percent([{"accuracy": r["final"]} for r in found]) if found else ""


def backbone_table(experiments: list[dict[str, Any]]) -> str:
    rows = []
    for name in ("quicknet-32", "reactnet-32"):
        learner = Learner.new(name, threads=1)
        info, card = learner.info(), learner.model.card
        tail = f"engine (8,16,16), M = {1500}"
        rows.append((name, f"{card['config'].get('family', 'quicknet')}, {' '.join(map(str, card['config']['widths']))}", f"{info['model']['latent_bits'] // 8}", f"{learner.model.network.bytes:,}",
                     f"{100 * card['integer_top1']:.1f}", in_lessons(experiments, name, tail)))  # fmt: skip
    head = (
        "name",
        "family, channels",
        "bytes a row",
        "bytes of the network in memory",
        "Tiny-ImageNet top-1, %",
        "five lessons, 1,500 rows, the tail trained, %",
    )
    return table(head, rows)


def memory_table(experiments: list[dict[str, Any]]) -> str:
    rows = []
    for capacity in (0, 100, 300, 1500, 6000):
        cells = [f"{capacity:,}"]
        for blocks in (0, 2) if capacity else (0,):
            learner = Learner.new(capacity=capacity, lesson_images=100, max_classes=20, threads=1, train_blocks=blocks)
            sizes = learner.info()["bytes"]
            cells += [f"{sizes['learning_peak'] / 1e6:.2f}"] + ([f"{capacity * sizes['replay_row'] / 1e6:.2f}"] if not blocks else [])
        cells += [""] * (4 - len(cells))
        rows.append((*cells, in_lessons(experiments, "quicknet-32", f"engine (8,8,8), M = {capacity}")))
    head = (
        "capacity",
        "at the peak, head alone, MB",
        "of this the rows, MB",
        "at the peak, two blocks trained, MB",
        "five lessons, two blocks, %",
    )
    return table(head, rows)


def features_table(lines: list[dict[str, Any]]) -> str:
    """What frozen features are worth, from benchmarks/backbone.py; the last line of each backbone and moment counts."""
    last = {(line["backbone"], line["epochs"], line["note"]): line for line in lines if line["split"] == "test"}
    rows = []
    for (name, epochs, note), line in last.items():
        few = [f"{line[key]:.1f} ± {line[key + '_sd']:.1f}" for key in ("photos_10", "photos_20", "cifar10_20")]
        hours = "" if line["hours"] is None else f"{line['hours']:.1f}"
        cells = (f"{line['top1']:.1f}", f"{line['photos']:.1f}", few[0], few[1], f"{line['cifar10']:.1f}", few[2])
        rows.append((name, str(line["config"]["image_size"]), "" if epochs is None else str(epochs), hours, *cells, note))
    few_heads = ("photos, 10 a class", "photos, 20 a class", "CIFAR-10", "CIFAR-10, 20 a class")
    return table(("", "pixels", "epochs", "hours", "Tiny-ImageNet top-1, %", "photos, all", *few_heads, ""), rows)


def training_step_table(lines: list[dict[str, Any]]) -> str:
    """The last run of benchmarks/training_step.py."""
    if not lines:
        return ""
    line = lines[-1]
    rows = []
    for step in line["steps"]:
        median, least = step["median_ms"], step["min_ms"]
        cells = [f"{median[phase]:.0f} ({least[phase]:.0f})" for phase in ("batch", "forward", "backward", "optimizer")]
        rows.append((step["convolutions"], *cells, f"{sum(median.values()) - median['batch']:.0f}"))
    floor = ", ".join(f"{value:.0f} ms in {kind}" for kind, value in line["floor_ms"].items())
    return (
        table(("binary convolutions", "batch (in a parallel thread, not in the step)", "forward", "backward", "optimizer", "step"), rows)
        + f"\n\nMilliseconds per step, median (minimum); {line['network']} at {line['image_size']} pixels, batches of {line['batch_size']}, {line['threads']} threads, torch "
        f"{line['torch']}. The binary convolutions of a step need {line['work'] / 1e9:.0f} G multiply-adds; at the speed of torch's matrix product on the same machine, these would take {floor}."
    )


def lda_parts(lines: list[dict[str, Any]]) -> list[str]:
    last = {(line["model"], line["set"]): line for line in lines}
    rows = []
    for (model, name), line in last.items():
        cells = [f"{line[key]:.2f}" for key in ("integer", "float", "same", "class_means")]
        rows.append((model, name, str(line["classes"]), f"{line['learned']:,}", *cells, f"{line['add_us']:.0f}", f"{line['solve_ms']:.1f}"))
    heads = ("integer, %", "float64, %", "same answers, %", "class means, %", "to add a row, µs", "to solve, ms")
    return [
        "\n## LDA from exact sums\n\n"
        "The integer classifier of docs/method.md, 9, on the frozen features of the model file, beside the same in float64 by numpy's solver and beside the nearest class mean. CIFAR-10 and photos (30 classes of groceries): training pictures, then test "
        "pictures; Tiny-ImageNet, which the backbone was trained on: half of the validation pictures, then the other half. No row is kept, and the order of the pictures cannot matter. Not yet a head of the learner.\n\n"
        + commands("python benchmarks/lda_head.py DATA"),
        table(("model", "set", "classes", "pictures learned", *heads), rows),
    ]


def gradient_bits_table(lines: list[dict[str, Any]]) -> str:
    """Short runs with torch's convolutions and the engine's, from benchmarks/gradient_bits.py."""
    rows = []
    for bits in dict.fromkeys(line["gradient_bits"] for line in lines):
        found = [line for line in lines if line["gradient_bits"] == bits]
        cells = []
        for key in ("loss", "top1"):
            values = [line[key] for line in found]
            cells.append(f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""))
        rows.append((f"engine, {bits}-bit gradients" if bits else "torch, bfloat16", *cells, str(len(found))))
    return table(("binary convolutions", "loss", "top-1, %", "seeds"), rows) if rows else ""


def commands(*lines: str) -> str:
    """As a block of the docs; hours each, so that `tests/test_docs_commands.py` looks at their options only."""
    return "\n".join(["<!-- options only: runs for long -->", "```sh", *lines, "```", ""])


def main() -> None:
    lines = read("accuracy.jsonl")
    runs = grouped(lines, "test")
    experiments = read("experiments/results.jsonl")
    readme = ROOT / "README.md"
    readme.write_text(replace_between(readme.read_text(), "<!-- table: accuracy -->", "<!-- end -->", short_table(runs, experiments)))
    serve = ROOT / "docs" / "serve.md"
    serve.write_text(replace_between(serve.read_text(), "<!-- table: page -->", "<!-- end -->", page_table(read("page.jsonl"))))
    choose = ROOT / "docs" / "choose.md"
    text = replace_between(choose.read_text(), "<!-- table: backbones -->", "<!-- end -->", backbone_table(experiments))
    choose.write_text(replace_between(text, "<!-- table: memory -->", "<!-- end -->", memory_table(experiments)))
    pages = ROOT / "docs" / "backbone.md"
    text = replace_between(pages.read_text(), "<!-- table: features -->", "<!-- end -->", features_table(read("backbone_features.jsonl")))
    text = replace_between(text, "<!-- table: training step -->", "<!-- end -->", training_step_table(read("training_step.jsonl")))
    text = replace_between(text, "<!-- table: gradient bits -->", "<!-- end -->", gradient_bits_table(read("gradient_bits.jsonl")))
    pages.write_text(text)
    commits = sorted({line["commit"] for line in lines if line["split"] == "test"})
    models = sorted({line["model"] for line in lines if line["split"] == "test"})
    parts = [
        "# Accuracy\n\nWritten by `python benchmarks/report.py` from `benchmarks/results/`; every row is a run that happened.\n",
        "## CIFAR-10, five lessons of two classes\n\n"
        "50,000 training pictures in the order frog bird / airplane ship / horse automobile / dog deer / truck cat, 10,000 test pictures after the last lesson, "
        f"the settings of `Settings`, model {', '.join(models)}, commit {', '.join(commits)}.\n\n"
        + commands("python benchmarks/accuracy.py CIFAR10_FOLDER"),
        table(("method", "capacity", "accuracy, %, mean ± sd", "below joint", "seeds"), accuracy_rows(runs)),
        "",
    ]
    parts.append((RESULTS / "notes.md").read_text())  # prose beside the figures of one run, written by hand; figures come from the files
    parts.append("\nWhat training the tail adds, in which widths, and beside which methods: [papers.md](papers.md).\n")
    parts += merge_parts(read("merge.jsonl")) + reject_parts(read("reject.jsonl"))
    lda = read("lda_head.jsonl")
    parts += lda_parts(lda) if lda else []
    gradients = read("gradients.jsonl")
    parts += gradient_parts(gradients) if gradients else []
    backbone = read("backbone.jsonl")
    if backbone:
        parts.append(
            "## The backbone and the price of its cut\n\n"
            + commands(
                "python benchmarks/cut_price.py CIFAR10_FOLDER runs/binary/checkpoint.pt runs/none/checkpoint.pt --pretraining TINY_IMAGENET_FOLDER"
            )
        )
        keys = [key for key in backbone[0] if key not in ("commit",)]
        parts.append(table(tuple(keys), [tuple(str(line.get(key, "")) for key in keys) for line in backbone]))
    card = Model.from_package().card
    parts.append(
        "\n## The shipped model file against the float network it came from\n\n```sh\nbitreplay info\n```\n\n"
        + table(
            ("Tiny-ImageNet top-1, float, %", "integer, %", "equal latent bits, %"),
            [tuple(f"{100 * card[key]:.2f}" for key in ("float_top1", "integer_top1", "equal_bits"))],
        )
    )
    footprint = RESULTS / "footprint.json"
    if footprint.exists():
        rows = [(name, *(str(v) for v in values.values())) for name, values in json.loads(footprint.read_text()).items()]
        parts.append(
            "\n## Footprint\n\n"
            + commands("python benchmarks/footprint.py > benchmarks/results/footprint.json")
            + "\n"
            + table(("seven fresh processes", "median", "min", "max"), rows)
        )
    (ROOT / "docs" / "accuracy.md").write_text("\n".join(parts).rstrip() + "\n")


if __name__ == "__main__":
    main()
