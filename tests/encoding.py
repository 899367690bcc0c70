"""Pictures to encode, and how alike two vectors are: what the tests of the encoders share."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


def draw(seed: int, size: tuple[int, int] = (120, 180)) -> Image.Image:
    """A shape of some colour on an almost white page."""
    rng = np.random.default_rng(seed)
    page = Image.new("RGB", size, (250, 248, 245))
    low = rng.integers(5, 30, 2)
    high = low + rng.integers(40, 85, 2)
    pen = ImageDraw.Draw(page)
    shape = (pen.rectangle, pen.ellipse)[seed % 2]
    shape((*map(int, low), *map(int, high)), fill=tuple(map(int, rng.integers(0, 255, 3))))
    return page


def file_bytes(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def write_pictures(folder: Path) -> Path:
    """Eleven pictures, so that the last batch is not full."""
    for seed in range(11):
        draw(seed).save(folder / f"{seed:02}.png")
    return folder


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def skip_without_bfloat16(precision: str) -> None:
    from recsys.encoders.weights import bfloat16_runs

    if precision == "bfloat16" and not bfloat16_runs():
        pytest.skip("this CPU cannot do bfloat16: an x86 needs AVX-512 for it")
