import pytest

from serving.batching.loads import Loads


def test_loads_are_under_way_until_the_last_one_ends():
    loads = Loads()
    assert not loads.are_under_way
    with loads.one():
        with loads.one():
            assert loads.are_under_way
        assert loads.are_under_way
    assert not loads.are_under_way


def test_a_load_that_fails_is_over():
    loads = Loads()
    with pytest.raises(ValueError, match="broken"), loads.one():
        raise ValueError("broken")
    assert not loads.are_under_way
