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

from streams import STREAMS

from bitreplay import Learner, Model, Settings, TailSettings
from bitreplay.experiments.markdown import replace_between, table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
OURS = "bitreplay, two classes a lesson"
ONE = "bitreplay, one class a lesson"
JOINT_TAIL = "joint, tail and head, in float"
JOINT = "joint: the same head, all data at once"
SHIPPED = Model.from_package().digest[:12]

Lines = list[dict[str, Any]]
Runs = dict[tuple[Any, ...], Lines]  # by method and capacity


def read(name: str) -> Lines:
    path = RESULTS / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def latest(lines: Lines, *keys: str) -> Lines:
    """Of the lines that agree in all keys the last: what was run again replaces what it repeats."""
    return list({tuple(json.dumps(line.get(key)) for key in keys): line for line in lines}.values())


def grouped(lines: Lines, *keys: str) -> dict[tuple[Any, ...], Lines]:
    groups: dict[tuple[Any, ...], Lines] = defaultdict(list)
    for line in lines:
        groups[tuple(line[key] for key in keys)].append(line)
    return groups


def mean_sd(lines: Lines, value: Callable[[dict[str, Any]], float], digits: int = 1) -> str:
    """In %."""
    values = [100 * value(line) for line in lines]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def percent(lines: Lines) -> str:
    return mean_sd(lines, lambda line: float(line["accuracy"]), 2)


def below(lines: Lines, joint: Lines) -> str:
    gap = statistics.mean(100 * line["accuracy"] for line in joint) - statistics.mean(100 * line["accuracy"] for line in lines)
    return f"{gap:.2f}"


def runs_of(lines: Lines) -> Runs:
    mine = [line for line in lines if line["split"] == "test" and line["model"] == SHIPPED]
    return grouped(latest(mine, "method", "capacity", "seed"), "method", "capacity")


def accuracy_rows(runs: Runs) -> list[tuple[str, ...]]:
    joint = runs.get((JOINT, 0))
    rows: list[tuple[str, ...]] = []
    for (method, capacity), lines in runs.items():
        rows.append(
            (method, "" if capacity is None else f"{capacity:,}", percent(lines), below(lines, joint) if joint else "", str(len(lines)))
        )
    return rows


def stream_lines(lines: Lines, model: str = SHIPPED) -> Lines:
    """Runs with the settings of `Settings`, accuracy where other files have it."""
    mine = [{**line, "accuracy": line["figures"]["accuracy"]} for line in lines if line["model"] == model and not line["settings"]]
    return latest(mine, "stream", "case", "capacity", "train_blocks", "seed")


def nc5(streams: Lines, blocks: int, model: str = SHIPPED) -> dict[int, Lines]:
    """Five lessons of two classes, by capacity."""
    found = [line for line in stream_lines(streams, model) if line["stream"] == "nc5" and line["train_blocks"] == blocks]
    return {capacity: lines for (capacity,), lines in sorted(grouped(found, "capacity").items())}


def short_table(runs: Runs, streams: Lines, experiments: Lines) -> str:
    joint = runs.get((JOINT, 0), [])
    rows = [("all at once: joint, head alone", "", percent(joint), "")] if joint else []
    for begin, label in ((OURS, "two classes a lesson"), (ONE, "one class a lesson")):
        for (name, capacity), lines in runs.items():
            if name.startswith(begin) and capacity == 0:
                cells = (
                    f"{lines[0]['learned_bytes'] / 1e6:.2f} MB",
                    percent(lines),
                    below(lines, joint) if joint and name == begin else "",
                )
                rows.append((label + name.removeprefix(begin), *cells))
    bound = [
        {**r, "accuracy": r["final"]} for r in experiments if (r["protocol"], r["split"], r["label"]) == ("cifar10-nc5", "test", JOINT_TAIL)
    ]
    rows += [("all at once: joint, tail and head, in float", "", percent(bound), "")] if bound else []
    for capacity, lines in nc5(streams, 2).items():
        memory = f"{capacity:,} rows, {lines[0]['learned_bytes'] / 1e6:.2f} MB in all"
        rows.append(("two classes a lesson, the tail trained", memory, percent(lines), below(lines, bound) if bound else ""))
    return table(("", "memory that learning keeps", "accuracy, %", "below joint"), rows)


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
        "Cosine, median / minimum over 20 minibatches of 50 current and 128 replay rows of the second experience of nc5, for the worse block. The binary signs are the same, everything else is in float.\n\n"
        "* *start*: new classes have no weights yet, as in the first minibatch.\n"
        "* *trained*: the head as it is after the experience, when gradients are small.\n"
        "* quicknet is the shipped tail; reactnet and bireal are the same bits with random thresholds and activations.\n\n"
        + commands("python benchmarks/gradients.py CIFAR10_FOLDER"),
        table(("parameter", *(f"{family}, q_b {bits}" for family, bits in columns)), rows),
        "",
    ]


