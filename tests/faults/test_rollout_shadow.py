"""A shadow that is slow, stuck, failing or answers something else costs nobody anything, and is bounded."""

import contextlib
import dataclasses
import threading

import pytest

from serving.registry.client import Registry
from serving.release.rollout import State
from serving.release.rollouts import Rollouts
from serving.repository.mirror import REQUESTS_MAX, ROWS_BYTES_MAX
from tests.support.askers import Asker, answered, asking
from tests.support.rollouts import PRODUCTION, QUICK, STAYS, current, registry_of_three, start
from tests.support.servers import server_thread

SHADOW = dataclasses.replace(STAYS, shadow_requests_per_s=1000)


@pytest.fixture
def place(tmp_path):
    return registry_of_three(tmp_path)


@pytest.fixture
def server(place, tmp_path, transport):
    options = {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
               "registry_interval_s": 0.02, **transport}  # fmt: skip
    with server_thread(tmp_path / "none", **options) as running:
        yield running


def mirror(server):
    """Wait for the shadow of a server, and return what copies requests to it."""
    trials = server.server._repository._trials
    server.wait_until(lambda: "affine" in trials._arms and trials._arms["affine"].mirror is not None)
    return trials._arms["affine"].mirror


class Stuck:
    """Stands for the session of a shadow: waits until it is let go."""

    runs_on_caller = True

    def __init__(self, session):
        self._session, self.go, self.runs = session, threading.Event(), 0

    def run(self, inputs):
        self.runs += 1
        assert self.go.wait(60)
        return self._session.run(inputs)

    def close(self):
        self._session.close()


@contextlib.contextmanager
def stuck_shadow(place, server):
    """Begin a rollout; return what copies requests to its shadow, and the session that it is stuck in meanwhile."""
    start(place, 2, SHADOW)
    copying = mirror(server)
    servable = copying._shadow.servable
    stuck = servable._session = Stuck(servable._session)
    try:
        yield copying, stuck
    finally:
        stuck.go.set()


def test_a_shadow_that_is_stuck_gets_few_copies_and_nobody_waits_for_it(place, server):
    with stuck_shadow(place, server) as (copying, stuck):
        with asking(server.address) as askers:
            server.wait_until(lambda: copying.dropped["busy"] >= 20)
            assert server.call(lambda: copying._under_way) == REQUESTS_MAX
            assert server.call(lambda: copying._shadow.servable.batcher.queued_requests) <= REQUESTS_MAX
            before = answered(askers)["1"]
            server.wait_until(lambda: answered(askers)["1"] > before + 50)
            assert set(answered(askers)) == {"1"}
        assert (copying.requests, stuck.runs) == (0, 1)
        assert current(place).state is State.RUNNING
    server.wait_until(lambda: copying.requests == REQUESTS_MAX)
    assert (copying.errors, copying._under_way) == (0, 0)


def test_a_shadow_that_is_stuck_when_its_step_ends_is_closed_later_and_holds_up_nothing(place, server):
    with stuck_shadow(place, server) as (copying, stuck):
        with asking(server.address) as askers:
            server.wait_until(lambda: stuck.runs == 1)
            with Registry.open(str(place)) as registry:
                Rollouts(registry).abort(PRODUCTION)
            server.wait_until(lambda: server.server._repository.readings() == {})
            before = answered(askers)["1"]
            server.wait_until(lambda: answered(askers)["1"] > before + 50)
        assert set(answered(askers)) == {"1"}
    server.wait_until(lambda: copying._under_way == 0)


def test_the_same_package_passes_as_a_shadow_though_its_queue_is_short(place, tmp_path, transport):
    (tmp_path / "none" / "affine").mkdir(parents=True)
    (tmp_path / "none" / "affine" / "model.toml").write_text("[batching]\nqueue_rows_max = 1\nbatch_rows_max = 1")
    options = {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
               "registry_interval_s": 0.02, **transport}  # fmt: skip
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, dataclasses.replace(QUICK, errors_margin=0.05))
        copying = mirror(server)
        servable = copying._shadow.servable
        stuck = servable._session = Stuck(servable._session)
        with asking(server.address, 1):
            server.wait_until(lambda: copying.dropped["busy"] >= 20)
            stuck.go.set()
            server.wait_until(lambda: copying.requests >= 20)
        assert copying.errors == 0


def test_answers_of_another_shape_are_counted_and_reported(place, server, tmp_path):
    start(place, 2, SHADOW)
    copying = mirror(server)
    servable = copying._shadow.servable
    whole = servable._session

    class Short(Stuck):
        def run(self, inputs):
            return [array[:, :2] for array in whole.run(inputs)]

    servable._session = Short(whole)
    with asking(server.address, 1) as askers:
        server.wait_until(lambda: copying.differing >= 20)
    assert copying.errors == 0
    assert copying.differing == copying.requests
    assert set(answered(askers)) == {"1"}


def test_of_large_requests_a_part_is_copied_and_compared_aside(place, tmp_path, transport):
    options = {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
               "registry_interval_s": 0.02, **transport}  # fmt: skip
    (tmp_path / "none" / "affine").mkdir(parents=True)
    limits = "[batching]\nbatch_rows_max = 100000\nqueue_rows_max = 100000"
    (tmp_path / "none" / "affine" / "model.toml").write_text(limits)
    with server_thread(tmp_path / "none", **options) as server:
        start(place, 2, SHADOW)
        copying = mirror(server)
        asker = Asker(server.address, "large", rows=100_000)
        try:
            for _ in range(5):
                assert asker.ask() == "1"
            server.wait_until(lambda: copying.requests > 0 == copying._under_way)
        finally:
            asker.stop()
        seen = copying._shadow.servable.statistics
        assert seen.stages["request"].count == copying.requests
        assert seen.inference_count == copying.requests * ROWS_BYTES_MAX // 32
