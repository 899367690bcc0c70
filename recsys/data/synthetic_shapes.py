"""Outlines of the demonstration shop's products, as a table: what is drawn, from back to front.

Paths use SVG's commands M, L, C, Q and Z (absolute) on a canvas of 100 × 100 with y downwards. ``mirror`` draws the
left half given here and its reflection. A part takes its colour from its role:

- ``body``: the item's colour and pattern;
- ``trim``: the item's colour, a shade darker, no pattern;
- ``inner``: the item's colour in deep shade, for the inside of a collar or a cup;
- a key of :data:`FIXED`: always that colour (a white sole, a brass lamp stand).

A part with ``width`` is a stroke of that width along its path. ``soft`` is how far light wraps over the part's edge:
about 1 for flat cloth, 8 for a round pot.
"""

from typing import NamedTuple

FIXED = {
    "white": (0.95, 0.94, 0.92),
    "ink": (0.16, 0.15, 0.16),
    "wood": (0.66, 0.46, 0.28),
    "brass": (0.78, 0.63, 0.34),
    "steel": (0.72, 0.74, 0.77),
    "leather": (0.45, 0.29, 0.18),
    "glow": (1.00, 0.93, 0.72),
}


class Part(NamedTuple):
    """One filled or stroked outline."""

    path: str
    role: str = "body"
    mirror: bool = False
    soft: float = 2.5
    width: float = 0.0


def ellipse(cx: float, cy: float, rx: float, ry: float) -> str:
    """Return the path of an ellipse (four cubic arcs)."""
    kx, ky = 0.5523 * rx, 0.5523 * ry
    return (
        f"M{cx - rx} {cy} C{cx - rx} {cy - ky} {cx - kx} {cy - ry} {cx} {cy - ry} "
        f"C{cx + kx} {cy - ry} {cx + rx} {cy - ky} {cx + rx} {cy} "
        f"C{cx + rx} {cy + ky} {cx + kx} {cy + ry} {cx} {cy + ry} "
        f"C{cx - kx} {cy + ry} {cx - rx} {cy + ky} {cx - rx} {cy} Z"
    )


def _buttons(cx: float, first: float, last: float, count: int, radius: float = 0.9) -> tuple[Part, ...]:
    step = (last - first) / (count - 1)
    return tuple(Part(ellipse(cx, first + step * k, radius, radius), "white", soft=0.6) for k in range(count))


_LONG_SLEEVE = Part("M31 20 C25 21 21 26 19 34 L11 76 Q10.5 80 13 81 L20 83 Q22.5 83.5 23 81 L33 48 Z", mirror=True)
_SHORT_SLEEVE = Part("M32 19 C26 20 21 25 18 31 L11 43 L22 50 L34 36 Z", mirror=True)
_CUFF = Part("M11.8 74 L10.6 79.5 Q10.6 81 13 82 L20 84 Q22.4 84 23 82 L24.4 77.3 Z", "trim", mirror=True, soft=1.5)
_TORSO = "M50.5 25 C46 24 43 20 41 15 C37 18 32 19 28 20.5 C30 40 30 62 28 88 C36 91 44 91.5 50.5 91.5 Z"
_NECK = Part("M41 15 Q50 12.5 59 15 Q57 24 50 26 Q43 24 41 15 Z", "inner", soft=1.0)

_SHIRT_FRONT = (
    Part(_TORSO, mirror=True, soft=3.5),
    _NECK,
    Part("M41 13.5 L38.5 17.5 L44.5 29 L50.4 24 C45.5 22 42.5 18.5 41 13.5 Z", mirror=True, soft=1.2),
    Part("M50 25 L50 91", "trim", width=3.6, soft=0.8),
    *_buttons(50, 32, 84, 6),
    Part("M57 40 L67 40 L67 50 L62 53 L57 50 Z", "trim", soft=0.7, width=0.7),
)

