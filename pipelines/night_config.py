"""NightConfig: every free number of the night, with its default. Written into the manifest of what it made."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from pipelines.config import Paths, read_dataclass, read_toml
from pipelines.examples import ExamplesConfig
from pipelines.recipe import RecipeConfig
from pipelines.tuning import TuningConfig
from recsys.alignment.reviews import ReviewConfig
from recsys.alignment.train import AlignmentConfig
from recsys.alignment.users import UserTowerConfig
from recsys.data.split import SplitConfig
from recsys.encoders import ImageEncoderConfig, TextEncoderConfig
from recsys.errors import require_at_least
from recsys.ranking.train import RankerConfig
from recsys.retrieval.fit import TablesConfig
from recsys.retrieval.index import IndexConfig
from recsys.retrieval.retrieve import RetrievalConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """How the night judges itself.

    Attributes:
        k: places of a slate that count.
        max_users: shoppers of the test window that are asked; a larger shop's are drawn.
        examples: shoppers shown in the report.
        publish_worse: whether a release may replace the live one although its twin did surely worse than popularity.
    """

    k: int = 12
    max_users: int = 5_000
    examples: int = 4
    publish_worse: bool = False

    def __post_init__(self) -> None:
        require_at_least("evaluation", self, k=1, max_users=1, examples=0)


@dataclass(frozen=True)
class NightConfig:
    """One table of the TOML file for each field; see the field's class for what its keys mean.

    Attributes:
        pinned: "table.key" of numbers that tuning leaves alone; load_config() adds every one that the file sets.
        modalities: further ones, given as vectors: name → Parquet file, see pipelines/modalities.py.
        threads: of torch, Faiss and LightGBM alike; one setting for all training code.
        seed: of everything that is drawn.
    """

    paths: Paths = Paths()
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    reviews: ReviewConfig = field(default_factory=ReviewConfig)
    modalities: dict[str, str] = field(default_factory=dict)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    users: UserTowerConfig = field(default_factory=UserTowerConfig)
    split: SplitConfig = SplitConfig()
    tables: TablesConfig = TablesConfig()
    index: IndexConfig = IndexConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    examples: ExamplesConfig = ExamplesConfig()
    ranker: RankerConfig = RankerConfig()
    tuning: TuningConfig = TuningConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    pinned: tuple[str, ...] = ()
    threads: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least("", self, threads=1, seed=0)

    @property
    def recipe(self) -> RecipeConfig:
        """The part that a Workshop reads."""
        return RecipeConfig(
            tables=self.tables,
            index=self.index,
            retrieval=self.retrieval,
            examples=self.examples,
            ranker=self.ranker,
            users=self.users,
            tuning=self.tuning,
            threads=self.threads,
            seed=self.seed,
        )

    def with_recipe(self, recipe: RecipeConfig) -> "NightConfig":
        """The same night with the numbers that tuning may choose as they stand in ``recipe``."""
        return replace(self, tables=recipe.tables, retrieval=recipe.retrieval, ranker=recipe.ranker)

    def for_manifest(self) -> dict[str, Any]:
        """Everything but the paths: where a release was made does not change what it is."""
        whole = asdict(self) | {"modalities": list(self.modalities)}
        del whole["paths"]
        return whole


def load_config(path: Path) -> NightConfig:
    """Read and check a whole configuration.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value has the wrong type or is out of bounds; the
            message names it.
    """
    values = read_toml(path)
    config = cast(NightConfig, read_dataclass(NightConfig, values, str(path)))
    by_hand = {f"{table}.{key}" for table, keys in values.items() if isinstance(keys, dict) for key in _leaves(keys)}
    return replace(config, pinned=tuple(sorted(by_hand | set(config.pinned))))


def _leaves(values: dict[str, Any]) -> list[str]:
    """Dotted names of the values that a table sets."""
    names: list[str] = []
    for key, value in values.items():
        names += [f"{key}.{leaf}" for leaf in _leaves(value)] if isinstance(value, dict) else [key]
    return names
