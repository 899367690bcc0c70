"""Self-tuning finds planted numbers, keeps what is not surely better, and a repeated night ends where it ended."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from scipy import sparse

from pipelines.tuning import (
    DEPTHS,
    ENOUGH,
    FEW,
    SHAPES,
    SOLVED_TOGETHER,
    Inner,
    Trial,
    Tuner,
    TuningConfig,
    chosen_numbers,
    inner_split,
    start_from,
    table_ndcg,
    tune_ranker,
    tune_retrieval,
    tune_tables,
)
from pipelines.workshop import Workshop
from recsys.evaluation.requests import EvaluationSet
from recsys.ranking.features import FEATURES
from recsys.ranking.train import Examples, RankerConfig
from recsys.request import Interaction, Request
from recsys.retrieval.fit import IndexedContent, TablesConfig
from recsys.retrieval.items import ItemTable, empty_table
from recsys.retrieval.retrieve import SOURCES, TABLES, RetrievalConfig
from tests.builders import CUTOFF, build_release, build_shop, histories_of, purchases, recipe


def nobody(n=0):
    return Inner(histories_of(*[[] for _ in range(n)]), [np.array([0])] * n)


def test_ndcg_of_ranks_is_that_worked_by_hand():
    inner = Inner(histories_of([], [], []), [np.array([1]), np.array([1, 2]), np.array([3])])
    scores = inner.ndcg([np.array([1.0]), np.array([2.0, np.inf]), np.array([13.0])])
    assert scores == pytest.approx([1.0, (1 / np.log2(3)) / (1 + 1 / np.log2(3)), 0.0])


def test_only_a_sure_gain_changes_a_number():
    tuner = Tuner(nobody(), seconds=60)
    rng = np.random.default_rng(0)
    sure = {1: np.full(100, 0.5), 2: np.full(100, 0.5) + rng.uniform(0, 0.2, 100)}
    assert tuner.choose("sure", 1, (1, 2), sure.__getitem__) == 2
    noise = rng.normal(0, 1, 100)
    luck = {1: np.zeros(100), 2: noise - noise.mean() + 0.05}  # better on average, by half a standard error
    assert tuner.choose("luck", 1, (1, 2), luck.__getitem__) == 1
    assert tuner.choose("worse", 1, (0,), lambda value: np.full(FEW, float(value))) == 1
    assert tuner.choose("few", 1, (2,), lambda value: np.full(FEW - 1, float(value))) == 1
    assert [trial.name for trial in tuner.trials] == ["sure"]
    assert tuner.trials[0] == Trial("sure", 1, 2, 0.5, pytest.approx(sure[2].mean()))


def test_what_is_set_by_hand_is_not_even_tried():
    tuner = Tuner(nobody(), seconds=60, pinned=("tables.shrinkage", "ranker.leaves"))
    for name in ("tables.shrinkage", "ranker.shape"):
        assert tuner.choose(name, 1, (2,), lambda value: pytest.fail(f"tried {value}")) == 1


def test_time_that_is_up_leaves_the_rest_as_it_was_and_says_so():
    tuner = Tuner(nobody(), seconds=-1)
    assert tuner.choose("a", 1, (2,), lambda value: pytest.fail(f"tried {value}")) == 1
    assert tuner.ran_out


def test_dear_trials_leave_time_for_what_comes_later():
    tuner = Tuner(nobody(), seconds=60)
    assert tuner.choose("dear", 1, (2,), lambda value: pytest.fail(f"tried {value}"), reserve=1.0) == 1
    assert tuner.choose("cheap", 1, (2,), lambda value: np.full(FEW, float(value))) == 2


def alike(*groups, n):
    """A table in which the items of each group resemble one another, the first of each most of all."""
    neighbours, weights = np.full((n, 4), -1, np.int32), np.zeros((n, 4), np.float32)
    for group in groups:
        for row in group:
            others = [other for other in group if other != row]
            neighbours[row, : len(others)] = others
            weights[row, : len(others)] = np.linspace(1, 0.5, len(others))
    return ItemTable(neighbours, weights)


def test_a_table_is_judged_by_what_is_new_to_the_shopper():
    """Items 0, 1, 2 resemble one another most of all, and 3 follows: who has the three is not asked for them again."""
    inner = Inner(histories_of([(0, "purchase", 1.0), (1, "purchase", 1.0), (2, "purchase", 1.0)]), [np.array([3])])
    assert inner.share_had == 0
    assert table_ndcg(inner, alike((0, 1, 2, 3), n=5), 1.0) == pytest.approx([1.0])
    again = Inner(inner.histories, [np.array([2, 3])])
    assert again.share_had == 0.5
    # What comes again is another source's to bring: here it only cannot be found.
    assert table_ndcg(again, alike((0, 1, 2, 3), n=5), 1.0) == pytest.approx([1 / (1 + 1 / np.log2(3))])


def test_own_things_are_rivals_only_where_somebody_takes_them_again(release):
    """A shopper's own things lead every list; where nobody takes them again, that is no reason to trust no list."""
    n = len(release.item_ids)
    groups = [range(start, start + 4) for start in range(0, n - 3, 4)]
    tables = {name: alike(*groups, n=n) if name == "linear" else empty_table(n) for name in TABLES}
    config = RetrievalConfig(fusion_weight=dict.fromkeys(SOURCES, 0.0) | {"linear": 1.0}, depth=20)
    retrieval = replace(release.retrieval, tables=tables, config=config, taste_index=None)
    groups = [group for group in groups for _ in range(5)]
    histories = histories_of(*[[(group[place], "purchase", 1.0) for place in range(3)] for group in groups])

    def tuned(wanted, pinned=()):
        tuner = Tuner(Inner(histories, wanted), seconds=60, pinned=pinned)
        config = tune_retrieval(tuner, retrieval)
        return config.repeats, [t.name for t in tuner.trials if "fusion_weight" in t.name or "lead" in t.name]

    assert len(groups) >= ENOUGH
    new, own = ([np.array([group[place]]) for group in groups] for place in (3, 0))
    assert tuned(new) == (False, [])  # found in the first place already
    assert tuned(new, pinned=["retrieval.repeats"])[0]
    assert tuned([*new[:-1], own[-1]])[0]  # one did
    repeats, changed = tuned(own)
    assert repeats
    assert changed


