"""The night on shops of a few items: nothing is too small, and nothing later is known."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from night_shop import DAY, SMALL, paths_below

from pipelines.judge import Judgement, judge
from pipelines.night_config import load_config
from pipelines.retrain import retrain
from recsys.alignment.behaviour import behaviour_modality
from recsys.artifacts import Release, load_release
from recsys.data.database import open_database, upgrade_database
from recsys.data.releases import live_release
from recsys.data.store import insert_events, insert_reviews, put_items
from recsys.errors import SchemaError
from recsys.late import make_late_items
from recsys.recommend import recommend
from recsys.request import Request
from service.catalogue import load_catalogue_items
from tests.builders import purchases


@pytest.mark.slow
def test_the_smallest_shop_gets_a_release_that_answers(tmp_path: Path) -> None:
    """Two items without pictures, three events."""
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": "hat", "title": "Red hat"}, {"item_id": "cap", "title": "Blue cap"}])
    first = datetime(2026, 3, 1, tzinfo=UTC)
    seen = [("u", "hat", "purchase"), ("u", "cap", "purchase"), ("v", "hat", "detail-page-view")]
    events = [
        {"event_id": str(day), "user_id": user, "item_id": item, "event_type": kind, "timestamp": first + day * DAY}
        for day, (user, item, kind) in enumerate(seen)
    ]
    insert_events(engine, events)
    retrain(config, progress=False)
    live = live_release(engine)
    assert live is not None
    release = load_release(live.path)
    questions = [
        Request(requested_at=first + 9 * DAY, item_ids=item_ids, limit=50) for item_ids in (["hat"], ["unknown"], [])
    ]
    about_hat, about_nothing, home = recommend(release, questions)
    assert [item.item_id for item in about_hat.items] == ["cap"]
    assert {item.item_id for item in about_nothing.items} == {item.item_id for item in home.items} == {"hat", "cap"}
    assert not [name for name in release.manifest.files if "carried" in name]  # all that it knows can be encoded again


@pytest.mark.slow
def test_where_only_ids_are_known_an_item_that_gets_words_keeps_its_place(tmp_path: Path) -> None:
    """Two groups of shoppers, each with three items of its own; item "new" nobody took."""
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": item_id} for item_id in ("a0", "a1", "a2", "b0", "b1", "b2", "new")])
    first = datetime(2026, 3, 1, tzinfo=UTC)
    events = [
        {
            "event_id": f"{shopper}-{day}",
            "user_id": f"u{shopper}",
            "item_id": f"{'ab'[shopper % 2]}{(shopper + day) % 3}",
            "event_type": "purchase",
            "timestamp": first + day * DAY + timedelta(minutes=shopper),
        }
        for shopper in range(12)
        for day in range(0, 18, 4)
    ]
    insert_events(engine, events)
    release = load_release(Path(config.paths.releases) / retrain(config, progress=False).manifest.version)
    assert release.search is not None
    put_items(engine, [{"item_id": item_id, "title": "A red hat"} for item_id in ("a1", "new")])
    changed = [item for _, item in load_catalogue_items(engine, ["a1", "new"], first + 20 * DAY)]
    late = {item.item_id: item for item in make_late_items(release, changed, tmp_path, first + 20 * DAY)}
    row, vector = release.rows["a1"], release.tables.spaces["fused"][release.rows["a1"]]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert late["a1"].spaces["fused"] @ vector > 0.999
    np.testing.assert_allclose(late["a1"].parts["behaviour"], release.search.parts["behaviour"][row], atol=1e-2)
    assert not late["new"].spaces["fused"].any()


@pytest.mark.slow
def test_a_shop_of_ids_whose_first_days_sold_little_gets_a_night_of_counts(tmp_path: Path) -> None:
    """One sale a day at first, of an item each, and then a rush on all six; nothing is known before the oldest cut."""
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    names = ["a", "b", "c", "d", "e", "f"]
    put_items(engine, [{"item_id": name} for name in names])
    first = datetime(2026, 3, 1, tzinfo=UTC)
    days = [*range(14), *np.repeat(range(14, 24), 12).tolist()]
    events = [
        {"event_id": f"e{n}", "user_id": f"u{n if day < 14 else n % 40}", "item_id": names[0 if day < 14 else n % 6],
         "event_type": "purchase", "timestamp": first + day * DAY + timedelta(seconds=n)}
        for n, day in enumerate(days)
    ]  # fmt: skip
    insert_events(engine, events)
    versions = [retrain(config, publish=publish, progress=False).manifest.version for publish in (False, True)]
    releases = [load_release(Path(config.paths.releases) / version) for version in versions]
    for release in releases:
        assert not np.asarray(release.tables.spaces["fused"]).any()
        (slate,) = recommend(release, [Request(requested_at=first + 30 * DAY, item_ids=["b"], limit=6)])
        assert {item.item_id for item in slate.items} == set(names) - {"b"}
    # Of the same shop the same bits, though the first night was not published.
    assert releases[0].manifest.files == releases[1].manifest.files


@pytest.mark.slow
def test_a_review_is_in_no_vector_that_is_judged_on_what_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights on one shop; the second one's hat is reviewed in the newest label window and in the test window."""
    judged = []

    def judge_and_tell(twin: Release, *rest: Any) -> Judgement:
        judged.append(twin)
        return judge(twin, *rest)

    monkeypatch.setattr("pipelines.retrain.judge", judge_and_tell)
    first, names = datetime(2026, 3, 1, tzinfo=UTC), ["hat", "cap", "cup", "mug", "pen", "ink", "jar", "pot"]
    events = [
        {"event_id": f"{user} {day}", "user_id": f"u{user}", "item_id": names[(user + day) % 8],
         "event_type": "purchase", "timestamp": first + day * DAY}
        for user in range(6) for day in range(24)
    ]  # fmt: skip
    said = [(name, "Well made", 0) for name in names] + [("hat", "It squeaks on the stairs", day) for day in (19.5, 22)]
    published, config = [], replace(load_config(SMALL), paths=paths_below(tmp_path))
    config = replace(config, alignment=replace(config.alignment, epochs=2))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": name, "title": f"One {name}"} for name in names])
    insert_events(engine, events)
    for known in (said[:8], said):
        insert_reviews(
            engine,
            [
                {"review_id": f"r{number}", "item_id": name, "user_id": None, "rating": 4.0, "title": None,
                 "text": text, "helpful_votes": 0, "timestamp": first + day * DAY}
                for number, (name, text, day) in enumerate(known)
            ],
        )  # fmt: skip
        published.append(retrain(config, publish=False, progress=False))
    window = datetime.fromisoformat(published[0].manifest.metrics["evaluated_from"])
    assert window - 2 * DAY <= first + 19.5 * DAY < window < first + 22 * DAY
    for space in ("fused", "text"):
        np.testing.assert_array_equal(*(twin.tables.spaces[space] for twin in judged))
    np.testing.assert_array_equal(*(twin.retrieval.taste for twin in judged))
    before, after = (release.tables.spaces["fused"] for release in published)
    assert (before != after).any(axis=1).nonzero()[0].tolist() == [published[0].rows["hat"]]
    shares = [sum(part[release.rows["hat"]] for part in release.search.parts.values()) for release in published]
    np.testing.assert_allclose(shares, [vectors[published[0].rows["hat"]] for vectors in (before, after)], atol=2e-3)


