import dataclasses
import socket

import pytest

from bench.peers import penstock
from bench.peers.peer import Peer, PeerAbsent
from bench.peers.run import INTERRUPTED, measure_peers, names
from serving.errors import ConfigError, RemoteError
from tests.support import outcomes
from tests.support.fake_peer import Installed

SECOND = Installed(label="Second 2.0")
OUTCOME = outcomes.outcome(duration_s=1.0)


def absent(name, why):
    def find(environment):
        raise PeerAbsent(why)

    return Peer(name=name, title=name.title(), find=find)


class Bench:
    """Measures nothing; keeps what it was asked and told, in order."""

    def __init__(self, *results):
        self.results = list(results)
        self.asked, self.told, self.runs = [], [], []

    def measure(self, host, port, model):
        socket.create_connection((host, port), 5).close()
        self.asked.append((host, model))
        result = self.results.pop(0) if self.results else OUTCOME
        if isinstance(result, BaseException):
            raise result
        return result

    def run(self, model, messages, *peers, rounds=1, environments=None):
        return measure_peers(
            model, messages, measure=self.measure, environments=environments or {}, tell=self.told.append,
            on_run=self.runs.append, rounds=rounds, peers=peers,
        )  # fmt: skip


def test_ours_is_the_first_of_all_that_are_known():
    assert names() == ("penstock", "mlserver", "kserve", "triton")


def test_every_peer_gets_one_run_in_the_order_of_the_peers(affine, messages):
    bench = Bench()
    view = bench.run(affine, messages, Installed().as_peer(), SECOND.as_peer())
    assert [(run.label, run.outcome) for run in view.runs] == [("Fake 1.0", OUTCOME), ("Second 2.0", OUTCOME)]
    assert (view.absent, view.failure) == ({}, None)
    assert bench.asked == [("127.0.0.1", "affine")] * 2


def test_rounds_go_forth_and_back_and_are_pooled(affine, messages):
    bench = Bench(*(outcomes.outcome(duration_s=1.0, seed=seed) for seed in range(6)))
    view = bench.run(affine, messages, Installed().as_peer(), SECOND.as_peer(), rounds=3)
    order = [run.label for run in bench.runs]
    assert order == ["Fake 1.0", "Second 2.0", "Second 2.0", "Fake 1.0", "Fake 1.0", "Second 2.0"]
    answered = sum(run.outcome.answered for run in bench.runs if run.label == "Fake 1.0")
    assert view.runs[0].outcome.answered == answered
    assert view.runs[0].outcome.duration_s == 3.0


def test_only_one_server_runs_at_a_time(affine, messages):
    ports = []

    class Watch(Bench):
        def measure(self, host, port, model):
            for earlier in ports:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, earlier), 5)
            ports.append(port)
            return super().measure(host, port, model)

    Watch().run(affine, messages, Installed().as_peer(), SECOND.as_peer(), rounds=2)
    assert len(ports) == 4


def test_an_absent_peer_is_skipped_and_said(affine, messages):
    bench = Bench()
    view = bench.run(affine, messages, Installed().as_peer(), absent("other", "not installed"))
    assert view.absent == {"Other": "not installed"}
    assert len(view.runs) == 1
    assert "Other is skipped: not installed" in bench.told


def test_settings_are_told_before_anything_is_measured(affine, messages):
    bench = Bench()
    bench.run(affine, messages, Installed(settings="batching off").as_peer())
    assert bench.told[0] == "Fake 1.0: batching off"


def test_a_peer_finds_the_environment_that_was_named_for_it(affine, messages, tmp_path):
    found = []

    def find(environment):
        found.append(environment)
        return Installed()

    Bench().run(affine, messages, Peer(name="a", title="A", find=find), Peer(name="b", title="B", find=find),
                environments={"b": tmp_path})  # fmt: skip
    assert found == [None, tmp_path]


