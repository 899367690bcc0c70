"""The tables on data that they have never seen: short, partial, changed or wrong files give rows or a sentence."""

import json
import operator
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from benchmarks import hm, quality, sequences
from benchmarks.goals import Goal
from benchmarks.hm_cold import read_cold
from benchmarks.hm_next_day import next_day, peer_next_day
from benchmarks.hm_sets import best_rows, read_core
from benchmarks.pctm import BEAUTY, settings_for
from benchmarks.peers import ease
from benchmarks.protocol import Answers, LeftOut, Truth, left_out, measure, score, show
from benchmarks.sequence_files import Files, Sequences, read_attributes, read_sequences, read_titles
from benchmarks.sequences import MEASURES, PEERS, _items, ours, peer, truth_of
from benchmarks.workspace import open_workspace
from recsys.data.importers.hm import ARTICLE_COLUMNS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, for var/bench."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_hm(folder: Path, sales: list[str], n_articles: int = 20) -> Path:
    """Articles 1 to n, and sales as "day customer article …" of September 2020."""
    folder.mkdir(parents=True, exist_ok=True)
    articles = pl.DataFrame({"article_id": [str(number) for number in range(1, n_articles + 1)]})
    articles.with_columns(pl.lit("x").alias(name) for name in ARTICLE_COLUMNS[1:]).write_csv(folder / "articles.csv")
    rows = [
        (f"2020-09-{int(day):02}", customer, article, "0.0169", "1")
        for day, customer, *bought in map(str.split, sales)
        for article in bought
    ]
    columns = ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"]
    pl.DataFrame(rows, schema=columns, orient="row").write_csv(folder / "transactions_train.csv")
    return folder


def write_picture(folder: Path, article: int) -> None:
    from PIL import Image

    (folder / "images" / "000").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "000" / f"{article:010}.jpg")


def customers(folder: Path) -> set[str]:
    return set(open_workspace("hm", folder).events["user_id"])


def test_folders_of_one_name_are_two_shops_and_changed_files_are_read_again(here: Path) -> None:
    first = write_hm(here / "old" / "hm", ["1 ann 1", "2 bob 2"])
    second = write_hm(here / "new" / "hm", ["1 cid 1"])
    assert (customers(first), customers(second)) == ({"ann", "bob"}, {"cid"})
    made = set((here / "var/bench/hm").iterdir())
    assert customers(first) == {"ann", "bob"}
    assert set((here / "var/bench/hm").iterdir()) == made  # the same files are not imported twice
    assert all(path.name.startswith("hm-") for path in made)
    write_hm(first, ["1 dan 1"])
    assert customers(first) == {"dan"}
    assert open_workspace("hm", first).items["images"].list.len().sum() == 0
    write_picture(first, 1)
    write_picture(first, 2)
    assert open_workspace("hm", first).items["images"].list.len().sum() == 2
    os.utime(first / "images" / "000", ns=(0, 0))
    (first / "images" / "000" / "0000000002.jpg").unlink()
    assert open_workspace("hm", first).items["images"].list.len().sum() == 1


def test_sales_of_articles_that_are_not_described_are_left_out_and_counted(here: Path) -> None:
    shop = open_workspace("hm", write_hm(here / "hm", ["1 ann 1 999", "2 bob 2", "3 ann 777 3"]))
    assert shop.unknown_events == 2
    assert shop.events["item_id"].to_list() == ["0000000001", "0000000002", "0000000003"]
    # They are asked about what is described only.
    assert peer_next_day("popular last day", here / "hm")[:, :2].tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("popular last day", [4, 2, 0, 1, 3]),  # article 5 twice and 3 once on the 5th, then the week's
        ("popular all week", [4, 0, 1, 2, 3]),
    ],
)
def test_the_last_day_with_sales_counts_and_the_week_fills_it(here: Path, method: str, expected: list[int]) -> None:
    sales = ["1 ann 1 2 4", "5 ann 5 3", "5 bob 5", "9 cid 1", "9 ann 2"]  # nothing was sold from the 6th to the 8th
    rows = peer_next_day(method, write_hm(here / "hm", sales))
    assert rows.tolist() == [[*expected, *[-1] * 7]] * 2


