"""Modalities that come as vectors: audio, video, anything that a shop has encoded itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from recsys.alignment.modality import ENCODED, Modality
from recsys.errors import ConfigError


def read_modalities(files: Mapping[str, str], item_ids: Sequence[str]) -> dict[str, Modality]:
    """Read the configuration's table ``[modalities]``: name → Parquet file with the columns item_id and vector.

    Args:
        files: name → path. ``vector`` is a list or an array of numbers, equally long in all rows; its direction counts
            and not its length.
        item_ids: of the items by row; what the file says of others is passed over.

    Returns:
        name → :class:`Modality`; an item is absent where the file has no row, a null, or zeros.

    Raises:
        ConfigError: a name is taken, or a file cannot be read or has another form; the message names it.
    """
    return {name: _read(name, Path(path), item_ids) for name, path in files.items()}


def _read(name: str, path: Path, item_ids: Sequence[str]) -> Modality:
    where = f"[modalities] {name} = {str(path)!r}"
    if name in ENCODED or not name.replace("_", "").isalnum():
        raise ConfigError(f"{where}: expected a name of letters and digits that is none of {', '.join(ENCODED)}")
    try:
        given = pl.read_parquet(path, columns=["item_id", "vector"])
        given = given.select(pl.col("item_id").cast(pl.String), pl.col("vector").cast(pl.List(pl.Float32)))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{where}: expected Parquet with the columns item_id and vector: {error}") from error
    given = given.drop_nulls()
    widths = given["vector"].list.len().unique().to_list()
    if len(widths) != 1 or widths[0] == 0:
        raise ConfigError(f"{where}: expected vectors of one length, came the lengths {sorted(widths)}")
    if given["item_id"].n_unique() != len(given):
        raise ConfigError(f"{where}: expected each item_id once, came {len(given) - given['item_id'].n_unique()} again")
    rows = pl.DataFrame({"item_id": item_ids, "row": np.arange(len(item_ids))}, schema_overrides={"item_id": pl.String})
    found = given.join(rows, on="item_id", maintain_order="left")
    vectors = np.zeros((len(item_ids), widths[0]), np.float32)
    if len(found):
        vectors[found["row"].to_numpy()] = np.stack(found["vector"].to_list())
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ConfigError(f"{where}: expected finite numbers, those of item {item_ids[row]!r} are not")
    length = np.linalg.norm(vectors, axis=1)
    return Modality((vectors / np.maximum(length, 1e-12)[:, None]).astype(np.float32), length > 0)