def merge_parts(lines: Lines) -> list[str]:
    rows = []
    mine = latest([line for line in lines if line["split"] == "test"], "halves", "head", "train_blocks", "lessons", "capacity", "seed")
    for (halves, head, blocks, lessons, equal), found in grouped(mine, "halves", "head", "train_blocks", "lessons", "equal_tails").items():
        columns = (lambda r: r["in_turn"], lambda r: r["merged"], lambda r: r["in_turn"] - r["merged"])
        tail = "head alone" if blocks == 0 else f"{blocks} blocks, {'equal' if equal else 'different'} tails"
        rows.append((halves, head, tail, str(lessons), *(mean_sd(found, column) for column in columns), str(len(found))))
    return [
        "\n## Two devices merged\n\n"
        "One device was taught one half of CIFAR-10, another device the other half; then their states were merged. For comparison, one device was taught both halves in turn. "
        "Halves are five classes each, or half of the pictures of every class; 1,500 rows each; test pictures; paired by seed.\n\n"
        + commands(
            "python benchmarks/merge.py CIFAR10_FOLDER",
            "python benchmarks/merge.py CIFAR10_FOLDER --train-blocks 2 --lessons 2",
            "python benchmarks/merge.py CIFAR10_FOLDER --head cwr",
        ),
        table(("halves", "head", "trained", "lessons a half", "both in turn, %", "merged, %", "lost, points", "seeds"), rows),
    ]


def fleet_parts(lines: Lines) -> list[str]:
    rows = []
    for line in latest(lines, "workers", "states"):
        how = "one process" if line["workers"] == 1 else f"{line['workers']} Dask workers"
        same = ["yes" if line[key] else "**no**" for key in ("equal", "same_memory")]
        size = (f"{line['states']:,}", f"{line['file_bytes'] / 1e9:.2f}", f"{line['seconds']:.1f}", f"{line['peak_mb']:.0f}")
        rows.append((how, *size, *same, line["commit"]))
    return [
        "\n## A fleet merged\n\n"
        "States of 20 classes with 20 replay rows each, made from real experiences: each is a different sum of some of them. The files were written just before. The sums, counts and second moments of the merged state are compared with the plain sum of all; its replay "
        "rows with those of one process. *Most held* is the memory of the process, or of one of its workers.\n\n"
        + commands("python benchmarks/fleet.py DATA --folder FLEET"),
        table(("", "states", "GB of files", "s", "most held, MB", "equals the sum", "same rows", "commit"), rows),
    ]


def figure(name: str, values: list[float]) -> str:
    mean = statistics.mean(values)
    if name.endswith(", s"):
        return f"{name.removesuffix(', s')} {mean:.2f} s"
    return f"{name.removesuffix(', bytes')} {mean:,.0f} bytes" if name.endswith(", bytes") else f"{name} {100 * mean:.1f}"