# Each kind has one or more cuts; every colour of a family shares one.
SHAPES: dict[str, tuple[tuple[Part, ...], ...]] = {
    "shirt": (
        (_LONG_SLEEVE, _CUFF, *_SHIRT_FRONT),
        (_SHORT_SLEEVE, *_SHIRT_FRONT),
    ),
    "t-shirt": (
        (
            _SHORT_SLEEVE,
            Part(
                "M50.5 27 C43 26 40 21 39 15 C35 18 31 19 28 20.5 C30 40 30 62 29 88 C36 90 44 90 50.5 90 Z",
                mirror=True,
                soft=3.5,
            ),
            Part("M39 15 Q50 12 61 15 Q59 26 50 27 Q41 26 39 15 Z", "inner", soft=1.0),
            Part("M39 15 C40 22 43.5 27 50.4 27", "trim", mirror=True, width=2.2, soft=0.8),
        ),
    ),
    "sweater": (
        (
            Part("M31 21 C24 22 19 28 17 36 L9 75 Q9 78 11 79 L20 82 Q22 82 23 80 L34 50 Z", mirror=True, soft=4),
            Part("M9.6 73 L8.4 79 Q8.4 81 11 82 L20 84.6 Q22.4 84.6 23 82 L24.8 76.4 Z", "trim", mirror=True, soft=2),
            Part("M50.5 24 C45 24 42 20 40 16 C36 19 30 20 26 22 C28 42 28 62 26 82 L50.5 84 Z", mirror=True, soft=4.5),
            Part("M26 81 Q25 90 28 91 Q40 93 50.5 93 L50.5 83.5 Q38 83.5 26 81 Z", "trim", mirror=True, soft=2),
            Part("M40 16 Q50 12 60 16 Q58 23 50 24 Q42 23 40 16 Z", "inner", soft=1.0),
            Part("M40 15.5 C41.5 21 44.5 25 50.4 25", "trim", mirror=True, width=3.4, soft=1.4),
        ),
    ),
    "dress": (
        (
            Part(
                "M50.5 24 C44 23 41 18 40 9 L36 9 C36 18 34 24 31 28 C34 36 35 42 36 47 "
                "C32 62 25 76 19 90 C30 95 41 96 50.5 96 Z",
                mirror=True,
                soft=4,
            ),
            Part("M40 9 Q41 22 50 23 Q59 22 60 9 L58 9 Q57 17 50 17.5 Q43 17 42 9 Z", "inner", soft=1),
            Part("M35.6 45 Q50 49 64.4 45 L64.6 49 Q50 53 35.4 49 Z", "trim", soft=1.2),
            Part("M43 52 C41 66 38 80 36 93", "trim", mirror=True, width=0.7, soft=0.5),
        ),
        (
            Part("M36 12 C29 13 24 18 21 26 L17 37 L28 41 L37 28 Z", mirror=True),
            Part(
                "M50.5 23 C44 22 42 17 41 10 C37 12 33 13 31 15 C33 27 35 37 35 44 C32 62 29 80 28 93 "
                "C36 96 43 96.5 50.5 96.5 Z",
                mirror=True,
                soft=4,
            ),
            Part("M41 10 Q50 7.5 59 10 Q57 22 50 22.5 Q43 22 41 10 Z", "inner", soft=1),
            Part("M50 23 L50 50", "trim", width=1.2, soft=0.6),
            Part("M34.8 44 Q50 47 65.2 44 L65.4 46.5 Q50 49.5 34.6 46.5 Z", "trim", soft=1),
        ),
    ),
    "skirt": (
        (
            Part("M33 21 C28 44 20 66 14 84 C27 91 40 92 50.5 92 L50.5 21 Z", mirror=True, soft=4),
            Part("M33 15 Q50 18 67 15 L67.6 22 Q50 25 32.4 22 Z", "trim", soft=1.5),
            Part("M41 25 C39 48 34 70 30 88", "trim", mirror=True, width=0.8, soft=0.6),
            Part("M50 25 L50 91", "trim", width=0.8, soft=0.6),
        ),
        (
            Part("M34 21 C29 30 28 44 29 60 L31 88 Q41 90 50.5 90 L50.5 21 Z", mirror=True, soft=4),
            Part("M34 15 Q50 17 66 15 L66.6 22 Q50 24 33.4 22 Z", "trim", soft=1.5),
            *_buttons(50, 30, 80, 5, 1.2),
        ),
    ),
    "trousers": (
        (
            Part("M33 13 C29 30 27 50 27 70 L26 95 L42 96 L47 56 L50.5 39 L50.5 13 Z", mirror=True, soft=3.5),
            Part("M33 8 Q50 10.5 67 8 L67.4 14 Q50 16.5 32.6 14 Z", "trim", soft=1.2),
            Part("M50 15 Q51 30 50 40", "trim", width=1.0, soft=0.6),
            Part("M33 16 Q38 22 32 27", "trim", mirror=True, width=0.9, soft=0.6),
            Part(ellipse(50, 11.8, 1.1, 1.1), "white", soft=0.5),
        ),
        (
            Part("M34 13 C31 30 25 60 19 94 L40 97 L48 58 L50.5 41 L50.5 13 Z", mirror=True, soft=3.5),
            Part("M34 7 Q50 9.5 66 7 L66.6 14 Q50 16.5 33.4 14 Z", "trim", soft=1.2),
            Part("M41 18 C39 45 34 75 30 95", "trim", mirror=True, width=0.7, soft=0.5),
        ),
    ),
    "coat": (
        (
            Part("M31 17 C24 19 20 25 18 34 L10 78 L22 82 L33 46 Z", mirror=True, soft=3),
            Part("M50.5 30 L41 12 C37 14 32 16 28 18 C30 36 29 52 27 66 L24 93 Q38 96 50.5 96 Z", mirror=True, soft=4),
            Part("M41 12 Q50 8.5 59 12 L50 32 Z", "inner", soft=1),
            Part("M41 10.5 L35 19 L39 24 L36.5 28 L49 45 L50.4 32 L42.4 18 Z", "trim", mirror=True, soft=1.2),
            Part("M50 42 L50 95", "trim", width=0.9, soft=0.5),
            Part("M31 64 L42 66 L41.4 71 L30.4 69 Z", "trim", mirror=True, soft=0.9),
            *_buttons(54, 50, 80, 3, 1.6),
            *_buttons(46, 50, 80, 3, 1.6),
        ),
    ),
    "sneaker": (
        (
            Part("M8 72 Q7 81 13 82 L88 82 Q95 81 94 72 Z", "white", soft=1.8),
            Part(
                "M9 73 C8 60 9 46 13 36 Q16 31 19.5 35 C25 43 32 43 38 33 Q41.5 28.5 45 32 C53 45 62 53 76 57.5 "
                "C88 60.5 94 65 94 73 Z",
                soft=5,
            ),
            Part("M76 57.5 C88 60.5 94 65 94 73 L71 73 Q69 63 76 57.5 Z", "trim", soft=3),
            Part("M9 73 C8 60 9.4 50 12 40 Q20 51 21 73 Z", "trim", soft=2.5),
            Part(
                "M50.5 39 L44.5 45.5 M56 44 L50 50.5 M61.5 48.5 L56 55 M67.5 52.5 L62.5 58.5",
                "white",
                soft=0.7,
                width=2,
            ),
            Part("M25 64 Q42 69 52 59", "white", soft=0.7, width=2.6),
            Part("M9 77.5 L93 77.5", "steel", soft=0.4, width=0.8),
        ),
    ),
    "boot": (
        (
            Part("M28 85 L28 92 Q28 93 30 93 L41 93 L43 89.5 L88 91 Q91 91 91 87 L90.5 84 Z", "ink", soft=1),
            Part(
                "M31 10 Q43 7 55 10 C55 28 54 42 57 54 C61 63 71 66 80 69 C89 72 92 79 91 86 L28 86 "
                "C27 76 31 62 31 46 Z",
                soft=6,
            ),
            Part("M31 10 Q43 7 55 10 L55 15 Q43 12.5 31 15 Z", "trim", soft=1),
            Part("M39 26 Q44 24 49 26 L50 52 Q45 57 41 52 Q38 40 39 26 Z", "trim", soft=1),
            Part("M28 86 C27.4 76 29.4 68 30.4 61 Q39 69 38 86 Z", "trim", soft=2),
        ),
    ),
    "socks": (
        (
            Part(
                "M50 12 L67 12 C67 30 66 44 68 54 C72 62 82 68 88 76 C91 83 84 89 77 86 C66 82 56 75 50 66 Z", soft=4.5
            ),
            Part("M49.6 9 L67.4 9 L67.2 19 L49.8 19 Z", "trim", soft=2),
            Part(
                "M22 16 L40 16 C40 34 39 48 41 58 C45 66 55 72 61 80 C64 87 57 93 50 90 C39 86 27 79 22 69 Z", soft=4.5
            ),
            Part("M21.6 13 L40.4 13 L40.2 23 L21.8 23 Z", "trim", soft=2),
            Part("M22 69 C21 60 27 57 32 60 Q36 66 30 77.5 Q24 74 22 69 Z", "trim", soft=2),
            Part("M61 80 C64 87 57 93 50 90 L45.6 88 Q46 78 55.6 74 Q59 77 61 80 Z", "trim", soft=2),
        ),
    ),
    "tote bag": (
        (
            Part("M35 42 C35 12 38 7 50 7 C62 7 65 12 65 42", "leather", width=3.0, soft=1.3),
            Part("M22 36 L78 36 L84 90 Q84 94 80 94 L20 94 Q16 94 16 90 Z", soft=5),
            Part("M35 48 C35 17 38 13 50 13 C62 13 65 17 65 48", "leather", width=3.2, soft=1.3),
            Part("M22 36 L78 36 L78.6 41 L21.4 41 Z", "trim", soft=1),
            Part(ellipse(35, 47, 2.4, 2.4), "brass", soft=1),
            Part(ellipse(65, 47, 2.4, 2.4), "brass", soft=1),
        ),
        (
            Part("M30 40 C28 16 38 10 50 10 C62 10 72 16 70 40", "trim", width=3.4, soft=1.4),
            Part("M18 42 Q50 34 82 42 C90 66 88 84 80 90 Q50 94 20 90 C12 84 10 66 18 42 Z", soft=8),
            Part("M18 42 Q50 34 82 42 Q84 60 66 64 Q50 67 34 64 Q16 60 18 42 Z", "trim", soft=2),
            Part("M46 60 L54 60 L54 69 L46 69 Z", "brass", soft=1),
        ),
    ),
    "backpack": (
        (
            Part("M40 16 C40 4 60 4 60 16", "trim", width=3.0, soft=1.2),
            Part("M20 50 Q14 60 16 84 L24 88 Z", "trim", mirror=True, soft=2),
            Part("M50.5 10 C32 10 24 22 23 40 L21 86 Q22 94 32 95 L50.5 95 Z", mirror=True, soft=6),
            Part("M29 60 Q50 57 71 60 L73 86 Q72 90 66 91 L34 91 Q28 90 27 86 Z", "trim", soft=3.5),
            Part("M30 67 L70 67", "steel", width=1.0, soft=0.5),
            Part("M26 38 C30 22 40 17 50.4 17", "ink", mirror=True, width=1.0, soft=0.5),
            Part("M45 27 L55 27 L55 35 L45 35 Z", "leather", soft=1),
            Part("M66 67 L66 74", "steel", width=1.8, soft=0.7),
        ),
    ),
    "cap": (
        (
            Part("M17 62 C15 36 30 22 50 22 C70 22 79 38 79 60 Q48 52 17 62 Z", soft=8),
            Part("M50 22 C44 32 42 44 42 56 M50 22 C60 30 65 42 66 56", "trim", width=0.8, soft=0.5),
            Part("M17 62 Q48 52 79 60 C92 63 98 70 97 74 C80 66 52 65 30 72 Q18 72 17 62 Z", "trim", soft=3),
            Part(ellipse(50, 22, 3.2, 1.8), "trim", soft=1),
            Part("M22 66 Q55 56 90 67", "white", width=0.6, soft=0.3),
        ),
    ),
    "scarf": (
        (
            Part("M56 38 L72 40 L70 84 L53 82 Z", soft=3),
            Part(
                "M54 82 L53 91 M57 82.4 L56.4 91.4 M60 82.8 L59.8 92 M63 83 L63 92 M66.4 83.6 L66.6 92.4 "
                "M69.6 84 L70 92.6",
                "trim",
                width=1.1,
                soft=0.5,
            ),
            Part("M34 34 L52 38 L47 88 L29 86 Z", soft=3),
            Part(
                "M30 86 L28.6 95 M33.4 86.4 L32.2 95.6 M36.8 86.8 L36 96 M40.2 87.2 L39.6 96.4 M43.4 87.6 L43 96.6 "
                "M46.6 88 L46.4 97",
                "trim",
                width=1.1,
                soft=0.5,
            ),
            Part("M24 24 C26 8 74 8 76 24 C78 40 66 48 50 48 C34 48 22 40 24 24 Z", soft=8),
            Part("M34 22 C36 14 64 14 66 22 C66 30 58 33 50 33 C42 33 34 30 34 22 Z", "inner", soft=2),
        ),
    ),
    "watch": (
        (
            Part("M40 6 L60 6 L62 34 L38 34 Z", soft=3),
            Part("M38 66 L62 66 L60 94 Q50 97 40 94 Z", soft=3),
            Part("M44 76 L44 76.2 M50 79 L50 79.2 M50 85 L50 85.2 M50 91 L50 91.2", "ink", width=1.6, soft=0.4),
            Part("M73 48 L77 48 L77 52 L73 52 Z", "steel", soft=1),
            Part(ellipse(50, 50, 24, 24), "steel", soft=4),
            Part(ellipse(50, 50, 19.5, 19.5), "white", soft=1.2),
            Part(
                "M50 33 L50 36.4 M50 63.6 L50 67 M33 50 L36.4 50 M63.6 50 L67 50 M58.5 35.3 L57 38 M41.5 35.3 L43 38 "
                "M58.5 64.7 L57 62 M41.5 64.7 L43 62",
                "ink",
                width=1.2,
                soft=0.3,
            ),
            Part("M50 50 L43 42 M50 50 L58 38.5", "ink", width=1.8, soft=0.4),
            Part(ellipse(50, 50, 1.8, 1.8), "brass", soft=0.5),
        ),
    ),
    "mug": (
        (
            Part("M68 36 C94 30 94 76 66 72", width=6.0, soft=2.5),
            Part("M20 26 L70 26 L69 80 Q68 88 60 88 L30 88 Q22 88 21 80 Z", soft=10),
            Part(ellipse(45, 26, 25, 5.5), "trim", soft=0.8),
            Part(ellipse(45, 26.6, 22.6, 4.2), "inner", soft=0.8),
        ),
        (
            Part("M70 42 C92 38 92 68 66 68", width=5.0, soft=2.3),
            Part("M18 38 L74 38 C74 62 68 80 58 82 L34 82 C24 80 18 62 18 38 Z", soft=10),
            Part(ellipse(46, 38, 28, 6), "trim", soft=0.8),
            Part(ellipse(46, 38.8, 25.4, 4.6), "inner", soft=0.8),
        ),
    ),
    "teapot": (
        (
            Part("M74 46 C100 34 100 82 70 72", width=4.6, soft=2),
            Part("M30 68 C18 66 18 52 10 40 L15 37 C22 42 26 46 34 50 Z", soft=3),
            Part("M50 36 C70 36 80 48 79 62 C78 78 66 86 50 86 C34 86 24 78 23 62 C23 48 32 36 50 36 Z", soft=11),
            Part("M36 38 Q50 26 64 38 Q50 42 36 38 Z", "trim", soft=3),
            Part(ellipse(50, 28, 4, 3.6), "trim", soft=2),
            Part("M36 86 L64 86 L65 89 L35 89 Z", "trim", soft=1),
        ),
    ),
    "lamp": (
        (
            Part(ellipse(50, 90, 19, 4.6), "brass", soft=2.5),
            Part("M48.4 48 L51.6 48 L52 90 L48 90 Z", "brass", soft=1.2),
            Part("M47 50 L53 50 L52 56 L48 56 Z", "glow", soft=0.8),
            Part("M36 10 L64 10 L80 50 Q50 55 20 50 Z", soft=10),
            Part("M20 50 Q50 55 80 50", "trim", width=1.4, soft=0.6),
        ),
        (
            Part(ellipse(50, 91, 15, 3.6), "wood", soft=2),
            Part(
                "M50 44 C46 50 58 54 58 64 C60 76 62 84 56 90 L44 90 C38 84 40 76 42 64 C42 54 54 50 50 44 Z",
                "wood",
                soft=5,
            ),
            Part("M28 12 L72 12 L76 46 Q50 50 24 46 Z", soft=10),
            Part("M28 12 L72 12", "trim", width=1.2, soft=0.6),
            Part("M24 46 Q50 50 76 46", "trim", width=1.2, soft=0.6),
        ),
    ),
    "armchair": (
        (
            Part("M24 84 L22 96 L26 96 L30 84 Z", "wood", mirror=True, soft=1),
            Part("M50.5 12 C34 12 26 18 26 32 L27 62 L50.5 62 Z", mirror=True, soft=6),
            Part("M28 62 Q50 58 72 62 L73 74 L27 74 Z", soft=4),
            Part("M27 73 L73 73 L73 86 L27 86 Z", "trim", soft=2.5),
            Part("M12 50 C12 42 26 40 29 50 L30 86 L15 86 Z", mirror=True, soft=5),
        ),
        (
            Part("M30 66 L22 96 L25.4 96 L35 68 Z", "wood", mirror=True, soft=1),
            Part("M30 10 Q50 5 70 10 L67 58 L33 58 Z", soft=6),
            Part("M23 62 Q24 56 32 55 L68 55 Q76 56 77 62 L78 68 Q50 74 22 68 Z", soft=4),
            Part("M29 12 L31 58", "wood", mirror=True, width=2.2, soft=0.8),
        ),
    ),
    "cushion": (
        (
            Part("M14 16 Q50 24 86 16 Q80 50 87 86 Q50 78 13 86 Q20 50 14 16 Z", soft=13),
            Part("M14 16 Q50 24 86 16 Q80 50 87 86 Q50 78 13 86 Q20 50 14 16", "trim", width=1.4, soft=0.8),
        ),
    ),
    "vase": (
        (
            Part(
                "M42 10 L58 10 C57 22 60 30 68 40 C78 54 76 74 62 92 L38 92 C24 74 22 54 32 40 C40 30 43 22 42 10 Z",
                soft=10,
            ),
            Part(ellipse(50, 10.4, 8.6, 2.6), "inner", soft=0.8),
            Part("M41.6 11 Q50 15.4 58.4 11", "trim", width=1.4, soft=0.6),
        ),
        (
            Part("M34 18 L66 18 C70 40 66 70 60 92 L40 92 C34 70 30 40 34 18 Z", soft=10),
            Part(ellipse(50, 18, 16, 3.8), "trim", soft=0.8),
            Part(ellipse(50, 18.4, 14, 2.9), "inner", soft=0.8),
        ),
    ),
    "umbrella": (
        (
            Part("M50 30 L50 84 C50 94 62 94 62 85", "wood", width=2.6, soft=1),
            Part("M50 10 L50 20", "wood", width=1.8, soft=0.7),
            Part(
                "M8 56 C10 28 30 14 50 14 C70 14 90 28 92 56 Q85 49 78 55 Q71 47 64 54 Q57 47 50 54 Q43 47 36 54 "
                "Q29 47 22 55 Q15 49 8 56 Z",
                soft=9,
            ),
            Part("M50 14 C38 24 36 40 36 54 M50 14 C62 24 64 40 64 54", "trim", width=0.8, soft=0.5),
            Part("M50 14 C26 22 22 40 22 55 M50 14 C74 22 78 40 78 55", "trim", width=0.8, soft=0.5),
        ),
    ),
}
