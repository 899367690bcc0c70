"""Bytes of unknown origin become pictures, or are said to be none."""

from pathlib import Path

import numpy as np
import pytest
from encoding import draw, file_bytes
from PIL import Image

from recsys.encoders import pictures as pictures_module
from recsys.encoders.pictures import read_bytes, read_picture
from recsys.errors import UnreadableImage


def test_reading_tells_a_file_from_what_is_none(tmp_path: Path) -> None:
    for path, expected in (
        (tmp_path / "none.jpg", "found nothing"),
        (tmp_path, "a folder"),
        ("https://shop/1.jpg", "download"),
        ("a\0b", "found nothing|cannot be read"),
    ):
        with pytest.raises(UnreadableImage, match=expected):
            read_bytes(path)


def test_size_in_bytes_is_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures_module, "MAX_BYTES", 10)
    (tmp_path / "large.png").write_bytes(bytes(11))
    with pytest.raises(UnreadableImage, match="at most 10 bytes, came 11"):
        read_bytes(tmp_path / "large.png")
    with pytest.raises(UnreadableImage, match="at most 10 bytes, came 11"):
        read_picture(bytes(11))


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that says it has ``side`` x ``side`` pixels."""
    data = bytearray(file_bytes(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = side.to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\n  <?xml version='1.0'?><svg/>", "SVG"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"not a picture at all", "came bytes starting"),
        (b"%PDF-1.7\n", "came bytes starting"),
        (bomb(8000), "at most 50000000 pixels, came 8000 x 8000"),
        (bomb(12_000), "at most 50000000 pixels"),  # Pillow warns
        (bomb(40_000), "at most 50000000 pixels"),  # Pillow refuses
        (file_bytes(draw(0), "JPEG")[:900], "truncated or corrupt"),
        (file_bytes(draw(0), "PNG")[:-200], "truncated or corrupt"),
        (file_bytes(draw(0), "JPEG")[:20], "came bytes starting|truncated"),
        (file_bytes(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "floating point"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes, expected: str) -> None:
    with pytest.raises(UnreadableImage, match=expected):
        read_picture(data)


RED, GREY = (200, 30, 40), (128, 128, 128)


def _animated() -> bytes:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, (0, 0, 255))]
    return file_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _palette_with_transparency() -> bytes:
    picture = Image.new("P", (9, 9), 1)
    picture.putpalette([*RED, 0, 0, 0])
    picture.putpixel((4, 4), 0)
    return file_bytes(picture, "PNG", transparency=1)


def _rotated() -> bytes:
    """Red on the left as stored; the EXIF says that the left is the top."""
    picture = Image.new("RGB", (16, 8), GREY)
    picture.paste(RED, (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_bytes(picture, "PNG", exif=exif)


def _with_exif(exif: bytes, kind: str = "PNG") -> bytes:
    return file_bytes(Image.new("RGB", (16, 16), RED), kind, exif=exif)


@pytest.mark.parametrize(
    ("data", "place", "colour"),
    [
        (file_bytes(Image.new("RGB", (9, 9), RED), "PNG"), (4, 4), RED),
        (file_bytes(Image.new("RGB", (9, 9), RED), "WEBP", lossless=True), (4, 4), RED),
        (file_bytes(Image.new("RGB", (9, 9), RED), "BMP"), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED), "JPEG", quality=95), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED).convert("CMYK"), "JPEG", quality=95), (4, 4), RED),
        (file_bytes(Image.new("RGB", (16, 16), RED).convert("CMYK"), "TIFF"), (4, 4), RED),
        (file_bytes(Image.new("L", (9, 9), 128), "PNG"), (4, 4), GREY),
        (file_bytes(Image.new("1", (9, 9), 1), "PNG"), (4, 4), (255, 255, 255)),
        (file_bytes(Image.fromarray(np.full((9, 9), 128 * 256, np.uint16)), "PNG"), (4, 4), GREY),
        (file_bytes(Image.fromarray(np.full((9, 9), 128 * 256, np.uint16)), "TIFF"), (4, 4), GREY),
        (file_bytes(Image.new("RGBA", (9, 9), (*RED, 0)), "PNG"), (4, 4), (255, 255, 255)),
        (file_bytes(Image.new("RGBA", (9, 9), (*RED, 255)), "PNG"), (4, 4), RED),
        (file_bytes(Image.new("LA", (9, 9), (0, 0)), "PNG"), (4, 4), (255, 255, 255)),
        (_palette_with_transparency(), (4, 4), RED),
        (_palette_with_transparency(), (0, 0), (255, 255, 255)),
        (_animated(), (4, 4), RED),
        (_rotated(), (4, 2), RED),
        (_rotated(), (4, 12), GREY),
        (_with_exif(b"no EXIF at all"), (4, 4), RED),
        (_with_exif(b"no EXIF at all", "WEBP"), (4, 4), RED),
    ],
)
def test_every_kind_of_picture_comes_out_as_it_looks(
    data: bytes, place: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    picture = read_picture(data)
    assert picture.mode == "RGB"
    np.testing.assert_allclose(picture.getpixel(place), colour, atol=3)


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same() -> None:
    data = file_bytes(draw(3).resize((2400, 3600)), "JPEG")
    small, full = read_picture(data, 224), read_picture(data)
    assert full.size == (2400, 3600)
    assert small.size == (600, 900)
    difference = np.asarray(small, float) - np.asarray(full.resize(small.size, Image.Resampling.BOX), float)
    assert np.abs(difference).mean() < 1


def test_a_portrait_is_filled_up_with_its_border_and_keeps_its_width() -> None:
    from recsys.encoders.image_networks import fit_square

    page = Image.new("RGB", (100, 200), (240, 241, 242))
    page.paste(RED, (0, 90, 100, 110))  # a bar from edge to edge, which a centre crop would shorten
    for resample in (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS):
        square = fit_square(page, 64, resample)
        assert square.shape == (64, 64, 3)
        assert square.dtype == np.uint8
        np.testing.assert_array_equal(square[32, 16:48], np.broadcast_to(RED, (32, 3)))
        np.testing.assert_array_equal(square[32, :16], np.broadcast_to((240, 241, 242), (16, 3)))
    closer = fit_square(page, 64, Image.Resampling.BICUBIC, crop=0.5)
    np.testing.assert_array_equal(closer[32], np.broadcast_to(RED, (64, 3)))


def test_the_fast_resize_is_pillows() -> None:
    from recsys.encoders.image_networks import fit_square

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    for size in (40, 130):
        ours = fit_square(picture, size, Image.Resampling.BICUBIC).astype(int)
        theirs = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(ours - theirs).max() <= 1
