"""A registry that neither answers nor fails, as a disk in the network that is away: everything serves, and it ends."""

import os
import threading

import pytest

from serving.aliased.rollout import FollowedAliases
from serving.registry.client import Registry
from serving.release.rollout import State
from serving.repository import trials
from tests.support import registries
from tests.support.askers import FAILED, Asker, answered, asking
from tests.support.registries import OPEN, version
from tests.support.rollouts import QUICK, STEP, current, looks, over, registry_of_three, routed, start
from tests.support.servers import START_TIMEOUT_S, server_process, server_thread


class Hanging:
    """Lets everybody wait who opens a registry, while it is told to."""

    def __init__(self):
        self._answers = threading.Event()
        self._answers.set()
        self.waiting = threading.Event()
        self._open = Registry.open.__func__

    def open(self, *arguments, **options):
        if not self._answers.is_set():
            self.waiting.set()
            assert self._answers.wait(60)
        return self._open(Registry, *arguments, **options)

    def begin(self):
        self.waiting.clear()
        self._answers.clear()

    def end(self):
        self._answers.set()


@pytest.fixture
def hanging(monkeypatch):
    """A registry that can be made to hang for servers; what the test itself opens answers."""
    made = Hanging()
    monkeypatch.setattr("serving.aliased.rollout.Registry.open", made.open)
    monkeypatch.setattr("serving.aliased.rollout.AWAY_S", 0.2)
    yield made
    made.end()


@pytest.fixture
def place(tmp_path):
    return registry_of_three(tmp_path)


@pytest.fixture
def options(place, tmp_path):
    return {"registry": str(place), "model": ("affine@production",), "registry_cache": str(tmp_path / "cache"),
            "registry_interval_s": 0.02}  # fmt: skip


def test_a_canary_that_nobody_judges_gets_no_requests_until_the_registry_answers(place, tmp_path, options, hanging):
    start(place, 2, STEP)
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        routed(server)
        hanging.begin()
        assert hanging.waiting.wait(30)
        server.wait_until(lambda: not server.server._repository.routings)
        assert {Asker(server.address, "late").ask(f"{n}") for n in range(50)} == {"1"}
        hanging.end()
        routed(server)
        followed = server.server._aliases._rollouts[0]
        server.wait_until(lambda: followed._blocks is not None)
    assert FAILED not in answered(askers)
    assert current(place).state is State.RUNNING


def test_what_is_seen_after_such_a_time_is_judged_as_ever(place, tmp_path, options, hanging):
    start(place, 2, STEP)
    with server_thread(tmp_path / "none", **options) as server, asking(server.address) as askers:
        routed(server)
        followed = server.server._aliases._rollouts[0]
        server.wait_until(lambda: followed._blocks is not None)
        hanging.begin()
        server.wait_until(lambda: not server.server._repository.routings)
        hanging.end()
        seen = followed.director._watched.sightings
        before = len(seen.all())
        server.wait_until(lambda: len(seen.all()) > before + 3)
        assert all(each.block.canary.requests >= 0 <= each.block.control.requests for each in seen.all())
    assert FAILED not in answered(askers)


def test_a_server_that_starts_meanwhile_serves_what_served_last(place, tmp_path, options, hanging):
    with server_thread(tmp_path / "none", **options):
        pass
    with Registry.open(str(place)) as registry:
        registry.promote(version(2), "production", gate=OPEN)
    hanging.begin()
    with server_thread(tmp_path / "none", **options) as server:
        asker = Asker(server.address, "one")
        assert asker.ask() == "1"
        hanging.end()
        assert any(asker.ask() == "2" for _ in looks())
        asker.stop()


def test_a_package_that_takes_long_to_load_is_not_taken_for_a_registry_that_does_not_answer(
    place, tmp_path, options, monkeypatch
):
    monkeypatch.setattr("serving.aliased.rollout.AWAY_S", 0.2)
    monkeypatch.setattr("serving.server._LOOK_S", 0.1)
    real, asked, looked_after = trials.Trials._load, [], threading.Semaphore(0)
    go_on = FollowedAliases.go_on

    def slow(self, *arguments):
        asked.append(arguments)
        for _ in range(5):
            assert looked_after.acquire(timeout=30)
        return real(self, *arguments)

    def noted(self):
        looked_after.release()
        return go_on(self)

    monkeypatch.setattr(trials.Trials, "_load", slow)
    monkeypatch.setattr(FollowedAliases, "go_on", noted)
    with server_thread(tmp_path / "none", **options) as server, asking(server.address):
        start(place, 2, QUICK)
        assert over(place).state is State.PROMOTED
    assert len(asked) == 2, "the shadow, and both arms of the canary"


def test_a_server_ends_that_is_told_to_while_it_waits_for_its_registry(tmp_path):
    place = registries.filled(tmp_path)
    arguments = ["--registry", str(place), "--model", "affine@production", "--registry-cache", str(tmp_path / "cache"),
                 "--registry-interval-s", "0.02"]  # fmt: skip
    with server_process(tmp_path / "none", *arguments) as server:
        os.mkfifo(place / "registry.toml.fifo")
        (place / "registry.toml.fifo").rename(place / "registry.toml")  # whoever reads it waits for somebody who writes
        asker = Asker(server.address, "one")
        assert asker.ask() == "2"
        asker.stop()
        server.process.terminate()
        assert server.process.wait(START_TIMEOUT_S) == 0
        server.wait_for_log("the registry has not answered; leaving without it")
