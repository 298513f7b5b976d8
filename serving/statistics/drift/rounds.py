"""Makes the rounds of everything that is watched for drift, at the boundaries of their panes."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from serving.statistics.drift.report import alarm_facts
from serving.statistics.drift.view import DriftView
from serving.statistics.drift.watch import DriftWatch

LONGEST_WAIT_S = 1.0
"""How often to look whether there are rows enough for a reference, or models that were not there before."""
SHOWN = "rows"
"""What Prometheus shows: one watch per model version."""
_SHORTEST_WAIT_S = 0.01

_log = logging.getLogger(__name__)

OnAlarm = Callable[[dict[str, Any]], None]
"""Takes the facts of an alarm that begins. On the I/O thread."""

Watches = Callable[[], Sequence[DriftWatch]]
"""Returns what is watched now. On the I/O thread."""


class DriftRounds:
    """Ticks every watch on a thread of its own, and never two at a time. Lives on the I/O thread."""

    def __init__(self, watches: Watches, on_alarm: OnAlarm) -> None:
        self._watches = watches
        self._on_alarm = on_alarm
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="drift")

    async def run(self) -> None:
        """Make the rounds until cancelled."""
        while True:
            watches = self._watches()
            waits = [watch.seconds_to_boundary for watch in watches if watch.config.enabled]
            await asyncio.sleep(max(_SHORTEST_WAIT_S, min([LONGEST_WAIT_S, *waits])))
            for alarm in await asyncio.get_running_loop().run_in_executor(self.worker, _tick, self._watches()):
                self._on_alarm(alarm)

    async def views(self) -> list[DriftView]:
        """Return what Prometheus shows, made aside."""
        watches = [watch for watch in self._watches() if watch.subject == SHOWN]
        return await asyncio.get_running_loop().run_in_executor(self.worker, _views, watches)

    def run_aside(self, work: Callable[[], None]) -> "Future[None]":
        """Run something that must not be done on the I/O thread, between two rounds."""
        return self.worker.submit(work)


def _tick(watches: Sequence[DriftWatch]) -> list[dict[str, Any]]:
    """Tick all watches; return what to tell about those whose alarm begins."""
    alarms = []
    for watch in watches:
        try:
            if watch.tick():
                alarms.append(alarm_facts(watch.report(), watch.subject))
        except Exception:  # noqa: BLE001 - a mistake of ours must not end the watch over the others
            _log.exception("%s/%d: drift could not be looked at", watch.name, watch.version)
    return alarms


def _views(watches: Sequence[DriftWatch]) -> list[DriftView]:
    """Return the views of everything that has one; a mistake of ours must not cost the other metrics."""
    found = []
    for watch in watches:
        try:
            if (view := watch.view()) is not None:
                found.append(view)
        except Exception:  # noqa: BLE001 - logged
            _log.exception("%s/%d: drift could not be shown", watch.name, watch.version)
    return found
