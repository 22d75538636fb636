"""CORe50's layout, on a miniature in that layout: what is read, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra demo)")

from bitreplay.datasets.core50 import OBJECTS, list_pictures, parse_picture, read_run  # noqa: E402
from bitreplay.datasets.public import hold_out, load_cached, load_set  # noqa: E402
from bitreplay.experiments.perform import make_stream  # noqa: E402
from bitreplay.experiments.protocol import read_protocol  # noqa: E402

SESSIONS = (1, 2, 3, 7, 10, 11)
TRAINED = (1, 2, 11)
SHOWN = (1, 2, 6, 10)  # two plug adapters, two mobile phones
FRAMES = (0, 1, 2, 9, 10)


def name(session: int, number: int, frame: int) -> str:
    return f"s{session}/o{number}/C_{session:02}_{number:02}_{frame:03}.png"


def colour(session: int, number: int, frame: int) -> tuple[int, int, int]:
    return session * 20, number * 20, frame * 20


def write_list(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def of(objects: tuple[int, ...], sessions: tuple[int, ...], label: dict[int, int], frames: tuple[int, ...] = FRAMES) -> list[str]:
    return [f"{name(session, number, frame)} {label[number]}" for session in sessions for number in objects for frame in frames]


def write_core50(folder: Path) -> Path:
    """A miniature of the distribution: six sessions, four objects, five frames; NC, NI and NICv2 lists."""
    for session in SESSIONS:
        for number in SHOWN:
            (folder / "core50_128x128" / f"s{session}" / f"o{number}").mkdir(parents=True)
            for frame in FRAMES:
                picture = Image.new("RGB", (16, 16), colour(session, number, frame))
                picture.save(folder / "core50_128x128" / name(session, number, frame))
    plain = {number: number - 1 for number in SHOWN}
    # Labels of NC count the classes as they come, so that they differ from run to run.
    for run, order in enumerate(((1, 6, 2, 10), (1, 6, 10, 2))):
        where = folder / "batches_filelists" / "NC_inc" / f"run{run}"
        label = {number: place for place, number in enumerate(order)}
        for batch, objects in enumerate((order[:2], order[2:3], order[3:])):
            write_list(where / f"train_batch_{batch:02}_filelist.txt", of(objects, TRAINED, label))
        write_list(where / "test_filelist.txt", of(SHOWN, (3, 7, 10), label))
    where = folder / "batches_filelists" / "NI_inc" / "run0"
    for batch, session in enumerate((11, 1, 2)):
        write_list(where / f"train_batch_{batch:02}_filelist.txt", of(SHOWN, (session,), plain))
    write_list(where / "test_filelist.txt", of(SHOWN, (3, 7, 10), plain, (0, 10)))
    # NICv2's archive has no folder of its own, and more digits.
    where = folder / "NIC_v2_391" / "run0"
    batches = (
        [of((1, 6), (1, 2), plain)]
        + [of((number,), (session,), plain) for session in TRAINED for number in (2, 10)]
        + [of((1,), (11,), plain)]
    )
    for batch, lines in enumerate(batches):
        write_list(where / f"train_batch_{batch:03}_filelist.txt", lines)
    write_list(where / "test_filelist.txt", of(SHOWN, (3, 7, 10), plain))
    return folder


@pytest.fixture(scope="module")
def core50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_core50(tmp_path_factory.mktemp("core50"))


@pytest.mark.parametrize("inside", [False, True])
def test_pictures_are_read_in_the_order_of_numbers(core50: Path, inside: bool) -> None:
    sets = load_set("core50", core50 / "core50_128x128" if inside else core50, 8)
    expected = [(s, o, f) for s in TRAINED for o in SHOWN for f in FRAMES]
    assert sets.train_files == tuple(name(*place) for place in expected)
    assert sets.train.images[:, 4, 4].tolist() == [list(colour(*place)) for place in expected]
    assert sets.train.labels.tolist() == [o - 1 for _, o, _ in expected]
    assert sets.test_files == tuple(name(s, o, f) for s in (3, 7, 10) for o in SHOWN for f in FRAMES)
    assert sets.test.images.shape == (60, 8, 8, 3)
    assert sets.train.names == OBJECTS
    assert (len(OBJECTS), OBJECTS[0], OBJECTS[9], OBJECTS[49]) == (50, "plug_adapter1", "mobile_phone5", "remote_control5")


def test_categories_are_five_objects_each(core50: Path) -> None:
    sets = load_set("core50", core50, 8, labels="category")
    assert len(sets.train.names) == 10
    assert dict(zip((file.split("/")[1] for file in sets.train_files), sets.train.labels.tolist(), strict=True)) == {
        "o1": 0,
        "o2": 0,
        "o6": 1,
        "o10": 1,
    }


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("s11/o1/C_11_01_000.png", (11, 1, 0)),
        ("s1/o50/C_1_50_7.png", (1, 50, 7)),
        ("s1/o1/C_01_02_000.png", None),
        ("s2/o1/C_01_01_000.png", None),
        ("s1/o51/C_01_51_000.png", None),
        ("s1/o0/C_01_00_000.png", None),
        ("s1/o1/D_01_01_000.png", None),
        ("../s1/o1/C_01_01_000.png", None),
    ],
)
def test_names_of_pictures(file: str, expected: tuple[int, int, int] | None) -> None:
    found = parse_picture(file)
    assert (None if found is None else (found.session, found.object, found.frame)) == expected


def experiences(folder: Path, protocol: str, seed: int, split: str = "test") -> tuple[list[list[str]], list[str]]:
    """Files of each experience and of the test pictures, as runs make them of a shipped protocol."""
    sets = load_set("core50", folder, 8)
    sets = hold_out(sets, 0.2) if split == "valid" else sets
    stream, rows = make_stream(read_protocol(protocol).stream, sets, folder, split, seed)
    tested = sets.test_files if rows is None else [sets.test_files[row] for row in rows]
    return [[sets.train_files[row] for row in experience.rows] for experience in stream], list(tested)


def objects(files: list[str]) -> set[int]:
    return {int(file.split("/")[1][1:]) for file in files}


def test_nc_follows_the_lists_of_the_run_whatever_its_labels_are(core50: Path) -> None:
    for run, order in enumerate(([{1, 6}, {2}, {10}], [{1, 6}, {10}, {2}])):
        found, tested = experiences(core50, "core50-nc", run)
        assert [objects(files) for files in found] == order
        assert [len(files) for files in found] == [30, 15, 15]
        assert len(tested) == 60
    labels = load_set("core50", core50, 8).train.labels
    assert set(labels.tolist()) == {0, 1, 5, 9}


def test_ni_is_a_session_an_experience_and_tests_on_the_listed_frames(core50: Path) -> None:
    found, tested = experiences(core50, "core50-ni", 0)
    assert [{file.split("/")[0] for file in files} for files in found] == [{"s11"}, {"s1"}, {"s2"}]
    assert all(objects(files) == set(SHOWN) for files in found)
    assert len(tested) == 3 * len(SHOWN) * 2


def test_nicv2_is_found_outside_the_folder_of_lists_and_with_any_number_of_digits(core50: Path) -> None:
    found, _ = experiences(core50, "core50-nicv2-391", 0)
    assert [objects(files) for files in found] == [{1, 6}, {2}, {10}, {2}, {10}, {2}, {10}, {1}]
    assert sum(len(files) for files in found) == 20 + 30 + 5


def test_the_end_of_each_film_is_held_out(core50: Path) -> None:
    found, tested = experiences(core50, "core50-nc", 0, "valid")
    assert sorted(tested) == sorted(name(s, o, 10) for s in TRAINED for o in SHOWN)
    assert [len(files) for files in found] == [24, 12, 12]
    assert not {file for files in found for file in files} & set(tested)


def test_it_is_decoded_once(core50: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_cached("core50", core50, 8, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("bitreplay.datasets.public.decode_image", None)  # must not be asked for again
        again = load_cached("core50", core50, 8, tmp_path)
    for one, other in ((first.train, again.train), (first.test, again.test)):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
        assert one.names == other.names
    assert (first.train_files, first.test_files) == (again.train_files, again.test_files)
    assert first.videos is not None
    assert again.videos is not None
    assert first.videos.tolist() == again.videos.tolist()


# -- what is refused ------------------------------------------------------------------------------------------------------------------


def test_where_it_was_looked_for_and_where_it_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked in .*core50_128x128 and .*https://vlomonaco.github.io/core50") as raised:
        load_set("core50", tmp_path, 8)
    assert str(tmp_path) in str(raised.value)
    with pytest.raises(ValueError, match=r"none: expected a folder with core50, found none; the set is at https://vlomonaco"):
        load_set("core50", tmp_path / "none", 8)
    (tmp_path / "s1" / "o1").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / name(1, 1, 0))
    with pytest.raises(ValueError, match=r"expected pictures of the test sessions 3, 7, 10, .* found none"):
        list_pictures(tmp_path)


def test_missing_lists_are_named(core50: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"run files of NC_inc, run 7, looked in .*batches_filelists/NC_inc/run7, .*NICv2"):
        read_run(core50, "NC_inc", 7)
    where = tmp_path / "NC_inc" / "run0"
    write_list(where / "test_filelist.txt", ["s3/o1/C_03_01_000.png 0"])
    with pytest.raises(ValueError, match=r"expected train_batch_00_filelist\.txt and its successors, found none of experience 0"):
        read_run(tmp_path, "NC_inc", 0)
    write_list(where / "train_batch_00_filelist.txt", ["s1/o1/C_01_01_000.png 0"])
    write_list(where / "train_batch_02_filelist.txt", ["s1/o1/C_01_01_001.png 0"])
    with pytest.raises(ValueError, match="found none of experience 1"):
        read_run(tmp_path, "NC_inc", 0)
    write_list(where / "train_batch_1_filelist.txt", ["", "s1/o1/C_01_01_002.png 0", ""])
    assert read_run(tmp_path, "NC_inc", 0).experiences["batch 1"] == ("s1/o1/C_01_01_002.png",)
    write_list(where / "train_batch_01_filelist.txt", ["s1/o1/C_01_01_002.png 0"])
    with pytest.raises(ValueError, match="expected one file of experience 1, found train_batch_01"):
        read_run(tmp_path, "NC_inc", 0)
    (where / "train_batch_01_filelist.txt").unlink()
    (where / "test_filelist.txt").unlink()
    with pytest.raises(ValueError, match=r"expected test_filelist\.txt"):
        read_run(tmp_path, "NC_inc", 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["s1/o1/C_01_01_000.png"], r"line 1: expected a picture and a label, as .*, got 's1/o1/C_01_01_000.png'"),
        (["s1/o1/C_01_01_000.png 0", "s1/o1/C_01_01_001.png one"], "line 2: expected a picture and a label"),
        (["s1/o1/C_01_02_000.png 0"], "line 1: expected a picture and a label"),
        (["s1/o1/C_01_01_000.png 0", "s2/o1/C_02_01_000.png 1"], "line 2: expected label 0 for object 1, as in the files before it, got 1"),
        (["s1/o1/C_01_01_000.png 0", "s1/o6/C_01_06_000.png 0"], "line 2: label 0: expected objects of one category, got 1 and 6"),
        ([], "expected pictures, found none"),
    ],
)
def test_lines_that_are_none_are_named(tmp_path: Path, lines: list[str], message: str) -> None:
    where = tmp_path / "NI_inc" / "run0"
    write_list(where / "train_batch_00_filelist.txt", lines)
    write_list(where / "test_filelist.txt", ["s3/o1/C_03_01_000.png 0"])
    with pytest.raises(ValueError, match=r"train_batch_00_filelist\.txt: " + message):
        read_run(tmp_path, "NI_inc", 0)


def test_a_test_picture_that_is_not_there_is_named(core50: Path) -> None:
    sets = load_set("core50", core50, 8)
    short = type(sets)(sets.train, sets.test, sets.train_files, sets.test_files[1:], sets.videos)
    with pytest.raises(ValueError, match=f"expected the test picture {name(3, 1, 0)}, found no such file"):
        make_stream(read_protocol("core50-nc").stream, short, core50, "test", 0)
