"""Every error this project raises on purpose.

RecsysError
├── SchemaError         a frame or a file lacks what its schema declares        (also a ValueError)
├── ConfigError         a configuration has an unknown key or an impossible value (also a ValueError)
├── LeakageError        something later than the request would be used for it   (also a ValueError)
├── ReleaseError        a release directory is incomplete, altered or of another version
├── EncoderError        an encoder's weights are missing or not the expected ones
└── UnreadableImage     bytes that are not a picture we accept
"""


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
    """Refuse a number of ``config`` that is below its bound; NaN is below any.

    Args:
        table: of the configuration file in which the number stands; "" for the top of it.
        config: has an attribute for each name in ``least``.
        least: name=bound.

    Raises:
        ConfigError: names the key, the bound and what came.
    """
    for name, bound in least.items():
        value = getattr(config, name)
        if not value >= bound:
            key = f"{table}.{name}" if table else name
            raise ConfigError(f"{key}: expected at least {bound}, came {value}")
