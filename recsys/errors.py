"""Every error this project raises on purpose.

RecsysError
├── SchemaError         a frame or a file lacks what its schema declares        (also a ValueError)
├── ConfigError         a configuration has an unknown key or an impossible value (also a ValueError)
├── LeakageError        something later than the request would be used for it   (also a ValueError)
├── ReleaseError        a release directory is incomplete, altered or of another version
├── EncoderError        an encoder's weights are missing or not the expected ones
└── UnreadableImage     bytes that are not a picture we accept
"""

import math
from collections.abc import Mapping


class RecsysError(Exception):
    """Base of all of them: catch this to catch every expected failure."""


class SchemaError(RecsysError, ValueError):
    """Names the frame, the column, what was expected and what came."""


class ConfigError(RecsysError, ValueError):
    """Names the file, the key, what was expected and what came."""


class LeakageError(RecsysError, ValueError):
    """Knowledge from after a request would have reached it."""


class ReleaseError(RecsysError):
    """A release cannot be trusted; the live one stays."""


class EncoderError(RecsysError):
    """An encoder cannot be built as named."""


class UnreadableImage(RecsysError):
    """Says what was expected of the picture and what came."""


def require_at_least(table: str, config: object, **least: float) -> None:
    """Refuse a number of ``config`` that is below its bound, or infinite; NaN is below any.

    Args:
        table: of the configuration file in which the number stands; "" for the top of it.
        config: has an attribute for each name in ``least``, or is a mapping that has a key.
        least: name=bound.

    Raises:
        ConfigError: names the key, what was expected and what came.
    """
    for name, bound in least.items():
        value = _number(config, name)
        if not value >= bound:
            raise _out_of_bounds(table, name, f"at least {bound}", value)
        if value == math.inf:
            raise _out_of_bounds(table, name, "a finite number", value)


def require_positive(table: str, config: object, *names: str) -> None:
    """Refuse a number that is not above 0, or infinite; the arguments as for :func:`require_at_least`."""
    for name in names:
        value = _number(config, name)
        if not 0 < value < math.inf:
            raise _out_of_bounds(table, name, "more than 0, and finite", value)


def require_share(table: str, config: object, *names: str) -> None:
    """Refuse a number outside of [0, 1); the arguments as for :func:`require_at_least`."""
    for name in names:
        value = _number(config, name)
        if not 0 <= value < 1:
            raise _out_of_bounds(table, name, "a share in [0, 1)", value)


def _number(config: object, name: str) -> float:
    value: float = config[name] if isinstance(config, Mapping) else getattr(config, name)
    return value


def _out_of_bounds(table: str, name: str, expected: str, value: float) -> ConfigError:
    key = f"{table}.{name}" if table else name
    return ConfigError(f"{key}: expected {expected}, came {value}")
