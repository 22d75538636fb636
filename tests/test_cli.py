"""The command line on real files: what it prints, writes, refuses, and what stays as it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import bitreplay
from bitreplay import FormatError, Learner, Model, cli
from bitreplay.datasets.image_sets import read_folder
from bitreplay.store import StateFile, previous_of

pytest.importorskip("PIL", reason="pictures need Pillow (extra demo)")
from PIL import Image

COLOURS = {"blue": (20, 40, 230), "green": (30, 200, 40), "red": (240, 20, 30)}
PICTURES = 12
MODELS = Path(bitreplay.__file__).parent / "models"


def draw(colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    light = np.random.default_rng(seed).integers(
        -90, 91, (size[1] // 4 + 1, size[0] // 4 + 1, 1)
    )  # in squares: no two pictures are near-equal
    squares = light.repeat(4, axis=0).repeat(4, axis=1)[: size[1], : size[0]]
    return Image.fromarray(np.clip(np.array(colour) + squares, 0, 255).astype(np.uint8))


def write_lesson(folder: Path, names: list[str], first_seed: int = 0) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(PICTURES):
            draw(COLOURS[name], first_seed + number).save(folder / name / f"{number:02}.png")
    return folder


def run(*words: object, code: int = 0) -> tuple[str, str]:
    """Standard output and standard error of a command that must end with `code`."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
    return result.stdout, result.stderr


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "a state.state"
    run("new", path, "--capacity", 20)
    return path


@pytest.fixture
def taught(state: Path, tmp_path: Path) -> Path:
    run("learn", state, write_lesson(tmp_path / "lesson", ["blue", "green", "red"]))
    return state


def assert_refused(state: Path, *words: object, code: int = 1) -> str:
    """The command fails with one message, without a traceback, and changes no byte of the state nor its folder."""
    before, beside = state.read_bytes(), sorted(state.parent.iterdir())
    out, err = run(*words, code=code)
    assert out == ""
    assert "Traceback" not in err
    assert state.read_bytes() == before
    assert sorted(state.parent.iterdir()) == beside
    if code == 1:
        last = err.splitlines()[-1]
        assert last.startswith("error: ")
        return last
    return err


def test_round_trip_of_two_lessons(state: Path, tmp_path: Path) -> None:
    first, second = write_lesson(tmp_path / "one", ["green", "red"]), write_lesson(tmp_path / "two", ["blue"])
    assert "2 classes" in run("learn", state, first)[0]
    out, _ = run("learn", state, second)
    assert f"learned {PICTURES} pictures of 1 class" in out
    assert "new: blue" in out

    test = write_lesson(tmp_path / "test", ["blue", "green", "red"], first_seed=1000)
    result = json.loads(run("predict", state, test, "--json")[0])
    assert result["accuracy"] >= 0.9
    assert result["total"] == 3 * PICTURES == len(result["images"])
    hits = [image["class"] == image["name"] for image in result["images"]]
    assert result["accuracy"] == sum(hits) / len(hits)
    assert result["right"] == sum(hits)
    assert np.array(result["confusion"]["counts"]).sum(1).tolist() == [PICTURES] * 3
    assert sorted(result["confusion"]["classes"]) == ["blue", "green", "red"]
    assert all(0 < image["probability"] <= 1 for image in result["images"])

    for views in (2, 6):
        assert json.loads(run("predict", state, test, "--json", "--views", views)[0])["accuracy"] >= 0.9
    table, _ = run("predict", state, test)
    assert f"accuracy {100 * result['accuracy']:.1f} % ({sum(hits)} of {3 * PICTURES} pictures)" in table

    info = json.loads(run("info", state, "--json")[0])
    assert info["lessons"] == 2
    assert {entry["name"]: entry["samples"] for entry in info["classes"]} == dict.fromkeys(COLOURS, PICTURES)
    assert sum(entry["replay_rows"] for entry in info["classes"]) == info["replay_rows"] == info["capacity"] == 20
    assert info["bytes"]["file"] == state.stat().st_size
    shown, _ = run("info", state)
    for number in (*info["bytes"].values(), info["model"]["latent_bits"]):
        assert f"{number:,}" in shown


