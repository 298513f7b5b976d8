"""Watches one servable for drift: gathers what its executors count, and closes panes.

Counting happens on the threads that run batches. All else happens here, on the thread of whoever calls `tick` or
`report`, which is never the I/O thread: a pane takes some milliseconds of numpy to close, and the first one a second or
so of simulation, in calls so short that the I/O thread gets the GIL between them. Only `pause` waits for nothing.
"""

import logging
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.clock import Clock
from serving.config import DriftConfig
from serving.errors import ConfigError
from serving.statistics.derived import Derivation
from serving.statistics.drift.counter import Collector, Counter
from serving.statistics.drift.counting import NUMPY, Block, Kernels
from serving.statistics.drift.layout import Layout, tensors
from serving.statistics.drift.panes import Panes
from serving.statistics.drift.report import DriftReport, Terms
from serving.statistics.drift.state import StateFile, profile_of, restore
from serving.statistics.drift.view import DriftView
from serving.statistics.profile import ReferenceProfile, Role, columns_watched
from serving.types import Signature

VIEW_REST = 200
"""What scrapes see is made anew after so many times as long as making it took: half a percent of a core."""

_log = logging.getLogger(__name__)


class DriftWatch:
    """The drift of one servable. `counter` is called when an executor is made, `begin` once, `tick` and `report` aside.

    Without a profile, or with one that is not for this model, the first `reference_rows` rows become the reference.
    `subject` is what is watched, for the log. Batches that end before `paused_until_ns`, in monotonic ns, are not to be
    counted.
    """

    def __init__(
        self, name: str, version: int, signature: Signature, config: DriftConfig, *,
        clock: Clock, kernels: Kernels = NUMPY, subject: str = "rows",
    ) -> None:  # fmt: skip
        self.subject = subject
        self.name = name
        self.version = version
        self.config = config
        self.paused_until_ns = 0
        self._signature = signature
        self._clock = clock
        self._kernels = kernels
        self._counters: list[Counter] = []
        self._busy = threading.Lock()
        self._layout: Layout | None = None
        self._panes: Panes | None = None
        self._last_boundary = self.boundary
        self._collector: Collector | None = None
        self._view: DriftView | None = None
        self._view_rests_ns = 0
        self._state: StateFile | None = None
        self._kept: bytes | None = None  # what an earlier server knew, until it is taken up

    def begin(self, profile: bytes | None, state: Path | None = None) -> None:
        """Begin to watch, before it serves: beside a profile or, without one for this model, beside the first rows.

        `state` is a folder in which what is known survives a restart.
        """
        if not self.config.enabled:
            return
        with self._busy:
            self._state = StateFile(state, self.name, self.version) if state is not None else None
            self._kept = self._state.read() if self._state is not None else None
            if not self._begin_with_profile(profile) and not self._begin_again():
                self._begin_collecting()

    def end(self) -> None:
        """Keep what is known, if there is a place for it. The executors have ended."""
        with self._busy:
            if self._state is not None and (panes := self._ready_panes()) is not None:
                self._gather(panes)
                self._save(panes)

    def pause(self, pause_s: float) -> None:
        """Count no rows from now on for so long, in place of what was asked before; 0 goes on. Any thread; never waits.

        What was counted before still counts: the open pane may close, and alarm.
        """
        self.paused_until_ns = self._clock.now_ns() + round(pause_s * 1e9) if pause_s else 0

    @property
    def paused_s(self) -> float:
        """For how long no rows are counted, since somebody has asked for that."""
        return max(0, self.paused_until_ns - self._clock.now_ns()) / 1e9

    @property
    def boundary(self) -> int:
        """The number of the last boundary that the wall clock has passed."""
        return int(self._clock.wall_ns() / 1e9 // self.config.pane_s)

    @property
    def seconds_to_boundary(self) -> float:
        """How long until the next boundary."""
        return (self.boundary + 1) * self.config.pane_s - self._clock.wall_ns() / 1e9

    def counter(self) -> Counter:
        """Return a counter for an executor of batches."""
        counter = Counter(self._clock, self._kernels, overhead_max=self.config.overhead_max)
        with self._busy:
            self._counters.append(counter)
            if self._layout is not None:
                counter.follow(self._layout)
            elif self._collector is not None:
                counter.collect(self._collector)
        return counter

    def tick(self) -> bool:
        """Do what is due: make a reference of the first rows, close a pane. Say whether an alarm begins."""
        with self._busy:
            self._end_collecting_if_full()
            panes = self._ready_panes()
            if panes is None or self.boundary == self._last_boundary:
                return False
            self._last_boundary = self.boundary
            self._gather(panes)
            closed = panes.panes
            begins = panes.close(self._last_boundary)
            if panes.panes > closed:
                self._save(panes)
        if begins:
            _log.warning("%s/%d: %s have drifted from the reference", self.name, self.version, self.subject)
        return begins

    def view(self) -> DriftView | None:
        """Return what Prometheus shows, None while there is nothing.

        It is made anew when a pane has closed, and when rows have come and the last one has rested: making one takes
        some hundredths of a second, which nobody may ask for again and again.
        """
        if not self.config.enabled:
            return None
        began_ns, shown, panes = self._clock.now_ns(), self._view, self._panes
        if shown is not None and panes is not None and panes.panes == shown.panes and began_ns < self._view_rests_ns:
            return shown
        report = self.report()
        if not report.features:
            return None
        if shown is None or (report.rows, report.panes_closed) != (shown.rows, shown.panes):
            self._view = DriftView.of(report)
        ended_ns = self._clock.now_ns()
        self._view_rests_ns = ended_ns + VIEW_REST * (ended_ns - began_ns)
        return self._view

    def report(self) -> DriftReport:
        """Return what is known now, with everything counted until now."""
        with self._busy:
            self._end_collecting_if_full()
            panes = self._ready_panes()
            if panes is None or self._layout is None:
                return self._empty_report()
            self._gather(panes)
            return self._full_report(panes, self._layout)

    def _begin_with_profile(self, profile: bytes | None) -> bool:
        """Watch beside a profile; say whether it is for this model."""
        if profile is None:
            return False
        try:
            self._follow(Layout(ReferenceProfile.from_bytes(profile), self._signature))
        except ConfigError as error:
            _log.error("%s/%d: %s; the first rows are the reference instead", self.name, self.version, error)
            return False
        return True

    def _begin_again(self) -> bool:
        """Watch beside the first rows that an earlier server saw; say whether it has kept any."""
        if self._kept is None:
            return False
        try:
            reference = ReferenceProfile.from_bytes(profile_of(self._kept))
            if not reference.is_self_reference:
                return False
            self._follow(Layout(reference, self._signature))
        except ConfigError as error:
            _log.warning("%s/%d: %s; beginning anew", self.name, self.version, error)
            return False
        return True

    def _begin_collecting(self) -> None:
        elements = [elements for _, _, elements in tensors(self._signature)]
        if any(elements):
            self._collector = Collector(elements, self.config.reference_rows)
            for counter in self._counters:
                counter.collect(self._collector)

    def _ready_panes(self) -> Panes | None:
        """Return the panes, None without a reference. Made here, since the radius of every feature takes a while."""
        if self._panes is None and self._layout is not None:
            slots = np.array([feature.slots for feature in self._layout.features])
            self._panes = Panes(self.config, self._layout.reference, slots)
            self._take_up(self._panes, self._layout)
        return self._panes

    def _take_up(self, panes: Panes, layout: Layout) -> None:
        """Go on where an earlier server ended, if it watched beside the same profile."""
        kept, self._kept = self._kept, None
        if kept is None:
            return
        try:
            if profile_of(kept) == layout.profile.to_bytes():
                restore(panes, kept)
                _log.info("%s/%d: goes on with the drift state that was kept", self.name, self.version)
        except ConfigError as error:
            _log.warning("%s/%d: %s; beginning anew", self.name, self.version, error)

    def _save(self, panes: Panes) -> None:
        if self._state is not None and self._layout is not None:
            rows_seen = panes.rows_seen_before + self._cost()[0]
            self._state.save(panes, self._layout.profile.to_bytes(), rows_seen=rows_seen)

    def _follow(self, layout: Layout) -> None:
        self._layout, self._collector = layout, None
        for counter in self._counters:
            counter.follow(layout)

    def _end_collecting_if_full(self) -> None:
        if self._collector is None:
            return
        for counter in self._counters:
            counter.settle()
        if self._collector.is_full:
            self._end_collecting(self._collector)

    def _end_collecting(self, collector: Collector) -> None:
        """Make a reference of the rows that were collected."""
        try:
            self._follow(Layout(_self_reference(collector, self._signature), self._signature))
        except ConfigError as error:
            _log.error("%s/%d: not watched for drift: %s", self.name, self.version, error)
            self._collector = None
            return
        _log.info("%s/%d: the first %s are the reference for drift", self.name, self.version, self.subject)

    def _gather(self, panes: Panes) -> None:
        for counter in self._counters:
            panes.add(counter.swap())

    def _terms(self) -> Terms:
        config = self.config
        return Terms(config.pane_s, config.pane_rows_min, config.tolerance, config.alarm_panes)

    def _cost(self) -> tuple[int, int, int]:
        governors = [counter.governor for counter in self._counters]
        return sum(g.rows for g in governors), sum(g.spent_ns for g in governors), sum(g.infer_ns for g in governors)

    def _empty_report(self) -> DriftReport:
        rows_seen, spent_ns, infer_ns = self._cost()
        phase = "off" if self._collector is None else "collecting"
        return DriftReport(
            self.name, str(self.version), phase, "", is_self_reference=True, is_calibrated=False, terms=self._terms(),
            features=(), rows=0, rows_seen=rows_seen, panes_closed=0, alarms=0, is_alarm=False, effects=np.ones(0),
            logs=np.empty(0), evidence=(), panes=(), open=Block(0), spent_ns=spent_ns, infer_ns=infer_ns,
            paused_s=self.paused_s,
        )  # fmt: skip

    def _full_report(self, panes: Panes, layout: Layout) -> DriftReport:
        rows_seen, spent_ns, infer_ns = self._cost()
        logs = panes.look()
        highest = logs.max()
        is_alarm = panes.alarm_since is not None or (
            math.isfinite(highest) and float(np.logaddexp.reduce(logs)) - math.log(len(logs)) >= panes.alarm_log
        )
        return DriftReport(
            self.name, str(self.version), "calibrating" if panes.is_calibrating else "watching",
            layout.profile.data_digest, is_self_reference=layout.profile.is_self_reference,
            is_calibrated=self.config.calibration_panes > 0 and not panes.is_calibrating, terms=self._terms(),
            features=layout.features, rows=panes.rows, rows_seen=panes.rows_seen_before + rows_seen,
            panes_closed=panes.panes, alarms=panes.alarms, is_alarm=is_alarm, effects=panes.effects.copy(), logs=logs,
            evidence=tuple(panes.evidence), panes=tuple(panes.closed), open=panes.open.copy(),
            spent_ns=spent_ns, infer_ns=infer_ns, paused_s=self.paused_s,
        )  # fmt: skip


def _self_reference(collector: Collector, signature: Signature) -> ReferenceProfile:
    """Count the collected rows. Of wide tensors only the watched columns were kept; they get their own numbers back."""
    tensors_of: dict[Role, dict[str, NDArray[Any]]] = {Role.INPUT: {}, Role.OUTPUT: {}}
    columns: dict[tuple[Role, str], list[int]] = {}
    names: dict[str, list[str]] = {}
    watched = [item for item in tensors(signature) if item[2]]
    samples = list(collector.samples)  # another executor may still add one
    for index, (role, spec, elements) in enumerate(watched):
        tensors_of[role][spec.name] = np.concatenate([sample[index] for sample in samples])
        own = columns[role, spec.name] = columns_watched(elements).tolist()
        is_plain = len(spec.shape) == (1 if signature.batchable else 0)
        names[spec.name] = [spec.name] if is_plain else [f"{spec.name}[{column}]" for column in own]
    profile = ReferenceProfile.of_tensors(
        tensors_of[Role.INPUT], tensors_of[Role.OUTPUT], names=names, is_self_reference=True
    )
    features = [
        replace(f, column=columns[f.role, f.tensor][f.column]) if f.derivation is Derivation.ELEMENT else f
        for f in profile.features
    ]
    return replace(profile, features=tuple(features))
