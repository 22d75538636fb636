"""Picture sets: parquet as the data sets hub writes it, folders of class folders, splits; what cannot be read is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra demo)")
pa = pytest.importorskip("pyarrow", reason="parquet needs pyarrow (extra test)")
import pyarrow.parquet as pq  # noqa: E402

from bitreplay.datasets.image_sets import read_folder, read_parquet, read_split  # noqa: E402

CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def picture(value: int, size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 255 - value, 7)).save(file, "PNG")
    return file.getvalue()


def pixel(value: int) -> list[int]:
    return [value, 255 - value, 7]


def write_parquet(path: Path, values: list[int], labels: list[Any], feature: dict[str, Any] | None = None, **columns: Any) -> None:
    """Write a file as the `datasets` library does."""
    image = pa.array([{"bytes": picture(v), "path": None} for v in values], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    table = pa.table({"image": image, "label": pa.array(labels, pa.int64()), **columns})
    if feature is not None:
        info = {"info": {"features": {"image": {"_type": "Image"}, "label": feature}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def write_folder(folder: Path, content: dict[str, int]) -> None:
    for name, value in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(value))


# -- parquet --------------------------------------------------------------------------------------------------------------------


def test_parquet_gives_pictures_labels_and_names(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [10, 20, 30], [1, 0, 1], {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]})
    data = read_parquet([tmp_path / "a.parquet"], 6)
    assert data.images.shape == (3, 6, 6, 3)
    assert data.images.dtype == np.uint8
    assert data.images[:, 3, 3].tolist() == [pixel(10), pixel(20), pixel(30)]
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [1, 0, 1]
    assert data.names == ("cat", "dog", "owl")
    assert len(data) == 3


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a", [10, 20], [0, 1], {"names": ["x", "y"]})
    write_parquet(tmp_path / "b", [30], [1], {"names": ["x", "y"]}, more=pa.array(["spare column"]))
    data = read_parquet([tmp_path / "b", tmp_path / "a"], 4)
    assert data.images[:, 0, 0, 0].tolist() == [30, 10, 20]
    assert data.labels.tolist() == [1, 0, 1]


def test_names_of_the_older_convention_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    names = {str(i): f"class {i}" for i in reversed(range(12))}  # as text, 10 and 11 come before 2
    write_parquet(tmp_path / "a", [1, 2], [11, 2], {"class_label": {"names": names}})
    assert read_parquet([tmp_path / "a"], 4).names == tuple(f"class {i}" for i in range(12))


@pytest.mark.parametrize("feature", [None, {}, {"_type": "Value", "dtype": "int64"}])
def test_without_names_classes_are_numbered(tmp_path: Path, feature: dict[str, Any] | None) -> None:
    write_parquet(tmp_path / "a", [1, 2], [0, 2], feature)
    assert read_parquet([tmp_path / "a"], 4).names == ("0", "1", "2")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": [1], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: expected columns image and label, got picture, label"):
        read_parquet([tmp_path / "a.parquet"], 4)


@pytest.mark.parametrize("broken", [b"no picture", b"", None])
def test_a_picture_that_cannot_be_read_is_named_with_its_row(tmp_path: Path, broken: bytes | None) -> None:
    cells = [{"bytes": picture(1)}, {"bytes": picture(2)}, {"bytes": broken}, {"bytes": picture(3)}]
    image = pa.array(cells, pa.struct([("bytes", pa.binary())]))
    pq.write_table(pa.table({"image": image, "label": [0, 1, 0, 1]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: picture in row 2 cannot be read"):
        read_parquet([tmp_path / "b.parquet"], 4)


@pytest.mark.parametrize("labels", [[0, -1, 1], [0, 3, 1], [0, None, 1]])
def test_a_label_without_a_name_is_refused(tmp_path: Path, labels: list[Any]) -> None:
    write_parquet(tmp_path / "c.parquet", [1, 2, 3], labels, {"names": ["x", "y"]})
    with pytest.raises(ValueError, match=r"c\.parquet: label in row 1"):
        read_parquet([tmp_path / "c.parquet"], 4)


def test_pictures_outside_a_struct_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(1)], "label": [0]}), tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=r"d\.parquet"):
        read_parquet([tmp_path / "d.parquet"], 4)


def test_no_pictures_at_all_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one parquet file with pictures, got none"):
        read_parquet([], 4)
    write_parquet(tmp_path / "a", [], [])
    with pytest.raises(ValueError, match="got none"):
        read_parquet([tmp_path / "a"], 4)


# -- folders ----------------------------------------------------------------------------------------------------------------------


def test_a_folder_per_class_is_read_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path, {"dog/2.png": 20, "dog/10.PNG": 30, "cat/deep/er/x.jpeg": 40, "cat/a.gif": 50, "zebra fish/ä.webp": 60})
    data = read_folder(tmp_path, 4)
    assert data.names == ("cat", "dog", "zebra fish")
    assert data.labels.tolist() == [0, 0, 1, 1, 2]
    assert data.images[:, 2, 2].tolist() == [pixel(v) for v in (50, 40, 30, 20, 60)]
    assert data.labels.dtype == np.int64


def test_what_is_hidden_or_no_picture_is_passed_over(tmp_path: Path) -> None:
    write_folder(
        tmp_path,
        {
            "cat/a.png": 10,
            "cat/.hidden.png": 1,
            "cat/.thumbnails/b.png": 2,
            ".git/c.png": 3,
            "loose.png": 4,
            "cat/notes.txt": 5,
            "empty/x.md": 6,
        },
    )
    (tmp_path / "cat" / "folder.png").mkdir()
    (tmp_path / "nothing").mkdir()
    data = read_folder(tmp_path, 4)
    assert data.names == ("cat",)
    assert data.images[:, 0, 0].tolist() == [pixel(10)]


def test_a_broken_picture_in_a_folder_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat/a.png": 10, "dog/b.png": 20})
    (tmp_path / "dog" / "c.png").write_bytes(picture(1)[:40])
    with pytest.raises(ValueError, match=r"dog/c\.png: cannot be read as a picture"):
        read_folder(tmp_path, 4)


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "loose.png").write_bytes(picture(1))
    with pytest.raises(ValueError, match="expected a subfolder per class with pictures in it, found none"):
        read_folder(tmp_path, 4)


# -- splits -------------------------------------------------------------------------------------------------------------------------


def first(folder: Path, split: str) -> int | None:
    data = read_split(folder, split, 4)
    return None if data is None else int(data.images[0, 0, 0, 0])


def test_splits_of_parquet(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-00001-of-00002.parquet", [12], [0])
    write_parquet(tmp_path / "train-00000-of-00002.parquet", [11], [1])
    assert first(tmp_path, "train") == 11
    data = read_split(tmp_path, "train", 4)
    assert data is not None
    assert data.labels.tolist() == [1, 0]
    assert first(tmp_path, "valid") is None
    for name, value in (("test", 1), ("validation-00000-of-00001", 2)):  # a later one has precedence over the earlier
        write_parquet(tmp_path / f"{name}.parquet", [value], [0])
        assert first(tmp_path, "valid") == value
    assert first(tmp_path, "train") == 11


def test_splits_of_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train/cat/a.png": 1, "train/dog/b.png": 2, "val/cat/c.png": 3})
    assert first(tmp_path, "train") == 1
    assert first(tmp_path, "valid") == 3
    data = read_split(tmp_path, "train", 4)
    assert data is not None
    assert data.names == ("cat", "dog")


def test_a_plain_folder_of_class_folders_is_for_training(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat/a.png": 1, "dog/b.png": 2})
    assert first(tmp_path, "train") == 1
    assert first(tmp_path, "valid") is None


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ValueError, match="expected a folder with a data set, found none"):
            read_split(path, "train", 4)


# -- real images --------------------------------------------------------------------------------------------------------------------


def test_cifar_10_is_read_whole(real_data: Path) -> None:
    data = read_split(real_data / "cifar10", "valid", 32)
    assert data is not None
    assert data.images.shape == (10_000, 32, 32, 3)
    assert data.names == CIFAR_NAMES
    assert np.bincount(data.labels).tolist() == [1000] * 10
    rows = pq.ParquetFile(real_data / "cifar10" / "test.parquet").read_row_group(0).slice(0, 20).to_pylist()
    for row, pixels, label in zip(rows, data.images, data.labels, strict=False):
        assert label == row["label"]
        assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")))