METHODS = ("bought before, then popular", "item to item", "EASE", "als", "bpr", "cosine", "bm25")


@pytest.mark.filterwarnings("ignore:Method expects CSR input")
@pytest.mark.parametrize("method", METHODS)
def test_who_is_unknown_gets_the_best_sellers_of_every_peer(here: Path, method: str) -> None:
    strangers = write_hm(here / "strangers", ["1 ann 1 2", "2 bob 2", "3 cid 1", "3 dan 2"])
    assert peer_next_day(method, strangers).tolist() == [[1, 0, *[-1] * 10]] * 2
    one = write_hm(here / "one", ["1 ann 1 2", "2 bob 2", "3 ann 1", "3 dan 2"])
    rows = peer_next_day(method, one)
    assert rows[1].tolist() == [1, 0, *[-1] * 10]
    # als and bpr have a score for what nobody took.
    assert set(rows[0].tolist()) == {0, 1, -1} or (method in ("als", "bpr") and len(set(rows[0].tolist())) == 12)


def test_too_few_days_are_refused_before_anything_is_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_hm(here / "hm", ["1 ann 1", "2 bob 2", "3 ann 999"])
    with pytest.raises(SystemExit, match=r"three days at least, came 2 on 2, and 1 of articles that it does not"):
        next_day(folder, 0, None, stages=False)
    monkeypatch.setattr("sys.argv", ["hm", "--data", str(here / "nowhere")])
    with pytest.raises(SystemExit, match="nowhere: expected a folder"):
        hm.main()


def test_a_core_without_pairs_is_refused_and_the_smallest_one_has_a_cold_article(here: Path) -> None:
    folder = write_hm(here / "hm", [f"1 {name} 1 2 3 4 5" for name in ("ann", "bob", "cid", "dan", "eve")])
    write_picture(folder, 1)
    with pytest.raises(SystemExit, match=r"1 of 20 articles have an image, and of 5 pairs .* 0 survive the 5-core"):
        read_core(open_workspace("hm", folder))
    for article in range(2, 6):
        write_picture(folder, article)
    sets, split = read_cold(open_workspace("hm", folder), seed=0)
    assert (len(sets), split.shown.sum(), len(split.users)) == (25, 1, 5)
    rows = best_rows(np.where(split.shown, np.zeros((5, 5)), -np.inf))
    assert rows.tolist() == [[int(np.flatnonzero(split.shown)[0]), *[-1] * 11]] * 5


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_only_blanks_tabs_and_newlines_part_words(tmp_path: Path) -> None:
    strange = "red\u00a0shoe", "blue\u2028hat", "\u00e9t\u00e9\x85", "pl\x1cain"
    text = (
        f"\ufeffann {strange[0]}\t{strange[1]}  {strange[2]} \r\n\nbob {strange[3]} {strange[2]} {strange[0]}\r\ncid \n"
    )
    data = read_sequences(Files(write(tmp_path / "shop.txt", text), None, None))
    named = [[data.item_ids[row] for row in line] for line in data.train]
    assert named == [[strange[0], strange[1]], [strange[3], strange[2]]]
    assert [data.item_ids[row] for row in data.targets] == [strange[2], strange[0]]
    assert data.skipped == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected lines of a user and items, .* came 0 lines"),
        ("ann\nbob\n", ".* came 2 lines, 0 of them with an item"),
        ("ann a b\nbob b a\n", ".*some with three items at least .* and none with three"),
        ("ann a b c\nbob b a d\n", "expected users whose last item somebody took before, came none among 2"),
        (b"ann a b \xff\n", "expected a file of UTF-8 text, came"),
        (None, "expected a file of UTF-8 text, came .*No such file"),
    ],
)
def test_sequences_that_nothing_can_be_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes | None, expected: str
) -> None:
    file = tmp_path / "shop.txt"
    if text is not None:
        write(file, text)
    monkeypatch.setattr("sys.argv", ["sequences", "--sequences", str(file)])
    with pytest.raises(SystemExit, match=f"shop.txt: {expected}"):
        sequences.main()


