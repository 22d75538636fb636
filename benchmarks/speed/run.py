"""Measures bitreplay and the engines it is compared with, in one run; report.py makes docs/performance.md of it.

    bash benchmarks/speed/install_peers.sh build/peers
    cmake -B build/native && cmake --build build/native --target bitreplay_bench
    python benchmarks/speed/run.py [--quick] [--only WORK ...] [--peers DIR] [--native PROGRAM] --out benchmarks/results/speed.jsonl

The engines live in virtual environments below DIR (install_peers.sh makes them); one that is not there is said to be missing.  Each
engine is a process that loads a work, compares its result with NumPy's, and then waits: the engines take turns, several rounds, one at
a time, and every turn gives one line with the median and the best of its calls.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONVS = ("conv_56x56x64", "conv_28x28x128", "conv_14x14x256", "conv_7x7x512")
QUICKNETS = ("quicknetsmall", "quicknet", "quicknetlarge")
THREADS = {**dict.fromkeys(CONVS, (1,)), **dict.fromkeys(QUICKNETS, (1, 2)), "head_step": (1,), "learning_step": (1,)}
WORKS = (*THREADS, "memory", "roofline")
NATIVE_WORK = {"q_b 8, b_w 8": "learning_step_q8_w8", "q_b 16, b_w 16": "learning_step_q16_w16"}
ROOFLINES = ("roofline_dot", "roofline_bandwidth")
MEMORY_WORK = "quicknet"
TORCH_AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Engine:
    name: str
    module: str  # of this folder; "": the native program
    environment: str  # below --peers; "": this interpreter
    variants: dict[str, tuple[str, ...]]  # by work
    avx2: dict[str, str] = field(default_factory=dict)  # official switches that keep it to AVX2; none: it has no such switch
    switches: dict[str, dict[str, str]] = field(default_factory=dict)  # environment variables of a variant


def each(works: tuple[str, ...], *variants: str) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(works, variants)


MOBILENETS = ("MobileNetV1 int8", "MobileNetV1 fp32")
ENGINES = (
    Engine("bitreplay", "peer_bitreplay", "", each(QUICKNETS, "whole", "predict"), {"BITREPLAY_ISA": "avx2"}),
    Engine(
        "bitreplay",
        "",
        "",
        {**each(CONVS, "block"), "head_step": ("int8",), "learning_step": tuple(NATIVE_WORK)},
        {"BITREPLAY_ISA": "avx2"},
    ),
    Engine(
        "OpenVINO",
        "peer_openvino",
        "rt",
        {**each(CONVS, "binary", "binary block"), **each(QUICKNETS, "binary", "binary bf16"), "quicknet": ("binary", "binary bf16", *MOBILENETS)},
        {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    ),
    Engine("LCE", "peer_lce", "lce", {**each(CONVS, "indirect", "indirect block", "default"), **each(QUICKNETS, "indirect"), "quicknet": ("indirect", "default")}),
    Engine("ncnn", "peer_ncnn", "rt", {**each(CONVS, "int8", "fp32"), "quicknet": MOBILENETS}),
    Engine("ONNX Runtime", "peer_onnxruntime", "rt", {**each(CONVS, "int8", "fp32"), "quicknet": MOBILENETS}),
    Engine("torch", "peer_torch", "rt", {**each(CONVS, "fp32"), "head_step": ("eager",), "learning_step": ("NCHW", "NHWC")}, TORCH_AVX2),
    Engine(
        "NumPy",
        "peer_numpy",
        "",
        {"head_step": ("float32", "float32, AVX-512 BLAS")},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"float32, AVX-512 BLAS": {"OPENBLAS_CORETYPE": "SkylakeX"}},  # OpenBLAS does not choose it on every processor that could
    ),
    Engine("onnxruntime-training", "peer_onnxruntime_training", "ortt", {"head_step": ("float32",)}),
    Engine("Avalanche", "peer_avalanche", "cl", {"head_step": ("CWR*",)}),
)  # fmt: skip


@dataclass(frozen=True)
class Contender:
    engine: Engine
    work: str
    variant: str
    threads: int
    isa: str  # "best" or "avx2"

    def label(self) -> dict[str, Any]:
        return {"engine": self.engine.name, "work": self.work, "variant": self.variant, "threads": self.threads, "isa": self.isa}

    def environment(self) -> dict[str, str]:
        result = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "BITREPLAY_ISA")}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            result[name] = str(self.threads)
        result |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1", "PYTHONDONTWRITEBYTECODE": "1"}
        return result | (self.engine.avx2 if self.isa == "avx2" else {}) | self.engine.switches.get(self.variant, {})


class Unavailable(Exception):  # noqa: N818
    """An engine that is not installed, cannot do the work, or gives a wrong result."""


class Session:
    """A contender that is ready: `turn` measures it for some seconds."""

    def __init__(self, contender: Contender, args: argparse.Namespace) -> None:
        self.contender, self.seconds = contender, args.seconds
        self.process: subprocess.Popen[str] | None = None
        if not contender.engine.module:
            self.program = native_program(args)
            self.ready = {k: v for k, v in self._native(0.05).items() if k not in ("median_ms", "best_ms", "calls")}
            return
        command = worker_command(contender, args)
        prepare(contender, command, args)
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=contender.environment()
        )
        self.ready = self._answer()

    def turn(self) -> dict[str, Any]:
        if self.process is None:
            return self._native(self.seconds)
        assert self.process.stdin is not None
        self.process.stdin.write(f"{self.seconds}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        if self.process is not None:
            self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise Unavailable(last_line(self.errors.read()))
        return dict(json.loads(line))

    def _native(self, seconds: float) -> dict[str, Any]:
        c = self.contender
        command = [self.program, NATIVE_WORK.get(c.variant, c.work), "--threads", str(c.threads), "--seconds", str(seconds)]
        if c.isa != "best":
            command += ["--isa", c.isa]
        return run_native(command, c.environment())


def last_line(text: str) -> str:
    """What went wrong: the last line that says something, without paths."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "it ended without a word").replace(str(ROOT), ".")


