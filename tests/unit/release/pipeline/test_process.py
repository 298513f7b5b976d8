"""Programs of steps: real ones, ended for real."""

import os
import select
import signal
import subprocess

import pytest

from serving.errors import ConfigError
from serving.release.pipeline import process
from serving.release.pipeline.process import end_group, last_line, run_command, start_of


@pytest.fixture
def shell(tmp_path):
    def run(script, timeout_s=60.0, **others):
        return run_command(["sh", "-c", script], folder=tmp_path, environment=dict(os.environ), timeout_s=timeout_s,
                           log=tmp_path / "log", **others)  # fmt: skip

    return run


def test_both_outputs_are_kept_in_one_file_and_the_status_is_told(shell, tmp_path):
    ended = shell("echo one; echo two >&2; exit 3")
    assert (ended.status, ended.timed_out) == (3, False)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    assert last_line(tmp_path / "log") == "two"


def test_it_gets_no_input_and_its_own_folder_and_variables(shell, tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "hello")
    shell("cat; pwd; echo $WORD")
    assert (tmp_path / "log").read_text() == f"{tmp_path}\nhello\n"


def test_what_takes_too_long_is_ended_with_all_that_it_started(shell, tmp_path):
    ended = shell("sleep 600 & echo $!; sleep 600", timeout_s=0.3)
    assert (ended.status, ended.timed_out) == (-signal.SIGTERM, True)
    assert not is_running(int((tmp_path / "log").read_text()))


def test_what_does_not_heed_a_request_is_ended_by_force(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.2)
    ended = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done", timeout_s=0.3)
    assert (ended.status, ended.timed_out) == (-signal.SIGKILL, True)


def test_a_child_that_stays_behind_does_not_hold_the_step_up(shell, tmp_path):
    ended = shell("sleep 600 & echo $!")
    assert ended.status == 0
    assert not is_running(int((tmp_path / "log").read_text()))


@pytest.mark.parametrize("daemon", ["sleep 600", "yes"])
def test_a_daemon_that_holds_the_output_does_not_hold_the_step_up(shell, tmp_path, monkeypatch, daemon):
    """It has left the group, so it goes on; it must not print into the step's output for ever either."""
    monkeypatch.setattr(process, "_LAST_OUTPUT_S", 0.1)
    script = f"mkfifo gate; setsid sh -c 'echo $$; : > gate; exec {daemon}' & cat gate; exit 5"
    assert shell(script).status == 5
    pid = int((tmp_path / "log").read_bytes().split(b"\n")[0])
    end_group(pid)


def test_an_interrupt_ends_the_program(shell, tmp_path):
    seen = []

    def interrupt(pid):
        seen.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shell("sleep 600", started=interrupt)
    assert not is_running(seen[0])


def test_output_beyond_the_bound_is_dropped_and_the_program_goes_on(shell, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 1000)
    assert shell("head -c 300000 /dev/zero; exit 4").status == 4
    text = (tmp_path / "log").read_bytes()
    assert text == b"\0" * 1000 + b"\n... the rest is left out\n"
    assert last_line(tmp_path / "log") == "... the rest is left out"


def test_no_shell_reads_the_arguments(tmp_path):
    run_command(["echo", "$HOME; exit"], folder=tmp_path, environment={"PATH": os.environ["PATH"]}, timeout_s=60,
                log=tmp_path / "log")  # fmt: skip
    assert (tmp_path / "log").read_text() == "$HOME; exit\n"


def test_a_program_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="no-such-program cannot be started: No such file"):
        run_command(["no-such-program"], folder=tmp_path, environment={}, timeout_s=1, log=tmp_path / "log")


def test_an_output_that_cannot_be_kept_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="log cannot be written: No such file"):
        run_command(["true"], folder=tmp_path, environment={}, timeout_s=1, log=tmp_path / "gone" / "log")


def test_a_process_is_known_by_when_it_started():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    assert start_of(child.pid) == start_of(child.pid) > start_of(1)
    end_group(child.pid)
    assert child.wait() == -signal.SIGKILL
    assert start_of(child.pid) == 0
    end_group(child.pid)


def is_running(pid):
    """Tell whether a process goes on; one that was killed is given the moment that this takes."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    with os.fdopen(handle) as ends:
        return not select.select([ends], [], [], 10.0)[0]