SHORT = "ann a b c\nbob b c a\ncid c\ndan c a b\neve\n"  # three items; cid has only a last one


@pytest.mark.filterwarnings("ignore:Method expects CSR input")
@pytest.mark.parametrize("method", PEERS)
def test_fewer_items_than_places_leave_places_empty(tmp_path: Path, method: str) -> None:
    files = Files(write(tmp_path / "shop.txt", SHORT), None, None)
    data, rows = read_sequences(files), peer(method, files)
    assert rows.shape == (4, 12)
    known = np.array([len(data.train[user]) == 2 for user in data.users])
    unseen = {"popular", "PCTM", "als", "bpr"}  # the others say nothing of a pair that nobody joined
    assert (rows[known, 1:] == -1).all()
    assert method not in unseen or (rows[known, 0] == data.targets[known]).all()
    assert score([Answers(method, rows, 1.0, 1.0)], truth_of(data), MEASURES, "ndcg@10")


@pytest.mark.slow
def test_lines_of_two_items_get_a_night_too(tmp_path: Path) -> None:
    """Before the oldest cut two things were taken, so nothing is known of the items; what sells is recommended."""
    rng = np.random.default_rng(0)
    lines = [f"u{user} " + " ".join(map(str, rng.permutation(10)[: 3 if user < 2 else 2])) for user in range(50)]
    files = Files(write(tmp_path / "shop.txt", "\n".join(lines)), None, None)
    data, rows = read_sequences(files), ours(files)["ours"]
    assert rows.shape == (50, 12)
    for user, shown in zip(data.users.tolist(), rows.tolist()):
        assert sorted(row for row in shown if row >= 0) == sorted(set(range(10)) - set(data.train[user]))


@pytest.mark.parametrize(
    "header", ["p5_id,asin,title", "title,,item_id", "asin,title,item", "sku,title", "item,p5_id,title"]
)
def test_titles_name_their_items_in_one_of_several_columns(tmp_path: Path, header: str) -> None:
    columns = header.split(",")
    of_item = next((name for name in ("p5_id", "item_id", "item") if name in columns), columns[0])
    cells = {"title": '"Boots, black"', of_item: "7"}
    line = ",".join(cells.get(name, "?") for name in columns)
    file = write(tmp_path / "titles.csv", f"\ufeff{header}\n{line}\nshort\n")
    assert read_titles(file, ["7", "8"]) == {"7": "Boots, black"}


@pytest.mark.parametrize(
    ("flag", "text", "expected"),
    [
        ("--titles", "a,name\n1,Boots\n", r"expected the columns title and one of p5_id, .* came \['a', 'name'\]"),
        ("--titles", "title\nBoots\n", r"or the item first\), came \['title'\]"),
        ("--titles", "", r"came \[\]"),
        ("--titles", "item,title\nz,Boots\n", r"items of the sequences \(3, such as .*\), came none of them among 1"),
        ("--attributes", "{", "expected JSON"),
        ("--attributes", "[1]", "expected an object of item → codes, came a list"),
        ("--attributes", '{"a": ["red", [1]]}', r"expected codes .*, came \[1\] for 'a'"),
        ("--attributes", '{"b": {"size": {"eu": 42}}}', r"expected codes .*, came \{'eu': 42\} for 'b'"),
        ("--attributes", "[" * 100_000, "expected JSON"),
        ("--attributes", '{"z": [1]}', "came none of them among 1, such as 'z'"),
    ],
)
def test_words_that_cannot_be_used_are_refused_before_anything_is_measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    text: str,
    expected: str,
) -> None:
    shop, words = write(tmp_path / "shop.txt", SHORT), write(tmp_path / "words", text)
    monkeypatch.setattr("sys.argv", ["sequences", "--sequences", str(shop), flag, str(words)])
    with pytest.raises(SystemExit, match=expected):
        sequences.main()
    assert "popular:" not in capsys.readouterr().out


