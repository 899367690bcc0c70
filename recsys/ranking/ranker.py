"""Ranker: a fitted LightGBM model that orders candidates."""

from dataclasses import dataclass
from pathlib import Path

import lightgbm as lgb
import numpy as np

from recsys.errors import ReleaseError
from recsys.histories import Float32


@dataclass(frozen=True)
class Ranker:
    """Always fitted: it can only be made by train_ranker() or load_ranker().

    Attributes:
        booster: a LambdaRank model over FEATURES.
    """

    booster: lgb.Booster

    def score(self, features: Float32) -> Float32:
        """Relevance on the model's own scale, float32 [c]; a row does not depend on the others.

        One thread: at a few hundred rows a second one costs more than it brings.
        """
        scores = self.booster.predict(features, num_threads=1)
        return np.asarray(scores, np.float32)

    def contributions(self, features: Float32) -> Float32:
        """What each feature adds to each row's score (TreeSHAP), float32 [c, len(FEATURES)].

        A row's contributions and the model's mean score sum to :meth:`score`. Slower than that by far: for a few rows.
        """
        owed = self.booster.predict(features, num_threads=1, pred_contrib=True)
        return np.asarray(owed, np.float32)[:, :-1]  # the last column is the mean

    def importance(self) -> dict[str, float]:
        """Feature → share of the total gain, largest first."""
        gains = np.asarray(self.booster.feature_importance("gain"), float)
        names = self.booster.feature_name()
        order = np.argsort(-gains, kind="stable")
        return {names[i]: float(gains[i] / max(gains.sum(), 1e-12)) for i in order}

    def save(self, path: Path) -> None:
        """Write LightGBM's text form."""
        path.write_text(self.booster.model_to_string())


def load_ranker(path: Path, features: tuple[str, ...]) -> Ranker:
    """Read what :meth:`Ranker.save` wrote.

    Raises:
        ReleaseError: absent, not a LightGBM model, or one trained on other features than ``features``.
    """
    try:
        booster = lgb.Booster(model_str=path.read_text())
    except (OSError, UnicodeDecodeError, lgb.basic.LightGBMError) as error:
        raise ReleaseError(f"{path}: expected a LightGBM model in text form: {error}") from error
    came = tuple(booster.feature_name())
    if came != features:
        odd = sorted(set(came) ^ set(features)) or "the same in another order"
        raise ReleaseError(f"{path}: expected a ranker over this code's {len(features)} features; they differ in {odd}")
    return Ranker(booster)
