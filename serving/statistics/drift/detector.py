"""Adds evidence up over panes, from about a dozen possible beginnings of a drift at a time. Pure.

A Shiryaev-Roberts e-detector (Shin, Ramdas, Rinaldo 2024): the sum, over the panes in which a drift may have begun, of
the evidence since then. The sum never exceeds the number of panes in the mean, at whatever time somebody looks, so it
reaches A after A panes at the earliest in the mean, as long as there is no drift.

Not every pane is kept as a beginning. Pane s, a multiple of 2^k and of no higher power, is kept for `LIFE` * 2^k panes
and has a weight for all those that are not: fixed when it is born, and such that the weights up to pane t never sum to
more than t. To forget a beginning only lowers the sum. The first pane of all is kept longest: there is none before it.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from serving.statistics.drift.evidence import Reference, log_evidence

LEVELS = 7
LIFE = 4
_SHARE = 0.24
_FIRST_WEIGHT = 0.75


def level_of(pane: int) -> int:
    """Return the level of the beginning at a pane, which count from 1."""
    return min((pane & -pane).bit_length(), LEVELS) - 1 if pane > 1 else LEVELS - 1


def weight_of(pane: int) -> float:
    """Return the weight of the beginning at a pane."""
    return _SHARE * float(1 << level_of(pane)) if pane > 1 else _FIRST_WEIGHT


@dataclass(slots=True, eq=False)
class Start:
    """A pane in which a drift may have begun, and what was counted since: `counts` float64 [features, slots]."""

    pane: int
    counts: NDArray[np.float64]

    @property
    def last_pane(self) -> int:
        """The last pane for which it is kept."""
        return self.pane + LIFE * (1 << level_of(self.pane)) - 1


@dataclass(slots=True, eq=False)
class Detector:
    """The evidence of each feature over panes. One thread at a time; bound: about two starts per level."""

    reference: Reference
    panes: int = 0
    starts: list[Start] = field(default_factory=list)

    def add(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add the counts [features, slots] of a pane; return the log of the evidence of each feature."""
        self.panes += 1
        self.starts = [start for start in self.starts if start.last_pane >= self.panes]
        self.starts.append(Start(self.panes, np.zeros_like(counts, np.float64)))
        for start in self.starts:
            start.counts = start.counts + counts
        return log_sum_exp(self.by_start())

    def look(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what `add` would return, and add nothing."""
        twin = Detector(self.reference, self.panes, [Start(start.pane, start.counts) for start in self.starts])
        return twin.add(counts)

    def by_start(self) -> NDArray[np.float64]:
        """Return the weighted log evidence [starts, features] of each start."""
        weights = np.log([weight_of(start.pane) for start in self.starts])
        evidence = log_evidence(np.stack([start.counts for start in self.starts]), self.reference)
        return evidence + weights[:, None]

    def keep_from(self, pane: int) -> None:
        """Forget the starts before a pane."""
        self.starts = [start for start in self.starts if start.pane >= pane]


def log_sum_exp(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log of the sum of exp over the first axis."""
    total: NDArray[np.float64] = np.logaddexp.reduce(logs, axis=0)
    return total


def mean_evidence(logs: NDArray[np.float64]) -> float:
    """Return the log of the mean over features, which alarms: a mean of e-detectors is one."""
    return float(log_sum_exp(logs) - np.log(len(logs)))
