"""What a command does when it is told to end while programs that it started still run."""

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn


@contextlib.contextmanager
def ended_by_term() -> Iterator[None]:
    """Leave by an exception on SIGTERM, as on an interrupt, so that what was started is ended. On the main thread."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