def test_a_peer_that_dies_at_the_start_is_left_out_and_the_end_of_its_log_told(affine, messages):
    dying = Installed(label="Dying 1", program="import sys; print('first', file=sys.stderr); sys.exit('no framework')")
    bench = Bench()
    view = bench.run(affine, messages, dying.as_peer(), Installed().as_peer(), rounds=2)
    assert view.absent == {"Dying 1": "ended with exit status 1 before it was ready: no framework"}
    assert [run.label for run in view.runs] == ["Fake 1.0"]
    assert "the end of its log:\nfirst\nno framework" in bench.told
    assert sum("Dying 1, round" in line for line in bench.told) == 1


def test_a_peer_that_answers_wrongly_is_not_measured(affine, messages):
    bench = Bench()
    view = bench.run(affine, messages, Installed("wrong", "Wrong 1").as_peer(), rounds=2)
    assert view.absent["Wrong 1"].startswith("answers wrongly: output 'y' is")
    assert (view.runs, bench.asked) == ((), [])


def test_a_peer_that_fails_while_measured_keeps_what_it_has_shown(affine, messages):
    failed = dataclasses.replace(OUTCOME, failure="the server closed the connection")
    bench = Bench(OUTCOME, failed)
    view = bench.run(affine, messages, Installed().as_peer(), rounds=5)
    assert view.runs[0].outcome.failure == "the server closed the connection"
    assert view.runs[0].outcome.answered == 2 * OUTCOME.answered
    assert (view.failure, len(bench.asked)) == (None, 2)


def test_a_peer_that_cannot_be_measured_again_is_told_with_what_it_has_shown(affine, messages):
    bench = Bench(OUTCOME, RemoteError("UNAVAILABLE", "gone"))
    view = bench.run(affine, messages, Installed().as_peer(), rounds=3)
    assert view.failure == "Fake 1.0 after round 1: UNAVAILABLE: gone"
    assert view.runs[0].outcome == OUTCOME


def test_ctrl_c_keeps_what_was_measured(affine, messages):
    bench = Bench(OUTCOME, KeyboardInterrupt())
    view = bench.run(affine, messages, Installed().as_peer(), SECOND.as_peer(), rounds=3)
    assert [run.label for run in view.runs] == ["Fake 1.0"]
    assert view.absent == {"Second 2.0": "not reached before the end"}
    assert view.failure == INTERRUPTED


def test_ctrl_c_during_a_measurement_keeps_it_and_starts_no_other_server(affine, messages):
    bench = Bench(OUTCOME, dataclasses.replace(OUTCOME, failure=INTERRUPTED))
    view = bench.run(affine, messages, Installed().as_peer(), SECOND.as_peer(), rounds=3)
    assert [(run.label, run.outcome.failure) for run in view.runs] == [("Fake 1.0", None), ("Second 2.0", INTERRUPTED)]
    assert (view.failure, len(bench.asked)) == (INTERRUPTED, 2)


def test_the_settings_of_what_was_measured_are_kept(affine, messages):
    bench = Bench(OUTCOME, RemoteError("UNAVAILABLE", "gone"))
    view = bench.run(affine, messages, Installed().as_peer(), SECOND.as_peer())
    assert view.settings == {"Fake 1.0": Installed().settings}


def test_a_mistake_in_what_was_asked_ends_the_command(affine, messages):
    with pytest.raises(ConfigError, match="no such payload"):
        Bench(ConfigError("no such payload")).run(affine, messages, Installed().as_peer())


@pytest.mark.parametrize(("rounds", "count", "words"), [(0, 1, "rounds = 0"), (1, 0, "no requests")])
def test_nothing_to_do_is_refused(affine, messages, rounds, count, words):
    with pytest.raises(ConfigError, match=words):
        Bench().run(affine, messages[:count], Installed().as_peer(), rounds=rounds)


def test_penstock_is_a_peer_as_any_other(affine, messages):
    view = Bench().run(affine, messages, penstock.PEER)
    assert (view.absent, view.failure) == ({}, None)
    assert view.runs[0].label.startswith("Penstock ")
