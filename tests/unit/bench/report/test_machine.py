import dataclasses
import getpass
import json
import os
import platform
import shutil
import subprocess

import pytest

from bench.report import machine


def git(folder, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.invalid", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one tracked file in `package`."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    git(tmp_path, "init", "-q")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("first\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path


def test_this_machine_has_a_fingerprint_that_json_holds():
    values = dataclasses.asdict(machine.fingerprint())
    assert values["cores"] >= 1
    assert 0 < values["cores_usable"] <= values["cores"]
    assert "numpy" in values["packages"]
    json.dumps(values, allow_nan=False)


def test_a_fingerprint_does_not_say_whose_machine_it_is():
    text = json.dumps(dataclasses.asdict(machine.fingerprint()))
    for secret in (platform.node(), os.path.expanduser("~")):  # noqa: PTH111
        assert len(secret) < 3 or secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_figures_are_read_where_linux_keeps_them(tmp_path):
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU\n",
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
        "etc/os-release": 'NAME=x\nPRETTY_NAME="Some Linux 1"\n',
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = machine.fingerprint(tmp_path)
    assert (found.cpu, found.memory_gib, found.system) == ("Some CPU", 16.0, "Some Linux 1")
    assert (found.cores_usable, found.governor) == (0.5, "performance")


def test_what_a_machine_does_not_tell_is_none(tmp_path):
    found = machine.fingerprint(tmp_path)
    assert (found.memory_gib, found.governor) == (None, None)
    assert found.cpu == platform.machine()
    assert found.cores_usable >= 1


def test_a_checkout_has_a_commit(checkout):
    assert machine.commit(checkout / "package") == git(checkout, "rev-parse", "HEAD").strip()


def test_a_changed_file_makes_it_dirty(checkout):
    (checkout / "package" / "module.py").write_text("second\n")
    assert machine.commit(checkout / "package").endswith("-dirty")


def test_a_checkout_around_an_installed_distribution_is_not_ours(checkout):
    (checkout / "venv").mkdir()
    (checkout / "venv" / "module.py").write_text("installed\n")
    assert machine.commit(checkout / "venv") is None


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert machine.commit(tmp_path / "absent") is None


def test_without_git_there_is_no_commit(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine.commit(checkout / "package") is None
