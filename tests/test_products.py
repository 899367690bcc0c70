"""Tables of products as shops write them: every id as it was, every row used or counted with the reason."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.products import read_pairs, read_products

FORMS = ("parquet", "csv", "jsonl", "csv.gz")


def write_table(folder: Path, form: str, ids: Sequence[str | None], **columns: Sequence[str | int | None]) -> Path:
    """The products' table in one of FORMS; titles where none are given."""
    frame = pl.DataFrame({"product_id": ids, "title": ["Hat"] * len(ids), **columns})
    file = folder / f"products.{form}"
    if form == "parquet":
        frame.write_parquet(file)
    elif form == "jsonl":
        frame.write_ndjson(file)
    else:
        frame.write_csv(file, compression="gzip" if form.endswith("gz") else "uncompressed")
    return file


def test_any_folder_of_the_form_and_hms_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id,name,category\n7,Red dress,Dresses\n")
    (tmp_path / "7.jpg").touch()
    products = read_products(tmp_path / "a.csv", tmp_path)
    assert products.words == ["Red dress."]
    assert products.category.tolist() == ["Dresses"]
    assert products.pictures == [tmp_path / "7.jpg"]
    article = {
        "article_id": ["0108775044"], "prod_name": ["Strap top"], "index_group_name": ["Ladieswear"],
        "index_name": ["Ladies"], "section_name": ["Basics"], "product_group_name": ["Upper body"],
        "product_type_name": ["Vest top"], "graphical_appearance_name": ["Solid"], "colour_group_name": ["Black"],
        "perceived_colour_value_name": ["Unknown"], "perceived_colour_master_name": ["Black"],
        "department_name": ["Jersey"], "garment_group_name": ["Jersey Basic"], "detail_desc": ["With narrow straps."],
    }  # fmt: skip
    pl.DataFrame(article).write_parquet(tmp_path / "articles.parquet")
    words = read_products(tmp_path / "articles.parquet", tmp_path).words[0]
    assert words is not None
    assert words.startswith("Strap top. Ladieswear, Ladies, Basics, Upper body, Vest top.")
    assert "colour group: Black" in words
    assert "Unknown" not in words
    (tmp_path / "b.csv").write_text("sku,words\n1,x\n")
    with pytest.raises(SystemExit, match="expected columns product_id and title"):
        read_products(tmp_path / "b.csv", tmp_path)


def test_pairs_are_of_one_customer(tmp_path: Path) -> None:
    bought = {"customer_id": ["x", "y", "x", "x"], "article_id": ["a", "b", "c", "gone"], "t_dat": [1, 2, 3, 4]}
    pl.DataFrame(bought).write_parquet(tmp_path / "t.parquet")
    assert read_pairs(tmp_path / "t.parquet", ["a", "b", "c"]).tolist() == [[0, 2]]


@pytest.mark.parametrize("form", FORMS)
def test_an_id_is_text_whatever_it_looks_like(form: str, tmp_path: Path) -> None:
    ids: list[str | None] = ["0108775015", *(str(n) for n in range(1, 150)), "A-1", "1e5"]
    (tmp_path / "0108775015.jpg").touch()
    products = read_products(write_table(tmp_path, form, ids), tmp_path)
    assert products.ids == ids
    assert products.pictures[0] == tmp_path / "0108775015.jpg"


def test_lines_of_json_may_mix_what_they_hold(tmp_path: Path) -> None:
    rows = [{"product_id": n, "title": "Hat", "size": n} for n in range(150)]
    rows += [{"product_id": "010", "title": "Hat", "size": ["S"], "category": float("nan")}, {"product_id": 7.5}]
    file = tmp_path / "products.json"
    file.write_text("\n".join(map(json.dumps, rows)) + "\nno object\n")
    products = read_products(file, tmp_path)
    assert products.ids == [*map(str, range(150)), "010", "7.5"]
    assert products.words[-1] is None
    assert set(products.category) == {""}  # NaN is how pandas says that there is none
    assert products.left_out == {"on a line that cannot be read": 1}