def test_items_of_which_only_ids_are_known_have_the_space_of_their_shoppers() -> None:
    """Two groups of shoppers with items of their own; item 4 was taken once, item 5 never."""
    shoppers = np.repeat(np.arange(6, dtype=np.int32), 2)
    rows = np.array([0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 4], np.int32)
    past = purchases(shoppers, rows, np.zeros(12))
    known = behaviour_modality(past, n_items=6, dim=4)
    assert known.present.tolist() == [True, True, True, True, False, False]
    unit = known.vectors[:4] / np.linalg.norm(known.vectors[:4], axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert likeness[0, 1] > 0.99 > 0.5 > abs(likeness[0, 2])
    assert likeness[2, 3] > 0.7 > abs(likeness[0, 3])
    later = purchases(np.append(shoppers, [6, 7]), np.append(rows, [4, 4]), np.append(np.zeros(12), [1, 1]))
    until = behaviour_modality(later, n_items=6, dim=4, until_days=1)
    np.testing.assert_array_equal(until.vectors, known.vectors)  # what came later is not in them
    before = behaviour_modality(later, n_items=6, dim=4, until_days=0)
    assert not before.present.any()
    assert not before.vectors.any()
    with pytest.raises(SchemaError, match=r"at least 2 items with a picture .* two shoppers took, came 0 of 6 items"):
        behaviour_modality(past.select(np.arange(12) < 2), n_items=6, dim=4)