def stream_parts(lines: Lines) -> list[str]:
    mine, order = stream_lines(lines), list(STREAMS)
    mine.sort(key=lambda line: (order.index(line["stream"]), line["capacity"], line["train_blocks"], line["seed"]))
    compared, figures = [], []
    for (name, case, capacity), found in grouped(mine, "stream", "case", "capacity").items():
        by_blocks = {blocks: lines for (blocks,), lines in grouped(found, "train_blocks").items()}
        for blocks, runs in by_blocks.items():
            further = [figure(key, [run["figures"][key] for run in runs]) for key in runs[0]["figures"] if key != "accuracy"]
            if further:
                figures.append((name, case, f"{capacity:,}", "head alone" if not blocks else f"{blocks} blocks", "; ".join(further)))
        alone = {line["seed"]: line["accuracy"] for line in by_blocks.get(0, [])}
        for blocks in sorted(set(by_blocks) - {0}) or [0]:
            runs = by_blocks[blocks]
            gains = [100 * (run["accuracy"] - alone[run["seed"]]) for run in runs if blocks and run["seed"] in alone]
            gain = (f"{statistics.mean(gains):+.1f}", f"{min(gains):+.1f}") if gains else ("", "")
            heard = f"{sum(run['tail_weight'] > 0 for run in runs)} of {len(runs)}" if blocks else ""
            cells = (percent(by_blocks[0]) if 0 in by_blocks else "", percent(runs) if blocks else "")
            compared.append((name, case, f"{capacity:,}", *cells, *gain, heard, str(len(runs))))
    what = "\n".join(
        f"* `{name}`: {(STREAMS[name].__doc__ or '').splitlines()[0]}" for name in order if any(line["stream"] == name for line in mine)
    )
    commits = ", ".join(sorted({line["commit"] for line in mine}))
    return [
        "\n## Streams that no one tuned to\n\n"
        "Accuracy after each stream, on pictures that were not learned. Where few classes of unequal size are tested, it is the mean over classes (*other* and *nothing* count as one class each). Of Tiny-ImageNet, the training pictures are learned, which the backbone "
        f"knows, and the validation pictures are named; the digits are scikit-learn's. Default settings; head alone and with two trained blocks, on the same pictures, paired by seed; commit {commits}.\n\n{what}\n\n"
        + commands("python benchmarks/streams.py DATA", "python benchmarks/streams.py DATA --only nc5 ni10 --capacity 100 300 6000"),
        table(
            ("stream", "", "rows", "head alone, %", "two blocks, %", "gain, points", "worst seed", "tail used at the end", "seeds"),
            compared,
        ),
        "\nDetails of these figures: means over the seeds, shares in %.\n",
        table(("stream", "", "rows", "trained", ""), figures),
    ]


FEW = {
    "learner_1": "bitreplay", "learner_6": "bitreplay, 6 views", "class_means": "class means", "lda": "LDA (float)",
    "logistic": "logistic regression", "histogram": "colour histogram",
}  # fmt: skip


def few_parts(lines: Lines) -> list[str]:
    rows = []
    for (name, count), found in grouped(latest(lines, "model", "set", "count", "seed"), "set", "count").items():
        cells = [mean_sd(found, lambda line, key=key: line["accuracy"][key]) for key in FEW]  # type: ignore[misc]
        rows.append((name, str(count), *cells, str(len(found))))
    return [
        "\n## Few pictures a class\n\n"
        "Accuracy in %, mean ± sd over draws. All methods learn the same pictures:\n\n"
        "* *photos*: 30 groceries, learned in some shops, tested in others;\n"
        "* *cifar10*: learned from training pictures, tested on test pictures;\n"
        "* *tiny-imagenet*, which the backbone was trained on: learned from half of the validation pictures, tested on the other half.\n\n"
        "The learner has its default settings, and once `views=6`. Class means, LDA in float64 and logistic regression (scikit-learn, standardised features, C = 1, not tuned) use the learner's int8 features of one view. The colour histogram has 4 × 4 × 4 bins of RGB "
        "and takes the nearest neighbour by the chi-square distance.\n\n" + commands("python benchmarks/few_shot.py DATA"),
        table(("set", "pictures a class", *FEW.values(), "draws"), rows),
    ]


