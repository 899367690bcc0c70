"""Bytes of unknown origin → an RGB picture, or an UnreadableImage that says what was wrong.

A picture is checked before it is decoded: its size in bytes, its format by content (never by name), its size in
pixels. Everything a shop may send is then brought to one form: 8-bit RGB, upright, first frame, transparency on white.
"""

import contextlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from recsys.errors import UnreadableImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 50_000_000  # 150 MB once decoded; a 48-megapixel phone photo passes
WHITE = (255, 255, 255)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a picture file.

    Raises:
        UnreadableImage: no such file, not a file, or larger than MAX_BYTES (checked before it is read).
    """
    text = str(path)
    if text.startswith(("http://", "https://", "data:")):
        raise UnreadableImage(f"expected a file, came the address {text[:80]}: download it first")
    path = Path(path)
    try:
        if not path.is_file():
            raise UnreadableImage(
                f"expected a picture file at {path}, found {'a folder' if path.is_dir() else 'nothing'}"
            )
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UnreadableImage(f"{path}: expected at most {MAX_BYTES} bytes, came {size}")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UnreadableImage(f"{text!r}: cannot be read: {error}") from error


def read_picture(data: bytes, target: int | None = None) -> Image.Image:
    """Decode a picture to 8-bit RGB: upright by its EXIF, its first frame, transparency laid on white.

    Args:
        data: the bytes of a file in one of FORMATS.
        target: side in pixels that is needed; a JPEG more than twice as large is decoded at a fraction of its size,
            several times faster and without visible loss. None decodes in full.
    Raises:
        UnreadableImage: the message says what was expected and what came.
    """
    if not data:
        raise UnreadableImage("expected a picture, came an empty file")
    if len(data) > MAX_BYTES:
        raise UnreadableImage(f"expected at most {MAX_BYTES} bytes, came {len(data)}")
    head = data[:512].lstrip().lower()
    if head.startswith((b"<svg", b"<?xml", b"<!doctype")) or data[:2] == b"\x1f\x8b":
        raise UnreadableImage(f"expected one of {', '.join(FORMATS)}, came SVG, HTML or XML: render it first")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImage(f"expected at most {MAX_PIXELS} pixels: {error}") from error
    except Exception as error:  # Pillow's parsers raise almost anything on hostile headers
        raise UnreadableImage(f"expected one of {', '.join(FORMATS)}, came bytes starting {data[:8]!r}") from error
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableImage(f"expected at most {MAX_PIXELS} pixels, came {width} x {height}")
    try:
        if target is not None:
            picture.draft(None, (2 * target, 2 * target))
        picture.load()
        with contextlib.suppress(Exception):  # a broken note: the picture as it is stored
            ImageOps.exif_transpose(picture, in_place=True)
        return _to_rgb(picture)
    except UnreadableImage:
        raise
    except Exception as error:  # as above: OSError, SyntaxError, struct.error, EOFError, ...
        raise UnreadableImage(f"{picture.format} of {width} x {height} is truncated or corrupt: {error}") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own convert() would clip to white
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadableImage(f"expected at most 16 bits a channel, came values up to {values.max()}")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        raise UnreadableImage("expected 8 or 16 bits a channel, came floating point")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        page = Image.new("RGB", layer.size, WHITE)
        page.paste(layer, mask=layer.getchannel("A"))
        return page
    return picture.convert("RGB")
