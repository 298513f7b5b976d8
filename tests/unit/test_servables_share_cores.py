"""Two servables of one server and the cores of its machine."""

import pytest

from serving.execution.core_gate import CoreGate
from serving.model import Servable, Shared
from tests.support.clocks import FakeClock
from tests.support.cores import wait_for_line
from tests.support.sessions import HeldSession, Posts, model_config, queued

LONG_NS = 60e9


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    monkeypatch.setattr("serving.execution.core_gate.PATIENCE_NS_MAX", LONG_NS)


def test_the_batch_of_one_waits_until_the_other_has_given_its_cores_back():
    shared, posts = Shared(cores=CoreGate(1)), Posts()
    sessions = [HeldSession(), HeldSession()]
    servables = [
        Servable(f"m{number}", 1, session, model_config(), clock=FakeClock(), post=posts, shared=shared)
        for number, session in enumerate(sessions)
    ]
    answers = []
    for servable, session in zip(servables, sessions, strict=True):
        servable.batcher.seed([(1, LONG_NS)])  # so long it may wait for cores
        session.hold()
        servable.submit(queued(1, settle=answers))
        if servable is servables[0]:
            session.wait_until_running()
    wait_for_line(shared.cores, 1)
    assert not sessions[1].served
    sessions[0].let_go()
    sessions[1].wait_until_running()
    sessions[1].let_go()
    posts.run(2)
    assert len(answers) == 2
    assert shared.cores.free == 1
    for servable in servables:
        servable.close()