def reject_parts(lines: Lines) -> list[str]:
    rows = []
    mine = latest([line for line in lines if line["model"] == SHIPPED and not line["settings"]], "set", "classes", "count", "seed")
    for (name, classes, count), found in grouped(mine, "set", "classes", "count").items():
        auroc = mean_sd(found, lambda line: line["auroc"])
        for share in ("0.05", "0.1", "0.2"):
            columns = [mean_sd(found, lambda line, key=key, share=share: line[share][key]) for key in ("false_reject", "false_accept")]  # type: ignore[misc]
            within = [f"{100 * statistics.mean(line[share][key] for line in found):.0f}" for key in ("within_test", "within_both")]
            rows.append((name, str(classes), str(count), auroc, f"{100 * float(share):.0f}", *columns, *within, str(len(found))))
    return [
        '\n## "I don\'t know"\n\n'
        "`predict(reject=…)` takes the share of pictures of known things that may be called unknown. Half of a set's classes are known (for CIFAR-10 also one and two classes), from 10 or 30 pictures each in one experience. Tested are the other pictures of these "
        "classes and pictures of the other classes, from the same pool (photos: both splits; CIFAR-10: test pictures; Tiny-ImageNet: validation pictures). New objects of a known class, or new lighting, are not part of this test: they are called unknown more often.\n\n"
        "* *False reject*: known things called unknown, the mean over classes.\n"
        "* *False accept*: unknown things that are not called unknown.\n"
        "* *AUROC*: the area under the ROC curve of the familiarity, in %.\n"
        "* *Within twice the error*: the share of single draws whose false rejects lie within twice the standard error of what was asked for; the error is the binomial error of the tested pictures alone, then together with that of the remembered rows that set "
        "the threshold.\n\n"
        + commands("python benchmarks/reject.py DATA"),
        table(("set", "known classes", "pictures a class", "AUROC", "asked for, %", "false reject, %", "false accept, %", "within twice the error, tested, %", "and remembered, %", "draws"), rows),
    ]  # fmt: skip