def test_attributes_of_items_that_nobody_took_are_ignored(tmp_path: Path) -> None:
    file = write(tmp_path / "attributes.json", '{"a": [1, 2], "z": [["red"]]}')
    assert read_attributes(file, ["a", "b"]) == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("given", "codes"),
    [
        (None, []),
        ("red", ["red"]),
        (7, [7]),
        (0.5, [0.5]),
        (True, [True]),
        ([], []),
        (["red", 7, 0.5, False, None], ["red", 7, 0.5, False]),
        ({"colour": "red", "sizes": [41, 42], "brand": None}, ["colour=red", "sizes=41", "sizes=42"]),
        (["\ud800 red", "\U0001f460"], ["? red", "\U0001f460"]),
        ({"\ud800": "\udfff"}, ["?=?"]),
    ],
)
def test_attributes_come_in_any_plain_form(tmp_path: Path, given: object, codes: list[object]) -> None:
    file = write(tmp_path / "attributes.json", json.dumps({"a": given, "\ud800": 1}))
    assert read_attributes(file, ["a"]) == {"a": codes}
    items = _items(Files(file, file, None), Sequences(["a", "b"], [], np.zeros(0, int), np.zeros(0, np.int32)))
    assert items["attributes"].to_list() == [sorted(f"attribute={code}" for code in codes), []]


def test_a_peer_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sequences", "--sequences", "shop.txt", "--peers", "esae"])
    with pytest.raises(SystemExit):
        sequences.main()
    assert "invalid choice: 'esae'" in capsys.readouterr().err


def test_settings_of_pctm_are_the_published_ones_or_chosen_on_train(tmp_path: Path) -> None:
    # What follows what says nothing; but half of the shoppers take the best seller next.
    rng = np.random.default_rng(0)
    places = [
        ("i{} hit i{} i{}", "i{} i{} hit i{}")[user % 2].format(*rng.integers(300, size=3)) for user in range(400)
    ]
    lines = [f"u{user} {items}" for user, items in enumerate(places)]
    data = read_sequences(Files(write(tmp_path / "shop.txt", "\n".join(lines)), None, None))
    assert settings_for("shop", data).popularity > 0
    assert settings_for("Beauty", data) == settings_for("shop", data)  # a name says nothing of another shop's file
    of_that_size = Sequences(data.item_ids, [[0]] * 22_363, data.users, data.targets)
    assert settings_for("Beauty", of_that_size) == BEAUTY


def found(n: int) -> tuple[Truth, np.ndarray]:
    rows = np.arange(n, dtype=np.int32)
    truth = Truth(np.arange(n + 1), rows, segments={"nobody": np.zeros(n, bool)})
    return truth, np.pad(rows[:, None], ((0, 0), (0, 11)), constant_values=-1)


def test_without_a_peer_there_is_no_interval_and_nobody_has_no_mean() -> None:
    truth, rows = found(8)
    (row,) = score([Answers("ours", rows, 1.0, 1.0)], truth, MEASURES, "ndcg@10")
    assert (row["ndcg@10"], row["best_peer"]) == (1.0, False)
    assert {"ci_vs_best_peer", "ndcg@10 nobody"} & set(row) == set()
    assert quality.in_words([row], "ndcg@10") == "`ours` is at 1.0000 ndcg@10."


