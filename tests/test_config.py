"""One TOML file → one configuration: what nobody reads is refused, what is wrong is named."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pipelines.config import Paths, load_paths, read_dataclass, read_toml, with_paths
from pipelines.night_config import load_config
from recsys.errors import ConfigError
from recsys.retrieval.retrieve import RetrievalConfig

NIGHTLY = Path(__file__).parent.parent / "pipelines" / "nightly.toml"


@dataclass(frozen=True)
class Inner:
    depth: int = 3


@dataclass(frozen=True)
class Outer:
    name: str = "x"
    share: float = 0.5
    count: int = 1
    on: bool = False
    kind: Literal["mean", "gated"] = "mean"
    sizes: tuple[int, ...] = (1,)
    limit: int | None = None
    weights: dict[str, float] = field(default_factory=lambda: {"image": 1.0, "text": 0.5})
    inner: Inner = Inner()

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share: expected at most 1, came {self.share}")


def read(**values):
    return read_dataclass(Outer, values, "night.toml")


def test_what_is_not_named_has_its_default():
    assert read() == Outer()
    whole = {
        "name": "y",
        "share": 1,
        "count": 2,
        "on": True,
        "kind": "gated",
        "sizes": [2, 3],
        "limit": 4,
        "weights": {"image": 2},
        "inner": {"depth": 5},
    }
    made = read(**whole)
    assert made == Outer("y", 1.0, 2, True, "gated", (2, 3), 4, {"image": 2.0, "text": 0.5}, Inner(5))
    assert type(made.share) is float
    assert type(made.weights["image"]) is float


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shares": 1}, r"night\.toml: unknown key 'shares'; did you mean 'share'\?"),
        ({"zzz": 1}, r"night\.toml: unknown key 'zzz'; expected one of \['name', 'share'"),
        ({"inner": {"dept": 1}}, r"night\.toml: inner: unknown key 'dept'; did you mean 'depth'\?"),
        ({"weights": {"imag": 1.0}}, r"night\.toml: weights: unknown key 'imag'; did you mean 'image'\?"),
        ({"weights": {"image": "much"}}, r"weights: image: expected float, came 'much'"),
        ({"weights": 3}, r"weights: expected a table, came 3"),
        ({"inner": 3}, r"inner: expected a table, came 3"),
        ({"name": 1}, r"name: expected str, came 1"),
        ({"count": 1.5}, r"count: expected int, came 1\.5"),
        ({"count": True}, r"count: expected int, came True"),
        ({"share": True}, r"share: expected float, came True"),
        ({"share": "half"}, r"share: expected float, came 'half'"),
        ({"on": 1}, r"on: expected bool, came 1"),
        ({"kind": "meann"}, r"kind: expected one of \['mean', 'gated'\], came 'meann'"),
        ({"sizes": 3}, r"sizes: expected a list, came 3"),
        ({"sizes": [1, "2"]}, r"sizes: expected int, came '2'"),
        ({"limit": "none"}, r"limit: expected int, came 'none'"),
        ({"share": 2.0}, r"night\.toml: share: expected at most 1, came 2\.0"),
    ],
)
def test_what_is_wrong_is_named(values, message):
    with pytest.raises(ConfigError, match=message):
        read(**values)


def test_the_nightly_configuration_loads():
    config = load_config(NIGHTLY)
    assert config.paths == load_paths(NIGHTLY) == Paths()
    assert config.recipe.threads == config.threads
    assert "paths" not in config.for_manifest()


@pytest.mark.parametrize("path", sorted(NIGHTLY.parent.glob("*.toml")), ids=lambda path: path.name)
def test_every_configuration_that_is_shipped_loads(path):
    assert "paths.database" in load_config(path).pinned


@pytest.mark.parametrize("place", ["first", "between", "last", "nowhere"])
def test_another_shop_keeps_all_but_the_paths(tmp_path, place):
    tables = ["threads = 1", '[paths]\ndatabase = "sqlite:///old.db"  # a remark\n\ncache = "old"', "[index]\nk = 3"]
    order = {"first": [1, 2], "between": [0, 1, 2], "last": [0, 2, 1], "nowhere": [0, 2]}[place]
    path = tmp_path / "night.toml"
    path.write_text("\n".join(tables[table] for table in order))
    paths = Paths(database="sqlite:///a 'quoted' \"name\" é.db", images="shop")
    changed = tmp_path / "changed.toml"
    changed.write_text(with_paths(path, paths))
    assert load_paths(changed) == paths
    assert read_toml(changed) == read_toml(path) | {"paths": asdict(paths)}


def test_tables_of_numbers_change_only_what_they_name(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text("[retrieval]\ndepth = 5\n[retrieval.step_decay]\ntransitions = 0.9\n")
    retrieval = load_config(path).retrieval
    assert retrieval.step_decay == RetrievalConfig().step_decay | {"transitions": 0.9}
    path.write_text("[retrieval.step_decay]\ntransition = 0.9\n")
    with pytest.raises(
        ConfigError, match=r"retrieval: step_decay: unknown key 'transition'; did you mean 'transitions'"
    ):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"threads = ", "expected TOML"),
        (b"\xff\xfe", "expected TOML"),
        (b"threads = 'two'", "threads: expected int, came 'two'"),
        (b"paths = 3", "paths: expected a table, came 3"),
        (b"threads = 0", "threads: expected at least 1, came 0"),
        (b"seed = -1", "seed: expected at least 0, came -1"),
        (b"[evaluation]\nk = 0", r"evaluation\.k: expected at least 1, came 0"),
        (b"[evaluation]\nmax_users = 0", r"evaluation\.max_users: expected at least 1, came 0"),
        (b"[evaluation]\nexamples = -1", r"evaluation\.examples: expected at least 0, came -1"),
        (b"[split]\ncuts = -1", r"split\.cuts: expected at least 0, came -1"),
        (b"[split]\nwindow_days = -1", r"split\.window_days: expected at least 0, came -1"),
        (b"[split]\nwindow_days = nan", r"split\.window_days: expected at least 0, came nan"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message):
    path = tmp_path / "night.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_paths_alone(tmp_path):
    path = tmp_path / "night.toml"
    path.write_text("[paths]\nreleases = 'elsewhere'\n")
    assert load_paths(path) == Paths(releases="elsewhere")
    path.write_text("paths = 3")
    with pytest.raises(ConfigError, match=r"\[paths\]: expected a table, came 3"):
        load_paths(path)
    with pytest.raises(ConfigError, match="expected a configuration file"):
        load_paths(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="expected a configuration file"):
        load_paths(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("retrieval.depth", "0"),
        ("retrieval.most", "-1"),
        ("retrieval.step_decay.content", "nan"),
        ("retrieval.fusion_weight.taste", "-0.5"),
        ("index.exact_up_to", "-1"),
        ("index.min_recall", "1.5"),
        ("tables.neighbours", "0"),
        ("tables.linear_penalty", "0.0"),
        ("tables.trending_half_life_days", "inf"),
        ("tables.heavy_shopper_power", "nan"),
        ("ranker.trees", "0"),
        ("ranker.learning_rate", "nan"),
        ("examples.negatives", "-1"),
        ("examples.hidden_share", "1.0"),
        ("users.epochs", "-1"),
        ("users.dropout", "1.0"),
        ("users.lr", "0.0"),
        ("users.temperature", "nan"),
        ("users.weight_decay", "-1.0"),
        ("alignment.batch_size", "1"),
        ("alignment.weight_decay", "-0.1"),
        ("text_encoder.max_tokens", "0"),
        ("reviews.rating", "nan"),
        ("split.cuts", "-1"),
        ("evaluation.k", "0"),
        ("tuning.max_requests", "0"),
        ("seed", "-1"),
    ],
)
def test_a_number_out_of_bounds_is_named_with_what_came(tmp_path: Path, key: str, value: str) -> None:
    table, _, name = key.rpartition(".")
    path = tmp_path / "night.toml"
    path.write_text((f"[{table}]\n" if table else "") + f"{name} = {value}\n")
    with pytest.raises(ConfigError, match=rf"{key}: expected .*, came {value}"):
        load_config(path)
