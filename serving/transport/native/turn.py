"""What one turn of the event loop does after the sockets were read: decide, run, write.

Reading only collects: requests into groups, other calls into a queue, bytes into outboxes. The phases of a turn then
work on what was collected, each for all connections together, so that a batch holds what came on all of them and every
connection is written to once.
"""

import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable
from dataclasses import dataclass

from serving.clock import Clock, Timers
from serving.model import Post

Phase = Callable[[], bool]
"""A step of a turn; says whether it has left something for the next one."""

RETRY_S = 0.1
"""When a phase has failed, what it may have left is looked at so much later: a mistake that stays must not spin."""

_log = logging.getLogger(__name__)


class Turn:
    """Runs the phases once per turn in which somebody asked for it. Lives on the event loop's thread."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._phases: list[Phase] = []
        self._is_due = False
        self._is_retrying = False
        self.is_running = False

    def add(self, phase: Phase) -> None:
        """Run a phase behind those that were added before."""
        self._phases.append(phase)

    def wake(self) -> None:
        """Ask for a turn; one that is running does not count."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._run)

    def wake_for_later_phase(self) -> None:
        """Ask for a turn, on behalf of a phase that comes after everything that calls this."""
        if not self.is_running:
            self.wake()

    def _run(self) -> None:
        self._is_due = False
        self.is_running = True
        for phase in self._phases:
            try:
                if phase():
                    self.wake()
            except Exception:  # noqa: BLE001 - a mistake in one phase must not keep the others from their work
                _log.exception("a phase of the event loop's turn failed")
                self._wake_after_failure()
        self.is_running = False

    def _wake_after_failure(self) -> None:
        if not self._is_retrying:
            self._is_retrying = True
            self._loop.call_later(RETRY_S, self._retry)

    def _retry(self) -> None:
        self._is_retrying = False
        self.wake()


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What belongs to the event loop: its clock, its timers, its turns, and the way to it from other threads."""

    loop: AbstractEventLoop
    clock: Clock
    timers: Timers
    post: Post
    turn: Turn