def test_a_method_that_fails_or_is_killed_is_left_out_and_the_others_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, rows = found(8)
    failed, killed = measure("ratio", operator.truediv, 1, 0), measure("dead", os._exit, 1)
    assert failed == LeftOut("ratio", "ZeroDivisionError: division by zero")
    assert killed == LeftOut("dead", "its process was killed, perhaps for want of memory")
    fine = measure("peer", np.asarray, rows)
    assert isinstance(fine, Answers)
    answers = [failed, killed, fine, Answers("ours", rows, 1.0, 1.0)]
    monkeypatch.setattr(
        "sys.argv", ["/home/ann/benchmarks/hm.py", "--data", "../shared/data/hm", "--json=/tmp/a/b.json"]
    )
    file = tmp_path / "table.json"
    show("H&M", "next day", score(answers, truth, MEASURES, "ndcg@10"), file, left_out(answers))
    table = json.loads(file.read_text())
    assert [row["method"] for row in table["rows"]] == ["peer", "ours"]
    assert table["left_out"] == {"ratio": failed.reason, "dead": killed.reason}
    assert table["command"] == "python -m benchmarks.hm --data ../shared/data/hm --json=b.json"
    assert "left out: ratio: ZeroDivisionError" in capsys.readouterr().out
    assert "Left out: dead (its process was killed" in "".join(quality.section("table", table, tmp_path))
    lost = [fine, LeftOut("ours", "SchemaError: too few items")]
    with pytest.raises(SystemExit, match="ours: expected an answer, came SchemaError"):
        show("H&M", "next day", score(lost, truth, MEASURES, "ndcg@10"), file, left_out(lost))
    assert "`ours` gave no answer." in "".join(quality.section("table", json.loads(file.read_text()), tmp_path))
    show("H&M", "next day", [], file, {"peer": "MemoryError: 41 GiB"})
    assert json.loads(file.read_text())["rows"] == []


def test_a_closed_form_that_does_not_fit_the_machine_is_refused() -> None:
    n = 2_000_000
    taken = sparse.csr_matrix((np.ones(n), (np.zeros(n, int), np.arange(n))), shape=(1, n))
    with pytest.raises(MemoryError, match=r"2,000,000 items need 74506 GiB, there are .* available"):
        ease(taken, np.array([0]), 10, penalty=1.0, min_buyers=1, repeats=False)


def test_a_goal_beside_nothing_is_not_told_and_the_page_divides_by_no_zero() -> None:
    def row(name: str, value: float, best: bool = False) -> dict[str, object]:
        return {"method": name, "ndcg@10": value, "best_peer": best, "ci_vs_best_peer": [0.0, 0.2]}

    rows = [row("none", 0.0, best=True), row("ours", 0.1), row("ours: retrieval only", 0.0)]
    table = {"dataset": "H&M", "protocol": "cold", "rows": rows}
    assert Goal("H&M: cold", "ndcg@10", 1.0, "the best peer").numbers([table]) == []
    assert Goal("H&M: cold", "map@12 newcomers", 1.0).numbers([table]) == []
    assert Goal("H&M: cold", "ndcg@10", 1.0).numbers([table]) == [0.1]
    said = quality.in_words(rows, "ndcg@10")
    assert said.startswith("`ours` is at 0.1000 ndcg@10, beside the best peer of the run (none, 0.0000); the interval")
    assert said.endswith("changes its own candidates' order by +0.1000 from 0.")
    rows = [row("peer", 0.2, best=True), row("ours", 0.0), row("ours: without text", 0.1)]
    assert quality.in_words(rows, "ndcg@10").endswith("Without text: +0.1000 from 0.")


def test_conclusions_written_by_hand_are_on_the_page_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, rows = found(8)
    results, page = tmp_path / "results", tmp_path / "page.md"
    table = score([Answers("ours", rows, 1.0, 1.0)], truth, MEASURES, "ndcg@10")
    show("Some shop", "next item", table, results / "shop.json", {})
    monkeypatch.setattr("sys.argv", ["quality", "--results", str(results), "--page", str(page)])
    quality.main()
    assert "What we read in it" not in page.read_text()
    write(results / "conclusions.md", "- {All} is well.\n")
    quality.main()
    *_, heading, origin, conclusions = page.read_text().split("\n\n")
    assert (heading, conclusions) == ("## What we read in it", "- {All} is well.\n")
    assert origin.startswith("No command wrote this part")
