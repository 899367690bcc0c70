"""A TOML file → frozen dataclasses. A key that nobody reads is refused, not ignored.

Of a shop's configuration this knows ``[paths]``, which every command needs; the rest is in ``night_config.py``.
"""

import argparse
import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError

NIGHTLY = Path("pipelines/nightly.toml")  # the configuration where a command is told no other


@dataclass(frozen=True)
class Paths:
    """Where a shop's things stand; relative paths are relative to the working directory.

    Attributes:
        database: SQLAlchemy URL.
        events: folder of the Parquet log.
        cache: folder of encoded vectors; may be deleted, costs time.
        releases: folder of release directories.
        images: root of relative picture paths.
    """

    database: str = "sqlite:///var/shop.db"
    events: str = "var/events"
    cache: str = "var/cache"
    releases: str = "var/releases"
    images: str = "var/images"


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """``--config FILE`` of the commands that work on a shop."""
    parser.add_argument("--config", type=Path, default=NIGHTLY, help="the shop's configuration (default: %(default)s)")


def load_paths(path: Path) -> Paths:
    """The [paths] table alone: for commands that need no model configuration (and so no torch)."""
    return typing.cast(Paths, _checked(Paths, read_toml(path).get("paths", {}), f"{path}: [paths]"))


def with_paths(path: Path, paths: Paths) -> str:
    """The text of a configuration for another shop: as it stands at ``path``, with these [paths].

    Raises:
        ConfigError: see read_toml().
    """
    read_toml(path)
    values = dataclasses.asdict(paths).items()
    table = "[paths]\n" + "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values)
    up_to_the_next_table = re.compile(r"^\[paths\][^\n]*\n(?:(?!\[)[^\n]*\n?)*", re.MULTILINE)
    others = up_to_the_next_table.sub("", path.read_text(encoding="utf-8"))
    return f"{others.rstrip()}\n\n{table}".lstrip()


def read_toml(path: Path) -> dict[str, Any]:
    """The file's tables, unchecked.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: expected a configuration file: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML: {error}") from error


def read_dataclass(cls: type, values: dict[str, Any], where: str) -> Any:
    """Build a (nested) frozen dataclass from a TOML table, refusing what it does not declare."""
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in dataclasses.fields(cls)}
    arguments = {}
    for key, value in values.items():
        _refuse_unknown(key, list(known), where)
        if typing.get_origin(hints[key]) is dict:
            arguments[key] = _merged(known[key], hints[key], value, f"{where}: {key}")
        else:
            arguments[key] = _checked(hints[key], value, f"{where}: {key}")
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _refuse_unknown(key: str, known: list[str], where: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {known}"
        raise ConfigError(f"{where}: unknown key {key!r}{hint}")


def _merged(field: "dataclasses.Field[Any]", hint: Any, values: Any, where: str) -> dict[str, Any]:
    """A table of like values: it changes those of the default that it names; only an empty default lets it name any."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected a table, came {values!r}")
    merged = typing.cast(Callable[[], dict[str, Any]], field.default_factory)()
    open_to_names = not merged
    for key, value in values.items():
        if not open_to_names:
            _refuse_unknown(key, list(merged), where)
        merged[key] = _checked(typing.get_args(hint)[1], value, f"{where}: {key}")
    return merged


def _checked(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table, came {value!r}")
        return read_dataclass(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _checked(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where}: expected a list, came {value!r}")
        return tuple(_checked(arguments[0], each, where) for each in value)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: expected one of {list(arguments)}, came {value!r}")
        return value
    plain = origin or hint
    if plain is float and type(value) is int:
        return float(value)
    if type(value) is not plain:
        raise ConfigError(f"{where}: expected {plain.__name__}, came {value!r}")
    return value
