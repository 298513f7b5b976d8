"""The simulator against queueing theory, and against the pure policy that it compiles."""

import numpy as np
import pytest

from bench.simulation import engine
from bench.simulation.arrivals import arrivals
from bench.simulation.world import AIMD, BENTO, DROPPED, OURS, REFUSED, WINDOW, Rival, World
from serving.batching.policy import Bounds, Decision, Newcomer, Reason, Snapshot, decide, retry_after_ns, riders
from serving.batching.service_time import ServiceTimes, ladder

MS = 1e6
FOREVER_NS = 1e15
NATURAL = Rival(WINDOW, 64, 0.0, guarded=False)
SINGLE = Rival(WINDOW, 1, 0.0, guarded=False)
GUARDED = [Rival(kind, 64, 0.0, guarded=True) for kind in (WINDOW, AIMD, BENTO, OURS)]


def world(service_ns, *, load=0.7, slack_ns=FOREVER_NS, count=40_000, instances=1, hard=True):
    curve = np.array([0.0, *(service_ns(rows) for rows in range(1, 65))])
    times_ns = arrivals("poisson", rate_per_ns=load * instances / curve[1], count=count, seed=5)
    return World(times_ns, slack_ns, curve, np.ones(64), instances, 0.0, hard)


def affine(rows):
    return MS + 0.1 * MS * rows


@pytest.mark.slow
def test_single_rows_on_one_instance_wait_as_pollaczek_and_khinchine_say():
    latency_ns, _ = engine.simulate(world(lambda rows: MS * rows, load=0.7), SINGLE)
    assert latency_ns.mean() == pytest.approx(MS * (1 + 0.7 / (2 * 0.3)), rel=0.05)


def test_natural_batching_on_a_flat_curve_waits_for_what_is_left_of_the_batch_before():
    latency_ns, _ = engine.simulate(world(lambda rows: MS, load=8.0), NATURAL)
    assert latency_ns.mean() == pytest.approx(1.5 * MS, rel=0.02)
    assert latency_ns.max() <= 2 * MS


def test_a_window_lets_the_first_row_wait_so_long_and_no_longer():
    latency_ns, _ = engine.simulate(world(lambda rows: 0.01 * MS, load=0.001), Rival(WINDOW, 64, 2 * MS, guarded=False))
    assert latency_ns.max() == pytest.approx(2.01 * MS)


def test_two_instances_serve_twice_as_much():
    one, _ = engine.simulate(world(lambda rows: MS * rows, load=1.5, slack_ns=20 * MS), SINGLE._replace(guarded=True))
    two, _ = engine.simulate(
        world(lambda rows: MS * rows, load=0.75, slack_ns=20 * MS, instances=2), SINGLE._replace(guarded=True)
    )
    assert (one >= 0).mean() == pytest.approx(1 / 1.5, rel=0.02)
    assert (two >= 0).mean() > 0.99


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("rival", GUARDED, ids=["natural", "aimd", "bentoml", "ours"])
def test_every_request_ends_in_one_way_and_never_before_it_could(rival, hard):
    latency_ns, totals = engine.simulate(world(affine, load=6.0, slack_ns=8 * MS, hard=hard), rival)
    answered = latency_ns >= affine(1) * (1 - 1e-9)
    assert (answered | (latency_ns == REFUSED) | (latency_ns == DROPPED)).all()
    assert answered.sum() >= totals[engine.BATCH_COUNT] > 0
    assert totals[engine.LARGEST] <= 64
    if rival.kind == OURS and not hard:
        assert not (latency_ns == DROPPED).any(), "a target alone drops nobody"


def test_a_lone_request_is_answered_at_once_by_ours():
    latency_ns, _ = engine.simulate(world(affine, load=0.001, slack_ns=3 * MS, count=500), GUARDED[-1])
    assert np.median(latency_ns) == affine(1)


@pytest.mark.parametrize(("sizes", "stepped"), [(ladder(64), False), ((4, 16, 64), True)], ids=["any", "padded"])
def test_the_compiled_policy_decides_as_the_pure_one_does(sizes, stepped):
    random = np.random.default_rng(7)
    reasons = set()
    for _ in range(400):
        pure, arrays = learnt(random, sizes, stepped)
        bounds = Bounds(64, 1000, int(random.integers(1, 4)), float(random.choice([0.0, 1e5])))
        snapshot = some_snapshot(random, sizes, bounds.instances)
        compiled_snapshot = snapshot._replace(due_ns=np.array(snapshot.due_ns))
        decision, again = decide(bounds, pure, snapshot), engine.decide(bounds, arrays, compiled_snapshot)
        assert Decision(*again) == decision
        reasons.add(decision.reason)
        aside = int(random.integers(0, 50))
        assert engine.riders(bounds, arrays, compiled_snapshot, again, aside) == riders(
            bounds, pure, snapshot, decision, aside
        )
        newcomer = Newcomer(1, snapshot.last_due_ns, snapshot.rows, snapshot.now_ns)
        assert engine.retry_after_ns(bounds, arrays, newcomer) == retry_after_ns(bounds, pure, newcomer)
    assert {Reason.FULL, Reason.DEADLINE, Reason.EFFICIENCY, Reason.IDLE, Reason.WAITING, Reason.LATE} <= reasons


def learnt(random, sizes, stepped):
    """One service model twice: learnt in Python, and learnt by the compiled functions."""
    pure = ServiceTimes(sizes, stepped=stepped)
    learning = pure.curve._fields[1:-1]
    arrays = pure.curve._replace(
        sizes=np.array(sizes), **{name: np.array(getattr(pure.curve, name)) for name in learning}
    )
    fixed, per_row = random.uniform(0, 5) * MS, random.uniform(0.01, 1) * MS
    for step in range(40):
        rows, noise = int(random.choice(sizes)), random.lognormal(0, 0.1)
        pure.observe(rows, (fixed + per_row * rows) * noise, step)
        engine.learn(arrays, rows, (fixed + per_row * rows) * noise, float(step))
    assert arrays.fitted_ns.tolist() == pytest.approx(pure.curve.fitted_ns, rel=1e-12)
    return pure.curve._replace(**{name: getattr(arrays, name).tolist() for name in learning}), arrays


def some_snapshot(random, sizes, instances):
    rows = int(random.integers(1, 100))
    due_ns = 1e9 + np.sort(random.uniform(0, random.choice([5, 30, 300]) * MS, rows))
    on_ladder = [float(due_ns[size - 1]) if size <= rows else np.inf for size in sizes]
    return Snapshot(
        1e9, rows, float(due_ns[0]), on_ladder, float(due_ns[-1]), int(random.integers(1, instances + 1)),
        1e9 + random.uniform(0, 5) * MS, 1e9 - random.uniform(0, 2) * MS, random.uniform(0, 50) / MS,
        1e9 - random.uniform(0, 0.2) * MS,
        random.uniform(1, 30) * MS, random.uniform(0, 1), random.uniform(0, 0.05), False,
    )  # fmt: skip
