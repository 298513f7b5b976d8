import numpy as np
import pytest

from bench.simulation.workloads import ASIDE, JUDGED, LOADS, PATTERNS, SLO_MULTIPLES, drawn, service_curve


def test_judged_workloads_and_those_kept_aside_are_different_ones():
    judged, aside = drawn()
    assert (len(judged), len(aside)) == (JUDGED, ASIDE)
    assert JUDGED >= 30
    assert ASIDE == 10
    assert not set(judged) & set(aside)
    assert drawn() == (judged, aside)


def test_every_load_pattern_and_objective_is_judged():
    judged, _ = drawn()
    assert {workload.load for workload in judged} == set(LOADS)
    assert {workload.pattern for workload in judged} == set(PATTERNS)
    assert {workload.slo for workload in judged} == set(SLO_MULTIPLES)
    assert {"shufflenet", "network", "forest"} <= {workload.curve for workload in judged}


@pytest.mark.parametrize("workload", drawn()[0][:4], ids=lambda workload: workload.name)
def test_a_world_has_the_load_that_its_name_says(workload):
    world = workload.world(seed=1, requests=5000, hard=True)
    capacity = max(rows / world.service_ns[rows] for rows in range(1, 257)) * workload.instances
    assert 5000 / world.times_ns[-1] == pytest.approx(workload.load * capacity, rel=0.3)


def test_a_measured_curve_passes_through_what_was_measured_and_grows_in_proportion_beyond():
    service_ns = service_curve("squeezenet")
    assert service_ns.size == 257
    assert service_ns[256] == pytest.approx(2 * service_ns[128])
    assert (np.diff(service_curve("flat")) > 0).all()
