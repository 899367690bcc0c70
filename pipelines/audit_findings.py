"""What an audit of the catalogue says: the kinds of findings, and their table."""

from dataclasses import dataclass

import polars as pl

from pipelines.audit_fit import Disagreement

TWICE, SAME_PICTURE, SAME_WORDS = "same picture and words", "same picture", "same words"
DISAGREE, MISSING = "picture and words disagree", "missing"
FINDINGS = pl.Schema(
    {
        "kind": pl.String(),  # one of the above
        "item_id": pl.String(),
        "other_id": pl.String(),  # the other of a pair; of a disagreement, the product it may be swapped with
        "group": pl.Int64(),  # pairs of one kind that hang together
        "score": pl.Float64(),  # difference of pictures, share of common words, or misfit
        "note": pl.String(),
    }
)


@dataclass(frozen=True)
class Audit:
    """The result: what was found (FINDINGS, the surest first in each kind) and how the fit was judged."""

    findings: pl.DataFrame
    fit: Disagreement
