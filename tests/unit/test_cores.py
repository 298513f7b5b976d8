import os

import pytest

from serving.cores import usable_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.fixture
def write(tmp_path):
    def write(path, text):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write


def test_without_quotas_all_cores_of_the_affinity_are_usable(tmp_path):
    assert usable_cores(tmp_path) == 8


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", 8), ("300000 100000\n", 3), ("150000 100000\n", 1), ("50000 100000\n", 1),
        ("9900000 100000\n", 8), ("", 8), ("many few\n", 8), ("100000\n", 8), ("100000 0\n", 8),
    ],
)  # fmt: skip
def test_a_quota_of_a_container_bounds_the_cores(write, tmp_path, text, cores):
    write("proc/self/cgroup", "0::/\n")
    write("sys/fs/cgroup/cpu.max", text)
    assert usable_cores(tmp_path) == cores


def test_the_least_quota_of_a_group_and_those_above_it_counts(write, tmp_path):
    write("proc/self/cgroup", "0::/pods/one\n")
    write("sys/fs/cgroup/pods/one/cpu.max", "600000 100000\n")
    write("sys/fs/cgroup/pods/cpu.max", "200000 100000\n")
    assert usable_cores(tmp_path) == 2


@pytest.mark.parametrize(("quota", "cores"), [("400000\n", 4), ("-1\n", 8)])
def test_a_quota_of_the_first_version_of_control_groups_counts_too(write, tmp_path, quota, cores):
    write("proc/self/cgroup", "4:memory:/x\n3:cpu,cpuacct:/docker/y\n")
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)  # in a container its own group is the root that it sees
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::relative\n", "0::/../../etc\n", "0:\n"])
def test_what_cannot_be_read_bounds_nothing(write, tmp_path, text):
    write("proc/self/cgroup", text)
    assert usable_cores(tmp_path) == 8
