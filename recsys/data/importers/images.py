"""Whether the night will be able to read an image file. Cheap: a JPEG is decoded at an eighth of its size."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from recsys.encoders.pictures import FORMATS, MAX_BYTES, MAX_PIXELS


def find_unreadable(paths: Iterable[Path], threads: int) -> dict[Path, str]:
    """The files among ``paths`` that are no picture we can read, and what they are instead."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(max_workers=threads) as pool:  # the decoder lets go of Python's lock
        problems = list(pool.map(_problem, distinct))
    return {path: problem for path, problem in zip(distinct, problems) if problem is not None}


def _problem(path: Path) -> str | None:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            return f"{size} bytes, more than {MAX_BYTES}"
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                return f"{image.width}×{image.height} pixels, more than {MAX_PIXELS}"
            image.draft("L", (image.width // 8, image.height // 8))
            image.load()
    except FileNotFoundError:
        return "no such file"
    except Exception as error:  # decoders raise whatever a broken file provokes
        return f"{type(error).__name__}: {error}"
    return None
