"""Ctrl-C while measuring: the first one ends the slice under way and keeps what it has shown, the second one ends all.

Python raises KeyboardInterrupt wherever the main thread happens to be, which may be between an answer and its being
counted. Here the first Ctrl-C calls what ends a slice in order, and a command then goes its usual way to its report.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

STATUS = 130
"""The exit status of a command that Ctrl-C has ended, as shells have it: 128 and the number of SIGINT."""


class Interrupt:
    """A context manager in which Ctrl-C is this object's. Main thread.

    While nothing is measured, Ctrl-C raises KeyboardInterrupt, as it does without this; and so does a second one.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._end: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as a shell starts what runs in its background
            signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def ends(self, end: Callable[[], None]) -> Iterator[None]:
        """While the `with` lasts, the first Ctrl-C calls `end`, which may do no more than a signal handler may."""
        self._end = end
        try:
            yield
        finally:
            self._end = None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's signature
        is_first, self.is_set = not self.is_set, True
        if not is_first or self._end is None:
            raise KeyboardInterrupt
        self._end()