def native_program(args: argparse.Namespace) -> str:
    if not args.native.exists():
        raise Unavailable("the native program is not built (cmake --build build/native --target bitreplay_bench)")
    return str(args.native)


def run_native(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise Unavailable(last_line(done.stderr))
    return dict(json.loads(done.stdout.splitlines()[-1]))


def worker_command(c: Contender, args: argparse.Namespace) -> list[str]:
    interpreter = args.peers / c.engine.environment / "bin" / "python" if c.engine.environment else Path(sys.executable)
    if not interpreter.exists():
        raise Unavailable(f"not installed: no environment '{c.engine.environment}' among the peers")
    return [str(interpreter), str(HERE / "worker.py"), c.engine.module, c.variant, c.work, str(c.threads), str(args.models)]


def prepare(c: Contender, command: list[str], args: argparse.Namespace) -> None:
    """Write the model files, once for each state of these scripts; ours always, for the core may have changed."""
    done = args.models / f"{c.engine.module}-{c.work}-{c.variant.replace('*', '')}.done"
    if done.exists() and c.engine.name != "bitreplay":
        return
    environment = {k: v for k, v in c.environment().items() if k not in c.engine.avx2}
    result = subprocess.run([*command, "prepare"], capture_output=True, text=True, env=environment)
    if result.returncode:
        raise Unavailable(last_line(result.stderr))
    done.touch()


def contenders(work: str) -> Iterator[Contender]:
    for threads in THREADS[work]:
        for engine in ENGINES:
            for variant in engine.variants.get(work, ()):
                yield Contender(engine, work, variant, threads, "best")
                if engine.avx2 and threads == 1 and variant not in engine.switches and "bf16" not in variant:
                    yield Contender(engine, work, variant, threads, "avx2")


class Log:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("w", buffering=1)

    def write(self, kind: str, **values: Any) -> None:
        self.file.write(json.dumps({"kind": kind, **values}) + "\n")

    def unavailable(self, label: dict[str, Any], reason: Unavailable) -> None:
        missing = str(reason).startswith(("not installed", "the native program is not built", "ModuleNotFoundError"))
        print(f"  {' '.join(str(v) for v in label.values())}: {reason}", flush=True)
        self.write("missing" if missing else "failed", **label, reason=str(reason))


def busy_seconds() -> float:
    """Processor time that all cores together have spent on anything."""
    user, nice, system, _, _, irq, softirq, *_ = (int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def machine(args: argparse.Namespace) -> dict[str, Any]:
    facts: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    interesting = (
        "popcnt",
        "avx2",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_vnni",
        "avx512_vpopcntdq",
        "avx512_bf16",
        "gfni",
    )
    flags = [f for f in interesting if f in facts.get("flags", "").split()]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": facts.get("model name", platform.processor()),
        "cpu_family": facts.get("cpu family"),
        "flags": flags,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": commit,
        "seconds": args.seconds,
        "rounds": args.rounds,
    }


def measure_work(work: str, args: argparse.Namespace, log: Log) -> None:
    sessions: list[Session] = []
    for contender in contenders(work):
        try:
            sessions.append(Session(contender, args))
        except Unavailable as reason:
            log.unavailable(contender.label(), reason)
            continue
        log.write("ready", **{**sessions[-1].ready, **contender.label()})
    for turn in range(args.rounds):
        first = turn % max(len(sessions), 1)
        for session in (*sessions[first:], *sessions[:first]):
            clock, busy = time.monotonic(), busy_seconds()
            try:
                result = session.turn()
            except Unavailable as reason:
                log.unavailable(session.contender.label(), reason)
                continue
            others = (busy_seconds() - busy) / (time.monotonic() - clock) - session.contender.threads
            log.write("time", **{**result, **session.contender.label()}, round=turn, others=round(max(others, 0.0), 2))
            values = " ".join(str(v) for v in session.contender.label().values())
            print(f"  {values}: {result['median_ms']:.4f} ms (best {result['best_ms']:.4f})", flush=True)
    for session in sessions:
        session.close()


def measure_memory(args: argparse.Namespace, log: Log) -> None:
    """What a fresh process holds that loads one network and runs it once."""
    for engine in ENGINES:
        for variant in engine.variants.get(MEMORY_WORK, ()):
            contender = Contender(engine, MEMORY_WORK, variant, 1, "best")
            label = {**contender.label(), "work": "memory"}
            try:
                command = worker_command(contender, args)
                prepare(contender, command, args)
                for turn in range(min(args.rounds, 5)):
                    done = subprocess.run([*command, "memory"], capture_output=True, text=True, env=contender.environment())
                    if done.returncode:
                        raise Unavailable(last_line(done.stderr))
                    result = json.loads(done.stdout.splitlines()[-1])
                    log.write("memory", **label, round=turn, **result)
                print(f"  {engine.name} {variant}: {result['rss_mb']:.1f} MB", flush=True)
            except Unavailable as reason:
                log.unavailable(label, reason)


def measure_roofline(args: argparse.Namespace, log: Log) -> None:
    for work in ROOFLINES:
        for isa in ("best", "avx2"):
            label = {"engine": "bitreplay", "work": work, "variant": "loop", "threads": 1, "isa": isa}
            try:
                command = [native_program(args), work, "--seconds", str(args.seconds)] + (["--isa", isa] if isa != "best" else [])
                for turn in range(args.rounds):
                    log.write("roofline", **label, round=turn, **{k: v for k, v in run_native(command).items() if k not in label})
            except Unavailable as reason:
                log.unavailable(label, reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds: does everything run and agree?")
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS, metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--peers", type=Path, default=Path(os.environ.get("BITREPLAY_PEERS", ROOT / "build" / "peers")))
    parser.add_argument("--native", type=Path, default=ROOT / "build" / "native" / "bitreplay_bench")
    parser.add_argument("--seconds", type=float, default=None, help="of one turn")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.seconds = args.seconds or (0.1 if args.quick else 1.0)
    args.rounds = args.rounds or (2 if args.quick else 7)
    args.peers, args.native = args.peers.absolute(), args.native.absolute()
    scripts = zlib.crc32(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.py")) if path.name not in ("run.py", "report.py")))
    args.models = ROOT / "build" / "speed" / f"{scripts:08x}"
    args.models.mkdir(parents=True, exist_ok=True)
    log = Log(args.out)
    log.write("machine", **machine(args))
    for work in args.only:
        print(work, flush=True)
        if work == "memory":
            measure_memory(args, log)
        elif work == "roofline":
            measure_roofline(args, log)
        else:
            measure_work(work, args, log)


if __name__ == "__main__":
    main()