def test_few_who_took_nothing_twice_prove_nothing(release):
    histories = histories_of(*[[(0, "purchase", 1.0)]] * (ENOUGH - 1))
    tuner = Tuner(Inner(histories, [np.array([1])] * (ENOUGH - 1)), seconds=60)
    assert tune_retrieval(tuner, release.retrieval).repeats


@pytest.fixture(scope="module")
def release():
    return build_release(*build_shop())


def test_the_decay_and_the_weight_that_were_planted_are_found(release):
    """Who took a, then b, takes what b links to and never what a does. One table knows the link, the others mislead."""
    n = len(release.item_ids)
    links = np.arange(n, dtype=np.int32)
    right = ItemTable(((links + 7) % n)[:, None].astype(np.int32), np.ones((n, 1), np.float32))
    wrong = ItemTable(((links + 3) % n)[:, None].astype(np.int32), np.ones((n, 1), np.float32))
    tables = {name: right if name == "transitions" else wrong for name in TABLES}
    config = RetrievalConfig(
        depth=20,
        fusion_weight=dict.fromkeys(SOURCES, 0.0) | {"copurchase": 1.0, "transitions": 0.25},
        step_decay=dict.fromkeys(TABLES, 1.0),
    )
    retrieval = replace(release.retrieval, tables=tables, config=config, taste_index=None)
    rng = np.random.default_rng(0)
    pairs = [rng.choice(n, 2, replace=False) for _ in range(60)]
    pairs = [(first, second) for first, second in pairs if first != (second + 7) % n]  # nobody takes a again
    requests = [
        Request(
            requested_at=CUTOFF,
            history=[
                Interaction(release.item_ids[first], "purchase", CUTOFF - timedelta(days=2)),
                Interaction(release.item_ids[second], "purchase", CUTOFF - timedelta(days=1)),
            ],
        )
        for first, second in pairs
    ]
    taken = [[release.item_ids[(second + 7) % n]] for _, second in pairs]
    questions = EvaluationSet(requests, taken, CUTOFF, CUTOFF + timedelta(days=1))
    tuner = Tuner(inner_split(questions, release.rows, 50), seconds=60)
    tuned = tune_retrieval(tuner, retrieval)
    assert tuned.step_decay["transitions"] < 1.0
    assert tuned.fusion_weight["transitions"] > tuned.fusion_weight["copurchase"]
    changed = {trial.name: trial for trial in tuner.trials}
    assert changed["retrieval.step_decay.transitions"].ndcg_after == pytest.approx(1.0)
    assert changed["retrieval.step_decay.transitions"].ndcg_before < 1.0


