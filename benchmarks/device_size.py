"""Code size and memory of the C program in examples/device; writes the tables of docs/device.md.

    python benchmarks/device_size.py [--out benchmarks/results/device_size.md] [--cross aarch64-linux-gnu]

Builds the example with each set of options, strips it, and reads `size`; asks it what a learner on the shipped backbone keeps and needs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bitreplay import Learner, Model, Settings

ROOT = Path(__file__).parents[1]
BUILDS = {
    "head only, scalar": ["-DBITREPLAY_DEVICE_TAIL=OFF", "-DBITREPLAY_DEVICE_SCALAR=ON"],
    "head only, every instruction set": ["-DBITREPLAY_DEVICE_TAIL=OFF"],
    "with the tail, scalar": ["-DBITREPLAY_DEVICE_SCALAR=ON"],
    "with the tail, every instruction set": [],
}


def build(folder: Path, options: list[str], compiler: str, processor: str) -> Path:
    tools = [f"-DCMAKE_CXX_COMPILER={compiler}g++", f"-DCMAKE_C_COMPILER={compiler}gcc"]
    if processor:
        tools += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"]
    subprocess.run(["cmake", "-S", ROOT, "-B", folder, *tools, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "-j", "2", "--target", "bitreplay_device_example"], check=True, stdout=subprocess.DEVNULL)
    return folder / "examples" / "device" / "bitreplay_device_example"


def sections(program: Path, compiler: str) -> dict[str, int]:
    """Bytes of code and constants, of initialised and of zeroed data."""
    stripped = program.with_suffix(".stripped")
    subprocess.run([f"{compiler}strip", "-o", stripped, program], check=True)
    found: dict[str, int] = {}
    for line in subprocess.run([f"{compiler}size", "-A", stripped], check=True, capture_output=True, text=True).stdout.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith("."):
            found[words[0]] = int(words[1])
    whole = subprocess.run([f"{compiler}size", stripped], check=True, capture_output=True, text=True).stdout.splitlines()[1].split()
    return {"text": found[".text"], "rodata": found[".rodata"], "code": int(whole[0]), "data": int(whole[1]), "bss": int(whole[2])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "device_size.md")
    parser.add_argument("--cross", default="aarch64-linux-gnu")
    args = parser.parse_args()
    os.environ["BITREPLAY_ISA"] = "scalar"  # of `info` as well: weights lie as the kernels want them
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    lines = [f"`python benchmarks/device_size.py`; {version}, `examples/device` linked with the system's C library, stripped, `size`.", ""]
    lines += ["| processor | build | .text | .rodata | code and constants | .data | .bss |", "|---|---|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        targets = [("x86-64", "", "")]
        if shutil.which(f"{args.cross}-g++"):
            targets.append((args.cross.split("-")[0], f"{args.cross}-", args.cross.split("-")[0]))
        for name, compiler, processor in targets:
            for number, (what, options) in enumerate(BUILDS.items()):
                program = build(folder / f"{name}{number}", options, compiler, processor)
                s = sections(program, compiler)
                lines.append(f"| {name} | {what} | {s['text']:,} | {s['rodata']:,} | {s['code']:,} | {s['data']:,} | {s['bss']:,} |")
        program = folder / "x86-640" / "examples" / "device" / "bitreplay_device_example"
        model = Model.from_package()
        (folder / "m").write_bytes(model.file_content())
        lines += ["", "Memory with `quicknet-32`, head only, 20 classes at most, scalar kernels; bytes.", ""]
        lines += [
            "| capacity | pictures an experience | kept | working memory of an experience | both | `info`: learning_peak | of a prediction |",
            "|---|---|---|---|---|---|---|",
        ]
        for capacity in (300, 1500):
            for images in (1, 16, 100):
                learner = Learner(model, Settings(capacity=capacity, lesson_images=images, max_classes=20), threads=1)
                learner.save(folder / "s")
                said = subprocess.run(
                    [program, folder / "m", folder / "s", "sizes", str(images)], capture_output=True, text=True, check=True
                )
                words = said.stdout.split()
                kept, learn, predict = int(words[1]), int(words[3]), int(words[5])
                peak = learner.info()["bytes"]["learning_peak"]
                lines.append(f"| {capacity:,} | {images} | {kept:,} | {learn:,} | {kept + learn:,} | {peak:,} | {predict:,} |")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(lines) + "\n")
    docs = ROOT / "docs" / "device.md"
    begin, end = "<!-- device_size: begin -->\n", "<!-- device_size: end -->"
    before, _, rest = docs.read_text().partition(begin)
    docs.write_text(before + begin + args.out.read_text() + end + rest.partition(end)[2])
    print(args.out.read_text())


if __name__ == "__main__":
    main()
