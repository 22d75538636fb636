"""Named sets in their public layouts, on miniatures in those layouts; what is missing or damaged is said, and where sets are found."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra demo)")

from bitreplay.datasets.image_sets import ImageSet  # noqa: E402
from bitreplay.datasets.pictures import decode_image  # noqa: E402
from bitreplay.datasets.public import PictureSets, hold_out, load_cached, load_set  # noqa: E402

RNG = np.random.default_rng(0)
FINE = tuple(f"fine_{number}" for number in range(100))
TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def records(labels: list[list[int]]) -> tuple[bytes, np.ndarray]:
    """CIFAR's binary records with random pictures, and the pictures as they must come out."""
    images = RNG.integers(0, 256, (len(labels), 32, 32, 3), np.uint8)
    rows = [bytes(label) + image.transpose(2, 0, 1).tobytes() for label, image in zip(labels, images, strict=True)]
    return b"".join(rows), images


def write_cifar10(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    place = folder / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    (place / "batches.meta.txt").write_text("\n".join(TEN) + "\n\n")
    train = []
    for number in range(1, 6):
        content, images = records([[number], [number + 1]])
        (place / f"data_batch_{number}.bin").write_bytes(content)
        train.append(images)
    content, test = records([[9], [0], [3]])
    (place / "test_batch.bin").write_bytes(content)
    return np.concatenate(train), test


def write_cifar100(folder: Path) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fine_label_names.txt").write_text("\n".join(FINE))
    content, images = records([[7, 99], [8, 0], [19, 41]])
    (folder / "train.bin").write_bytes(content)
    (folder / "test.bin").write_bytes(records([[1, 2]])[0])
    return images


@pytest.mark.parametrize("inside", [False, True])
def test_cifar_10_binary(tmp_path: Path, inside: bool) -> None:
    train, test = write_cifar10(tmp_path)
    sets = load_set("cifar10", tmp_path / "cifar-10-batches-bin" if inside else tmp_path, 32)
    assert np.array_equal(sets.train.images, train)
    assert np.array_equal(sets.test.images, test)
    assert sets.train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert sets.test.labels.tolist() == [9, 0, 3]
    assert sets.train.labels.dtype == np.int64
    assert sets.train.names == sets.test.names == TEN


def test_cifar_100_binary_gives_fine_labels(tmp_path: Path) -> None:
    images = write_cifar100(tmp_path / "cifar-100-binary")
    sets = load_set("cifar100", tmp_path, 32)
    assert sets.train.labels.tolist() == [99, 0, 41]
    assert np.array_equal(sets.train.images, images)
    assert sets.train.names == FINE
    assert sets.test.labels.tolist() == [2]


def test_cifar_in_another_size_is_what_decoding_makes_of_it(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    whole, small = load_set("cifar10", tmp_path, 32).train.images, load_set("cifar10", tmp_path, 16).train.images
    for picture, expected in zip(whole, small, strict=True):
        Image.fromarray(picture).save(tmp_path / "one.png")
        assert np.array_equal(decode_image(tmp_path / "one.png", 16), expected)


def test_damaged_records_are_refused(tmp_path: Path) -> None:
    write_cifar10(tmp_path)
    place = tmp_path / "cifar-10-batches-bin"
    content = (place / "data_batch_3.bin").read_bytes()
    (place / "data_batch_3.bin").write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: expected records of 3073 bytes, got 6145 bytes"):
        load_set("cifar10", tmp_path, 32)
    (place / "data_batch_3.bin").write_bytes(content[:3073] + b"\x0a" + content[3074:])
    with pytest.raises(ValueError, match=r"data_batch_3\.bin: record 1: expected a class below 10, got 10"):
        load_set("cifar10", tmp_path, 32)
    (place / "data_batch_3.bin").unlink()
    with pytest.raises(ValueError, match=r"found no data_batch_3\.bin; the set is at https://www\.cs\.toronto\.edu"):
        load_set("cifar10", tmp_path, 32)


@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "fine_label")])
def test_parquet_is_read_where_it_is_there(tmp_path: Path, image: str, label: str) -> None:
    pa = pytest.importorskip("pyarrow", reason="parquet needs pyarrow (extra test)")
    import pyarrow.parquet as pq

    (tmp_path / "cifar100").mkdir()
    for split, colour in (("train", 10), ("test", 20)):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (colour, 0, 0)).save(file, "PNG")
        cells = pa.array([{"bytes": file.getvalue()}], pa.struct([("bytes", pa.binary())]))
        pq.write_table(pa.table({image: cells, label: [1], "coarse_label": [7]}), tmp_path / "cifar100" / f"{split}-00000-of-00001.parquet")
    sets = load_set("cifar100", tmp_path, 4)
    assert (sets.train.images[0, 0, 0, 0], sets.test.images[0, 0, 0, 0]) == (10, 20)
    assert sets.train.labels.tolist() == [1]
    (tmp_path / "cifar100" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"expected test\*\.parquet or valid\*\.parquet beside train\*\.parquet, found none"):
        load_set("cifar100", tmp_path, 4)


