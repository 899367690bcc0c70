"""Draw what shoppers did and what they would be shown, so that a person can look: ``draw_contact_sheet(sheets)``."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from recsys.evaluation.sheet import Sheet, SheetItem, card_colours, open_picture

# Lengths are in points of a page WIDTH wide; SCALE pixels make a point, so that text stays crisp when zoomed.
WIDTH, MARGIN, SCALE = 1120, 40, 2
HISTORY_COLUMNS, SLATE_COLUMNS = 10, 6
PICTURE_SHAPE = 4 / 3  # height over width, the commonest of product pictures

PAPER, INK, MUTED, LINE, ACCENT, BOUGHT = "#ffffff", "#1c1e21", "#6b7078", "#e3e5e8", "#3456c4", "#14804a"


def draw_contact_sheet(sheets: Sequence[Sheet], *, scale: int = SCALE) -> Image.Image:
    """One page: for each shopper the newest of the history above, the slate below.

    An item whose picture is missing or unreadable becomes a card with its title. Long histories show their newest ten.

    Returns:
        An RGB picture, ``1120 · scale`` pixels wide and as tall as it takes.
    """
    heights = [_draw_sheet(_Page(scale), sheet, 0) for sheet in sheets]  # without a canvas: only measured
    page = _Page(scale, round(sum(heights)) if heights else 2 * MARGIN)
    top = 0.0
    for position, (sheet, height) in enumerate(zip(sheets, heights)):
        if position:
            page.line(top)
        _draw_sheet(page, sheet, top)
        top += height
    return page.picture()


def save_contact_sheet(sheets: Sequence[Sheet], path: Path, *, scale: int = SCALE) -> Path:
    """Draw and write it as PNG; parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(sheets, scale=scale).save(path, optimize=True)
    return path


def _draw_sheet(page: "_Page", sheet: Sheet, top: float) -> float:
    """Draw one shopper from ``top`` down; return the height it takes."""
    y = top + MARGIN
    y += page.text(MARGIN, y, sheet.title, 22, WIDTH - 2 * MARGIN, bold=True)
    if sheet.subtitle:
        y += 2 + page.text(MARGIN, y + 2, sheet.subtitle, 13, WIDTH - 2 * MARGIN, colour=MUTED)
    shown = list(sheet.history)[-HISTORY_COLUMNS:]
    dropped = len(sheet.history) - len(shown)
    y += _draw_heading(page, y + 18, "History", f"newest {len(shown)} of {len(sheet.history)}" if dropped else "") + 18
    if shown:
        y += _draw_row(page, y, shown, HISTORY_COLUMNS, small=True)
    else:
        y += page.text(MARGIN, y, "Nothing is known of this shopper yet.", 13, WIDTH - 2 * MARGIN, colour=MUTED)
    y += _draw_heading(page, y + 20, "Recommended", "") + 20
    if not sheet.recommended:
        y += page.text(MARGIN, y, "Nothing to recommend.", 13, WIDTH - 2 * MARGIN, colour=MUTED)
    for start in range(0, len(sheet.recommended), SLATE_COLUMNS):
        row = list(sheet.recommended[start : start + SLATE_COLUMNS])
        y += (20 if start else 0) + _draw_row(page, y + (20 if start else 0), row, SLATE_COLUMNS, first_rank=start + 1)
    return y + MARGIN - top


def _draw_heading(page: "_Page", y: float, text: str, note: str) -> float:
    height = page.text(MARGIN, y, text.upper(), 11, 300, bold=True, colour=MUTED)
    if note:
        page.text(MARGIN + page.width_of(text.upper(), 11, bold=True) + 10, y, note, 11, 300, colour=MUTED)
    return height + 8


def _draw_row(
    page: "_Page", y: float, items: Sequence[SheetItem], columns: int, *, first_rank: int = 0, small: bool = False
) -> float:
    gap = 10 if small else 16
    width = (WIDTH - 2 * MARGIN - gap * (columns - 1)) / columns
    return max(
        _draw_item(
            page, MARGIN + column * (width + gap), y, width, item, first_rank + column if first_rank else 0, small
        )
        for column, item in enumerate(items)
    )


def _draw_item(page: "_Page", x: float, y: float, width: float, item: SheetItem, rank: int, small: bool) -> float:
    """Picture, title, subtitle and caption in one column; return the height."""
    tall = width * PICTURE_SHAPE
    page.picture_card(x, y, width, tall, item)
    if rank:
        page.badge(x + 8, y + 8, str(rank))
    if item.bought:
        page.ribbon(x, y + tall, width, "then bought")
    bottom = y + tall + (6 if small else 8)
    title_size, size = (10.5, 9.5) if small else (13, 12)
    bottom += page.text(x, bottom, item.title or item.item_id, title_size, width, bold=not small, lines=2)
    if item.subtitle:
        bottom += 1 + page.text(x, bottom + 1, item.subtitle, size, width, colour=MUTED)
    if item.caption:
        colour = MUTED if small else ACCENT
        bottom += 3 + page.text(x, bottom + 3, item.caption, size if small else 11.5, width, colour=colour, lines=3)
    return bottom - y


