"""What a person sees of a slate: a shopper's history above, the recommended items below, with pictures and reasons.

Drawn as a PNG by :mod:`pipelines.contact_sheet` and as HTML by :mod:`recsys.evaluation.report`.
"""

import colorsys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

from recsys.encoders.pictures import FORMATS

# What Pillow raises for files that are no picture, are cut short or would fill the memory.
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class SheetItem:
    """One item as shown: ``subtitle`` is its price or category, ``caption`` when it was bought or why it is shown."""

    item_id: str
    title: str = ""
    subtitle: str = ""
    image_path: str | Path | None = None
    caption: str = ""
    bought: bool = False  # recommended, and then really bought: marked, where the answer is known


@dataclass(frozen=True, slots=True)
class Sheet:
    """One shopper: ``history`` oldest first, ``recommended`` best first."""

    title: str
    history: Sequence[SheetItem]
    recommended: Sequence[SheetItem]
    subtitle: str = ""


def open_picture(path: str | Path | None, width: int, height: int) -> Image.Image | None:
    """The picture, whole, on a ground that continues its own edges; RGB, ``width`` × ``height`` pixels.

    None where there is no path, no file or no picture in it: a sheet is drawn all the same.
    """
    if path is None:
        return None
    try:
        with Image.open(path, formats=FORMATS) as file:
            file.draft("RGB", (2 * width, 2 * height))  # JPEG decodes at an eighth to a half, much faster
            picture = ImageOps.exif_transpose(file)
            if picture.mode != "RGB":
                layered = picture.convert("RGBA")
                picture = Image.new("RGB", layered.size, "white")
                picture.paste(layered, mask=layered)
            # The outermost pixels of a scaled photograph are often darker; they would become a frame.
            picture = ImageOps.crop(picture, 1) if min(picture.size) > 16 else picture
            return _pad(ImageOps.contain(picture, (width, height), Image.Resampling.LANCZOS), width, height)
    except _UNREADABLE:
        return None


def card_colours(name: str) -> tuple[str, str]:
    """A soft ground and a dark ink of one hue for an item without a picture, always the same for the same name."""
    hue = zlib.crc32(name.encode()) % 360 / 360
    return _hex(colorsys.hls_to_rgb(hue, 0.90, 0.40)), _hex(colorsys.hls_to_rgb(hue, 0.28, 0.40))


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in colour)


def _pad(picture: Image.Image, width: int, height: int) -> Image.Image:
    """Fill what is missing of ``width`` × ``height`` with the blurred edges, so that a product's backdrop goes on."""
    if picture.size == (width, height):
        return picture
    padded = Image.new("RGB", (width, height))
    w, h = picture.size
    edge = min(4, w, h)  # pixels
    left, top = (width - w) // 2, (height - h) // 2
    right, bottom = left + w, top + h
    for band, strip in (
        ((0, top, left, bottom), (0, 0, edge, h)),
        ((right, top, width, bottom), (w - edge, 0, w, h)),
        ((left, 0, right, top), (0, 0, w, edge)),
        ((left, bottom, right, height), (0, h - edge, w, h)),
    ):
        size = band[2] - band[0], band[3] - band[1]
        if min(size) > 0:
            blurred = picture.crop(strip).resize(size).filter(ImageFilter.GaussianBlur(max(size) / 24))
            padded.paste(blurred, band)
    padded.paste(picture, (left, top))
    return padded
