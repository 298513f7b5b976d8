"""The panes of a servable: what was counted between two boundaries of the wall clock, and the evidence in it. Pure.

All replicas of a model close their panes at the same boundaries, so their counts can be added pane by pane.
"""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.config import DriftConfig
from serving.statistics.drift.calibration import design_effects
from serving.statistics.drift.counting import Block
from serving.statistics.drift.detector import Detector, mean_evidence
from serving.statistics.drift.evidence import Reference
from serving.statistics.drift.radius import radii

PANES_KEPT_MAX = 64
"""Closed panes whose counts are kept, for reports and for adding replicas up."""
BYTES_KEPT_MAX = 32 << 20
EVIDENCE_KEPT_MAX = 1024
_ALARM_PANES_MIN = 16


@dataclass(frozen=True, slots=True, eq=False)
class Pane:
    """A closed pane. It ended at `boundary` times `pane_s` after the epoch."""

    boundary: int
    block: Block


@dataclass(slots=True, eq=False)
class Panes:
    """Closes panes and follows the evidence. One thread at a time.

    `slots` [features] are how many slots of a block each feature uses, `reference` their counts [features, 64]. While
    an alarm stands, beginnings are kept for `window` panes. `calibrating` are the counts of the first panes.
    `rows` were counted; earlier servers, whose evidence this goes on with, had seen `rows_seen_before`.
    """

    config: DriftConfig
    reference: NDArray[np.int64]
    slots: NDArray[np.int64]
    detector: Detector = field(init=False)
    open: Block = field(init=False)
    closed: deque[Pane] = field(init=False)
    effects: NDArray[np.float64] = field(init=False)
    logs: NDArray[np.float64] = field(init=False)
    evidence: deque[tuple[int, float]] = field(init=False)
    rows: int = 0
    rows_seen_before: int = 0
    panes: int = 0
    alarms: int = 0
    alarm_since: int | None = None
    window: int = _ALARM_PANES_MIN
    calibrating: list[NDArray[np.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        features = len(self.reference)
        radius = radii(self.reference) + self.config.tolerance
        self.detector = Detector(Reference.of(self.reference, self.slots, radius))
        self.open = Block(features)
        kept = min(PANES_KEPT_MAX, max(1, BYTES_KEPT_MAX // max(1, self.open.counts.nbytes)))
        self.closed = deque(maxlen=kept)
        self.effects = np.ones(features)
        self.logs = np.full(features, -math.inf)
        self.evidence = deque(maxlen=EVIDENCE_KEPT_MAX)

    @property
    def is_calibrating(self) -> bool:
        """Whether the first panes are still needed to learn how much panes vary."""
        return self.panes < self.config.calibration_panes

    @property
    def alarm_log(self) -> float:
        """The log of the evidence that alarms."""
        return math.log(self.config.alarm_panes)

    def add(self, block: Block) -> None:
        """Add counts to the open pane."""
        self.open.add(block)
        self.rows += block.rows

    def close(self, boundary: int) -> bool:
        """Close the open pane at a boundary if it has rows enough; say whether an alarm begins."""
        if self.open.rows < self.config.pane_rows_min:
            return False
        pane, self.open = Pane(boundary, self.open), Block(len(self.reference))
        self.closed.append(pane)
        if self.is_calibrating:
            self.calibrating.append(pane.block.counts)
            self.panes += 1
            if not self.is_calibrating:
                self.effects = design_effects(np.stack(self.calibrating))
                self.calibrating = []
            return False
        self.panes += 1
        self.logs = self.detector.add(self.effective(pane.block))
        self.evidence.append((boundary, mean_evidence(self.logs)))
        return self._follow_alarm(boundary)

    def effective(self, block: Block) -> NDArray[np.float64]:
        """Return counts in independent rows."""
        scaled: NDArray[np.float64] = block.counts / self.effects[:, None]
        return scaled

    def look(self) -> NDArray[np.float64]:
        """Return the log of each feature's evidence with the open pane, where that has rows enough.

        Looking more often than a pane ends costs nothing of the guarantee: it holds at every time somebody may stop.
        """
        if self.is_calibrating or self.open.rows < self.config.pane_rows_min:
            return self.logs
        return self.detector.look(self.effective(self.open))

    def _follow_alarm(self, boundary: int) -> bool:
        """Begin or end an alarm. While it stands, old beginnings are forgotten: it ends soon after the drift."""
        is_alarming = self.evidence[-1][1] >= self.alarm_log
        begins = is_alarming and self.alarm_since is None
        if begins:
            self.alarms += 1
            self.alarm_since = boundary
            leading = self.detector.starts[int(np.argmax(self.detector.by_start().max(axis=1)))]
            self.window = max(_ALARM_PANES_MIN, 2 * (self.detector.panes - leading.pane + 1))
        if is_alarming:
            self.detector.keep_from(self.detector.panes - self.window + 1)
        else:
            self.alarm_since = None
        return begins