# -- Tiny-ImageNet ------------------------------------------------------------------------------------------------------------------------


def flat(path: Path, value: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value, value)).save(path, "JPEG" if path.suffix == ".JPEG" else "PNG")


def write_tiny_imagenet(folder: Path) -> Path:
    root = folder / "tiny-imagenet-200"
    for number, wnid in enumerate(("n03", "n01", "n02")):
        for picture in range(2):
            flat(root / "train" / wnid / "images" / f"{wnid}_{picture}.JPEG", 50 * number + 10 * picture)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("")
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn99\tother\n")
    for picture, value in ((0, 200), (1, 210)):
        flat(root / "val" / "images" / f"val_{picture}.JPEG", value)
    (root / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn02\t0\t0\t5\t5\nval_0.JPEG\tn03\t0\t0\t5\t5\n")
    flat(root / "test" / "images" / "test_0.JPEG", 255)
    return root


def test_tiny_imagenet_folders(tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path)
    for folder in (tmp_path, root):
        sets = load_set("tiny-imagenet", folder, 8)
        assert sets.train.names == ("n01 goldfish", "n02 bullfrog", "n03")
        assert sets.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert sets.train.images[:, 4, 4, 0].tolist() == [50, 60, 100, 110, 0, 10]
        assert sets.test.labels.tolist() == [1, 2]
        assert sets.test.images[:, 4, 4, 0].tolist() == [210, 200]
    assert sets.train_files[0] == "train/n01/images/n01_0.JPEG"


def test_damaged_tiny_imagenet_is_refused(tmp_path: Path) -> None:
    root = write_tiny_imagenet(tmp_path)
    notes = root / "val" / "val_annotations.txt"
    whole = notes.read_text()
    notes.write_text(whole + "val_2.JPEG\tn77\t0\n")
    with pytest.raises(ValueError, match=r"val_annotations\.txt: line 3: expected a picture and one of the ids of wnids\.txt, got 'val_2"):
        load_set("tiny-imagenet", tmp_path, 8)
    notes.write_text(whole)
    (root / "val" / "images" / "val_0.JPEG").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"val/images/val_0\.JPEG: cannot be read as a picture"):
        load_set("tiny-imagenet", tmp_path, 8)
    notes.unlink()
    with pytest.raises(ValueError, match=r"val_annotations\.txt: expected the classes of the pictures in val/images, found no such file"):
        load_set("tiny-imagenet", tmp_path, 8)
    for path in (root / "train" / "n02" / "images").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"train/n02/images: expected \*\.JPEG, found none"):
        load_set("tiny-imagenet", tmp_path, 8)


# -- any folder -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["test", "valid", "val"])
def test_a_folder_with_a_split(tmp_path: Path, split: str) -> None:
    for path, value in (("train/b/1.png", 1), ("train/a/1.png", 2), (f"{split}/b/9.png", 3)):
        flat(tmp_path / path, value)
    sets = load_set("folder", tmp_path, 8)
    assert sets.train.names == sets.test.names == ("a", "b")
    assert sets.train.images[:, 0, 0, 0].tolist() == [2, 1]
    assert (sets.test.labels.tolist(), sets.test_files) == ([1], (f"{split}/b/9.png",))
    assert sets.train_files == ("train/a/1.png", "train/b/1.png")


