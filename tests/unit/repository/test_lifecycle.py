import itertools

import pytest

from serving.repository.lifecycle import INDEX_NAMES, MOVES, State, check_move

LEGAL = {
    (State.LOADING, State.READY),
    (State.LOADING, State.FAILED),
    (State.READY, State.UNLOADING),
    (State.FAILED, State.LOADING),
    (State.UNLOADING, State.UNLOADED),
    (State.UNLOADED, State.LOADING),
}


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_exactly_the_moves_of_the_picture_are_legal(before, after):
    if (before, after) in LEGAL:
        check_move(before, after)
    else:
        with pytest.raises(AssertionError, match=f"bug: a version cannot go from {before.name} to {after.name}"):
            check_move(before, after)


def test_every_state_can_be_left():
    assert all(MOVES[state] for state in State)


def test_the_index_uses_the_words_of_the_protocol():
    assert set(INDEX_NAMES) == set(State)
    assert set(INDEX_NAMES.values()) <= {"UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"}
    assert [state for state in State if INDEX_NAMES[state] == "READY"] == [State.READY]
