"""The first cases of the long run (tests/fuzz_wire.py), and that it keeps and shrinks what fails."""

import pytest

from tests.support import fuzzing
from tests.support.fuzz_targets import TARGETS
from tests.support.fuzzing import Target

CASES = 12
FOUND = [("output", 101_925)]
"""What the long run has found, by target and seed. Here the test's own client opened more streams than it may."""


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_the_first_cases_keep_the_laws(target):
    for seed in range(CASES):
        failure = fuzzing.run(target, seed)
        assert failure is None, failure.report


@pytest.mark.parametrize(("name", "seed"), FOUND)
def test_what_the_long_run_has_found_stays_mended(name, seed):
    (target,) = [target for target in TARGETS if target.name == name]
    failure = fuzzing.run(target, seed)
    assert failure is None, failure.report


def test_a_failing_case_is_made_smaller_and_can_be_run_again(tmp_path):
    def check(seed, pieces):
        assert not (b"3" in pieces and b"17" in pieces)

    failure = fuzzing.run(Target("pair", check, lambda seed: [b"%d" % k for k in range(seed)]), 40)
    assert failure.pieces == [b"3", b"17"]
    assert failure.place.startswith("AssertionError at test_fuzz_targets.py:")
    assert fuzzing.load(failure.save(tmp_path)) == ("pair", 40, [b"3", b"17"])


def test_a_case_that_fails_elsewhere_when_it_is_smaller_stays_as_it_is():
    def check(seed, pieces):
        if len(pieces) < 4:
            raise KeyError
        raise ValueError

    assert len(fuzzing.run(Target("any", check, lambda seed: [b""] * seed), 9).pieces) == 4
