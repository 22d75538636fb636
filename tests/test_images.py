"""Pictures of any size, colour and orientation become the one square that a network reads (docs/method.md, 1)."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow (extra demo)")

from bitreplay.datasets.pictures import decode_image  # noqa: E402

QUADRANTS = np.array([[10, 80], [150, 220]], np.uint8)


def coded(picture: Any, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    file.seek(0)
    return file


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(values: np.ndarray) -> np.ndarray:
    """RGB of grey values."""
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=-1)


def decode(picture: Any, size: int, kind: str = "PNG", **options: Any) -> np.ndarray:
    result = decode_image(coded(picture, kind, **options), size)
    assert result.shape == (size, size, 3)
    assert result.dtype == np.uint8
    return result


# -- size ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TGA", "TIFF"])
def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path: Path, kind: str) -> None:
    pixels = noise(8, 8)
    path = tmp_path / "picture without a suffix"
    path.write_bytes(coded(Image.fromarray(pixels), kind).getvalue())
    assert np.array_equal(decode_image(path, 8), pixels)
    with open(path, "rb") as file:
        assert np.array_equal(decode_image(file, 8), pixels)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(4, 6, (0, 4), (1, 5)), (4, 7, (0, 4), (1, 5)), (9, 4, (2, 6), (0, 4))])
def test_the_largest_centred_square_is_cut_out(height: int, width: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    pixels = noise(height, width)
    assert np.array_equal(decode(Image.fromarray(pixels), 4), pixels[slice(*rows), slice(*columns)])


@pytest.mark.parametrize("factor", [2, 4])
def test_a_shrunk_pixel_is_the_mean_of_its_box(factor: int) -> None:
    size = 5
    pixels = noise(size * factor, size * factor) // 16 * 16  # so that the means are whole numbers
    boxes = pixels.reshape(size, factor, size, factor, 3).mean(axis=(1, 3))
    assert np.array_equal(boxes, np.rint(boxes))
    assert np.array_equal(decode(Image.fromarray(pixels), size), boxes)


def test_shrinking_comes_after_the_cut() -> None:
    pixels = noise(8, 14) // 16 * 16
    boxes = pixels[:, 3:11].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.array_equal(decode(Image.fromarray(pixels), 4), boxes)


def test_a_picture_that_grows_is_interpolated() -> None:
    picture = Image.fromarray(noise(4, 4))
    expected = np.asarray(picture.resize((8, 8), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(picture, 8), expected)
    assert not np.array_equal(expected, np.asarray(picture.resize((8, 8), Image.Resampling.BOX)))


def test_one_pixel_fills_the_square() -> None:
    assert (decode(Image.new("RGB", (1, 1), (7, 99, 201)), 8) == (7, 99, 201)).all()
    assert (decode(Image.new("RGB", (1, 300), (7, 99, 201)), 8) == (7, 99, 201)).all()


def test_a_large_jpeg_keeps_its_layout() -> None:
    pixels = np.kron(QUADRANTS, np.ones((512, 512), np.uint8))  # decoded at an eighth of its size
    result = decode(Image.fromarray(grey(pixels)), 16, "JPEG", quality=100)
    assert np.array_equal(result, grey(np.kron(QUADRANTS, np.ones((8, 8), np.uint8))))


# -- orientation --------------------------------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_picture_is_turned_upright(kind: str, orientation: int) -> None:
    pixels = noise(6, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(decode(Image.fromarray(pixels), 6, kind, exif=exif), UPRIGHT[orientation](pixels))


def test_a_photo_is_turned_before_it_is_cut() -> None:
    wide = np.zeros((32, 64), np.uint8)
    wide[:16] = 200  # the upper half; after a turn to the right it is the right one
    exif = Image.Exif()
    exif[0x0112] = 6
    result = decode(Image.fromarray(grey(wide)), 32, "JPEG", exif=exif, quality=100)
    expected = np.zeros((32, 32), np.uint8)
    expected[:, 16:] = 200
    assert np.array_equal(result, grey(expected))


# -- colour -------------------------------------------------------------------------------------------------------------------


def test_grey_becomes_rgb() -> None:
    assert np.array_equal(decode(Image.fromarray(QUADRANTS), 2), grey(QUADRANTS))
    assert np.array_equal(decode(Image.fromarray(QUADRANTS), 2, "PPM"), grey(QUADRANTS))


def test_black_and_white_become_rgb() -> None:
    bits = np.array([[0, 255], [255, 255]], np.uint8)
    for kind in ("PNG", "TIFF", "PPM"):
        assert np.array_equal(decode(Image.fromarray(bits).convert("1"), 2, kind), grey(bits))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_keeps_its_upper_half(kind: str) -> None:
    deep = np.array([[0, 255], [256, 65535]], np.uint16)
    assert np.array_equal(decode(Image.fromarray(deep), 2, kind), grey(np.array([[0, 0], [1, 255]])))


def test_what_is_transparent_is_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., :3] = (250, 10, 20)
    pixels[0, :, 3] = 255, 0
    pixels[1, 0] = 0, 0, 0, 128
    expected = np.array([[(250, 10, 20), (255, 255, 255)], [(127, 127, 127), (255, 255, 255)]], np.uint8)
    for kind in ("PNG", "TIFF", "TGA"):
        assert np.array_equal(decode(Image.fromarray(pixels), 2, kind), expected)


def test_transparent_grey_is_white() -> None:
    pixels = np.array([[[90, 255], [90, 0]], [[0, 128], [255, 255]]], np.uint8)
    assert np.array_equal(decode(Image.fromarray(pixels), 2), grey(np.array([[90, 255], [127, 255]])))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(kind: str) -> None:
    picture = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8))
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert picture.mode == "P"
    expected = np.array([[(200, 0, 0), (255, 255, 255)], [(0, 0, 200), (255, 255, 255)]], np.uint8)
    assert np.array_equal(decode(picture, 2, kind, transparency=1), expected)
    expected[:, 1] = 0, 200, 0
    assert np.array_equal(decode(picture, 2, kind), expected)


def test_one_transparent_colour_of_rgb_is_white() -> None:
    pixels = np.array([[(1, 2, 3), (9, 9, 9)], [(9, 9, 9), (4, 5, 6)]], np.uint8)
    expected = pixels.copy()
    expected[0, 1] = expected[1, 0] = 255
    assert np.array_equal(decode(Image.fromarray(pixels), 2, transparency=(9, 9, 9)), expected)


def test_inks_become_colours() -> None:
    inks = np.zeros((2, 2, 4), np.uint8)
    inks[0, 1, 0] = inks[1, 0, 3] = inks[1, 1, 1] = 255  # none, cyan, black, magenta
    expected = np.array([[(255, 255, 255), (0, 255, 255)], [(0, 0, 0), (255, 0, 255)]], np.uint8)
    assert np.array_equal(decode(Image.frombytes("CMYK", (2, 2), inks.tobytes()), 2, "TIFF"), expected)
    white = Image.new("CMYK", (16, 16))
    assert (decode(white, 8, "JPEG", quality=100) == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_of_a_moving_picture_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(frames[0], 4, kind, save_all=True, append_images=frames[1:], **options) == (255, 0, 0)).all()


# -- what is no picture ---------------------------------------------------------------------------------------------------------

JUNK = [
    b"",
    b"\0",
    b"no picture at all",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
]


@pytest.mark.parametrize("content", JUNK)
def test_a_file_that_is_no_picture_is_an_os_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(OSError, match=r"."):
        decode_image(io.BytesIO(content), 8)
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(OSError, match=r"."):
        decode_image(tmp_path / "x.png", 8)


def test_a_path_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        decode_image(tmp_path / "none.png", 8)
    with pytest.raises(OSError, match=r"."):
        decode_image(tmp_path, 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_half_a_picture_is_an_os_error(kind: str) -> None:
    content = coded(Image.fromarray(noise(64, 64)), kind).getvalue()
    with pytest.raises(OSError, match=r"."):
        decode_image(io.BytesIO(content[: len(content) // 2]), 8)


def test_a_picture_too_large_is_an_os_error(monkeypatch: pytest.MonkeyPatch) -> None:
    file = coded(Image.fromarray(noise(8, 8)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(OSError, match="64 pixels"):
        decode_image(file, 8)


def test_a_photo_whose_exif_contradicts_itself_decodes_or_is_an_os_error() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to turn it, Pillow writes the other entries anew
    exif[0x010E] = "a text"
    content = coded(Image.fromarray(noise(16, 16)), "JPEG", exif=exif).getvalue()
    entry = b"\x01\x0e\x00\x02"  # a description, of type text
    assert content.count(entry) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag in (0x0100, 0x0102, 0x0111, 0x011A, 0x8769, 0x8825):  # numbers, offsets, tables, not text
            damaged = content.replace(entry, tag.to_bytes(2, "big") + entry[2:])
            try:
                assert decode_image(io.BytesIO(damaged), 8).shape == (8, 8, 3)
            except OSError:
                continue


def test_a_surface_of_unknown_kind_is_an_os_error() -> None:
    content = bytearray(coded(Image.fromarray(noise(8, 8)), "DDS").getvalue())
    content[80:84] = bytes(4)  # flags of the pixel format
    with pytest.raises(OSError, match=r"."):
        decode_image(io.BytesIO(bytes(content)), 8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA", "AVIF", "DDS"])
def test_damaged_pictures_decode_or_are_os_errors(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a text"
    options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    if kind == "AVIF" and not Image.registered_extensions().get(".avif"):
        pytest.skip("this Pillow reads no AVIF")
    content = coded(Image.fromarray(noise(24, 20)), kind, **options).getvalue()
    source = random.Random(kind)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it finds
        for _ in range(60 if kind == "AVIF" else 150):
            damaged = bytearray(content)
            for _ in range(source.randint(1, 4)):
                place = source.randrange(min(len(damaged), source.choice([40, 150, 10_000])))
                damaged[place] = source.choice([0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)])
            try:
                assert decode_image(io.BytesIO(bytes(damaged)), 8).shape == (8, 8, 3)
                outcomes.add("decoded")
            except OSError:
                outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}
