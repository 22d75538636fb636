"""The C API on the core alone: the bytes that Python writes, what is too small or damaged, no heap (docs/device.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model
from new_learner import new_learner
from numpy.typing import NDArray
from reference.files import pack, unpack
from tail_model import make

from bitreplay import FormatError, Learner
from bitreplay.c_source import export_c
from bitreplay.model import _FOLDER, SHIPPED
from bitreplay.settings import VIEWS

ROOT = Path(__file__).parents[1]
CROSS = ROOT / "cmake" / "aarch64-linux-gnu.cmake"
LESSONS = [["mug", 'é"q\\'] * 3, ["mug", "日本😀", "mug", "a b"], ['é"q\\', "x/<y>"] * 2]

# Other builds than the plain one take minutes: .ci/run makes them.
ALL = pytest.mark.skipif(not os.environ.get("BITREPLAY_ALL"), reason="another build, set BITREPLAY_ALL=1")


def build(folder: Path, target: str, *options: str) -> Path:
    """Build a target of CMakeLists.txt; the test is skipped, and says so, where there is no compiler."""
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no compiler is there: cmake and a C++ compiler are needed")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "-j", "2", "--target", target],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(path for path in (folder / "examples" / "device" / target, folder / target) if path.exists())


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [str(build(tmp_path_factory.mktemp("device"), "bitreplay_device_example", "-DBITREPLAY_STRICT=ON"))]


def run(program: list[str], *arguments: object, isa: str = "") -> list[str]:
    done = subprocess.run([*program, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, "BITREPLAY_ISA": isa})
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def teach(folder: Path, learner: Learner, lessons: list[list[str]] = LESSONS) -> tuple[list[object], NDArray[np.uint8]]:
    """Teach a learner; return what makes the C program learn the same, and the last lesson's pictures."""
    commands: list[object] = []
    for i, names in enumerate(lessons):
        images = tiny_model.random_images(10 + i, len(names), learner.image_size)
        images.tofile(folder / f"{i}.rgb")
        (folder / f"{i}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        learner.learn(images, names)
        commands += ["learn", folder / f"{i}.rgb", folder / f"{i}.txt"]
    return commands, images


def answers(said: list[str], count: int) -> tuple[list[list[int]], list[str]]:
    """Number, whether unknown, and probabilities of the first pictures of which the C program spoke; and what it said further."""
    return [[int(word) for word in line.split()] for line in said[:count]], said[count:]


def same(program: list[str], folder: Path, model: Path, learner: Learner, isa: str = "") -> None:
    """The C program goes on from where a learner is, and its state and predictions are the learner's."""
    learner.save(folder / "start.state")
    commands, images = teach(folder, learner)
    last = folder / f"{len(LESSONS) - 1}.rgb"
    asked: list[tuple[list[object], dict[str, Any]]] = [(["predict", last], {})]
    asked += [(["views", last, views], {"views": views}) for views in VIEWS]
    if learner.settings.head == "lda" and learner.settings.capacity:
        asked += [(["reject", last, share], {"reject": share / 2**15}) for share in (1, 3277, 20_000)]
    words = [word for command, _ in asked for word in command]
    said = run(program, model, folder / "start.state", *commands, *words, "save", folder / "end.state", isa=isa)
    assert (folder / "end.state").read_bytes() == learner.to_bytes()
    for _, arguments in asked:
        expected = learner.predict(images, **arguments)
        lines, said = answers(said, len(images))
        assert [learner.names[line[0]] for line in lines] == expected.names
        assert [line[1] for line in lines] == expected.unknown.tolist()
        assert np.array_equal(np.array([line[2:] for line in lines]), (expected.probabilities * 2**15).astype(np.int64))
    assert not said


SETTINGS: dict[str, Any] = {
    "capacity": 7,
    "lesson_images": 6,
    "max_classes": 9,
    "epochs": 2,
    "near_equal": 0.05,
    "threads": 2,
    "seed": 2**64 - 1,
}


HEADS = pytest.mark.parametrize("head", ["lda", "cwr"])


@HEADS
def test_the_shipped_backbone_learns_the_same_in_c(program: list[str], tmp_path: Path, head: str) -> None:
    model = _FOLDER / f"{SHIPPED}.model"
    same(program, tmp_path, model, new_learner(**SETTINGS, head=head))


@HEADS
@pytest.mark.parametrize("views", [2, 6])
def test_more_views_are_the_same_in_c(program: list[str], tmp_path: Path, head: str, views: int) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    same(program, tmp_path, tmp_path / "quicknet.model", new_learner(model, **SETTINGS, head=head, views=views))


def test_fewer_features_and_class_priors_are_the_same_in_c(program: list[str], tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    same(program, tmp_path, tmp_path / "quicknet.model", new_learner(model, **SETTINGS, lda_features=5, class_priors=True))
    tail = new_learner(model, train_blocks=2, lda_features=7, class_priors=True, held_back=0.3, **SETTINGS)
    same(program, tmp_path, tmp_path / "quicknet.model", tail)


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_every_instruction_set_writes_the_same_bytes(program: list[str], tmp_path: Path, isa: str) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    new_learner(model, **SETTINGS).save(tmp_path / "new.state")
    command = [*program, str(tmp_path / "quicknet.model"), str(tmp_path / "new.state"), "sizes", "1"]
    asked = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "BITREPLAY_ISA": isa})
    if "BITREPLAY_ISA" in asked.stderr:
        pytest.skip(f"no {isa} here")
    same(program, tmp_path, tmp_path / "quicknet.model", new_learner(model, **SETTINGS), isa)


