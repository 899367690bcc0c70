"""Contact sheets: the right pictures in the right places, whatever the shop's files are like."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from pipelines.contact_sheet import BOUGHT, INK, WIDTH, _font, _wrap, draw_contact_sheet, save_contact_sheet
from recsys.evaluation.sheet import Sheet, SheetItem, card_colours, open_picture

RED, BLUE = (200, 30, 30), (20, 40, 200)


def picture(folder: Path, name: str, colour, size=(60, 80), mode="RGB") -> Path:
    path = folder / name
    Image.new(mode, size, colour).save(path)
    return path


def share_of(image: Image.Image, colour) -> float:
    """Share of the pixels within a few steps of a colour."""
    colour = ImageColor.getrgb(colour) if isinstance(colour, str) else colour
    return float((np.abs(np.asarray(image, np.int16) - colour).max(axis=2) <= 6).mean())


def place_of(image: Image.Image, colour) -> tuple[float, float]:
    """Mean x and y of the pixels of a colour."""
    ys, xs = np.nonzero(np.abs(np.asarray(image, np.int16) - colour).max(axis=2) <= 6)
    return float(xs.mean()), float(ys.mean())


def test_history_stands_above_and_the_slate_reads_from_left_to_right(tmp_path):
    red, blue = picture(tmp_path, "red.png", RED), picture(tmp_path, "blue.png", BLUE)
    green = picture(tmp_path, "green.png", (20, 160, 40))
    sheet = Sheet(
        "Ann",
        [SheetItem("r", "Red", image_path=red)],
        [SheetItem("b", "Blue", image_path=blue), SheetItem("g", "Green", image_path=green)],
    )
    image = draw_contact_sheet([sheet], scale=1)
    assert image.width == WIDTH
    (_, red_y), (blue_x, blue_y), (green_x, green_y) = (place_of(image, c) for c in (RED, BLUE, (20, 160, 40)))
    assert red_y < blue_y == pytest.approx(green_y, abs=1)
    assert blue_x < green_x


@pytest.mark.parametrize("content", [None, b"", b"not a picture", b"\xff\xd8\xff\xe0cut short"])
def test_a_missing_or_broken_picture_becomes_a_card_with_the_title(tmp_path, content):
    path = tmp_path / "item.jpg"
    if content is not None:
        path.write_bytes(content)
    ground, ink = card_colours("Woollen coat")
    image = draw_contact_sheet([Sheet("Ann", [], [SheetItem("x", "Woollen coat", image_path=path)])], scale=1)
    assert share_of(image, ground) > 0.02
    assert share_of(image, ink) > 0


def test_a_picture_cut_short_is_no_picture(tmp_path):
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 90).save(whole)
    short = tmp_path / "short.png"
    short.write_bytes(whole.read_bytes()[:400])
    assert open_picture(whole, 30, 40) is not None
    assert open_picture(short, 30, 40) is None


@pytest.mark.parametrize(
    ("mode", "colour"), [("L", 40), ("P", 1), ("RGBA", (1, 2, 3, 0)), ("CMYK", (0, 255, 255, 0)), ("1", 1), ("I;16", 9)]
)
@pytest.mark.parametrize("size", [(1, 1), (300, 20), (20, 300), (60, 80)])
def test_every_kind_of_picture_comes_out_in_the_size_asked_for(tmp_path, mode, colour, size):
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I;16") else "image.png")
    Image.new(mode, size, colour).save(path)
    shown = open_picture(path, 48, 64)
    assert shown is not None
    assert (shown.size, shown.mode) == ((48, 64), "RGB")


def test_only_what_the_night_reads_is_opened(tmp_path):
    """Pillow knows many more formats; to draw one of them, PostScript, it would run a program."""
    path = tmp_path / "page.jpg"
    Image.new("RGB", (60, 80), RED).save(path, "PPM")
    with Image.open(path) as told_by_content:
        assert told_by_content.format == "PPM"
    assert open_picture(path, 30, 40) is None


def test_transparency_is_paper(tmp_path):
    path = picture(tmp_path, "clear.png", (255, 0, 0, 0), mode="RGBA")
    assert open_picture(path, 30, 40).getpixel((15, 20)) == (255, 255, 255)


def test_the_backdrop_of_a_narrow_picture_goes_on(tmp_path):
    narrow = open_picture(picture(tmp_path, "narrow.png", BLUE, size=(20, 80)), 60, 80)
    assert share_of(narrow, BLUE) == 1


def test_what_was_bought_is_marked(tmp_path):
    without = draw_contact_sheet([Sheet("Ann", [], [SheetItem("x", "Hat")])], scale=1)
    marked = draw_contact_sheet([Sheet("Ann", [], [SheetItem("x", "Hat", bought=True)])], scale=1)
    assert share_of(without, BOUGHT) == 0
    assert share_of(marked, BOUGHT) > 0.003


def test_several_shoppers_share_a_page_and_empty_ones_are_said_to_be(tmp_path):
    one = Sheet("Ann", [], [])
    heights = [draw_contact_sheet([one] * n, scale=1).height for n in (1, 2, 3)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=1)
    assert heights[2] == pytest.approx(3 * heights[0], abs=2)
    assert share_of(draw_contact_sheet([one], scale=1), INK) > 0  # words, not a blank page
    assert draw_contact_sheet([]).height > 0


def test_twelve_items_make_two_rows_and_a_long_history_one(tmp_path):
    item = SheetItem("x", "Hat")
    six, twelve = (draw_contact_sheet([Sheet("Ann", [], [item] * n)], scale=1).height for n in (6, 12))
    assert twelve > six + 200
    ten, hundred = (draw_contact_sheet([Sheet("Ann", [item] * n, [])], scale=1).height for n in (10, 100))
    assert ten == hundred


def test_text_stays_inside_its_column():
    font = _font(12, False)
    for text in (
        "one two three four five six seven eight nine ten",
        "Donaudampfschifffahrtsgesellschaft" * 3,
        "",
        "a b",
    ):
        wrapped = _wrap(text, font, 80, 2)
        assert len(wrapped) <= 2
        assert all(font.getlength(line) <= 80 for line in wrapped)
        complete = "".join(wrapped).replace(" ", "") == text.replace(" ", "")
        assert complete or wrapped[-1].endswith("…")


def test_it_is_written_where_it_was_asked_for(tmp_path):
    path = save_contact_sheet([Sheet("Ann", [], [])], tmp_path / "new" / "sheet.png", scale=1)
    with Image.open(path) as image:
        assert (image.format, image.width) == ("PNG", WIDTH)
