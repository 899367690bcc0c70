"""One kind of evidence about every item: pictures, words, reviews, or anything that comes as vectors."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import SchemaError

ENCODED = ("image", "text", "reviews")  # made by the encoders; every other comes as vectors or from behaviour


@dataclass(frozen=True, eq=False)
class Modality:
    """Vectors of one modality, one row an item; an item without it has ``present`` false and its vector is never read.

    Raises:
        SchemaError: the shapes disagree, or a present vector is not finite; the message names the first such row.
    """

    vectors: NDArray[np.float32]  # [n_items, d]
    present: NDArray[np.bool_]  # [n_items]

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.present.shape != self.vectors.shape[:1]:
            raise SchemaError(
                f"Modality: expected vectors [n, d] and present [n], came {self.vectors.shape} and {self.present.shape}"
            )
        if self.vectors.dtype != np.float32 or self.present.dtype != np.bool_:
            raise SchemaError(
                f"Modality: expected float32 and bool, came {self.vectors.dtype} and {self.present.dtype}"
            )
        finite = np.isfinite(self.vectors).all(axis=1) | ~self.present
        if not finite.all():
            raise SchemaError(f"Modality: expected finite vectors, row {int(np.argmin(finite))} is not")

    def __len__(self) -> int:
        return len(self.present)
