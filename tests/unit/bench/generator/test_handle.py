"""The generator's process: it runs slices, is told from the rest of the bench, and never outlives it."""

import os
import signal
import socket

import pytest

from bench.generator import Generator, handle
from bench.generator.child import Stop
from bench.slices import INTERRUPTED, ClosedLoop, OpenLoop, Slice, Target
from serving.errors import ConfigError
from tests.support.fake_server import fake_server


def open_loop(rate: float = 100, duration: float = 1.0) -> Slice:
    return Slice(load=OpenLoop(rate_per_s=rate, duration_s=duration, arrivals="constant"), drain_s=5)


def test_a_killed_generator_is_a_failure_and_keeps_what_came_before():
    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        recording = generator.run(open_loop(100, 30.0), lambda _: os.kill(generator._process.pid, signal.SIGKILL))
        again = generator.run(open_loop(), lambda _: None)
    assert recording.failure.startswith("the load generator's process was killed by signal 9")
    assert recording.total.answered > 0
    assert again.failure == recording.failure


def test_an_interrupted_run_takes_the_child_with_it():
    def interrupt(_):
        raise KeyboardInterrupt

    with fake_server() as server:
        with Generator([server.target()], [[b"x"]]) as generator:
            process = generator._process
            with pytest.raises(KeyboardInterrupt):
                generator.run(open_loop(100, 60.0), interrupt)
        with pytest.raises(ValueError, match="closed"):
            process.is_alive()


@pytest.mark.parametrize("client", ["native", "grpcio"])
@pytest.mark.parametrize("load", [open_loop(200, 60.0), Slice(load=ClosedLoop(concurrency=3, duration_s=60.0))])
def test_an_interrupted_slice_ends_in_order_and_keeps_what_it_has_recorded(client, load):
    with fake_server(service_s=0.005) as server, Generator([server.target()], [[b"x"]], client=client) as generator:
        seen = []

        def interrupt(interval):
            seen.append(interval)
            if interval.answered:
                generator.interrupt()

        recording = generator.run(load, interrupt)
        later = generator.run(load, seen.append)
    assert (recording.failure, later.failure) == (INTERRUPTED, INTERRUPTED)
    assert recording.intervals == seen
    assert later.intervals == []
    assert recording.unsent == 0
    total = recording.total
    assert total.sent == total.answered + recording.unanswered > 0
    assert server.infers >= total.answered


def test_an_interrupt_between_slices_ends_the_next_one():
    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        whole = generator.run(open_loop(100, 0.2), lambda _: None)
        generator.interrupt()
        assert generator.run(open_loop(), lambda _: None).failure == INTERRUPTED
    assert (whole.failure, whole.total.answered, server.infers) == (None, 20, 20)


def test_an_interrupted_child_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(handle, "INTERRUPT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(handle, "STOP_TIMEOUT_S", 0.1)

    def interrupt(_):
        os.kill(generator._process.pid, signal.SIGSTOP)
        generator.interrupt()

    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        recording = generator.run(open_loop(100, 60.0), interrupt)
    assert recording.failure == INTERRUPTED
    assert recording.total.answered > 0


def test_a_stop_that_comes_after_its_slice_is_passed_over():
    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        generator._pipe.send(Stop())
        assert generator.run(open_loop(100, 0.2), lambda _: None).total.answered == 20


def test_the_child_ends_when_its_pipe_does():
    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        generator._pipe.send(open_loop(100, 60.0))
        generator._arrived.get()
        with socket.fromfd(generator._pipe.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as pipe:
            pipe.shutdown(socket.SHUT_RDWR)
        generator._process.join(20)
        assert generator._process.exitcode == 0


def test_a_load_that_cannot_be_is_refused_and_the_next_one_runs():
    with fake_server() as server, Generator([server.target()], [[b"x"]]) as generator:
        with pytest.raises(ConfigError, match="rate"):
            generator.run(open_loop(-1), lambda _: None)
        assert generator.run(open_loop(100, 0.2), lambda _: None).total.answered == 20


def dies(*_):
    """What runs in place of the child."""
    os._exit(3)


def test_a_generator_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setattr(handle, "main", dies)
    with pytest.raises(ConfigError, match="the load generator's process ended with status 3"):
        Generator([Target("127.0.0.1", 1)], [[b"x"]]).__enter__()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"client": "curl"}, "client = 'curl'"), ({"connections": 0}, "connections = 0")],
)
def test_a_generator_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Generator([Target("127.0.0.1", 1)], [[b"x"]], **options)


def test_a_generator_keeps_several_targets_apart():
    with fake_server() as one, fake_server(service_s=0.01) as two:
        with Generator([one.target(), two.target()], [[b"1"], [b"2"]]) as generator:
            slices = [Slice(load=ClosedLoop(concurrency=1, duration_s=0.3), target=target) for target in (0, 1, 0)]
            recordings = [generator.run(slice_, lambda _: None) for slice_ in slices]
        assert {*one.messages} == {b"1"}
        assert {*two.messages} == {b"2"}
    assert recordings[1].total.latency.quantile_ns(0.5) > 9.9e6 > recordings[0].total.latency.quantile_ns(0.5)


def test_files_that_cannot_be_used_are_refused_at_once(tmp_path):
    target = Target("localhost", 1, tls=True, tls_ca=tmp_path / "missing.pem")
    with pytest.raises(ConfigError, match=r"missing\.pem"), Generator([target], [[b"x"]]):
        pass
