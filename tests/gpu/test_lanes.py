"""Two lanes take turns, and pinned memory is filled again only when the GPU has fetched what lay there."""

import numpy as np
import pytest

from serving.gpu import lanes

pytestmark = pytest.mark.usefixtures("gpu")


class Stream:
    """Writes down when somebody waits for it."""

    def __init__(self, name, events):
        self._name, self._events = name, events

    def synchronize(self):
        self._events.append(f"{self._name} waited for")


class Target:
    """Memory of a GPU that writes down what is copied to it, and when."""

    def __init__(self, events):
        self._events = events
        self.staged = []

    def copy_to_device(self, array, stream):
        self._events.append(f"{stream._name} copies {len(array)}")
        self.staged.append(array)


@pytest.fixture
def watched(monkeypatch):
    events = []
    names = iter("AB")
    monkeypatch.setattr(lanes.cuda, "stream", lambda: Stream(next(names), events))
    return lanes.Lanes(), Target(events), events


def test_lanes_take_turns_and_are_waited_for_before_they_are_filled_again(watched, monkeypatch):
    pair, target, events = watched
    monkeypatch.setattr(lanes, "CHUNK_BYTES", 16)
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    for lane, begin, end in pair.chunks(5, [8]):
        lane.upload(rows[begin:end], target)
    pair.join()
    assert events == [
        "A waited for", "A copies 2", "B waited for", "B copies 2", "A waited for", "A copies 1",
        "A waited for", "B waited for",
    ]  # fmt: skip


def test_the_other_lanes_memory_is_left_alone_while_a_lane_is_filled(watched, monkeypatch):
    pair, target, _ = watched
    monkeypatch.setattr(lanes, "CHUNK_BYTES", 16)
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    for lane, begin, end in pair.chunks(4, [8]):
        lane.upload(rows[begin:end], target)
    assert [array.tolist() for array in target.staged] == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_several_arrays_of_a_chunk_lie_beside_one_another(watched):
    pair, target, _ = watched
    some, others = np.arange(3, dtype=np.uint8), np.arange(6, dtype=np.float64).reshape(3, 2)
    for lane, begin, end in pair.chunks(3, [1, 16]):
        lane.upload(some[begin:end], target)
        lane.upload(others[begin:end], target)
    assert [array.tolist() for array in target.staged] == [some.tolist(), others.tolist()]
    assert target.staged[1].flags.aligned


def test_what_is_staged_may_be_changed_at_once(watched):
    pair, target, _ = watched
    rows = np.ones((2, 2))
    for lane, begin, end in pair.chunks(2, [16]):
        lane.upload(rows[begin:end], target)
        rows[:] = 5
    assert target.staged[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"), [(10, 1, 10), (10, 3 << 20, 1), (10, 9 << 20, 1), (0, 4, 1)]
)
def test_a_chunk_has_a_row_at_least_and_the_bytes_of_a_chunk_at_most(rows, row_bytes, expected):
    assert lanes.chunk_rows(rows, row_bytes) == expected