@pytest.mark.parametrize("form", FORMS)
def test_no_id_and_an_id_seen_before_are_left_out_and_counted(form: str, tmp_path: Path) -> None:
    ids = ["a", "b", None, "a", "c", "", "a"]
    titles: list[str | None] = ["First", "Second", "None", "Third", "Fourth", "Fifth", "Sixth"]
    products = read_products(write_table(tmp_path, form, ids, title=titles), tmp_path)
    assert products.ids == ["a", "b", "c"]
    assert products.words == ["First.", "Second.", "Fourth."]
    assert products.left_out == {"without an id": 2, "with the id of one before": 2}


@pytest.mark.parametrize("form", FORMS)
def test_no_category_is_none_of_the_categories(form: str, tmp_path: Path) -> None:
    file = write_table(tmp_path, form, ["a", "b", "c"], category=["Hats", None, " "])
    assert read_products(file, tmp_path).category.tolist() == ["Hats", "", ""]


def test_a_picture_may_be_of_any_form_that_is_read(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.jpeg", "c.webp", "d.PNG", "e.2.gif", "f.txt", "G.jpg"):
        (tmp_path / name).touch()
    ids: list[str | None] = ["a", "b", "c", "d", "e.2", "f", "g", "h"]
    products = read_products(write_table(tmp_path, "csv", ids), tmp_path)
    found = [path and path.name for path in products.pictures]
    assert found == ["a.jpg", "b.jpeg", "c.webp", "d.PNG", "e.2.gif", None, None, None]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none.csv", None, "expected a table, found no such file"),
        ("a.xlsx", "x", "expected one of .*, came 'a.xlsx'"),
        ("a.csv", "", "expected .* names of the columns, came an empty file"),
        ("a.csv", "product_id,title\n", r"expected rows, came none \(0 lines"),
        ("a.jsonl", "[1]\n", r"expected rows, came none \(1 lines cannot be read\)"),
        ("a.json", "[1\n2\n", r"expected rows, came none \(2 lines cannot be read\)"),
        ("a.json.gz", "[1]", "expected a whole gzip file"),
        ("a.parquet", "x", "expected a Parquet file"),
    ],
)
def test_what_is_no_table_of_products_is_said(name: str, text: str | None, expected: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match=expected):
        read_products(tmp_path / name, tmp_path)


def test_a_folder_of_pictures_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="pictures: expected a folder of pictures"):
        read_products(write_table(tmp_path, "csv", ["a"]), tmp_path / "pictures")


def test_times_of_purchases_are_numbers_where_they_look_like_numbers(tmp_path: Path) -> None:
    times = np.array([9, 10, 100, 1000, 10_000])
    bought = pl.DataFrame({"user_id": ["x"] * 5, "item_id": ["01", "02", "03", "04", "05"], "timestamp": times})
    bought.write_csv(tmp_path / "t.csv")
    pairs = read_pairs(tmp_path / "t.csv", ["01", "02", "03", "04", "05"])
    assert [0, 4] not in pairs.tolist()  # four purchases apart; as text 9 would be the last of them
    assert len(pairs) == 4 + 3 + 2


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_lists_of_words_are_joined(form: str, tmp_path: Path) -> None:
    rows = [
        {"title": ["Red", "dress"], "description": ["Long.", None, "Of silk."], "category": ["Women", "Dresses"]},
        {"title": ["Hat"], "description": [], "category": None},
    ]
    frame = pl.DataFrame([{"product_id": str(n), **row} for n, row in enumerate(rows)])
    file = tmp_path / f"products.{form}"
    (frame.write_parquet if form == "parquet" else frame.write_ndjson)(file)
    products = read_products(file, tmp_path)
    assert products.words == ["Red dress. Long. Of silk.", "Hat."]
    assert products.category.tolist() == ["Women > Dresses", ""]


def test_lists_of_lists_are_joined(tmp_path: Path) -> None:
    rows = {"product_id": [1], "title": ["Hat"], "category": [[["Women", "Hats"], ["Sale"]]]}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    assert read_products(tmp_path / "a.parquet", tmp_path).category.tolist() == ["Women > Hats > Sale"]


