"""``recsys prune``: old recommendations go, batch by batch, and nothing else does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from importing import rows_of
from sqlalchemy import Engine, insert, select

from pipelines.cli import main
from pipelines.prune import prune
from recsys.data.store import insert_events
from recsys.data.tables import Recommendation

NOW = datetime.now(UTC)


def serve(engine: Engine, ages_days: list[float]) -> None:
    """A slate of each age, with an event that answers it."""
    answers = {"placement": "home", "release": "r", "fallback": "full", "items": [], "took_ms": 1.0}
    slates = [
        {"recommendation_id": f"{age:g} days", "requested_at": NOW - timedelta(days=age), **answers}
        for age in ages_days
    ]
    events = [
        {
            "event_id": slate["recommendation_id"],
            "event_type": "purchase",
            "user_id": "ann",
            "item_id": "red",
            "recommendation_id": slate["recommendation_id"],
            "timestamp": slate["requested_at"],
        }
        for slate in slates
    ]
    with engine.begin() as connection:
        connection.execute(insert(Recommendation), slates)
    insert_events(engine, events)


def left(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(Recommendation.recommendation_id)))


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
def test_what_is_older_goes_and_nothing_else(engine: Engine, batch_rows: int) -> None:
    serve(engine, [0, 29, 30, 31, 32, 400])
    before = rows_of(engine)
    assert prune(engine, NOW - timedelta(days=30), batch_rows) == 3
    assert left(engine) == {"0 days", "29 days", "30 days"}  # just so old is not older
    after = rows_of(engine)
    assert {name for name in before if before[name] != after[name]} == {"recommendations"}
    assert prune(engine, NOW - timedelta(days=30), batch_rows) == 0


def test_the_command(sqlite_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "night.toml"
    config.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    serve(sqlite_engine, [1, 6, 8, 90])
    assert main(["prune", "--older-than", "7", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith("2 recommendations from before ")
    assert left(sqlite_engine) == {"1 days", "6 days"}


@pytest.mark.parametrize("days", ["0", "-3", "1.5", "week", "99999999999"])
def test_days_that_are_none_are_refused(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["prune", f"--older-than={days}"])
    assert stopped.value.code == 2
    assert f"expected whole days, 1 to 36500, came '{days}'" in capsys.readouterr().err
