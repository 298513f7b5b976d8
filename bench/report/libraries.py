"""The libraries behind the extra: reports need them, a server does not."""

import contextlib
import importlib
from collections.abc import Iterator

from serving.errors import ConfigError

_TERMINAL = ("rich",)
_PAGE = ("jinja2", "matplotlib")


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Wrap imports of the extra's libraries. Raises ConfigError that says what to install when one is absent."""
    try:
        yield
    except ImportError as error:
        name = (error.name or str(error)).partition(".")[0]
        raise ConfigError(f"reports need {name}, which is not installed: pip install 'penstock[bench]'") from None


def check(*, html: bool) -> None:
    """Import what reports will need, before minutes of measuring. Raises ConfigError when a library is absent."""
    for name in _TERMINAL + (_PAGE if html else ()):
        with needed():
            importlib.import_module(name)
