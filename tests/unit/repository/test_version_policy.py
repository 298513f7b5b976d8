import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.config import VersionPolicy
from serving.repository.version_policy import candidates, is_enough

VERSIONS = st.lists(st.integers(0, 20), unique=True)


def select(text, versions, broken=()):
    """Walk the candidates as a loader does; return what would serve."""
    policy, ready = VersionPolicy.parse(text), []
    for version in candidates(policy, versions):
        if is_enough(policy, len(ready)):
            break
        if version not in broken:
            ready.append(version)
    return ready


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ("latest(1)", [9]),
        ("latest(2)", [9, 3]),
        ("latest(9)", [9, 3, 1]),
        ("all", [9, 3, 1]),
        ("specific(1, 3)", [3, 1]),
        ("specific(2)", []),
    ],
)
def test_a_policy_selects_versions(policy, ready):
    assert select(policy, [3, 1, 9]) == ready


def test_a_broken_newest_version_leaves_the_one_before_it():
    assert select("latest(1)", [1, 2, 3], broken={3}) == [2]


def test_a_broken_version_has_no_substitute_when_versions_are_named():
    assert select("specific(2, 3)", [1, 2, 3], broken={3}) == [2]


@given(VERSIONS, st.sets(st.integers(0, 20)), st.integers(1, 5))
def test_latest_serves_the_newest_that_load(versions, broken, count):
    ready = select(f"latest({count})", versions, broken)
    assert ready == sorted(set(versions) - broken, reverse=True)[:count]


@given(VERSIONS)
def test_all_is_never_enough(versions):
    assert select("all", versions) == sorted(versions, reverse=True)