def test_where_one_source_knows_it_all_the_others_fall_behind_at_once(release):
    """Ten sources agree on the wrong items. No single weight can be changed for the better: only the lead can."""
    n = len(release.item_ids)
    items = np.arange(n, dtype=np.int32)

    def linked(step):
        return ItemTable(
            (items[:, None] + step + np.arange(12)) % n, np.linspace(2, 1, 12, dtype=np.float32) + items[:, None] * 0
        )

    tables = {name: linked(3 if name == "linear" else 30) for name in TABLES}
    tables = {
        name: ItemTable(t.neighbours.astype(np.int32), t.weights.astype(np.float32)) for name, t in tables.items()
    }
    config = RetrievalConfig(fusion_weight=dict.fromkeys(SOURCES, 1.0), depth=20)
    retrieval = replace(release.retrieval, tables=tables, config=config, taste_index=None)
    inner = Inner(
        histories_of(*[[(row, "purchase", 1.0)] for row in range(n)]), [np.array([(row + 3) % n]) for row in range(n)]
    )
    tuner = Tuner(inner, seconds=60)
    tuned = tune_retrieval(tuner, retrieval)
    led = [trial for trial in tuner.trials if trial.name == "retrieval.lead"]
    assert [(trial.before, trial.after) for trial in led] == [("none", "linear")]
    assert tuned.fusion_weight["linear"] > 10 * tuned.fusion_weight["copurchase"]


@pytest.fixture
def one_source_knows(release):
    """Retrieval in which "linear" alone leads to what is taken, and the others agree on something else; and who asks.

    Its lists are short, so that whatever a shopper takes is among the first hundred candidates.
    """
    n = len(release.item_ids)
    items = np.arange(n, dtype=np.int32)
    tables = {
        name: ItemTable(((items + step) % n)[:, None].astype(np.int32), np.ones((n, 1), np.float32))
        for name, step in ((name, 3 if name == "linear" else 30) for name in TABLES)
    }
    retrieval = replace(release.retrieval, tables=tables, taste_index=None)
    asking = items[np.arange(ENOUGH) % n]
    inner = Inner(
        histories_of(*[[(row, "purchase", 1.0)] for row in asking]), [np.array([(r + 3) % n]) for r in asking]
    )

    def tuned(pinned=(), **numbers):
        config = RetrievalConfig(**{"fusion_weight": dict.fromkeys(SOURCES, 1.0), "depth": 20} | numbers)
        return tune_retrieval(Tuner(inner, seconds=60, pinned=pinned), replace(retrieval, config=config))

    return tuned


def test_how_many_go_on_is_chosen_unless_it_was_set_by_hand(one_source_knows):
    assert one_source_knows(most=400).most == min(DEPTHS)
    for pinned in ("retrieval.most", "retrieval"):
        assert one_source_knows([pinned], most=180).most == 180


def test_a_list_that_is_longer_than_any_other_is_cut_only_where_a_shorter_one_holds_as_much():
    for rank, chosen in ((150.0, 150), (300.0, 400), (np.inf, 100)):
        ranks = [np.array([rank if n % 10 == 0 else 1.0]) for n in range(ENOUGH)]  # nine of ten lie in front
        tuner = Tuner(nobody(ENOUGH), seconds=60)
        assert tuner.how_many_go_on(RetrievalConfig(most=400), ranks).most == chosen
        assert len(tuner.trials) == (rank != 300)


def test_a_weight_that_was_set_by_hand_stays_whoever_leads(one_source_knows):
    free = one_source_knows().fusion_weight
    assert (free["linear"], free["copurchase"]) == (4.0, 0.05)
    tuned = one_source_knows(["retrieval.fusion_weight.copurchase"]).fusion_weight
    assert (tuned["linear"], tuned["copurchase"], tuned["reversed"]) == (4.0, 1.0, 0.05)
    whole = one_source_knows(["retrieval.fusion_weight"]).fusion_weight
    assert whole == dict.fromkeys(SOURCES, 1.0)