def lesson_parts(lines: Lines) -> list[str]:
    rows = []
    for line in latest(lines, "note", "pictures", "threads"):
        cells = [f"{line[f'{what}_ms']:.1f} ({line[f'{what}_best_ms']:.1f})" for what in ("lesson", "network", "predict")]
        ratio = f"{line['lesson_ms'] / line['network_ms']:.2f}"
        rows.append((line["note"] or line["commit"], f"{line['pictures']:,}", str(line["threads"]), *cells, ratio, str(line["rounds"])))
    return [
        "\n## Time of an experience\n\n"
        "An experience of the head alone, for a learner that knows ten classes from 10,000 pictures and has 1,500 rows; the network's own time for the same pictures (`features`); and a prediction of them. Milliseconds, median (minimum) of the rounds, which take turns.\n\n"
        + commands("python benchmarks/lesson_time.py CIFAR10_FOLDER"),
        table(("version", "pictures", "threads", "experience", "network alone", "prediction", "experience / network", "rounds"), rows),
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


def backbone_table(streams: Lines) -> str:
    rows = []
    for name in ("quicknet-32", "reactnet-32"):
        learner = Learner(name, threads=1)
        info, card = learner.info(), learner.model.card
        found = nc5(streams, 2, learner.model.digest[:12]).get(1500)
        rows.append((name, f"{card['config'].get('family', 'quicknet')}, {' '.join(map(str, card['config']['widths']))}", f"{info['model']['latent_bits'] // 8}", f"{learner.model.network.bytes:,}",
                     f"{100 * card['integer_top1']:.1f}", percent(found) if found else ""))  # fmt: skip
    head = (
        "name",
        "family, channels",
        "bytes a row",
        "bytes of the network in memory",
        "Tiny-ImageNet top-1, %",
        "five lessons, 1,500 rows, the tail trained, %",
    )
    return table(head, rows)


def memory_table(streams: Lines) -> str:
    rows = []
    trained = nc5(streams, 2)
    for capacity in (0, 100, 300, 1500, 6000):
        cells = [f"{capacity:,}"]
        for blocks in (0, 2) if capacity else (0,):
            tail = TailSettings(train_blocks=blocks) if blocks else None
            learner = Learner(settings=Settings(capacity=capacity, tail=tail, lesson_images=100, max_classes=20), threads=1)
            sizes = learner.info()["bytes"]
            cells += [f"{sizes['learning_peak'] / 1e6:.2f}"] + ([f"{capacity * sizes['replay_row'] / 1e6:.2f}"] if not blocks else [])
        cells += [""] * (4 - len(cells))
        rows.append((*cells, percent(trained[capacity]) if capacity in trained else ""))
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


def lda_parts(lines: Lines) -> list[str]:
    rows = []
    for line in latest(lines, "backbone", "model", "set"):
        cells = [f"{line[key]:.2f}" for key in ("integer", "float", "same", "class_means")]
        rows.append(
            (
                line["backbone"],
                line["set"],
                str(line["classes"]),
                f"{line['learned']:,}",
                *cells,
                f"{line['add_us']:.0f}",
                f"{line['solve_ms']:.1f}",
            )
        )
    heads = ("integer, %", "float64, %", "same answers, %", "class means, %", "to add a row, µs", "to solve, ms")
    return [
        "\n## LDA from exact sums\n\n"
        "The head of [method.md](method.md), 4, in integers, compared with the same in float64 by numpy's solver and with the nearest class mean, all on the int8 features of the frozen network, one view. CIFAR-10 and photos (30 classes of groceries): learned from training "
        "pictures, tested on test pictures; Tiny-ImageNet, which the backbone was trained on: learned from half of the validation pictures, tested on the other half. Every picture counts, near-equal or not.\n\n"
        + commands("python benchmarks/lda_head.py DATA"),
        table(("model", "set", "classes", "pictures learned", *heads), rows),
    ]


def head_settings_parts(lines: Lines) -> list[str]:
    features = latest([line for line in lines if line["case"] == "features"], "model", "set", "features")
    widths = sorted({line["features"] for line in features}, reverse=True)
    rows = []
    for (name,), of_set in grouped(features, "set").items():
        found = {line["features"]: line for line in of_set}
        rows.append((name, "all", *(f"{100 * found[width]['all']:.2f}" for width in widths)))
        rows.append(
            (
                name,
                "ten a class",
                *(mean_sd([{"accuracy": a} for a in found[width]["ten"]], lambda line: float(line["accuracy"])) for width in widths),
            )
        )
    sizes = {line["features"]: line["moment_bytes"] for line in features}
    priors = latest([line for line in lines if line["case"] == "priors"], "model", "set", "seed")
    skewed = [
        (
            name,
            *(mean_sd(of_set, lambda line, key=key: float(line[key])) for key in ("uniform", "shares")),
            mean_sd(of_set, lambda line: float(line["shares"] - line["uniform"])),
            str(len(of_set)),
        )
        for (name,), of_set in grouped(priors, "set").items()
    ]
    return [
        "\n## Fewer features\n\n"
        "With `lda_features`, LDA uses only the first features. They are ordered by how well they separate the classes of the pre-training pictures ([method.md](method.md), 3.6). Accuracy in %; sets as above; *ten a class* is the mean of ten draws; "
        "the digits are scikit-learn's. Tiny-ImageNet's classes are those that the order was made from.\n\n"
        + commands("python benchmarks/head_settings.py DATA"),
        table(("set", "pictures learned", *(f"{width} features, {sizes[width] / 1024:.0f} KiB" for width in widths)), rows),
        "\n`class_priors`, where classes differ in size, in training and in testing alike: the classes are ordered at random, and of each the share 1/rank of the pictures is kept.\n",
        table(("set", "all equally likely, %", "by their shares, %", "gain, points", "draws"), skewed),
    ]


def eyes_table(lines: list[dict[str, Any]]) -> str:
    """What backbones see, from benchmarks/eyes.py; the last line of each counts."""
    rows = []
    for name, line in {line["name"]: line for line in lines}.items():
        cells = []
        for key in ("photos 10", "photos 20", "cifar10 20", "tiny-imagenet 10"):
            values = [100 * value for value in line["figures"].get(key, [])]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if values else "")
        rows.append(
            (name, str(line["size"]), *cells, f"{line['milliseconds']:.2f}", f"{line['network_bytes'] / 1e6:.2f}", str(line["row_bytes"]))
        )
    head = ("backbone", "pixels", "photographs, 10 a class", "20", "CIFAR-10, 20", "Tiny-ImageNet, 10", "ms a picture", "MB", "bytes a row")
    return table(head, rows) if rows else ""


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
    runs, streams = runs_of(read("accuracy.jsonl")), read("streams.jsonl")
    experiments = read("experiments/results.jsonl")
    readme = ROOT / "README.md"
    readme.write_text(
        replace_between(readme.read_text(), "<!-- table: accuracy -->", "<!-- end -->", short_table(runs, streams, experiments))
    )
    imports, eyes = ROOT / "docs" / "import.md", eyes_table(read("eyes.jsonl"))
    imports.write_text(replace_between(imports.read_text(), "<!-- table: eyes -->", "<!-- end -->", eyes))
    readme.write_text(replace_between(readme.read_text(), "<!-- table: eyes -->", "<!-- end -->", eyes))
    serve = ROOT / "docs" / "serve.md"
    serve.write_text(replace_between(serve.read_text(), "<!-- table: page -->", "<!-- end -->", page_table(read("page.jsonl"))))
    choose = ROOT / "docs" / "choose.md"
    text = replace_between(choose.read_text(), "<!-- table: backbones -->", "<!-- end -->", backbone_table(streams))
    choose.write_text(replace_between(text, "<!-- table: memory -->", "<!-- end -->", memory_table(streams)))
    pages = ROOT / "docs" / "backbone.md"
    text = replace_between(pages.read_text(), "<!-- table: features -->", "<!-- end -->", features_table(read("backbone_features.jsonl")))
    text = replace_between(text, "<!-- table: training step -->", "<!-- end -->", training_step_table(read("training_step.jsonl")))
    text = replace_between(text, "<!-- table: gradient bits -->", "<!-- end -->", gradient_bits_table(read("gradient_bits.jsonl")))
    pages.write_text(text)
    commits = sorted({line["commit"] for lines in runs.values() for line in lines})
    parts = [
        "# Accuracy\n\nWritten by `python benchmarks/report.py` from `benchmarks/results/`; every row is a recorded run.\n",
        "## CIFAR-10, five experiences of two classes\n\n"
        "50,000 training pictures in the order frog bird / airplane ship / horse automobile / dog deer / truck cat; 10,000 test pictures after the last experience; "
        f"default settings, model {SHIPPED}, commit {', '.join(commits)}.\n\n" + commands("python benchmarks/accuracy.py CIFAR10_FOLDER"),
        table(("method", "capacity", "accuracy, %, mean ± sd", "below joint", "seeds"), accuracy_rows(runs)),
        "",
    ]
    parts.append((RESULTS / "notes.md").read_text())  # prose beside the figures of one run, written by hand; figures come from the files
    parts.append(
        "\nThe streams nc5 and ni10 below show what training the tail adds; [papers.md](papers.md) compares an older engine, at several widths, with other methods.\n"
    )
    for name, section in (
        ("streams", stream_parts), ("few_shot", few_parts), ("reject", reject_parts), ("lda_head", lda_parts), ("head_settings", head_settings_parts), ("merge", merge_parts),
        ("fleet", fleet_parts), ("lesson_time", lesson_parts), ("gradients", gradient_parts),
    ):  # fmt: skip
        found = read(f"{name}.jsonl")
        parts += section(found) if found else []
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
