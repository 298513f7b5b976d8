"""One server's part in a rollout: it says what it saw, and as the judge it decides, whatever is away meanwhile."""

import dataclasses

import pytest

from serving.clock import MonotonicClock
from serving.errors import RegistryAway
from serving.registry.client import Registry
from serving.registry.names import Alias
from serving.release.director import AWAY_S, Director, key_of
from serving.release.judge import Arm, Block
from serving.release.policy import RolloutConfig
from serving.release.rollout import State
from serving.release.rollouts import Rollouts
from serving.release.sightings import Sighting
from tests.support import registries
from tests.support.registries import OPEN, version, write_package

PRODUCTION = Alias("affine", "production")
CONFIG = RolloutConfig(steps=(0.5,), shadow_requests_per_s=10, block_s=1, hold_s_max=1000)
GOOD = Sighting(Block(Arm(2000, 0, {}), Arm(2000, 0, {})))
BAD = Sighting(Block(Arm(100, 90, {}), Arm(100, 0, {})))
EVEN = Sighting(Block(Arm(100, 0, {"p50": 1.0, "p90": 2.0}), Arm(100, 0, {"p50": 1.0, "p90": 2.0})))


class Clock(MonotonicClock):
    """The real time, and what a test adds to it."""

    added_ns = 0

    def now_ns(self):
        return super().now_ns() + self.added_ns

    def wall_ns(self):
        return super().wall_ns() + self.added_ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def registry(tmp_path):
    place = registries.filled(tmp_path, 1)
    with Registry.open(str(place)) as opened:
        opened.push(write_package(tmp_path / "2", 2))
        yield opened


@pytest.fixture
def begin(registry):
    def start(config=CONFIG):
        return Rollouts(registry).start(version(2), "production", config=config, gate=OPEN)

    return start


@pytest.fixture
def direct(registry, clock):
    """Makes directors, and lets go of what they hold."""
    made = []

    def new(name="one"):
        made.append(Director(PRODUCTION, name, clock))
        return made[-1]

    yield new
    for director in made:
        director.close()


def current(registry):
    return Rollouts(registry).current(PRODUCTION)


def show(director, registry, sightings):
    """Let a server see something of the step at hand, and look."""
    director.see(key_of(director.look(registry)), sightings)
    return director.look(registry)


def test_without_a_rollout_there_is_nothing_to_do(direct, registry):
    assert direct().look(registry) is None


def test_the_judge_goes_from_step_to_step_and_promotes(direct, registry, begin):
    begin()
    director = direct()
    assert show(director, registry, [GOOD]).step == 1
    assert show(director, registry, [EVEN] * 100) is None
    assert current(registry).state is State.PROMOTED


def test_what_is_seen_of_another_step_does_not_count(direct, registry, begin):
    begin()
    director = direct()
    key = key_of(director.look(registry))
    director.see(f"{key} of another", [BAD])
    assert director.look(registry).state is State.RUNNING


def test_one_server_judges_by_what_all_have_seen_and_another_takes_over(direct, registry, begin):
    begin()
    judge, other = direct("one"), direct("two")
    judge.look(registry)
    assert show(other, registry, [BAD]).state is State.RUNNING, "it is not the judge"
    judge.close()
    assert other.look(registry) is None
    assert current(registry).state is State.ROLLED_BACK


def test_a_verdict_that_cannot_be_recorded_yet_stops_the_canary_at_once(direct, registry, begin, monkeypatch):
    begin()
    director = direct()
    director.see(key_of(director.look(registry)), [BAD])
    with monkeypatch.context() as patched:
        patched.setattr(Rollouts, "roll_back", lambda *_: (_ for _ in ()).throw(RegistryAway("full")))
        with pytest.raises(RegistryAway):
            director.look(registry)
        assert director.without_registry("full") is None
    assert current(registry).state is State.RUNNING
    assert director.look(registry) is None
    assert current(registry).state is State.ROLLED_BACK


def test_while_nobody_can_judge_the_canary_goes_on_for_a_while_only(direct, registry, begin, clock):
    begin()
    director = direct()
    rollout = director.look(registry)
    assert director.without_registry("away") == rollout
    clock.added_ns += int((AWAY_S + 1) * 1e9)
    assert director.without_registry("away") is None
    assert director.look(registry) == rollout
    assert director.without_registry("away") == rollout


def test_what_cannot_be_written_down_is_the_registry_being_away(direct, registry, begin, clock):
    begin()
    (registry.folder / "rollouts").write_text("in the way")
    director = direct()
    for added_s in (0, AWAY_S + 1):
        clock.added_ns += int(added_s * 1e9)
        with pytest.raises(RegistryAway, match="cannot be used"):
            director.look(registry)
        rollout = director.without_registry("in the way")
    assert rollout is None


def test_a_promotion_that_is_refused_ends_the_rollout(direct, registry, begin):
    (registry.folder / "policy.toml").write_text('[release]\nunchecked_aliases = ["production"]')
    config = dataclasses.replace(CONFIG, shadow_requests_per_s=0)
    Rollouts(registry).start(version(2), "production", config=config)
    (registry.folder / "policy.toml").unlink()
    director = direct()
    assert show(director, registry, [EVEN] * 100) is None
    found = current(registry)
    assert found.state is State.ROLLED_BACK
    assert "it may not go on: affine/2 has not been checked" in found.why


def test_a_step_that_is_not_decided_in_time_is_rolled_back(direct, registry, begin, clock):
    begin()
    director = direct()
    assert director.look(registry) is not None
    clock.added_ns += int(1001e9)
    assert director.look(registry) is None
    assert current(registry).why.startswith("too little traffic to tell")


def test_no_more_is_kept_than_decides_a_step(direct, registry, begin):
    begin()
    director = direct()
    director.see(key_of(director.look(registry)), [EVEN] * 5000)
    assert len(director._watched.unwritten) == 1000
