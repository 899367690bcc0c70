"""The shopper as vectors: a learned attention over recent items, without anything learned of the shopper themselves.

Anyone can be new: the vectors are a function of the history alone. They live in the taste space of the items, so that
``user vector · taste vector`` is the score and a Faiss index over the taste vectors answers for shoppers. This side is
numpy only; the weights are trained in :mod:`recsys.alignment.users`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recsys.errors import ReleaseError, SchemaError
from recsys.schema import EVENT_TYPES

Array = NDArray[np.float32]

MAX_HISTORY = 50  # the newest items that are read; older ones are passed over

# Edges of the buckets that ages and gaps fall into, in days: an hour, six, a day, … a year.
AGE_EDGES = np.array([1 / 24, 0.25, 1, 2, 4, 7, 14, 30, 60, 120, 365], dtype=np.float32)
N_AGES = len(AGE_EDGES) + 1


@dataclass(frozen=True, eq=False)
class UserTower:
    """The weights of the tower; float32 arrays, d = width of the taste space, k = interests, h = hidden, c = content.

    For a history of m items, newest last, with taste vectors E [m, d] and newest one e = E[m − 1]:

    logits = E·query + (E·(e·affinity))·affinity_weight + by_position + by_age + by_gap + by_type     [m, k]
    pooled = softmax over items(logits)ᵀ·E                                                            [k, d]
    vector = pooled·turn + e·turn_last + relu([pooled, e]·inner + inner_bias)·outer, to unit norm     [k, d]

    ``by_position`` counts from the newest, ``by_age`` is the time from the event to the request, ``by_gap`` from the
    event to the newest one. An untrained tower is a recency-weighted mean.

    Source: a cut-down of ComiRec's self-attentive interests (Cen et al. 2020, arXiv:2005.09347) with TiSASRec's time
    intervals (Li et al. 2020) as biases.
    """

    query: Array  # [d, k]
    affinity: Array  # [d, d]
    affinity_weight: Array  # [k]
    by_position: Array  # [MAX_HISTORY, k]
    by_age: Array  # [N_AGES, k]
    by_gap: Array  # [N_AGES, k]
    by_type: Array  # [len(EVENT_TYPES), k]
    turn: Array  # [d, d]
    turn_last: Array  # [d, d]
    inner: Array  # [2d, h]
    inner_bias: Array  # [h]
    outer: Array  # [h, d]
    log_scale: Array  # [1], ln 1/τ of training: what a logit is worth, for who trains on
    item_turn: Array  # [c, d], the place of an item by its content alone

    @property
    def interests(self) -> int:
        """How many vectors a shopper gets."""
        return int(self.query.shape[1])

    @property
    def dim(self) -> int:
        """Width of the taste space."""
        return int(self.query.shape[0])

    def item_vectors(self, content: Array) -> Array:
        """Taste vectors of items that the training did not know, from their content alone.

        Args:
            content: as in training, float32 [n, c].

        Returns:
            float32 [n, d], unit norm; zeros where there is no content.
        """
        vectors = np.asarray(content, np.float32) @ self.item_turn
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Array = vectors / np.maximum(norms, 1e-12)
        return unit

    def user_vectors(
        self,
        item_embeddings: Array,
        offsets: NDArray[np.int64],
        rows: NDArray[np.int32],
        event_types: NDArray[np.int8],
        ages_days: Array,
    ) -> Array:
        """The vectors of q shoppers; each is computed by itself, so it has the same bits in any batch.

        Args:
            item_embeddings: taste vectors of the items, unit norm, float32 [n, d].
            offsets: where each history begins and ends in the next three, int64 [q + 1].
            rows: rows of ``item_embeddings``, oldest first, int32 [m].
            event_types: positions in EVENT_TYPES, int8 [m].
            ages_days: from the event to the request, ≥ 0, float32 [m].

        Returns:
            float32 [q, interests, d], unit norm; zeros for an empty history.

        Raises:
            SchemaError: the widths differ.
        """
        if item_embeddings.shape[1] != self.dim:
            raise SchemaError(f"user_vectors: expected item embeddings [n, {self.dim}], came {item_embeddings.shape}")
        vectors = np.zeros((len(offsets) - 1, self.interests, self.dim), dtype=np.float32)
        for user in range(len(vectors)):
            end = int(offsets[user + 1])
            start = max(int(offsets[user]), end - MAX_HISTORY)
            if start < end:
                self._one(item_embeddings[rows[start:end]], event_types[start:end], ages_days[start:end], vectors[user])
        return vectors

    def _one(self, history: Array, event_types: NDArray[np.int8], ages_days: Array, out: Array) -> None:
        """Fill ``out`` [k, d] from one history [m, d], m ≥ 1."""
        last = history[-1]
        logits = history @ self.query
        logits += (history @ (last @ self.affinity))[:, None] * self.affinity_weight
        logits += self.by_position[len(history) - 1 :: -1] if len(history) < MAX_HISTORY else self.by_position[::-1]
        logits += self.by_age[AGE_EDGES.searchsorted(ages_days, "right")]
        logits += self.by_gap[AGE_EDGES.searchsorted(ages_days - ages_days[-1], "right")]
        logits += self.by_type[event_types]
        logits -= logits.max(axis=0)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=0)
        pooled = logits.T @ history
        hidden = pooled @ self.inner[: self.dim]
        hidden += last @ self.inner[self.dim :] + self.inner_bias
        np.maximum(hidden, 0, out=hidden)
        vector = pooled @ self.turn
        vector += last @ self.turn_last
        vector += hidden @ self.outer
        norms = np.sqrt((vector * vector).sum(axis=1, keepdims=True))
        np.divide(vector, np.maximum(norms, 1e-12), out=out)

    def save(self, path: Path | str) -> None:
        """Write the weights as one safetensors file."""
        weights = {field.name: np.ascontiguousarray(getattr(self, field.name)) for field in fields(self)}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, str(path), metadata={"reads": json.dumps([MAX_HISTORY, N_AGES, len(EVENT_TYPES)])})


def taste_content(spaces: Sequence[NDArray[Any]]) -> Array:
    """What the tower reads of items: their vectors in several spaces beside each other, float32 [n, c].

    Args:
        spaces: [n, d] each, unit norm or zero; of the same items, always in the same order.

    Returns:
        Unit norm, so that each known space counts alike; zeros where nothing is known.
    """
    beside = np.concatenate(spaces, axis=1, dtype=np.float32)
    unit: Array = beside / np.maximum(np.linalg.norm(beside, axis=1, keepdims=True), 1e-9)
    return unit


@dataclass(frozen=True, eq=False)
class Taste:
    """The space in which shoppers and items meet, as of one moment.

    Attributes:
        tower: history → user vectors.
        items: taste vectors, unit norm float32 [n, d]; zeros for an item without content that nobody ever took.
        own: what each item's vector has beside its content, float32 [n, d]: where a later training goes on from.
    """

    tower: UserTower
    items: Array
    own: Array


def load_user_tower(path: Path | str) -> UserTower:
    """Read what :meth:`UserTower.save` wrote.

    Raises:
        ReleaseError: the file is missing, or its arrays do not fit together or this version's buckets.
    """
    names = [field.name for field in fields(UserTower)]
    try:
        weights = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ReleaseError(f"{path}: expected a saved user tower: {error}") from error
    if sorted(weights) != sorted(names):
        raise ReleaseError(f"{path}: expected the arrays {names}, came {sorted(weights)}")
    d, k = weights["query"].shape
    h = weights["outer"].shape[0]
    expected = {
        "query": (d, k),
        "affinity": (d, d),
        "affinity_weight": (k,),
        "by_position": (MAX_HISTORY, k),
        "by_age": (N_AGES, k),
        "by_gap": (N_AGES, k),
        "by_type": (len(EVENT_TYPES), k),
        "turn": (d, d),
        "turn_last": (d, d),
        "inner": (2 * d, h),
        "inner_bias": (h,),
        "outer": (h, d),
        "log_scale": (1,),
        "item_turn": (weights["item_turn"].shape[0], d),
    }
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ReleaseError(f"{path}: expected {name} {shape}, came {weights[name].shape}")
    return UserTower(**weights)