def test_the_linear_model_solves_more_together_where_that_finds_more(release, monkeypatch):
    """Who takes an item takes its twin; an inverse of half the items knows half of the twins."""
    n, n_shoppers = 40, 400
    first = np.random.default_rng(0).integers(0, n // 2, n_shoppers)
    events = purchases(np.repeat(np.arange(n_shoppers), 2), np.stack([first, first + n // 2], 1).ravel(), [0.0] * 800)
    content = IndexedContent(
        [str(row) for row in range(n)], np.zeros((n, 4), np.float32), release.retrieval.index, empty_table(n),
        empty_table(n), None,
    )  # fmt: skip
    inner = Inner(
        histories_of(*[[(row, "purchase", 1.0)] for row in range(n // 2)]),
        [np.array([row + n // 2]) for row in range(n // 2)],
    )
    monkeypatch.setattr("pipelines.tuning.SOLVED_TOGETHER", (n // 2, n))
    for solved in (n // 2, n):
        config = TablesConfig(linear_items=solved, linear_block_items=0)
        tuner = Tuner(inner, seconds=60, pinned=("tables.shrinkage", "tables.trending_half_life_days"))
        tuned = tune_tables(tuner, content, release.retrieval, events, config, now=1.0, everybody=inner)
        assert tuned.linear_items == n


def test_a_night_that_starts_elsewhere_can_come_back_to_every_default(release):
    offered = {}

    class Listening(Tuner):
        def choose(self, name, now, values, judge, *, reserve=0.0):
            offered[name] = {*values}
            return now

    n = SOLVED_TOGETHER[0] + 1
    content = IndexedContent(
        [str(row) for row in range(n)], np.ones((n, 4), np.float32), release.retrieval.index, empty_table(n),
        empty_table(n), sparse.csr_matrix((n, 1)),
    )  # fmt: skip
    inner = Inner(histories_of([(0, "purchase", 1.0)]), [np.array([1])])
    tuner = Listening(inner, seconds=60)
    nothing = purchases(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))
    tune_tables(tuner, content, release.retrieval, nothing, TablesConfig(), now=1.0, everybody=inner)
    tune_retrieval(tuner, release.retrieval)
    others = ("retrieval.most", "retrieval.repeats", "ranker.shape")
    for name, default in chosen_numbers(TablesConfig(), RetrievalConfig(), RankerConfig()).items():
        assert name in others or default in offered[name], name
    assert (RankerConfig.leaves, RankerConfig.learning_rate, RankerConfig.min_leaf) in SHAPES
    assert RetrievalConfig.most in DEPTHS


def test_a_few_requests_do_not_reshape_the_trees():
    few = Examples(np.zeros((40, len(FEATURES)), np.float32), np.tile([1, 0], 20).astype(np.int8), np.arange(0, 41, 2))
    config = RankerConfig()
    assert tune_ranker(Tuner(nobody(), 60), few, config, 1000, seed=0, threads=1) == config


def test_the_next_night_starts_where_the_last_one_ended():
    defaults = TablesConfig(), RetrievalConfig(), RankerConfig()
    numbers = chosen_numbers(*defaults) | {
        "tables.shrinkage": 16.0,
        "retrieval.step_decay.transitions": 0.3,
        "retrieval.most": 400,
        "ranker.shape": [31, 0.03, 400],
        "tables.trending_half_life_days": 8.0,
        "a number of another version": 1,
    }
    tables, retrieval, ranker = start_from(numbers, *defaults, pinned=("tables.trending_half_life_days",))
    assert (tables.shrinkage, tables.trending_half_life_days) == (16.0, TablesConfig().trending_half_life_days)
    assert (retrieval.step_decay["transitions"], retrieval.most) == (0.3, 400)
    assert (ranker.leaves, ranker.learning_rate, ranker.min_leaf) == (31, 0.03, 400)
    assert start_from({}, *defaults, pinned=()) == defaults


def test_a_workshop_tunes_before_it_makes_anything_and_twice_the_same():
    shop, vectors = build_shop(n_items=120, n_shoppers=300)
    days = [CUTOFF - timedelta(days=n) for n in (4, 3, 2)]
    cuts = [(day, day + timedelta(days=1)) for day in days]
    config = replace(recipe(), tuning=TuningConfig(seconds=600))
    records = []
    for _ in range(2):
        workshop = Workshop(shop, vectors, config)
        workshop.tune(cuts)
        assert workshop.config.retrieval.fusion_weight != config.retrieval.fusion_weight  # which recipe() makes poor
        assert workshop.ranked_release(cuts, CUTOFF).retrieval.config == workshop.config.retrieval
        records.append(workshop.tuning_record())
    assert records[0] == records[1]
    assert records[0]["numbers"] == chosen_numbers(
        workshop.config.tables, workshop.config.retrieval, workshop.config.ranker
    )
    assert not records[0]["ran_out_of_time"]


def test_switched_off_it_changes_nothing():
    shop, vectors = build_shop()
    config = replace(recipe(), tuning=TuningConfig(enabled=False))
    workshop = Workshop(shop, vectors, config)
    workshop.tune([(CUTOFF - timedelta(days=3), CUTOFF - timedelta(days=2))])
    assert workshop.config == config
    assert workshop.tuning_record() == {}
