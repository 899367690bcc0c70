"""Product pictures for the demonstration shop: outline × colour × pattern, lit from the upper left.

Everything that depends only on the outline (coverage, light, shadow) is computed once per cut and kept for the next
pictures of the same cut; a picture is then a handful of array operations.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from recsys.data.synthetic_shapes import FIXED, SHAPES, Part

Array = npt.NDArray[np.floating[Any]]  # float32 throughout

COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.13, 0.13, 0.14),
    "white": (0.94, 0.93, 0.91),
    "grey": (0.55, 0.56, 0.58),
    "navy": (0.12, 0.18, 0.36),
    "sky blue": (0.49, 0.70, 0.87),
    "green": (0.17, 0.46, 0.30),
    "yellow": (0.93, 0.76, 0.22),
    "orange": (0.90, 0.49, 0.18),
    "red": (0.75, 0.15, 0.17),
    "pink": (0.93, 0.62, 0.70),
    "purple": (0.45, 0.28, 0.56),
    "brown": (0.42, 0.27, 0.18),
    "beige": (0.84, 0.75, 0.62),
}
PATTERNS = ("plain", "striped", "dotted", "checked", "floral", "zigzag")
N_FITS = 3  # proportions that each cut comes in
_SUPERSAMPLING = 3
_GLOSSY = {"mug", "teapot", "vase", "watch", "boot"}


@dataclass(frozen=True)
class Look:
    """What can be seen of an item. ``seed`` decides scale and direction of the pattern, and the backdrop."""

    kind: str  # a key of SHAPES
    colour: str  # a key of COLOURS
    pattern: str  # one of PATTERNS
    cut: int = 0  # which of the kind's outlines
    fit: int = 0  # which proportions, 0 to N_FITS - 1
    seed: int = 0


@dataclass(frozen=True)
class _Outline:
    """One cut, rasterised: everything about a picture that neither colour nor pattern changes."""

    body: Array  # coverage in [0, 1] of each role, [size, size]
    trim: Array
    inner: Array
    fixed: Array  # already coloured and premultiplied, [size, size, 3]
    cover: Array  # coverage of the whole product
    light: Array  # factor around 1
    gloss: Array  # white added by reflection
    bend: Array  # [2, size, size] pixels, down and right: how far the pattern moves where the surface turns away
    ground: Array  # shadow on the backdrop


def render(look: Look, size: int = 256) -> Image.Image:
    """Return the picture, RGB, ``size`` × ``size`` pixels; the same look gives the same pixels."""
    rng = np.random.default_rng([look.seed, 7])
    outline = _outline(look.kind, look.cut % len(SHAPES[look.kind]), look.fit % N_FITS, size)
    main = np.array(COLOURS[look.colour], dtype=np.float32)
    cloth = _cloth(look, outline.bend, main, rng, size)
    picture = _backdrop(size, int(rng.integers(len(_BACKDROPS)))) * (1 - outline.ground)[..., None]
    picture *= (1 - outline.cover)[..., None]
    product = cloth * outline.body[..., None]
    product += np.float32(0.8) * main * outline.trim[..., None]
    product += np.float32(0.45) * main * outline.inner[..., None]
    product += outline.fixed
    picture += product * outline.light[..., None] + outline.gloss[..., None]
    picture *= 255
    return Image.fromarray(np.clip(picture, 0, 255, out=picture).astype(np.uint8))


def save_picture(look: Look, path: Path, size: int = 256, close_up: bool = False) -> None:
    """Write the picture as JPEG; a close-up shows the middle of it, twice as large."""
    picture = render(look, size)
    if close_up:
        picture = picture.resize(
            (size, size), Image.Resampling.LANCZOS, box=(size / 4, size / 4, size * 3 / 4, size * 3 / 4)
        )
    picture.save(path, "JPEG", quality=88)


# ── outlines ────────────────────────────────────────────────────────────────────────────────────────────────────────


def flatten(path: str, steps: int = 14) -> list[npt.NDArray[np.float64]]:
    """Return the polylines, each [points, 2], of an SVG path of absolute M, L, C, Q and Z commands."""
    lines: list[list[tuple[float, float]]] = []
    ramp = np.linspace(0, 1, steps + 1)[1:, None]
    for command, numbers in re.findall(r"([MLCQZ])([^MLCQZ]*)", path):
        values = np.array(re.findall(r"-?[\d.]+", numbers), dtype=float).reshape(-1, 2)
        if command == "M":
            lines.append([(values[0, 0], values[0, 1])])
        elif command == "L":
            lines[-1] += [(x, y) for x, y in values]
        elif command in "CQ":
            a = np.array(lines[-1][-1])
            if command == "C":
                b, c, d = values
            else:  # a quadratic curve is the cubic one with both handles two thirds of the way
                b, c, d = a + (values[0] - a) * 2 / 3, values[1] + (values[0] - values[1]) * 2 / 3, values[1]
            curve = (1 - ramp) ** 3 * a + 3 * (1 - ramp) ** 2 * ramp * b + 3 * (1 - ramp) * ramp**2 * c + ramp**3 * d
            lines[-1] += [(x, y) for x, y in curve]
    return [np.array(line) for line in lines]


def _coverage(part: Part, scale: tuple[float, float], size: int) -> Array:
    big = size * _SUPERSAMPLING
    canvas = Image.new("L", (big, big), 0)
    draw = ImageDraw.Draw(canvas)
    for line in flatten(part.path):
        for points in (line, line * [-1, 1] + [100, 0]) if part.mirror else (line,):
            placed = (((points - 50) * scale) * 0.94 + 50) * (big / 100)
            flat = [(float(x), float(y)) for x, y in placed]
            if part.width:
                width = part.width * big / 100
                draw.line(flat, fill=255, width=max(1, round(width)), joint="curve")
                for x, y in (flat[0], flat[-1]):
                    draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=255)
            else:
                draw.polygon(flat, fill=255)
    return np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32) / 255


@lru_cache(maxsize=8)
def _outline(kind: str, cut: int, fit: int, size: int) -> _Outline:
    scale = ((1.0, 1.0), (0.92, 1.02), (1.06, 0.95))[fit]
    zeros = np.zeros((size, size), dtype=np.float32)
    roles = {"body": zeros.copy(), "trim": zeros.copy(), "inner": zeros.copy()}
    fixed = np.zeros((size, size, 3), dtype=np.float32)
    light: Array = np.ones_like(zeros)
    cover: Array = zeros
    bend: Array = np.zeros((2, size, size), dtype=np.float32)
    turned: Array = bend
    for part in SHAPES[kind][cut]:
        mask = _coverage(part, scale, size)
        keep = 1 - mask
        for coverage in roles.values():
            coverage *= keep
        fixed *= keep[..., None]
        if part.role in roles:
            roles[part.role] += mask
        else:
            fixed += mask[..., None] * np.array(FIXED[part.role], dtype=np.float32)
        # The blurred outline serves as height: its slope tells how far the surface turns from the viewer. What lies
        # in front throws a narrow shadow on what lies behind.
        sigma = part.soft * size / 100
        height = gaussian_filter(mask, sigma)
        slope = np.stack(np.gradient(height)) * (sigma * 2.5)
        cast = 1 - 0.28 * np.roll(gaussian_filter(mask, 0.012 * size), (size // 110, size // 170), (0, 1))
        light = light * cast * keep + mask * np.clip(1 + 0.30 * (slope[0] * 0.75 + slope[1] * 0.55), 0.4, 1.35)
        bend = bend * keep - mask * slope * np.float32(0.45 * sigma)
        turned = turned * keep + mask * slope
        cover = np.maximum(cover, mask)
    if kind in _GLOSSY:
        facing = np.clip(turned[0] * 0.45 + turned[1] * 0.9, 0, 1)
        gloss = 0.20 * np.exp(-(((facing - 0.42) / 0.12) ** 2)) * cover
    else:
        creases = np.random.default_rng([fit, cut, len(kind)]).standard_normal((7, 6), dtype=np.float32)
        light = light * (1 + 0.035 * zoom(creases, (size / 7, size / 6), order=3))
        gloss = zeros
    ground = 0.30 * np.roll(gaussian_filter(cover, size * 0.028), (int(size * 0.03), int(size * 0.018)), (0, 1))
    return _Outline(roles["body"], roles["trim"], roles["inner"], fixed, cover, light, gloss, bend, ground)


# ── colours and patterns ────────────────────────────────────────────────────────────────────────────────────────────

_BACKDROPS = ((0.955, 0.952, 0.945), (0.935, 0.940, 0.948), (0.950, 0.938, 0.925), (0.965, 0.965, 0.965))
_ACCENTS = ("white", "beige", "yellow", "sky blue", "pink", "orange", "green", "red", "navy", "black", "brown")


@lru_cache(maxsize=16)
def _backdrop(size: int, which: int) -> Array:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    vignette = 1.02 - 0.16 * (x**2 + (y + 0.1) ** 2)
    return np.asarray(vignette[..., None] * np.array(_BACKDROPS[which], dtype=np.float32), dtype=np.float32)


def _luminance(colour: npt.ArrayLike) -> float:
    return float(np.dot(np.asarray(colour), (0.299, 0.587, 0.114)))


def _accent(main: str, rng: np.random.Generator) -> Array:
    """A second colour that stands out from the first."""
    here = _luminance(COLOURS[main])
    far = [name for name in _ACCENTS if abs(_luminance(COLOURS[name]) - here) > 0.28]
    weights = np.array([3.0 if name in ("white", "navy", "black") else 1.0 for name in far])
    return np.array(COLOURS[far[int(rng.choice(len(far), p=weights / weights.sum()))]], dtype=np.float32)


def _step(distance: Array) -> Array:
    """1 where ``distance`` (pixels) is positive, with a smooth edge one pixel wide."""
    return np.asarray(np.clip(distance + 0.5, 0, 1))


def _lattice(u: Array, v: Array, pitch: float) -> tuple[Array, Array, Array]:
    """Offsets in pixels to the nearest point of a staggered lattice, and a hash in [0, 1) of that point."""
    row = np.round(v / pitch)
    shift = (row % 2) * 0.5
    column = np.round(u / pitch - shift)
    hashed = (np.sin(row * 12.9898 + column * 78.233) * 437.585) % 1
    return u - (column + shift) * pitch, v - row * pitch, hashed.astype(np.float32)


def _cloth(look: Look, bend: Array, main: Array, rng: np.random.Generator, size: int) -> Array:
    """Colour of the patterned surface everywhere, float32 [size, size, 3]."""
    unit = size / 256
    scale = float(rng.choice([0.8, 1.0, 1.3])) * unit
    turned = bool(rng.random() < 0.35)
    second = _accent(look.colour, rng)
    if look.pattern == "plain":
        return np.broadcast_to(main, (size, size, 3))
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) - size / 2
    y, x = y + bend[0], x + bend[1]
    u, v = (y, x) if turned else (x, y)
    if look.pattern == "striped":
        pitch = 20 * scale
        ink = _step((np.abs((v % pitch) - pitch / 2) - pitch * 0.29) * 1.0)
    elif look.pattern == "dotted":
        pitch = 20 * scale
        du, dv, _ = _lattice(u, v, pitch)
        ink = _step(pitch * 0.25 - np.hypot(du, dv))
    elif look.pattern == "checked":
        pitch = 26 * scale
        across = _step(pitch * 0.25 - np.abs((u % pitch) - pitch / 2))
        along = _step(pitch * 0.25 - np.abs((v % pitch) - pitch / 2))
        ink = 0.5 * (across + along)
    elif look.pattern == "zigzag":
        pitch, wave = 22 * scale, 24 * scale
        bent = v + np.abs((u % wave) - wave / 2) * 0.9
        ink = _step(np.abs((bent % pitch) - pitch / 2) - pitch * 0.27)
    elif look.pattern == "floral":
        return _flowers(u, v, 34 * scale, main, second)
    else:
        raise ValueError(f"pattern: expected one of {PATTERNS}, came {look.pattern!r}")
    return main + (second - main) * ink[..., None]


def _flowers(u: Array, v: Array, pitch: float, main: Array, petals: Array) -> Array:
    du, dv, hashed = _lattice(u, v, pitch)
    du, dv = du - (hashed - 0.5) * pitch * 0.2, dv - ((hashed * 7) % 1 - 0.5) * pitch * 0.2
    radius, angle = np.hypot(du, dv), np.arctan2(dv, du) + hashed * 6.3
    size = pitch * (0.25 + 0.12 * hashed)
    flower = _step(size * (0.78 + 0.34 * np.cos(5 * angle)) - radius)
    leaf = _step(size * 1.4 * np.clip(np.cos(2 * (angle + 0.9)), 0, 1) ** 2 - radius) * (1 - flower)
    heart = _step(size * 0.3 - radius)
    green = np.array((0.36, 0.52, 0.30) if _luminance(main) > 0.35 else (0.52, 0.66, 0.42), dtype=np.float32)
    yellow = np.array((0.96, 0.78, 0.25) if _luminance(petals) < 0.75 else (0.88, 0.55, 0.20), dtype=np.float32)
    surface = main + (green - main) * leaf[..., None]
    surface = surface + (petals - surface) * flower[..., None]
    return surface + (yellow - surface) * heart[..., None]
