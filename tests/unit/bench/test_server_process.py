import os
import socket
import subprocess
import sys

import psutil
import pytest

from bench import server_process

SPEND = """
import socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read(1)
    while time.process_time() < float(sys.argv[1]):
        pass
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def listening():
    """Return a port on which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_process_that_listens_is_found(listening, host):
    assert [process.pid for process in server_process.find(host, listening)] == [os.getpid()]


def test_a_server_that_listens_on_every_address_is_found():
    with socket.create_server(("0.0.0.0", 0)) as listener:  # noqa: S104 - closed at once
        assert server_process.find("127.0.0.1", listener.getsockname()[1])


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "127.0.0.2"])
def test_a_server_that_is_not_there_is_not_found(listening, host):
    assert server_process.find(host, listening) == ()


def test_a_program_that_only_forwards_is_not_the_server(listening, monkeypatch):
    monkeypatch.setattr(server_process, "FORWARDERS", {psutil.Process().name()})
    assert server_process.find("127.0.0.1", listening) == ()


def test_the_cpu_time_of_a_process_is_its_own_and_its_children_s():
    command = [sys.executable, "-c", SPEND, "0.4"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        processes = server_process.find("127.0.0.1", int(process.stdout.readline()))
        assert [found.pid for found in processes] == [process.pid]
        process.stdin.write("x")
        process.stdin.flush()
        process.stdout.readline()
        assert server_process.cpu_s(processes) >= 0.39
        assert server_process.cpu_s([psutil.Process()]) >= server_process.cpu_s(processes)
        process.stdin.close()
        process.wait()
    assert server_process.cpu_s(processes) is None


def test_no_process_has_no_cpu_time():
    assert server_process.cpu_s(()) is None