class _Page:
    """A canvas measured in points; without a height it only measures text."""

    def __init__(self, scale: int, height: int | None = None) -> None:
        self._scale = scale
        self._image = None if height is None else Image.new("RGB", (WIDTH * scale, height * scale), PAPER)
        self._draw = ImageDraw.Draw(self._image) if self._image else None

    def picture(self) -> Image.Image:
        assert self._image is not None  # noqa: S101  # only pages with a height are asked for
        return self._image

    def width_of(self, text: str, size: float, *, bold: bool = False) -> float:
        return _font(size * self._scale, bold).getlength(text) / self._scale

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        width: float,
        *,
        bold: bool = False,
        colour: str = INK,
        lines: int = 1,
    ) -> float:
        """Write at most ``lines`` lines, the last cut with an ellipsis; return their height."""
        font = _font(size * self._scale, bold)
        wrapped = _wrap(text, font, width * self._scale, lines)
        if self._draw:
            for number, line in enumerate(wrapped):
                place = (x * self._scale, (y + number * size * 1.28) * self._scale)
                self._draw.text(place, line, font=font, fill=colour)
        return len(wrapped) * size * 1.28

    def line(self, y: float) -> None:
        if self._draw:
            ends = (MARGIN * self._scale, y * self._scale, (WIDTH - MARGIN) * self._scale, y * self._scale)
            self._draw.line(ends, fill=LINE, width=self._scale)

    def badge(self, x: float, y: float, text: str) -> None:
        """A rank on a dark disc."""
        if self._draw:
            s, size = self._scale, 22
            self._draw.ellipse((x * s, y * s, (x + size) * s, (y + size) * s), fill=INK)
            middle = ((x + size / 2) * s, (y + size / 2) * s)
            self._draw.text(middle, text, font=_font(11 * s, True), fill=PAPER, anchor="mm")

    def ribbon(self, x: float, bottom: float, width: float, text: str) -> None:
        """A green foot on a picture: this one was bought."""
        if self._draw:
            s = self._scale
            box = (x * s, (bottom - 20) * s, (x + width) * s, bottom * s)
            self._draw.rounded_rectangle(box, radius=6 * s, fill=BOUGHT, corners=(False, False, True, True))
            middle = ((x + width / 2) * s, (bottom - 10) * s)
            self._draw.text(middle, text, font=_font(10.5 * s, True), fill=PAPER, anchor="mm")

    def picture_card(self, x: float, y: float, width: float, height: float, item: SheetItem) -> None:
        """The picture with round corners, or a coloured card that bears the title."""
        if self._image is None or self._draw is None:
            return
        s = self._scale
        box = (round(x * s), round(y * s), round((x + width) * s), round((y + height) * s))
        size = box[2] - box[0], box[3] - box[1]
        card = open_picture(item.image_path, *size) or _title_card(item, size, s)
        mask = Image.new("L", size, 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=6 * s, fill=255)
        self._image.paste(card, box[:2], mask)
        self._draw.rounded_rectangle(
            (box[0], box[1], box[2] - 1, box[3] - 1), radius=6 * s, outline=LINE, width=s // 2 or 1
        )


def _title_card(item: SheetItem, size: tuple[int, int], scale: int) -> Image.Image:
    ground, ink = card_colours(item.title or item.item_id)
    card = Image.new("RGB", size, ground)
    draw = ImageDraw.Draw(card)
    points = max(9.0, size[0] / scale / 10)
    font = _font(points * scale, True)
    lines = _wrap(item.title or item.item_id, font, size[0] * 0.82, 5)
    step = points * 1.3 * scale
    top = (size[1] - step * len(lines)) / 2 + step / 2
    for number, line in enumerate(lines):
        draw.text((size[0] / 2, top + number * step), line, font=font, fill=ink, anchor="mm")
    return card


@cache
def _font(pixels: float, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: no font of the machine is needed."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), pixels)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: float, lines: int) -> list[str]:
    """Break at spaces, inside a word only where it is wider than a line; the last line ends in … where text is left."""
    words = text.split()
    wrapped: list[str] = []
    line = ""
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
        elif line:
            wrapped.append(line)
            words.insert(0, word)
            line = ""
        else:
            fits = max(1, next((n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width), 1))
            wrapped.append(word[:fits])
            words.insert(0, word[fits:])
    if line:
        wrapped.append(line)
    if len(wrapped) > lines:
        last = wrapped[lines - 1]
        while last and font.getlength(last + "…") > width:
            last = last[:-1]
        wrapped = [*wrapped[: lines - 1], last.rstrip(" ,;–-") + "…"]
    return wrapped