def test_whole_numbers_find_pictures_named_with_zeros_before(tmp_path: Path) -> None:
    for name in ("0108775015", "0000", "5", "07", "007", "0A1", "009"):
        (tmp_path / f"{name}.jpg").touch()
    ids = {
        "108775015": "0108775015", "0": "0000", "005": "5",
        "7": None, "007": "007",  # two pictures that it could be, one of them that of another product
        "A1": None,  # no number
        "9": None, "09": None,  # two products that it could be of
    }  # fmt: skip
    products = read_products(write_table(tmp_path, "csv", list(ids)), tmp_path)
    assert dict(zip(products.ids, [path and path.stem for path in products.pictures])) == ids


@pytest.mark.parametrize("form", FORMS)
def test_whole_numbers_that_a_null_made_floats_are_whole_numbers(form: str, tmp_path: Path) -> None:
    frame = pl.DataFrame({"product_id": [7.0, None, 108775015.0], "title": ["Hat"] * 3})
    file = write_table(tmp_path, form, frame["product_id"].cast(pl.String).to_list())
    if form == "parquet":
        frame.write_parquet(file)
    assert read_products(file, tmp_path).ids == ["7", "108775015"]
    versions: list[str | None] = ["7.0", "7.1"]  # not numbers of which all are whole
    assert read_products(write_table(tmp_path, form, versions), tmp_path).ids == versions


@pytest.mark.parametrize("form", FORMS)
def test_ids_lose_blanks_around_and_the_ending_of_a_picture(form: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    ids: list[str | None] = [" a ", "b.JPG", "c.webp ", "a", "d.2", ".jpg"]
    products = read_products(write_table(tmp_path, form, ids), tmp_path)
    assert products.ids == ["a", "b", "c", "d.2"]
    assert products.pictures[0] == tmp_path / "a.jpg"
    assert products.left_out == {"without an id": 1, "with the id of one before": 1}
    bought = {"user_id": ["x", "x"], "item_id": ["a.jpg", " b"], "timestamp": [1, 2]}
    pairs = read_pairs(write_table(tmp_path, form, ["1", "2"], **bought), products.ids)
    assert pairs.tolist() == [[0, 1]]  # as in the table, so in the purchases


def test_names_of_columns_are_known_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Product_ID,TITLE,Category,category\n1,Hat,x,Hats\n")
    products = read_products(tmp_path / "a.csv", tmp_path)
    assert (products.ids, products.words) == (["1"], ["Hat."])
    assert products.category.tolist() == ["Hats"]  # the one that is written as expected
    (tmp_path / "t.csv").write_text("USER_ID,Item_Id,TimeStamp\nx,1,1\nx,2,2\n")
    assert read_pairs(tmp_path / "t.csv", ["1", "2"]).tolist() == [[0, 1]]


@pytest.mark.parametrize("form", ["json", "jsonl", "json.gz"])
def test_one_array_of_json_is_read(form: str, tmp_path: Path) -> None:
    rows = [{"product_id": 1, "title": "Hat"}, "no object", {"product_id": 2, "title": ["Red", "hat"]}]
    file = tmp_path / f"a.{form}"
    whole = b"\n " + json.dumps(rows, indent=1).encode()
    file.write_bytes(gzip.compress(whole) if form.endswith("gz") else whole)
    products = read_products(file, tmp_path)
    assert products.words == ["Hat.", "Red hat."]
    assert products.left_out == {"on a line that cannot be read": 1}


def test_pictures_may_lie_in_folders_below(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("010/0108775015.jpg", "010/a.png", "011/a.jpg", "011/deeper/b.jpg"):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    file = write_table(tmp_path, "csv", ["0108775015", "a", "b"])
    found = [path and path.relative_to(images).as_posix() for path in read_products(file, images).pictures]
    assert found == ["010/0108775015.jpg", "011/a.jpg", "011/deeper/b.jpg"]
    (images / "b.jpg").touch()  # these are the pictures then, and those below are something else, as small ones
    assert read_products(file, images).pictures == [None, None, images / "b.jpg"]
