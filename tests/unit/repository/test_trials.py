"""The arms of a trial come and go with it, and nobody is mirrored to a shadow that is gone."""

from pathlib import Path

import pytest

from serving.errors import LoadError
from serving.repository.trials import ArmLoads, Pinned, Trial, Trials
from tests.support.clocks import FakeClock
from tests.support.sessions import FakeSession, Posts, servable

NOWHERE = Path("none")
SHADOW = Trial("1.0", 7, 0.0, Pinned(2, "", NOWHERE), Pinned(1, "", NOWHERE), requests_per_s=10.0)
CANARY = Trial("1.1", 7, 0.25, SHADOW.candidate, SHADOW.control)


class World:
    def __init__(self):
        self.posts, self.sessions, self.problem = Posts(), [], ""
        self.trials = Trials(
            ArmLoads(self.load, self.load), FakeClock(), self.posts, lambda: None, aside=lambda work: work()
        )

    def load(self, name, version, path, config):
        if self.problem:
            raise LoadError(self.problem)
        return self.servable(version)

    def servable(self, version):
        self.sessions.append(FakeSession())
        return servable(self.sessions[-1], FakeClock(), self.posts, name="m", version=version)

    def follow(self, serving, trial):
        return self.trials.follow(serving, "m", trial, NOWHERE)


@pytest.fixture
def world():
    made = World()
    yield made
    made.trials.close()


def test_what_serves_is_mirrored_while_there_is_a_shadow(world):
    serving = world.servable(1)
    assert world.follow(serving, SHADOW) == ""
    assert serving.mirror is not None
    assert world.trials.readings()["m"].share == 0.0
    assert world.follow(serving, CANARY) == ""
    assert serving.mirror is None
    assert world.trials.routings["m"].canary.servable.version == 2
    assert world.follow(serving, None) == ""
    assert world.trials.readings() == world.trials.routings == {}
    serving.close()


@pytest.mark.parametrize("trial", [SHADOW, None], ids=["while it goes on", "when it ends"])
def test_what_served_before_is_mirrored_no_more(world, trial):
    before, after = world.servable(1), world.servable(3)
    world.follow(before, SHADOW)
    world.follow(after, trial)
    assert before.mirror is None
    assert (after.mirror is not None) == (trial is not None)
    for each in (before, after):
        each.close()


def test_a_model_that_is_unloaded_is_mirrored_no_more(world):
    serving = world.servable(1)
    world.follow(serving, SHADOW)
    world.follow(None, None)
    assert serving.mirror is None
    serving.close()


@pytest.mark.parametrize("trial", [SHADOW, CANARY])
def test_a_package_that_does_not_load_leaves_no_arm_and_is_not_tried_again(world, trial):
    world.problem = "no memory"
    assert world.follow(None, trial) == "no memory"
    world.problem = ""
    assert world.follow(None, trial) == "no memory"
    assert world.trials.readings() == world.trials.routings == {}
    assert world.sessions == []
