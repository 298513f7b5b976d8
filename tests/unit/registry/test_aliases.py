import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import RegistryError
from serving.registry.aliases import PROMOTE, ROLLBACK, holders, rollback_target
from serving.registry.names import Alias
from serving.registry.record import GENESIS, Record

ALIAS = Alias("fraud", "production")


def moves(*steps: tuple[str, int]) -> list[Record]:
    return [Record(n, "", "ada", kind, "fraud", {"alias": "production", "sequence": sequence}, GENESIS)
            for n, (kind, sequence) in enumerate(steps, 1)]  # fmt: skip


def test_rollbacks_one_after_the_other_lead_back_to_the_first_promotion():
    history = moves((PROMOTE, 1), (PROMOTE, 2), (PROMOTE, 3))
    for expected in (2, 1):
        target = rollback_target(ALIAS, history, None)
        assert target == expected
        history = moves(*((each.kind, each.facts["sequence"]) for each in history), (ROLLBACK, target))
    with pytest.raises(RegistryError, match="no way back"):
        rollback_target(ALIAS, history, None)


def test_a_promotion_after_a_rollback_leads_back_to_what_was_rolled_back_to():
    assert rollback_target(ALIAS, moves((PROMOTE, 1), (PROMOTE, 2), (ROLLBACK, 1), (PROMOTE, 3)), None) == 1


def test_a_package_that_was_rolled_back_can_be_asked_for_again():
    history = moves((PROMOTE, 1), (PROMOTE, 2), (ROLLBACK, 1))
    assert rollback_target(ALIAS, history, 2) == 2
    assert holders(moves((PROMOTE, 1), (PROMOTE, 2), (ROLLBACK, 1), (ROLLBACK, 2))) == [1, 2]


@pytest.mark.parametrize(
    ("steps", "wanted", "message"),
    [([], None, "names no package"), ([(PROMOTE, 1)], 1, "already"), ([(PROMOTE, 1)], 7, "never named"),
     ([(PROMOTE, 1)], None, "no way back")],
)  # fmt: skip
def test_a_rollback_without_a_target_says_why(steps, wanted, message):
    with pytest.raises(RegistryError, match=message):
        rollback_target(ALIAS, moves(*steps), wanted)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5)), max_size=30))
def test_whatever_happened_the_last_holder_is_the_one_of_the_last_move(choices):
    steps: list[tuple[str, int]] = []
    for is_rollback, sequence in choices:
        if not is_rollback:
            steps.append((PROMOTE, sequence))
            continue
        try:
            steps.append((ROLLBACK, rollback_target(ALIAS, moves(*steps), None)))
        except RegistryError:
            continue
    stack = holders(moves(*steps))
    assert not steps or stack[-1] == steps[-1][1]
    assert all(first != second for first, second in itertools.pairwise(stack))