def test_of_a_plain_folder_a_share_of_every_class_is_held_out(tmp_path: Path) -> None:
    for name, count in (("a", 10), ("b", 5)):
        for number in range(count):
            flat(tmp_path / name / f"{number}.png", number)
    sets = load_set("folder", tmp_path, 8, test_share=0.4)
    assert np.bincount(sets.train.labels).tolist() == [6, 3]
    assert np.bincount(sets.test.labels).tolist() == [4, 2]
    assert sorted(sets.train_files + sets.test_files) == sorted(f"{n}/{i}.png" for n, c in (("a", 10), ("b", 5)) for i in range(c))
    assert sets.test_files == load_set("folder", tmp_path, 8, test_share=0.4).test_files
    assert [int(Path(file).stem) for file in sets.test_files] == sets.test.images[:, 0, 0, 0].tolist()
    flat(tmp_path / "c" / "0.png", 0)
    with pytest.raises(ValueError, match=r"c: expected pictures to learn and to test on, got 1"):
        load_set("folder", tmp_path, 8)


def test_folders_that_are_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a subfolder per class with pictures in it"):
        load_set("folder", tmp_path, 8)
    flat(tmp_path / "train" / "a" / "1.png", 1)
    with pytest.raises(ValueError, match="expected test/ or valid/ beside train/, found neither"):
        load_set("folder", tmp_path, 8)
    flat(tmp_path / "test" / "z" / "1.png", 1)
    with pytest.raises(ValueError, match=r"test: expected the classes of .*train, got z"):
        load_set("folder", tmp_path, 8)


# -- all of them ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "looked", "home"),
    [
        ("cifar10", "cifar-10-batches-bin/data_batch_1.bin", "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version"),
        ("cifar100", "cifar-100-binary/train.bin", "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version"),
        ("tiny-imagenet", "tiny-imagenet-200/wnids.txt", "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    ],
)
def test_a_missing_set_says_where_it_was_looked_for_and_where_it_is(tmp_path: Path, name: str, looked: str, home: str) -> None:
    with pytest.raises(ValueError, match="looked for") as raised:
        load_set(name, tmp_path, 32)
    for part in (str(tmp_path), "train*.parquet", looked, home):
        assert part in str(raised.value)
    with pytest.raises(ValueError, match=f"none: expected a folder with {name}, found none; the set is at http"):
        load_set(name, tmp_path / "none", 32)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set: expected one of cifar10, cifar100, tiny-imagenet, core50, folder, got 'mnist'"):
        load_set("mnist", tmp_path, 32)
    with pytest.raises(ValueError, match="labels: expected one of object, category, got 'session'"):
        load_set("core50", tmp_path, 32, labels="session")


def test_held_out_pictures_come_from_the_training_set() -> None:
    labels = np.arange(100) % 7
    images = np.arange(100, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    train = ImageSet(images, labels, tuple("abcdefg"))
    sets = PictureSets(train, ImageSet(images[:1] + 200, labels[:1], train.names), tuple(map(str, range(100))), ("t",))
    held = hold_out(sets, 0.2)
    assert (len(held.train), len(held.test)) == (80, 20)
    assert sorted(np.concatenate([held.train.images, held.test.images]).reshape(100, 3)[:, 0].tolist()) == list(range(100))
    assert held.test_files == tuple(str(value) for value in held.test.images[:, 0, 0, 0])
    assert held.train.labels.tolist() == [value % 7 for value in held.train.images[:, 0, 0, 0].tolist()]
    # The rows that benchmarks/accuracy.py holds out, so that settings chosen there stay chosen.
    assert held.test.images[:, 0, 0, 0].tolist() == np.random.default_rng(0).permutation(100)[80:].tolist()
    with pytest.raises(ValueError, match="valid: expected a share that leaves pictures on both sides"):
        hold_out(sets, 0.001)


def test_a_changed_folder_is_read_again(tmp_path: Path) -> None:
    folder, cache = tmp_path / "data", tmp_path / "cache"
    for path, value in (("train/a/1.png", 1), ("test/a/1.png", 2)):
        flat(folder / path, value)
    assert load_cached("folder", folder, 8, cache).train.images[0, 0, 0, 0] == 1
    flat(folder / "train/a/1.png", 7)
    os.utime(folder / "train/a/1.png", ns=(1, 1))
    sets = load_cached("folder", folder, 8, cache)
    assert sets.train.images[0, 0, 0, 0] == 7
    assert sets.train.images.flags.writeable
    assert load_cached("folder", folder, 4, cache).train.images.shape == (1, 4, 4, 3)
