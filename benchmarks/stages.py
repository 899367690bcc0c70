"""Nights that lack a part: what the rows ``ours: without …`` of a table are."""

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.protocol import OURS

if TYPE_CHECKING:  # they bring torch, which no peer should pay for
    from pipelines.encode import EncodedShop
    from pipelines.night_config import NightConfig
    from pipelines.workshop import Workshop
    from recsys.retrieval.users import Taste

STAGES = ("without image", "without text", "without behaviour", "without tower", "without tuning")


def called(without: str) -> str:
    """The row of the night that lacks a part: one of STAGES, or "" for all of it."""
    return f"{OURS}: {without}" if without else OURS


def leave_out(without: str, config: "NightConfig", encoded: "EncodedShop") -> "tuple[NightConfig, EncodedShop]":
    """The night and its encodings without a part: one of STAGES, or "" for all of it."""
    if without in ("without image", "without text"):
        kept = {name: each for name, each in encoded.modalities.items() if name != without.removeprefix("without ")}
        encoded = replace(encoded, modalities=kept)
    if without == "without behaviour":  # in the alignment; what was bought together still counts elsewhere
        config = replace(config, alignment=replace(config.alignment, behaviour_weight=0.0))
    if without == "without tower":  # nothing is trained that workshop_for() throws away
        config = replace(config, users=replace(config.users, epochs=0))
    if without == "without tuning":
        config = replace(config, tuning=replace(config.tuning, enabled=False))
    return config, encoded


def workshop_for(without: str) -> "type[Workshop]":
    """What fits and ranks a night that lacks a part: one of STAGES, or "" for all of it."""
    from pipelines.workshop import Workshop

    class WithoutTower(Workshop):
        """No item has a place in the space of tastes, so that none is near to anybody: no source, and no feature."""

        def taste_at(self, as_of: datetime) -> "Taste":
            taste = super().taste_at(as_of)
            return replace(taste, items=np.zeros_like(taste.items))

        def _taste_without(self, hidden: np.ndarray, as_of: datetime) -> "Taste":
            return self.taste_at(as_of)

    return WithoutTower if without == "without tower" else Workshop
