"""Which pictures an import takes in, and under which path."""

from pathlib import Path

import pytest
from importing import rejects_of, run_import
from PIL import Image
from sqlalchemy import Engine

from recsys.data.load import load_items
from recsys.encoders.pictures import FORMATS, MAX_BYTES, MAX_PIXELS, read_picture


@pytest.mark.parametrize("form", FORMATS)
def test_what_the_night_can_read_goes_in(sqlite_engine: Engine, tmp_path: Path, form: str) -> None:
    (tmp_path / "shop").mkdir()
    Image.new("RGB", (32, 32), "red").save(tmp_path / "shop" / "red.img", form)
    assert read_picture((tmp_path / "shop" / "red.img").read_bytes()).size == (32, 32)
    (tmp_path / "shop" / "items.csv").write_text("item_id,images\na,red.img\n")
    assert rejects_of(run_import(sqlite_engine, tmp_path / "shop", "generic")) == []


def test_what_is_too_large_for_the_night_stays_out(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    Image.new("1", (10_000, MAX_PIXELS // 10_000 + 1)).save(tmp_path / "shop" / "large.png")
    with open(tmp_path / "shop" / "heavy.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    (tmp_path / "shop" / "items.csv").write_text("item_id,images\na,large.png|heavy.jpg\n")
    large, heavy = rejects_of(run_import(sqlite_engine, tmp_path / "shop", "generic"))
    assert large["came"] == f"large.png: 10000×{MAX_PIXELS // 10_000 + 1} pixels, more than {MAX_PIXELS}"
    assert heavy["came"] == f"heavy.jpg: {MAX_BYTES + 1} bytes, more than {MAX_BYTES}"


def test_a_relative_image_path_stays_in_its_folder(sqlite_engine: Engine, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    (shop / "images").mkdir(parents=True)
    for name in ("secret.jpg", "shop/own.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    (shop / "items.csv").write_text(
        "item_id,images\na,../secret.jpg|images/../own.jpg\nb,images/../../secret.jpg|own.jpg\n"
    )
    summary = run_import(sqlite_engine, shop, "generic", images_root=shop)
    assert load_items(sqlite_engine)["images"].to_list() == [["own.jpg"], ["own.jpg"]]
    assert [(reject["line"], reject["came"]) for reject in rejects_of(summary)] == [
        (2, "../secret.jpg: leads out of the folder"), (3, "images/../../secret.jpg: leads out of the folder"),
    ]  # fmt: skip


def test_unreadable_images_are_left_out_and_their_items_go_in(sqlite_engine: Engine, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    Image.new("RGB", (300, 300), "red").save(shop / "good.jpg")
    Image.effect_noise((300, 300), 80).save(shop / "whole.png")
    (shop / "cut.jpg").write_bytes((shop / "good.jpg").read_bytes()[:-200])
    (shop / "cut.png").write_bytes((shop / "whole.png").read_bytes()[:20_000])
    (shop / "text.jpg").write_text("not a picture")
    names = ["good.jpg", "cut.jpg", "cut.png", "text.jpg", "missing.jpg", "whole.png", "https://x.example/a.jpg"]
    (shop / "items.csv").write_text(f"item_id,images\na,{'|'.join(names)}\nb,text.jpg\n")
    summary = run_import(sqlite_engine, shop, "generic", images_root=shop)
    assert load_items(sqlite_engine)["images"].to_list() == [["good.jpg", "whole.png", "https://x.example/a.jpg"], []]
    rejects = rejects_of(summary)
    assert [(reject["line"], reject["came"].partition(":")[0]) for reject in rejects] == [
        (2, "cut.jpg"), (2, "cut.png"), (2, "text.jpg"), (2, "missing.jpg"), (3, "text.jpg"),
    ]  # fmt: skip
    assert {reject["left_out"] for reject in rejects} == {"value"}
    assert (summary.exit_status, summary.rejected_rows, summary.rejected_values) == (1, 0, 5)
