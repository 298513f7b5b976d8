"""Readings become blocks: long enough, of enough requests, with latencies only where some were measured."""

import pytest

from serving.aliased.blocks import Blocks
from serving.release.policy import RolloutConfig
from serving.repository.trials import ArmReading, Reading
from serving.statistics.latency import Histogram

CONFIG = RolloutConfig(block_s=10, block_requests_min=40, hold_s_max=100)


def arm(requests, errors=0, latency_us=1000):
    histogram = Histogram()
    if requests > errors:
        histogram.add(int(latency_us * 1000), requests - errors)
    return ArmReading(2, requests, errors, histogram)


def reading(at_s, canary, control, differing=0):
    return Reading("7.0.x", int(at_s * 1e9), 0.1, canary, control, differing)


def blocks():
    return Blocks(CONFIG, reading(0, arm(5), arm(5)))


def test_a_block_is_what_happened_since_the_last_one():
    cut = blocks()
    (first,) = cut.add(reading(10, arm(30, 1), arm(40)))
    assert (first.block.canary.requests, first.block.canary.errors, first.block.control.requests) == (25, 1, 35)
    (second,) = cut.add(reading(21, arm(60, 4), arm(60), differing=3))
    assert (second.block.canary.requests, second.block.canary.errors, second.differing) == (30, 3, 3)


def test_a_block_lasts_until_there_is_enough_to_compare():
    cut = blocks()
    assert cut.add(reading(9.9, arm(500), arm(500))) == []
    cut = blocks()
    assert cut.add(reading(10, arm(20), arm(20))) == []
    assert len(cut.add(reading(30, arm(20), arm(30)))) == 1


def test_a_block_of_an_arm_that_is_dead_ends_by_the_others_requests():
    (seen,) = blocks().add(reading(10, arm(5), arm(45)))
    assert seen.block.canary.requests == 0
    assert seen.block.canary.latency_us == {}
    assert set(seen.block.control.latency_us) == {"p50", "p90"}


def test_no_block_lasts_longer_than_a_step_may():
    assert len(blocks().add(reading(100, arm(5), arm(6)))) == 1


def test_latencies_are_those_of_the_block_within_the_histograms_resolution():
    (seen,) = blocks().add(reading(10, arm(100, latency_us=3000), arm(100, latency_us=1500)))
    assert seen.block.canary.latency_us["p50"] == pytest.approx(3000, rel=0.065)
    assert seen.block.control.latency_us["p90"] == pytest.approx(1500, rel=0.065)


def test_nothing_is_timed_of_a_shadow():
    nothing, some = ArmReading(2, 0, 0), ArmReading(2, 50, 1)
    cut = Blocks(CONFIG, reading(0, nothing, nothing))
    (seen,) = cut.add(reading(10, some, ArmReading(1, 50, 0), differing=7))
    assert (seen.block.canary.latency_us, seen.block.control.latency_us, seen.differing) == ({}, {}, 7)