@HEADS
@pytest.mark.parametrize("family", ["quicknet", "reactnet", "birealnet"])
@pytest.mark.parametrize("weight_bits", [1, 8, 16])
def test_a_trained_tail_is_the_same_in_c(program: list[str], tmp_path: Path, family: str, weight_bits: int, head: str) -> None:
    model, _, _ = make(tmp_path, family)
    learner = new_learner(model, train_blocks=2, weight_bits=weight_bits, parameter_step=4, head=head, held_back=0.3, **SETTINGS)
    same(program, tmp_path, tmp_path / f"{family}.model", learner)


@pytest.mark.parametrize("down", [{"relu": True}, {"threshold": True, "activation": True}])
def test_other_networks_are_the_same_in_c(program: list[str], tmp_path: Path, down: dict[str, bool]) -> None:
    model, _, _ = make(tmp_path, "birealnet", down=down, features_relu=False)
    same(program, tmp_path, tmp_path / "birealnet.model", new_learner(model, **SETTINGS))


def test_a_state_after_forgetting_without_memory_and_with_odd_settings(program: list[str], tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    path = tmp_path / "quicknet.model"
    learner = new_learner(model, learning_rate=0.1 + 0.2, shrinkage=1e-2, pseudo_pictures=1, tail_prior=1e-3, **SETTINGS)
    teach(tmp_path, learner)
    learner.forget("mug")
    same(program, tmp_path, path, learner)
    same(program, tmp_path, path, new_learner(model, **{**SETTINGS, "capacity": 0, "lesson_images": None, "near_equal": 0}))


def test_a_setting_that_is_missing_or_out_of_range_is_refused(program: list[str], tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    metadata, tensors = unpack(new_learner(model, **SETTINGS).to_bytes(), "state", "s")
    words = {key: metadata[key] for key in ("model", "names", "experience")}
    known = json.loads(metadata["settings"])
    wrong = [{key: value for key, value in known.items() if key != name} for name in known]
    values = {
        "head": "knn",
        "views": 3,
        "shrinkage": 0,
        "pseudo_pictures": -1,
        "near_equal": 0.1,
        "held_back": 129,
        "learning_rate": 2**18 + 1,
    }
    for settings in [*wrong, {**known, "pull": 1}, *({**known, name: value} for name, value in values.items())]:
        content = pack("state", {**words, "settings": json.dumps(settings)}, tensors)
        with pytest.raises(FormatError):
            Learner.from_bytes(content)
        (tmp_path / "wrong.state").write_bytes(content)
        done = subprocess.run([*program, tmp_path / "quicknet.model", tmp_path / "wrong.state"], capture_output=True, text=True)
        assert (done.returncode, "status 2" in done.stderr, ": state: " in done.stderr) == (2, True, True), done.stderr
        assert "expected " in done.stderr


def test_sums_that_are_refused_in_python_are_refused_in_c(program: list[str], tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet", channels=6, image_size=8)
    learner = new_learner(model, **SETTINGS)
    learner.learn(tiny_model.random_images(1, 4, 8), list("abab"))
    metadata, tensors = unpack(learner.to_bytes(), "state", "s")
    words = {key: metadata[key] for key in ("model", "settings", "names", "experience")}
    rows = int(tensors["head.count"].sum())
    wide = {name: tensors[name].astype(np.int64) for name in ("head.feature_sum", "head.moment")}
    for name, value in (
        ("head.count", 0), ("head.count", 3), ("head.count", -(2**63)), ("head.feature_sum", 2**63 - 1), ("head.feature_sum", -(2**63)),
        ("head.moment", -1), ("head.moment", 127**2 * rows + 1), ("head.moment", -(2**63)), ("head.saturated", -1),
        ("head.saturated", 6 * rows + 1), ("head.mixing", -1), ("head.mixing", 2**20 + 1), ("replay.seen", 0), ("replay.seen", 2**32),
    ):  # fmt: skip
        changed = {**tensors, **wide}
        changed[name] = changed[name].copy()
        changed[name].reshape(-1)[-1] = value
        content = pack("state", words, changed)
        with pytest.raises(FormatError):
            Learner.from_bytes(content)
        (tmp_path / "wrong.state").write_bytes(content)
        done = subprocess.run([*program, tmp_path / "quicknet.model", tmp_path / "wrong.state"], capture_output=True, text=True)
        assert (done.returncode, "status 2" in done.stderr) == (2, True), (name, value, done.stderr)


def memory(lines: list[str]) -> dict[str, int]:
    words = " ".join(lines).split()
    return {name: int(value) for name, value in zip(words[::2], words[1::2], strict=True)}


@HEADS
@pytest.mark.parametrize("views", [1, 6])
@pytest.mark.parametrize("train_blocks", [0, 2])
def test_memory_is_what_info_says(program: list[str], tmp_path: Path, train_blocks: int, views: int, head: str) -> None:
    """The most that a learner holds while learning, without alignment, names and labels: as info counts, byte for byte."""
    model, _, _ = make(tmp_path, "birealnet")
    settings = {**SETTINGS, "max_classes": 5, "threads": 1, "train_blocks": train_blocks, "live_batch": 5, "tail_distillation": True}
    settings |= {"head": head, "views": views, "near_equal": 0}
    learner = new_learner(model, **settings)
    learner.save(tmp_path / "start.state")
    lessons = [list("abcdea"), list("bcdeab"), list("abcdeb")]  # all the classes, full memory, lessons as large as they get
    commands, _ = teach(tmp_path, learner, lessons)
    arguments = (tmp_path / "birealnet.model", tmp_path / "start.state", *commands, "memory", "sizes", 6)
    used = memory(run(program, *arguments, isa=os.environ.get("BITREPLAY_ISA", "")))
    sizes = learner.info()["bytes"]
    if train_blocks:  # how many rows are held back is found in a lesson
        assert 0.9 * sizes["learning_peak"] <= used["kept_buffers"] + used["work_buffers"] <= sizes["learning_peak"]
    else:
        assert used["kept_buffers"] + used["work_buffers"] == sizes["learning_peak"]
    asked = memory(run(program, *arguments[:-3], "sizes", 6))
    assert used["kept"] <= asked["kept"] < used["kept"] + 64
    assert used["work"] <= asked["learn"] < used["work"] + 64 * 80 + 4000 * (1 + train_blocks)


def symbols(program: Path, *options: str) -> str:
    if shutil.which("nm") is None:
        pytest.skip("no nm is there")
    return subprocess.run(["nm", *options, str(program)], capture_output=True, text=True, check=True).stdout


def test_neither_the_cpp_library_nor_its_heap_is_linked(program: list[str]) -> None:
    wanted = symbols(Path(program[0]), "-u")
    for name in ("_Zn", "_Zd", "__cxa_throw", "__cxa_guard", "__gxx", "pthread", "_ZSt"):
        assert f" {name}" not in wanted
    library = next(Path(program[0]).parents[2].glob("libbitreplay_device.a"))
    core = symbols(library, "-u")
    for name in ("malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign"):
        assert f" U {name}\n" not in core


@ALL
@pytest.mark.parametrize("sanitize", ["OFF", "ON"])
def test_damage_and_small_regions_and_no_heap(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, sanitize: str) -> None:
    folder = tmp_path_factory.mktemp("check")
    check = build(
        folder, "bitreplay_check_device", f"-DBITREPLAY_SANITIZE={sanitize}", "-DBITREPLAY_DEVICE_SCALAR=ON", "-DBITREPLAY_STRICT=ON"
    )
    for family, train_blocks, weight_bits, head, views in (
        ("quicknet", 0, 8, "lda", 1), ("quicknet", 0, 8, "cwr", 1), ("birealnet", 1, 8, "lda", 2), ("reactnet", 2, 1, "cwr", 1)
    ):  # fmt: skip
        model, _, _ = make(tmp_path, family, channels=6, image_size=8)
        learner = new_learner(
            model,
            train_blocks=train_blocks,
            weight_bits=weight_bits,
            capacity=6,
            lesson_images=4,
            max_classes=6,
            near_equal=0,
            head=head,
            views=views,
        )
        images = tiny_model.random_images(1, 4, 8)
        images.tofile(tmp_path / "x.rgb")
        for names in (["a", "b", "é", "b"], ["b", "c", "c", "a"]):
            learner.learn(images, names)
        learner.save(tmp_path / "x.state")
        said = run([str(check)], tmp_path / f"{family}.model", tmp_path / "x.state", tmp_path / "x.rgb", 1500, "a", 'n"ö', "b", "日")
        assert "no heap" in said[-1]


def test_a_model_for_another_state_and_a_state_that_asks_too_much(program: list[str], tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    make(tmp_path, "birealnet")
    new_learner(model, **SETTINGS).save(tmp_path / "a.state")
    other = subprocess.run([*program, tmp_path / "birealnet.model", tmp_path / "a.state"], capture_output=True, text=True)
    assert (other.returncode, "status 2" in other.stderr, "another model" in other.stderr) == (2, True, True)
    names = [chr(ord("a") + i) for i in range(10)]  # one more than max_classes
    tiny_model.random_images(1, 5, 16).tofile(tmp_path / "x.rgb")
    for part in (names[:5], names[5:]):
        (tmp_path / f"{part[0]}.txt").write_text("\n".join(part))
    full: list[Any] = [*program, tmp_path / "quicknet.model", tmp_path / "a.state"]
    full += [word for part in "af" for word in ("learn", tmp_path / "x.rgb", tmp_path / f"{part}.txt")]
    done = subprocess.run(full, capture_output=True, text=True)
    assert (done.returncode, "status 4" in done.stderr, "at most 9 classes" in done.stderr) == (2, True, True)


@ALL
def test_forged_sums_are_learned_and_predicted_from_without_undefined_behaviour(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0")  # the example ends with its regions
    program = [str(build(tmp_path_factory.mktemp("forged"), "bitreplay_device_example", "-DBITREPLAY_SANITIZE=ON"))]
    branch: dict[str, Any] = {"train_blocks": 1, "shrinkage": 2**-8, "pseudo_pictures": 0, "held_back": 0.5}
    for family, more in (("quicknet", dict[str, Any]()), ("birealnet", branch)):
        model, _, _ = make(tmp_path, family)
        learner = new_learner(model, **SETTINGS, **more)
        teach(tmp_path, learner)
        state = learner._state()
        most = 127**2 * int(state.count.sum())
        diagonal = np.cumsum(np.r_[0, np.arange(20, 1, -1)])
        for inside, outside in ((0, 0), (most, most), (most, -most), (0, most), (1, 0), (1, most)):
            moment = np.full(len(state.moment), outside, np.int64)
            moment[diagonal] = inside
            forged = replace(state, moment=moment)
            same(program, tmp_path, tmp_path / f"{family}.model", Learner(model, state.settings, threads=1, state=forged))


@ALL
def test_a_build_without_the_tail_refuses_to_train_it(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    program = [str(build(tmp_path_factory.mktemp("head"), "bitreplay_device_example", "-DBITREPLAY_DEVICE_TAIL=OFF"))]
    model, _, _ = make(tmp_path, "quicknet")
    same(program, tmp_path, tmp_path / "quicknet.model", new_learner(model, **SETTINGS))
    new_learner(model, train_blocks=1, **SETTINGS).save(tmp_path / "t.state")
    done = subprocess.run([*program, tmp_path / "quicknet.model", tmp_path / "t.state"], capture_output=True, text=True)
    assert (done.returncode, "status 6" in done.stderr) == (2, True)


@ALL
def test_aarch64_writes_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-g++") is None or shutil.which("qemu-aarch64") is None:
        pytest.skip("no cross compiler or no emulator is there: aarch64-linux-gnu-g++ and qemu-aarch64 are needed")
    toolchain = [f"-DCMAKE_TOOLCHAIN_FILE={CROSS}"]
    folder = tmp_path_factory.mktemp("aarch64")
    device = build(folder, "bitreplay_device_example", *toolchain)
    model, _, _ = make(tmp_path, "birealnet")
    for train_blocks in (0, 2):
        learner = new_learner(model, train_blocks=train_blocks, **SETTINGS)
        for isa in ("scalar", "neon"):
            emulated = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-E", f"BITREPLAY_ISA={isa}", str(device)]
            same(emulated, tmp_path, tmp_path / "birealnet.model", learner.copy())


@ALL
def test_a_model_and_a_state_as_c_source(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    learner = new_learner(model, **SETTINGS)
    learner.save(tmp_path / "start.state")
    assert export_c(model, tmp_path / "model.c") == ("device_model", (tmp_path / "quicknet.model").stat().st_size)
    command = [sys.executable, "-m", "bitreplay", "export-c", str(tmp_path / "start.state"), str(tmp_path / "state.c")]
    assert "device_state" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f'"{model.digest}"' in (tmp_path / "model.c").read_text()
    sources = f"-DBITREPLAY_COMPILED_IN={tmp_path / 'model.c'};{tmp_path / 'state.c'}"
    program = [str(build(tmp_path_factory.mktemp("inside"), "bitreplay_device_example", "-DBITREPLAY_STRICT=ON", sources))]
    commands, _ = teach(tmp_path, learner)
    run(program, *commands, "save", tmp_path / "end.state")
    assert (tmp_path / "end.state").read_bytes() == learner.to_bytes()


def test_c_source_of_what_is_none(tmp_path: Path) -> None:
    model, _, _ = make(tmp_path, "quicknet")
    with pytest.raises(ValueError, match="symbol: expected a C identifier"):
        export_c(model, tmp_path / "x.c", "1; evil")
    (tmp_path / "damaged.model").write_bytes((tmp_path / "quicknet.model").read_bytes()[:-1])
    with pytest.raises(FormatError, match="damaged or cut short"):
        export_c(tmp_path / "damaged.model", tmp_path / "x.c")
    assert not (tmp_path / "x.c").exists()