def test_lessons_can_train_the_tail(tmp_path: Path) -> None:
    state = tmp_path / "tail.state"
    run("new", state, "--capacity", 20, "--train-blocks", 2)
    lesson = write_lesson(tmp_path / "one", ["green", "red"])
    run("learn", state, lesson)
    run("learn", state, write_lesson(tmp_path / "two", ["blue"]))
    info = json.loads(run("info", state, "--json")[0])
    assert info["bytes"]["tail"] > 2 * 9 * 384**2
    result = json.loads(run("predict", state, lesson, "--json")[0])
    assert result["accuracy"] >= 0.9
    message = assert_refused(state, "new", tmp_path / "other.state", "--train-blocks", 3)
    assert "train_blocks: expected at most 2" in message
    assert "capacity 0" in assert_refused(state, "new", tmp_path / "other.state", "--capacity", 0, "--train-blocks", 1)


def test_learn_adds_nothing_to_the_library(state: Path, tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    learner = Learner.load(state)
    data = read_folder(lesson, learner.image_size)
    learner.learn(data.images, [data.names[label] for label in data.labels])
    learner.save(tmp_path / "library.state")
    run("learn", state, lesson, "--threads", 1)
    assert state.read_bytes() == (tmp_path / "library.state").read_bytes()


def test_predict_in_batches_gives_what_one_batch_gives(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run("predict", taught, tmp_path / "lesson", "--json")[0]
    monkeypatch.setattr(cli.predict, "PREDICT_BATCH", 5)
    assert run("predict", taught, tmp_path / "lesson", "--json")[0] == whole


def test_predict_changes_nothing(taught: Path, tmp_path: Path) -> None:
    before = taught.read_bytes()
    run("predict", taught, tmp_path / "lesson")
    run("info", taught)
    assert taught.read_bytes() == before


def test_new_refuses_to_overwrite(taught: Path) -> None:
    message = assert_refused(taught, "new", taught)
    assert str(taught) in message
    assert "--force" in message
    run("new", taught, "--force", "--capacity", 7)
    info = json.loads(run("info", taught, "--json")[0])
    assert (info["capacity"], info["classes"]) == (7, [])


def test_new_in_a_folder_that_is_missing(tmp_path: Path) -> None:
    _, err = run("new", tmp_path / "none" / "a.state", code=1)
    assert err == f"error: {tmp_path / 'none'}: No such file or directory\n"
    assert list(tmp_path.iterdir()) == []


def test_memory_bytes_holds(tmp_path: Path) -> None:
    path = tmp_path / "small.state"
    run("new", path, "--memory-bytes", 8_000_000, "--lesson-images", 36)
    assert json.loads(run("info", path, "--json")[0])["bytes"]["learning_peak"] <= 8_000_000


def test_usage_errors_exit_2(state: Path, tmp_path: Path) -> None:
    assert "not both" in assert_refused(state, "new", tmp_path / "b.state", "--capacity", 1, "--memory-bytes", 10**7, code=2)
    assert_refused(state, "learn", state, code=2)
    assert_refused(state, "predict", state, code=2)
    assert_refused(state, "new", tmp_path / "b.state", "--capacity", "-1", code=2)
    assert_refused(state, "new", tmp_path / "b.state", "--seed", 2**64, code=2)
    assert_refused(state, "nonsense", code=2)


def test_version_is_the_package_s() -> None:
    from importlib.metadata import version

    assert run("--version")[0] == f"bitreplay {version('bitreplay')}\n"


@pytest.mark.parametrize("content", [b"", b"no picture", None], ids=["empty", "text", "cut short"])
def test_a_broken_picture_is_named_and_nothing_is_learned(taught: Path, tmp_path: Path, content: bytes | None) -> None:
    broken = tmp_path / "lesson" / "red" / "05.png"
    broken.write_bytes(broken.read_bytes()[:200] if content is None else content)
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "learn", taught, tmp_path / "lesson")
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "predict", taught, tmp_path / "lesson")
    assert f"{broken}: cannot be read as a picture" in assert_refused(taught, "predict", taught, broken)


