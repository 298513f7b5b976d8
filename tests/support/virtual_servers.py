"""Servers in virtual time: what a generator would have recorded, computed from the schedule without waiting."""

import dataclasses
from collections import Counter

import numpy as np

from bench.arrivals import times_ns
from bench.histogram import Histogram
from bench.slices import Interval, OpenLoop, Recording

INTERVAL_S = 0.25


class VirtualServer:
    """One FIFO server in an open loop; `service` gives the service times in s of so many requests.

    `measure` is a `bench.slices.Measure`. `spent_s` adds up the time that the slices would have taken. It holds the
    laws of Lindley's recursion: a wait is the one before plus that service minus the gap, and never below 0.
    """

    def __init__(self, service, *, added_s=0.0):
        self.spent_s = 0.0
        self.slices = []
        self._service = service
        self._added_s = added_s

    def measure(self, slice_):
        load = slice_.load
        self.slices.append(slice_)
        assert isinstance(load, OpenLoop)
        times = times_ns(dataclasses.replace(load, duration_s=load.duration_s + slice_.warm_up_s)) / 1e9
        service = self._service(len(times))
        latency = waits(times, service) + service + self._added_s
        ends = times + latency
        self.spent_s += max(load.duration_s + slice_.warm_up_s, ends.max(initial=0))
        counted = times >= slice_.warm_up_s
        return recording(slice_, times[counted] - slice_.warm_up_s, latency[counted])


def waits(times, service):
    """Return how long each request waits, by the arrival times and service times of all, shape (requests,)."""
    steps = np.concatenate(([0.0], service[:-1] - np.diff(times))) if len(times) else np.zeros(0)
    walk = np.cumsum(steps)
    return walk - np.minimum.accumulate(np.minimum(walk, 0))


def recording(slice_, times_s, latency_s, **others):
    """Return what was recorded of requests at these times (from the first counted moment on) with these latencies."""
    slo_s = np.inf if slice_.slo_ms is None else slice_.slo_ms / 1e3
    answered_in = ((times_s + latency_s) // INTERVAL_S).astype(int)
    sent_in = (times_s // INTERVAL_S).astype(int)
    intervals = []
    for index in range(max(answered_in.max(initial=-1) + 1, round(slice_.load.duration_s / INTERVAL_S))):
        latencies = latency_s[answered_in == index]
        sent = int(np.count_nonzero(sent_in == index))
        intervals.append(
            Interval(
                index * INTERVAL_S,
                (index + 1) * INTERVAL_S,
                sent=sent,
                answered=len(latencies),
                in_slo=int(np.count_nonzero(latencies <= slo_s)),
                errors=Counter(),
                latency=Histogram.of((latencies * 1e9).astype(np.int64)),
                lag=Histogram(total_ns=0),
                busy_s=0.01,
            )
        )
    return Recording(slice_, intervals, **others)
