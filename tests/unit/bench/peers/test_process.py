import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from bench.peers import process
from bench.peers.peer import Launch, PeerFailed
from bench.peers.process import Process, free_ports, started
from tests.support.fake_peer import ROOT, Installed

WAITS = "import signal; signal.pause()"


def python(program, **variables):
    return Launch((sys.executable, "-c", textwrap.dedent(program)), variables)


def is_running(pid):
    """Say whether a process is there, and not merely waiting to be forgotten."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_line(path):
    """Wait for the one line that a process writes into a named pipe."""
    with path.open() as pipe:
        return pipe.readline().strip()


def start_in_vain(installed, model, **bounds):
    """Start a peer that does not get ready; return what is said of it."""
    with pytest.raises(PeerFailed) as caught, started(installed, model, **bounds):
        pytest.fail("it is not ready")
    return caught.value


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_started_peer_is_ready_and_gone_afterwards(affine, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    with started(Installed(), affine) as ports:
        socket.create_connection(("127.0.0.1", ports.grpc), 5).close()
        (folder,) = set(tmp_path.iterdir()) - before
        assert (folder / "peer.log").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports.grpc), 5)
    assert set(tmp_path.iterdir()) == before


def test_a_peer_that_dies_at_the_start_shows_the_end_of_its_log(affine):
    program = "import sys; [print('line', i, file=sys.stderr) for i in range(100)]; sys.exit('no such framework')"
    caught = start_in_vain(Installed(program=program), affine)
    assert re.search("ended with exit status 1 before it was ready: no such framework", str(caught))
    assert caught.log.splitlines()[-2:] == ["line 99", "no such framework"]
    assert "line 50" not in caught.log


def test_a_peer_that_is_killed_at_the_start_names_the_signal(affine):
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    caught = start_in_vain(Installed(program=program), affine)
    assert re.search("ended with SIGKILL before it was ready, saying nothing", str(caught))


def test_a_peer_that_is_never_ready_is_given_up(affine):
    caught = start_in_vain(Installed(program=WAITS), affine, ready_s_max=0.2)
    assert re.search(r"not ready within 0\.2 s: port .*UNAVAILABLE", str(caught))


def test_a_peer_whose_model_is_not_ready_is_given_up(affine, monkeypatch):
    ask = process._why_not_ready

    def ask_until_it_listens(port, model):
        while (why := ask(port, model)) and "UNAVAILABLE" in why:
            pass
        return why

    monkeypatch.setattr(process, "_why_not_ready", ask_until_it_listens)
    caught = start_in_vain(Installed("unready"), affine, ready_s_max=0)
    assert re.search("ModelReady says no of 'affine'", str(caught))


def test_a_program_that_is_not_there_is_said(affine, tmp_path):
    with pytest.raises(PeerFailed, match="gone cannot be started: No such file"):
        Process(Launch((str(tmp_path / "gone"),)), tmp_path).__enter__()


def test_children_end_with_their_parent_those_of_another_session_too(tmp_path, pipe):
    program = f"""
        import subprocess, sys, signal
        children = [
            subprocess.Popen([sys.executable, "-c", "{WAITS}"], start_new_session=leaves) for leaves in (False, True)
        ]
        with open({str(pipe)!r}, "w") as pipe:
            print(*(child.pid for child in children), file=pipe)
        signal.pause()
    """
    with Process(python(program), tmp_path):
        children = [int(word) for word in read_line(pipe).split()]
        assert all(is_running(pid) for pid in children)
    psutil.wait_procs([psutil.Process(pid) for pid in children if psutil.pid_exists(pid)], timeout=10)
    assert not any(is_running(pid) for pid in children)


def test_children_of_a_peer_that_died_end_too(tmp_path, pipe):
    program = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "{WAITS}"])
        with open({str(pipe)!r}, "w") as pipe:
            print(child.pid, file=pipe)
    """
    with Process(python(program), tmp_path) as parent:
        child = int(read_line(pipe))
        assert parent.has_ended(within_s=10)
    psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=10)
    assert not is_running(child)


def test_a_peer_is_asked_to_stop_first(tmp_path, pipe):
    program = f"""
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("in order")))
        with open({str(pipe)!r}, "w") as pipe:
            print("up", file=pipe)
        signal.pause()
    """
    with Process(python(program), tmp_path) as stopped:
        read_line(pipe)
    assert stopped.log() == "in order"


def test_a_peer_that_does_not_stop_is_ended(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(process, "STOP_S_MAX", 0.1)
    program = f"""
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open({str(pipe)!r}, "w") as pipe:
            print(os.getpid(), file=pipe)
        signal.pause()
    """
    with Process(python(program), tmp_path):
        pid = int(read_line(pipe))
    assert not is_running(pid)


def test_ctrl_c_ends_the_peer_and_leaves_no_process_behind(tmp_path, pipe):
    """The whole of it, as a person does it: the interrupt reaches our process alone."""
    program = f"""
        import signal, sys
        from pathlib import Path
        from bench.peers.peer import Launch
        from bench.peers.process import Process
        peer = 'import os, signal; print(os.getpid(), file=open("{pipe}", "w"), flush=True); signal.pause()'
        signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell started us in its background
        with Process(Launch((sys.executable, "-c", peer)), Path({str(tmp_path)!r})) as process:
            process.has_ended(within_s=60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as parent:
        pid = int(read_line(pipe))
        assert is_running(pid)
        parent.send_signal(signal.SIGINT)
        _, said = parent.communicate(timeout=30)
    assert "KeyboardInterrupt" in said
    assert not is_running(pid)


def test_an_interrupt_while_a_peer_stops_ends_it_at_once(tmp_path, pipe, monkeypatch):
    program = f"""
        import os, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open({str(pipe)!r}, "w") as pipe:
            print(os.getpid(), file=pipe)
        signal.pause()
    """

    def interrupted(self, within_s=0):
        if within_s:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(Process, "has_ended", interrupted)
    with pytest.raises(KeyboardInterrupt), Process(python(program), tmp_path):
        pid = int(read_line(pipe))
    assert not is_running(pid)


def test_a_peer_does_not_see_variables_that_are_about_us(tmp_path, monkeypatch):
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "PENSTOCK_HOST", "MLSERVER_HOST"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("KEPT", "yes")
    program = """
        import os
        seen = [name for name, value in os.environ.items() if value == "ours"]
        print(seen, os.environ["KEPT"], os.environ["OWN"], os.environ["OMP_NUM_THREADS"], os.environ["PATH"])
    """
    with Process(python(program, OWN="mine"), tmp_path) as peer:
        assert peer.has_ended(within_s=30)
        assert peer.log().startswith(f"[] yes mine 1 {Path(sys.executable).parent}:")


def test_free_ports_are_three_of_the_loopback_interface():
    ports = free_ports()
    numbers = {ports.grpc, ports.http, ports.metrics}
    assert len(numbers) == 3
    for number in numbers:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", number))


def test_a_peer_can_be_stopped_away_from_the_main_thread(tmp_path):
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(lambda: Process(python(WAITS), tmp_path).__enter__().__exit__(None, None, None))
        stopped.result(timeout=30)
