"""Rows instead of slates: the same answers, a batch of them in memory at a time."""

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipelines.answers import answer_requests, answer_rows
from recsys.artifacts import Release
from recsys.evaluation.yardstick import slate_rows
from recsys.recommend import BATCH, recommend
from recsys.request import Request, Slate
from tests.builders import CUTOFF, build_release, build_shop


class Batch(list[Slate]):
    """A list of slates that can be watched."""


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_are_those_of_the_slates_and_no_slate_outlives_its_batch(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    release = build_release(*build_shop(), ranker=False)
    asked = Request(requested_at=CUTOFF, item_ids=[], limit=5)
    requests = [
        replace(asked, item_ids=[release.item_ids[n % len(release.item_ids)]], limit=3 + n % 5)
        for n in range(3 * BATCH + 7)
    ]
    available = np.arange(len(release.item_ids)) % 3 > 0
    expected = slate_rows(answer_requests(release, requests, available), release.rows, 6)
    answered: list[weakref.ref[Batch]] = []
    alive: list[int] = []

    def watched(release: Release, requests: list[Request], **options: Any) -> Batch:
        alive.append(sum(batch() is not None for batch in answered))
        batch = Batch(recommend(release, requests, **options))
        answered.append(weakref.ref(batch))
        return batch

    monkeypatch.setattr("pipelines.answers.recommend", watched)
    rows = answer_rows(release, requests, 6, available, threads=threads)
    assert rows.dtype == np.int32
    np.testing.assert_array_equal(rows, expected)
    assert len(alive) == 4
    assert max(alive) < threads
    assert answer_rows(release, [], 6).shape == (0, 6)
