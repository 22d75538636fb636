"""Static estimates of the NEON kernels' inner loops on Cortex-A53, -A72 and -A76, beside what Larq Compute Engine publishes.

    python benchmarks/mca.py [--compiler aarch64-linux-gnu-g++] [--mca llvm-mca] [--out docs/arm.md]

Compiles the kernels as CMakeLists.txt does, takes the innermost loop out of the assembly and gives it to llvm-mca. Nothing runs: caches,
branches and what stands around the loops are left out.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

ENGINE = Path(__file__).resolve().parents[1] / "engine"
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-ffp-contract=off"]
CORES = ("cortex-a53", "cortex-a72", "cortex-a76")
ITERATIONS = 1000


class Kernel(NamedTuple):
    name: str
    source: str
    function: str  # part of its mangled name
    mark: str  # an instruction that only the loop's kernel has
    products: int  # of an iteration
    unit: str


KERNELS = (
    Kernel("binary convolution, 4 pixels", "kernels_neon", "count_pixelsILi4", "cnt", 4 * 16 * 32, "binary MAC"),
    Kernel("binary convolution, 3 pixels", "kernels_neon", "count_pixelsILi3", "cnt", 3 * 16 * 32, "binary MAC"),
    Kernel("gradients, q_b 8 or less", "training_neon", "DigitsILi2EE7look_up", "tbl", 4 * 32 * 4, "8 × 1 bit"),
    Kernel("gradients, q_b 9 to 16", "training_neon", "DigitsILi3EE7look_up", "tbl", 2 * 32 * 4, "16 × 1 bit"),
    Kernel("dense convolution", "kernels_neon_dense", "dense_tile", "smlal", 4 * 16 * 2, "16 × 16 bit"),
    Kernel("near-equal: bits in which two rows differ", "kernels_neon", "differing_bits", "cnt", 128, "1 bit"),
    Kernel("head of CWR* and of the tail, logits", "training_neon", "dot_tile", "smlal", 4 * 4 * 8, "16 × 16 bit"),
    Kernel("head of CWR* and of the tail, gradient", "training_neon", "9pair_tileILi2", "smlal", 2 * 32 * 2, "16 × 16 bit"),
)

# Larq Compute Engine's README (2022-04): milliseconds of a picture of 224 pixels, one thread of a Raspberry Pi 4B (Cortex-A72).
PI_CLOCK = 1.5e9
PUBLISHED = {
    "QuickNetSmall": ((32, 64, 256, 512), (4, 4, 4, 4), 27.7),
    "QuickNet": ((64, 128, 256, 512), (4, 4, 4, 4), 45.0),
    "QuickNetLarge": ((64, 128, 256, 512), (6, 8, 12, 6), 77.0),
}


def binary_macs(widths: tuple[int, ...], blocks: tuple[int, ...]) -> int:
    """3×3 convolutions at 56, 28, 14 and 7 pixels."""
    return sum(count * (56 >> stage) ** 2 * 9 * width**2 for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)))


def assembly(compiler: str, source: str) -> list[str]:
    command = [compiler, *FLAGS, "-S", "-o", "-", str(ENGINE / f"{source}.cpp")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def inner_loops(lines: list[str], function: str) -> list[list[str]]:
    """The instructions of every loop without a label inside, in the function whose mangled name holds `function`."""
    begin = next(i for i, line in enumerate(lines) if re.match(rf"_Z\w*{function}\S*:$", line))
    end = next(i for i in range(begin, len(lines)) if ".cfi_endproc" in lines[i])
    labels = {m[1]: i for i in range(begin, end) if (m := re.match(r"(\.L\d+):", lines[i]))}
    loops = []
    for i in range(begin, end):
        branch = re.match(r"\s+(?:b\.?[a-z]+|cbn?z\s.*,|tbn?z\s.*,)\s*(\.L\d+)$", lines[i])
        start = labels.get(branch[1], i) if branch else i
        if start < i and not any(start < label < i for label in labels.values()):
            loops.append([line for line in lines[start + 1 : i + 1] if re.match(r"\s+[a-z]", line)])
    return loops


def cycles(mca: str, core: str, loop: list[str]) -> tuple[float, str]:
    """Of one iteration, and the name of llvm-mca's model."""
    command = [mca, "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    text = subprocess.run(command, input="\n".join(loop), capture_output=True, text=True, check=True).stdout
    total, unit = re.search(r"Total Cycles:\s+(\d+)", text), re.search(r"- (\w+?)Unit\w*", text)
    assert total
    assert unit
    return int(total[1]) / ITERATIONS, unit[1]


def slowest(mca: str, core: str, loops: list[list[str]]) -> tuple[float, str]:
    return max(cycles(mca, core, loop) for loop in loops)


def tree_loop() -> list[str]:
    """The scheme of Larq Compute Engine's kernel, not its code: 4 pixels by 8 channels of 128 bits; xor, cnt, counts of pairs added up by addp, one uadalp."""
    loop = ["0:"]
    for first in (0, 2):  # pixels in v24..27, weights in v16..23, sums in v28..31; two pixels at a time, so that nothing waits
        pairs = [(first + p, 8 * p) for p in range(2)]
        loop += [f"eor v{at + c}.16b, v{24 + p}.16b, v{16 + c}.16b" for p, at in pairs for c in range(8)]
        loop += [f"cnt v{c}.16b, v{c}.16b" for c in range(16)]
        loop += [f"ldr q{24 + p}, [x{p}], #16" for p, _ in pairs]
        for count in (4, 2, 1):
            loop += [f"addp v{at + c}.16b, v{at + 2 * c}.16b, v{at + 2 * c + 1}.16b" for c in range(count) for _, at in pairs]
        loop += [f"uadalp v{28 + p}.8h, v{at}.16b" for p, at in pairs]
    loop += [f"ldr q{16 + c}, [x8, #{16 * c}]" for c in range(8)]
    return [*loop, "add x8, x8, #128", "subs w9, w9, #1", "bgt 0b"]


def report(compiler: str, mca: str) -> str:
    rows, models, rate = [], {}, {}
    sources = {kernel.source: assembly(compiler, kernel.source) for kernel in KERNELS}
    for kernel in KERNELS:
        loops = [
            loop for loop in inner_loops(sources[kernel.source], kernel.function) if any(line.split()[0] == kernel.mark for line in loop)
        ]
        most = max(sum(line.split()[0] == kernel.mark for line in loop) for loop in loops)
        loops = [loop for loop in loops if sum(line.split()[0] == kernel.mark for line in loop) == most]  # not the remainders' loops
        row = [kernel.name, kernel.unit, f"{kernel.products}", f"{max(map(len, loops))}"]
        for core in CORES:
            taken, models[core] = slowest(mca, core, loops)
            rate[kernel.name, core] = kernel.products / taken
            row.append(f"{taken:.1f} ({kernel.products / taken:.1f})")
        rows.append(row)
    tree = [4096 / cycles(mca, core, tree_loop())[0] for core in CORES]
    implied = {name: binary_macs(widths, blocks) / (ms / 1e3 * PI_CLOCK) for name, (widths, blocks, ms) in PUBLISHED.items()}
    large, middle = (PUBLISHED[name] for name in ("QuickNetLarge", "QuickNet"))
    more = (binary_macs(*large[:2]) - binary_macs(*middle[:2])) / ((large[2] - middle[2]) / 1e3 * PI_CLOCK)
    best = rate[KERNELS[0].name, "cortex-a72"]
    bar = max(more, *implied.values())
    version = {tool: subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout for tool in (compiler, mca)}
    llvm = re.search(r"LLVM version \S+", version[mca])
    assert llvm
    text = [
        "# ARM",
        "",
        f"Made by `python benchmarks/mca.py --out docs/arm.md` with {version[compiler].splitlines()[0]} and {llvm[0]}; do not edit.",
        "",
        "**A static estimate: nothing was run on an ARM processor.** Cycles of an iteration of the innermost loop by llvm-mca (in brackets: products a",
        "cycle), of the slowest copy where the compiler made several. Caches and the code around the loops are not counted; equality of the results is",
        "checked under qemu-user ([how](extend.md)). llvm-mca's models: "
        + ", ".join(f"Cortex-{core[7:].upper()}: {models[core]}" for core in CORES)
        + ".",
        "Where LLVM has no model of a core, that of another core stands in.",
        "",
        "| loop | product | products | instructions | " + " | ".join(f"Cortex-{core[7:].upper()}" for core in CORES) + " |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *("| " + " | ".join(row) + " |" for row in rows),
        "| LCE's scheme, written anew: 4 pixels by 8 channels of 128 bits | binary MAC | 4096 | "
        + f"{len(tree_loop()) - 1} | "
        + " | ".join(f"{4096 / r:.1f} ({r:.1f})" for r in tree)
        + " |",
        "",
        "128 binary multiply-adds take an xor, a cnt and an addition. At two such operations a cycle, 85.3 a cycle is the most that either scheme can reach on a",
        "Cortex-A72 or -A76; at one operation a cycle, as the -A53's model has it, 42.7. Their loop ends with the sums",
        "of a channel; ours with two halves, which are added at the end of a window: one operation more for 8 channels of a pixel.",
        "",
        "## Larq Compute Engine on a Raspberry Pi 4",
        "",
        "Its README gives times of whole networks, one thread of a Cortex-A72 at 1.5 GHz. Binary multiply-adds divided by time and clock are a lower bound of",
        "its kernel's rate, since the time includes everything else that the network does. QuickNetLarge is QuickNet with more blocks: the last row is the",
        "rate of these blocks alone.",
        "",
        "| network | binary MAC, 10^9 | ms | MAC a cycle, at least |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {binary_macs(widths, blocks) / 1e9:.2f} | {ms} | {implied[name]:.1f} |"
            for name, (widths, blocks, ms) in PUBLISHED.items()
        ),
        f"| QuickNetLarge less QuickNet | {(binary_macs(*large[:2]) - binary_macs(*middle[:2])) / 1e9:.2f} | {large[2] - middle[2]:.1f} | {more:.1f} |",
        "",
        f"Bar: at least as many on a Cortex-A72: {best:.1f} (estimated, our loop) against {bar:.1f} (implied, their blocks): {'met' if best >= bar else '**not met**'}. Loop against loop, by",
        f"the same model: {best:.1f} against {tree[1]:.1f}.",
        "",
    ]
    return "\n".join(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="aarch64-linux-gnu-g++")
    parser.add_argument("--mca", default="llvm-mca")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result = report(arguments.compiler, arguments.mca)
    if arguments.out:
        arguments.out.write_text(result)
    else:
        print(result)