def test_folders_without_pictures(taught: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "cup").mkdir(parents=True)
    (empty / "cup" / "notes.txt").write_text("no picture")
    assert f"{empty}: expected a subfolder per class" in assert_refused(taught, "learn", taught, empty)
    assert f"{empty}: expected pictures" in assert_refused(taught, "predict", taught, empty)
    flat = tmp_path / "lesson" / "red"
    assert f"{flat}: expected a subfolder per class" in assert_refused(taught, "learn", taught, flat)
    missing = tmp_path / "missing"
    for command in ("learn", "predict"):
        assert assert_refused(taught, command, taught, missing) == f"error: {missing}: No such file or directory"
    picture = flat / "00.png"
    assert assert_refused(taught, "learn", taught, picture) == f"error: {picture}: Not a directory"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_cannot_be_read_is_an_error(taught: Path, tmp_path: Path) -> None:
    closed = tmp_path / "lesson" / "red"
    closed.chmod(0)
    try:
        for command in ("learn", "predict"):
            assert assert_refused(taught, command, taught, tmp_path / "lesson") == f"error: {closed}: Permission denied"
    finally:
        closed.chmod(0o700)


def test_files_that_people_really_have(state: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    odd = "Käse [bold] 日本 می 🥄"
    for name in (odd, "plain", ".hidden", "plain/nested"):
        (lesson / name).mkdir(parents=True)
    red, green = COLOURS["red"], COLOURS["green"]
    draw(red, 1).save(lesson / odd / "A.JPG", quality=95)
    draw(red, 2, (7, 300)).convert("P").save(lesson / odd / "b.gif")
    draw(red, 3, (1, 1)).convert("RGBA").save(lesson / odd / "c.PnG")
    draw(red, 4).convert("CMYK").save(lesson / odd / "d.tiff")
    draw(green, 5).convert("L").save(lesson / "plain" / "nested" / "e.webp")
    draw(green, 6).save(tmp_path / "elsewhere.bmp")
    (lesson / "plain" / "link.bmp").symlink_to(tmp_path / "elsewhere.bmp")
    (lesson / "plain" / "._f.jpg").write_bytes(b"a Mac's notes")
    (lesson / ".hidden" / "g.jpg").write_bytes(b"not looked at")
    (lesson / "plain" / "h.heic").write_bytes(b"no picture that we read")
    draw(green, 7).save(lesson / "beside.png")
    out, err = run("learn", state, lesson)
    assert "6 pictures of 2 classes" in out
    assert "2 files were left out" in err
    assert "hidden" not in err
    info = json.loads(run("info", state, "--json")[0])
    assert {entry["name"]: entry["samples"] for entry in info["classes"]} == {odd: 4, "plain": 2}
    assert odd in run("info", state)[0]
    assert odd in run("predict", state, lesson)[0]


def test_names_that_are_no_text_are_refused(taught: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "other"
    for name in (b"caf\xe9", b"two\nlines"):
        folder = Path(os.fsdecode(os.fsencode(lesson) + b"/" + name))
        try:
            folder.mkdir(parents=True)
        except OSError:
            pytest.skip("this file system refuses such names itself")
        draw(COLOURS["red"], 1).save(folder / "a.png")
        assert repr(folder.name) in assert_refused(taught, "learn", taught, lesson)
        shutil.rmtree(lesson)


def test_predict_without_class_folders_names_each_picture(taught: Path, tmp_path: Path) -> None:
    flat = tmp_path / "lesson" / "red"
    result = json.loads(run("predict", taught, flat, tmp_path / "lesson" / "blue" / "00.png", "--json")[0])
    assert "accuracy" not in result
    assert [image["file"] for image in result["images"]] == [str(path) for path in sorted(flat.iterdir())] + [
        str(tmp_path / "lesson" / "blue" / "00.png")
    ]
    assert all("class" not in image for image in result["images"])
    out, _ = run("predict", taught, flat)
    lines = out.splitlines()
    assert len(lines) == PICTURES
    for line, image in zip(lines, result["images"], strict=False):
        assert line == f"{image['file']}: {image['name']} ({100 * image['probability']:.1f} %)"


def test_predict_with_and_without_classes_at_once(taught: Path, tmp_path: Path) -> None:
    single = tmp_path / "lesson" / "blue" / "00.png"
    result = json.loads(run("predict", taught, single, tmp_path / "lesson", "--json")[0])
    assert (result["total"], len(result["images"])) == (3 * PICTURES, 3 * PICTURES + 1)
    out, _ = run("predict", taught, single, tmp_path / "lesson")
    assert out.splitlines()[0].startswith(f"{single}: ")
    assert out.splitlines()[1].startswith("accuracy ")


def test_classes_unknown_to_the_state_count_as_errors(state: Path, tmp_path: Path) -> None:
    run("learn", state, write_lesson(tmp_path / "lesson", ["green", "red"]))
    test = write_lesson(tmp_path / "test", ["blue", "red"])
    result = json.loads(run("predict", state, test, "--json")[0])
    assert result["unknown"] == ["blue"]
    assert result["total"] == 2 * PICTURES
    assert result["accuracy"] <= 0.5
    assert result["right"] == sum(image["class"] == image["name"] for image in result["images"])
    assert "not known to the state, counted as errors: blue" in run("predict", state, test)[0]


def test_many_classes_are_shown_as_a_list_of_confusions(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swapped = tmp_path / "swapped"
    shutil.copytree(tmp_path / "lesson" / "red", swapped / "blue")
    monkeypatch.setattr(cli.predict, "WIDEST_CONFUSION", 1)
    counts = json.loads(run("predict", taught, swapped, "--json")[0])["confusion"]
    number = counts["classes"].index
    out, _ = run("predict", taught, swapped)
    row = [line for line in out.splitlines() if "blue" in line and "red" in line]
    assert str(counts["counts"][number("blue")][number("red")]) in row[0]


def test_predict_before_any_lesson(state: Path, tmp_path: Path) -> None:
    message = assert_refused(state, "predict", state, write_lesson(tmp_path / "test", ["red"]))
    assert "knows no class yet" in message


def test_states_that_are_missing_or_damaged(taught: Path, tmp_path: Path) -> None:
    lesson = tmp_path / "lesson"
    for command in ("learn", "predict"):
        message = assert_refused(taught, command, tmp_path / "no.state", lesson)
        assert f"{tmp_path / 'no.state'}: no such file; make it with: bitreplay new" in message
    assert assert_refused(taught, "info", tmp_path / "no.state").startswith(f"error: {tmp_path / 'no.state'}: ")
    whole = taught.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for content in (b"", whole[: len(whole) // 2], bytes(flipped), b"not a state"):
        damaged = tmp_path / "damaged.state"
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match="damaged") as raised:
            Learner.load(damaged)
        for words in (("info", damaged), ("learn", damaged, lesson), ("predict", damaged, lesson)):
            assert assert_refused(damaged, *words) == f"error: {raised.value}"


def test_write_protected_state_is_refused_before_the_lesson(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # os.access is asked rather than chmod: the tests may run as root, to whom nothing is forbidden.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (taught, os.W_OK) and allowed(path, mode))
    monkeypatch.setattr(Learner, "learn", lambda *_, **__: pytest.fail("the lesson was begun"))
    assert assert_refused(taught, "learn", taught, tmp_path / "lesson") == f"error: {taught}: Permission denied"


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes there")
def test_full_disk_keeps_the_old_state(taught: Path, tmp_path: Path) -> None:
    before, beside = taught.read_bytes(), sorted(tmp_path.iterdir())
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from bitreplay.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "learn", taught, tmp_path / "lesson"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"error: {taught}: cannot be saved: ")
    assert last.endswith("; the state on disk is unchanged")
    assert "Traceback" not in done.stderr
    assert taught.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == beside


def during_learning(monkeypatch: pytest.MonkeyPatch, act: object) -> None:
    """Have `act` called when the learner first reports on its way."""

    @contextmanager
    def progress():  # type: ignore[no-untyped-def]
        acted = []

        def report(phase: str, done: int, total: int) -> None:
            if phase == "training" and not acted:
                acted.append(phase)
                act()  # type: ignore[operator]

        yield report
        assert acted or sys.exc_info()[0]

    monkeypatch.setattr(cli.learn, "progress", progress)


def test_ctrl_c_while_learning_changes_nothing(taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    during_learning(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    err = assert_refused(taught, "learn", taught, tmp_path / "lesson", code=130)
    assert err == "interrupted: nothing was changed\n"


def test_ctrl_c_while_saving_comes_too_late(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = StateFile.save
    called = []

    def interrupted(self: StateFile, learner: Learner) -> None:
        signal.raise_signal(signal.SIGINT)
        save(self, learner)
        called.append(True)

    monkeypatch.setattr(StateFile, "save", interrupted)
    run("learn", state, write_lesson(tmp_path / "lesson", ["red"]))
    assert called
    assert json.loads(run("info", state, "--json")[0])["lessons"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_state_that_another_lesson_changed_meanwhile_is_not_overwritten(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.state"
    run("new", other, "--capacity", 3)
    theirs = other.read_bytes()
    during_learning(monkeypatch, lambda: os.replace(other, taught))
    _, err = run("learn", taught, tmp_path / "lesson", code=1)
    assert "was changed by someone else" in err
    assert taught.read_bytes() == theirs


def test_a_state_behind_a_link_stays_there(state: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.state"
    link.symlink_to(state)
    run("learn", link, write_lesson(tmp_path / "lesson", ["red"]))
    assert link.is_symlink()
    assert json.loads(run("info", state, "--json")[0])["lessons"] == 1


def test_info_of_a_model() -> None:
    shipped = json.loads(run("info", "--json")[0])
    assert shipped["image_size"] == 32
    assert shipped["latent_bits"] % 64 == 0
    assert all(isinstance(count, int) and count >= 0 for count in shipped["bytes"].values())
    (file,) = [path for path in MODELS.glob("*.model") if Model.load(path).digest == shipped["digest"]]
    named = json.loads(run("info", file, "--json")[0])
    assert named["bytes"].pop("file") == file.stat().st_size
    assert named == shipped
    assert shipped["digest"] in run("info", file)[0]


def test_a_model_is_no_state(taught: Path, tmp_path: Path) -> None:
    file = next(MODELS.glob("*.model"))
    with pytest.raises(FormatError) as raised:
        Learner.load(file)
    assert assert_refused(taught, "predict", file, tmp_path / "lesson") == f"error: {raised.value}"


def test_a_state_of_another_model_is_taught_with_that_model_only(tmp_path: Path) -> None:
    own = tmp_path / "own.model"
    shipped = next(MODELS.glob("*.model"))
    own.write_bytes(shipped.read_bytes())
    state, lesson = tmp_path / "own.state", write_lesson(tmp_path / "lesson", ["blue", "red"])
    run("new", state, "--model", own)
    own.unlink()  # the state carries it
    run("learn", state, lesson, "--model", shipped)
    assert json.loads(run("predict", state, lesson, "--json")[0])["accuracy"] >= 0.9


@pytest.mark.parametrize(
    ("module", "words", "extra"),
    [
        ("PIL", ("predict", "STATE", "DIR"), "demo"),
        ("matplotlib", ("demo", "--out", "OUT"), "demo"),
        ("sklearn", ("demo", "--out", "OUT"), "demo"),
        ("torch", ("pretrain", "DIR", "OUT"), "train"),
        ("torch", ("export", "OUT", "OUT", "--data", "DIR", "--name", "n"), "train"),
        ("torch", ("soft-labels", "DIR", "OUT"), "train"),
    ],
)
def test_missing_extra_is_named(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, words: tuple[str, ...], extra: str
) -> None:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    paths = {"STATE": taught, "DIR": tmp_path / "lesson", "OUT": tmp_path / "out"}
    _, err = run(*(paths.get(word, word) for word in words), code=1)
    assert err == f'error: {module} is not installed; pip install "bitreplay[{extra}]"\n'


@pytest.mark.parametrize("module", ["typer", "rich"])
def test_without_the_extra_the_program_says_how_to_get_it(module: str) -> None:
    program = f"import sys; sys.modules[{module!r}] = None; from bitreplay.cli import main"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f'error: {module} is not installed; pip install "bitreplay[demo]"\n'


def test_reader_that_goes_away_is_no_error(taught: Path, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        words = [sys.executable, "-m", "bitreplay.cli", "predict", taught, tmp_path / "lesson", "--json"]
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")  # pretrain maps its cache read-only
def test_pretrain_continue_export(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed (extra train)")
    data, out, file = tmp_path / "data", tmp_path / "out", tmp_path / "tiny.model"
    write_lesson(data / "train", ["blue", "red"])
    write_lesson(data / "valid", ["blue", "red"], first_seed=1000)
    shape = ("--widths", "8,16", "--blocks", "1,1", "--tail-blocks", 1)
    recipe = ("--batch-size", 8, "--precision", "32-true", "--warmup-steps", 1, "--epochs", 2, "--cut-start", 1, "--cut-ramp", 0)
    shown, _ = run("pretrain", data, out, *shape, *recipe, "--until", 1, "--threads", 1)
    assert "widths=(8, 16)" in shown
    assert "epochs=2" in shown
    assert (out / "checkpoint.pt").is_file()
    _, err = run("pretrain", data, out)
    assert f"goes on from {out / 'checkpoint.pt'}" in err
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]

    (tmp_path / "card.json").write_text('{"terms": "none"}')
    words = ("export", out / "checkpoint.pt", file, "--data", data, "--name", "tiny", "--cache", out / "cache")
    figures = json.loads(run(*words, "--card", tmp_path / "card.json", "--json")[0])
    card = json.loads(run("info", file, "--json")[0])["card"]
    assert figures
    assert {name: card[name] for name in figures} == figures
    assert (card["name"], card["terms"]) == ("tiny", "none")

    (tmp_path / "card.json").write_text("[")
    assert "expected JSON" in run(*words, "--card", tmp_path / "card.json", code=1)[1]
    assert "expected" in run("pretrain", data, tmp_path / "b", "--widths", "8,x", code=2)[1]
    assert run("pretrain", data, tmp_path / "b", "--widths", "8", "--blocks", "1,2", code=1)[1].startswith("error: blocks: expected")


def test_soft_labels_and_pretrain_from_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed (extra train)")
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed (extra train)")
    data, labels = tmp_path / "data", tmp_path / "colours.labels"
    write_lesson(data / "train", ["blue", "red"])
    write_lesson(data / "valid", ["red"], first_seed=1000)  # matched by name: "blue" has no validation pictures
    shape = ("--widths", "8,16", "--blocks", "1,1", "--tail-blocks", 1, "--threads", 1)
    recipe = ("--batch-size", 8, "--precision", "32-true", "--warmup-steps", 1, "--epochs", 2, "--cut-start", 0, "--cut-ramp", 0)
    teacher = tmp_path / "teacher"
    run("pretrain", data, teacher, *shape, *recipe, "--family", "residual", "--cut", "none")
    shown, _ = run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--crops", 2, "--kept", 2)
    assert shown.startswith(f"{labels}: 2 crops of 24 pictures, answered by residual of 32 pixels")
    before = labels.read_bytes()
    run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--crops", 2, "--kept", 2)  # nothing is left to do
    assert labels.read_bytes() == before
    for words, message in (
        (
            ("--crops", 3, "--kept", 2),
            f"error: {labels}: was begun with different crops; choose another file, or repeat the original settings",
        ),
        (("--crops", 2, "--kept", 3), "error: kept: expected 1 to 2, the teacher's classes, got 3"),
    ):
        assert run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", *words, code=1)[1].strip() == message
    assert "which is not a file" in run("soft-labels", data, labels, "--teacher", "resnet", code=1)[1]
    assert (
        "the checkpoint fixes the image size"
        in run("soft-labels", data, labels, "--teacher", teacher / "checkpoint.pt", "--image-size", 64, code=2)[1]
    )

    student = ("pretrain", data, tmp_path / "student", *shape, *recipe, "--soft-labels", labels)
    shown, _ = run(*student, "--until", 1, "--checkpoint-to", tmp_path / "weights" / "student")
    assert "soft_share=0.5" in shown
    run(*student)
    log = [json.loads(line) for line in (tmp_path / "student" / "log.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["crops"]) for line in log] == [(1, 2), (2, 2)]
    assert all(0 <= line["valid_top1"] <= 1 for line in log)
    elsewhere = ("pretrain", data, tmp_path / "elsewhere", "--resume", tmp_path / "weights" / "student", "--threads", 1)
    assert "soft_labels: expected a file" in run(*elsewhere, code=1)[1]
    run(*elsewhere, "--soft-labels", labels)
    assert len((tmp_path / "elsewhere" / "log.jsonl").read_text().splitlines()) == 2
    assert "widths: " in run("pretrain", data, tmp_path / "student", "--widths", "8,24", code=1)[1]

    from bitreplay.training import pretrain as module

    monkeypatch.setattr(module, "save_checkpoint", interrupt)
    out = tmp_path / "interrupted"
    assert "run the same command to begin again; there was no checkpoint yet" in run("pretrain", data, out, *shape, *recipe, code=130)[1]
    for name in ("model.pt", "weights/none"):
        assert run("pretrain", data, tmp_path / "x", "--resume", tmp_path / name, code=1)[1].startswith("error: ")


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_undo_forget_and_rename(taught: Path, tmp_path: Path) -> None:
    before = taught.read_bytes()
    run("learn", taught, write_lesson(tmp_path / "again", ["red"], first_seed=50))
    out, _ = run("undo", taught)
    assert "1 lessons, 3 classes: blue, green, red" in out
    assert taught.read_bytes() == before
    refused = assert_refused(taught, "undo", taught)
    assert "nothing can be undone" in refused
    assert "cannot be saved" not in refused
    run("rename", taught, "red", "crimson")
    assert [entry["name"] for entry in json.loads(run("info", taught, "--json")[0])["classes"]] == ["blue", "green", "crimson"]
    assert "expected one of blue, green, crimson, got 'red'" in assert_refused(taught, "forget", taught, "red")
    assert previous_of(taught).exists()
    out, _ = run("forget", taught, "crimson")
    assert "it knows 2 classes. This cannot be undone." in out
    assert not previous_of(taught).exists()
    assert b"crimson" not in taught.read_bytes()
    result = json.loads(run("predict", taught, write_lesson(tmp_path / "test", ["blue", "green"], first_seed=1000), "--json")[0])
    assert result["accuracy"] >= 0.9


def test_a_state_that_was_overwritten_comes_back(taught: Path) -> None:
    before = taught.read_bytes()
    run("new", taught, "--force", "--capacity", 5)
    run("undo", taught)
    assert taught.read_bytes() == before


def test_a_damaged_state_is_told_and_the_one_before_is_used(taught: Path, tmp_path: Path) -> None:
    run("learn", taught, write_lesson(tmp_path / "again", ["red"], first_seed=50))
    taught.write_bytes(taught.read_bytes()[:-1])
    out, err = run("predict", taught, write_lesson(tmp_path / "test", ["blue"], first_seed=1000))
    assert "went back to" in err
    assert "accuracy" in out
    out, err = run("info", taught, "--json")
    assert json.loads(out)["lessons"] == 1
    assert "went back to" in err


def test_two_commands_at_once(taught: Path, tmp_path: Path) -> None:
    with StateFile(taught):
        for words in (("learn", taught, tmp_path / "lesson"), ("forget", taught, "red"), ("rename", taught, "red", "x"), ("undo", taught)):
            assert "another process is changing it" in assert_refused(taught, *words)
        run("predict", taught, tmp_path / "lesson")


def test_merge_takes_over_what_another_device_was_taught(taught: Path, tmp_path: Path) -> None:
    run("new", tmp_path / "one.state", "--capacity", 20)
    run("new", tmp_path / "two.state", "--capacity", 20)
    run("learn", tmp_path / "one.state", write_lesson(tmp_path / "dark", ["blue"], first_seed=50))
    run("learn", tmp_path / "two.state", write_lesson(tmp_path / "light", ["green", "red"], first_seed=50))
    others = (tmp_path / "two.state").read_bytes()
    out, _ = run("merge", tmp_path / "one.state", tmp_path / "two.state")
    assert "knows 3 classes now; new: green, red" in out
    assert (tmp_path / "two.state").read_bytes() == others
    result = json.loads(run("predict", tmp_path / "one.state", tmp_path / "lesson", "--json")[0])
    assert result["accuracy"] >= 0.9
    run("undo", tmp_path / "one.state")
    assert Learner.load(tmp_path / "one.state").names == ["blue"]
    assert "no such file" in assert_refused(taught, "merge", taught, tmp_path / "none.state")
    (tmp_path / "bad.state").write_bytes(b"x" * 99)
    assert "bad.state" in assert_refused(taught, "merge", taught, tmp_path / "bad.state")


def test_what_is_unknown_is_called_so_when_asked(state: Path, tmp_path: Path) -> None:
    run("learn", state, write_lesson(tmp_path / "lesson", ["blue", "green"]))
    test = write_lesson(tmp_path / "test", ["blue", "red"], first_seed=70)
    out, _ = run("predict", state, test, "--reject", "0.1")
    assert "pictures of known classes called unknown: " in out
    assert out.splitlines()[-1].endswith(f" of {PICTURES}")
    result = json.loads(run("predict", state, test, "--reject", "0.1", "--json")[0])
    assert result["false_rejects"]["of"] == result["false_accepts"]["of"] == PICTURES
    unknown = [image["unknown"] for image in result["images"] if image["class"] == "red"]
    assert result["false_accepts"]["count"] == PICTURES - sum(unknown)
    assert sum(unknown) > PICTURES // 2
    assert "unknown; of what it knows most like" in run("predict", state, *sorted((test / "red").iterdir()), "--reject", "0.1")[0]
    for bad in ("0", "1", "-1", "nan"):
        assert "expected a share between 0 and 1" in assert_refused(state, "predict", state, test, "--reject", bad)


def test_new_takes_a_head_and_views(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    for head, views in (("cwr", 1), ("lda", 6)):
        state = tmp_path / f"{head}.state"
        run("new", state, "--capacity", 10, "--head", head, "--views", views)
        run("learn", state, lesson)
        assert json.loads(run("info", state, "--json")[0])["head"] == head
        assert Learner.load(state).settings.views == views
        assert json.loads(run("predict", state, lesson, "--json")[0])["accuracy"] >= 0.9
    for option, value, message in (
        ("--head", "knn", "head: expected lda or cwr, got 'knn'"),
        ("--views", 3, "views: expected 1, 2 or 6, got 3"),
    ):
        assert message in run("new", tmp_path / "none.state", option, value, code=1)[1]
        assert not (tmp_path / "none.state").exists()
    state = tmp_path / "lda.state"
    assert "views: expected 1, 2 or 6, or None, got 4" in assert_refused(state, "predict", state, lesson, "--views", 4)


def test_heads_of_two_kinds_are_not_merged(tmp_path: Path) -> None:
    lesson = write_lesson(tmp_path / "lesson", ["blue", "red"])
    for head in ("lda", "cwr"):
        run("new", tmp_path / head, "--capacity", 10, "--head", head)
        run("learn", tmp_path / head, lesson)
    said = assert_refused(tmp_path / "lda", "merge", tmp_path / "lda", tmp_path / "cwr")
    assert "expected head lda, as the first, got cwr; only devices that learn alike can be merged" in said


def test_info_of_a_backbone_by_name() -> None:
    assert json.loads(run("info", "reactnet-32", "--json")[0])["name"] == "reactnet-32"
    assert json.loads(run("info", "--json")[0])["name"] == "quicknet-32"
    assert "no such file" in run("info", "quicknet-33", code=1)[1]
