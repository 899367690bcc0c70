"""An import as a whole: its command, what it leaves behind, a source that is of no form, and one that was killed."""

import gzip
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from importing import GOOD, logged, run_import, write_events
from PIL import Image
from sqlalchemy import Engine

from pipelines.cli import main
from recsys.data.database import open_database
from recsys.data.load import load_items
from recsys.data.tables import Event
from recsys.errors import SchemaError

ROOT = Path(__file__).parents[1]


def test_the_rejects_file_speaks_of_the_last_import_only(sqlite_engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "shop" / "events.csv"
    write_events(path, GOOD, "2,bought,ann,shirt,1,1,2026-01-02")
    assert run_import(sqlite_engine, path, "generic", rejects=tmp_path / "rejects.jsonl").exit_status == 1
    write_events(path, GOOD, "2,purchase,ann,shirt,1,1,2026-01-02")
    summary = run_import(sqlite_engine, path, "generic", rejects=tmp_path / "rejects.jsonl")
    assert summary.exit_status == 0
    assert not (tmp_path / "rejects.jsonl").exists()
    assert (summary.counts["events"].created, summary.counts["events"].unchanged) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("nothing.csv", b"a,b\n", "expected files named items, reviews, events"),
        ("events.csv", b"event_id,user_id\n1,ann\n", "expected the columns ['event_type', 'timestamp']"),
        ("events.csv", b"", "came an empty file"),
        ("items.csv", b"item_id,item_id\n1,2\n", "expected different names of columns"),
        ("items.csv", b'item_id,"title\n1,2\n', "expected different names of columns"),
        ("events.parquet", b"PAR1 but not really", "expected a Parquet file"),
        ("items.jsonl.gz", gzip.compress(b'{"item_id": "a"}\n' * 9999, mtime=0)[:60], "expected a whole gzip file"),
    ],
)
def test_a_file_that_is_not_of_the_form(
    sqlite_engine: Engine, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / name).write_bytes(content)
    with pytest.raises(SchemaError) as raised:
        run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert expected in str(raised.value)
    assert str(tmp_path / "shop") in str(raised.value)


def test_an_import_that_was_killed_is_completed_by_running_it_again(tmp_path: Path) -> None:
    write_events(
        tmp_path / "shop" / "events.csv", *(f"{n},purchase,u{n % 9},i{n % 7},5,1,2026-01-02" for n in range(100))
    )
    url = f"sqlite:///{tmp_path}/shop.db"
    program = f"""
import os, signal
from pathlib import Path
from recsys.data.database import open_database
from recsys.data.importers import files, import_shop, intake
files.BATCH_ROWS = 20
insert_events, batches = intake.insert_events, []
def insert_or_die(engine, events):
    batches.append(len(events))
    if len(batches) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return insert_events(engine, events)
intake.insert_events = insert_or_die
import_shop(open_database({url!r}), Path({str(tmp_path / "shop")!r}), "generic",
            rejects=Path({str(tmp_path / "rejects")!r}), progress=False)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -signal.SIGKILL
    engine = open_database(url)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count(Event.sequence))) == 60
    summary = run_import(engine, tmp_path / "shop", "generic")
    assert (summary.counts["events"].created, summary.counts["events"].unchanged) == (40, 60)
    assert logged(engine, tmp_path)["event_id"].to_list() == [str(n) for n in range(100)]
    engine.dispose()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shop"
    command = ["import", "generic", str(folder), "--quiet", "--rejects", str(tmp_path / "r.jsonl")]
    command += ["--database", f"sqlite:///{tmp_path}/var/shop.db"]
    write_events(folder / "events.csv", GOOD)
    assert main(command) == 0
    write_events(folder / "events.csv", GOOD, "oops")
    assert main(command) == 1
    said = capsys.readouterr().out
    assert f"1 rows and 0 single values were left out; each is explained in {tmp_path}/r.jsonl" in said
    command[2] = str(tmp_path / "nowhere")
    assert main(command) == 2
    assert "nowhere: expected a folder or a file" in capsys.readouterr().err


def test_the_command_takes_database_and_images_from_the_configuration(tmp_path: Path) -> None:
    folder, here, there = tmp_path / "shop", f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "hat.png")
    (folder / "items.csv").write_text("item_id,images\nhat,images/hat.png\n")
    config = tmp_path / "night.toml"
    config.write_text(f'[paths]\ndatabase = "{here}"\nimages = "{folder}"\n')
    command = ["import", "generic", str(folder), "--quiet", "--rejects", str(tmp_path / "r.jsonl")]
    absolute = str(folder / "images" / "hat.png")
    for options, database, stored in (
        (["--config", str(config)], here, "images/hat.png"),
        (["--config", str(config), "--images", str(folder / "images")], here, "hat.png"),
        (["--config", str(config), "--database", there], there, "images/hat.png"),
        (["--database", there], there, absolute),  # not the images folder of a configuration that was not named
    ):
        assert main([*command, *options]) == 0
        engine = open_database(database)
        assert load_items(engine)["images"].to_list() == [[stored]]
        engine.dispose()
