"""Two streams take turns, and a chunk is as large as is worth copying by itself."""

import numpy as np
import pytest

from serving.gpu import streams
from serving.gpu.memory import uploaded

pytestmark = pytest.mark.usefixtures("gpu")


class Stream:
    """Writes down when somebody waits for it."""

    def __init__(self, name, events):
        self.name, self._events = name, events

    def synchronize(self):
        self._events.append(f"{self.name} waited for")


def test_streams_take_turns_and_all_are_waited_for(monkeypatch):
    events = []
    names = iter("AB")
    monkeypatch.setattr(streams.cuda, "stream", lambda: Stream(next(names), events))
    monkeypatch.setattr(streams, "CHUNK_BYTES", 16)
    pair = streams.StreamPair()
    assert [(stream.name, begin, end) for stream, begin, end in pair.chunks(5, 8)] == [
        ("A", 0, 2), ("B", 2, 4), ("A", 4, 5),
    ]  # fmt: skip
    assert events == []  # what is waited for while chunks are begun would keep the other stream idle
    pair.join()
    assert events == ["A waited for", "B waited for"]


@pytest.mark.parametrize("is_pinned", [False, True])
def test_rows_arrive_as_they_were(gpu, monkeypatch, is_pinned):
    monkeypatch.setattr(streams, "CHUNK_BYTES", 10)  # of two rows, so that both streams bring some
    given = np.random.default_rng(1).integers(0, 256, (7, 5), np.uint8)
    rows = given
    if is_pinned:
        rows = gpu.pinned(given.shape, given.dtype)
        rows[:] = given
    with gpu.active():
        pair, target = streams.StreamPair(), uploaded(np.zeros((7, 5), np.uint8))
        for stream, begin, end in pair.chunks(7, 5):
            streams.upload(rows[begin:end], target[begin:end], stream)
        pair.join()
        assert target.copy_to_host().tolist() == given.tolist()


@pytest.mark.parametrize(
    "array", [np.arange(3)[:, None], np.broadcast_to(np.arange(3), (2, 3)), np.arange(6).reshape(2, 3).T[::2]]
)
def test_arrays_of_all_strides_arrive_as_they_are(gpu, array):
    with gpu.active():
        target, stream = uploaded(np.zeros(array.shape, array.dtype)), streams.cuda.stream()
        streams.upload(streams.packed(array), target, stream)
        stream.synchronize()
        assert target.copy_to_host().tolist() == array.tolist()


def test_pinned_memory_of_no_bytes_is_an_array_too(gpu):
    assert gpu.pinned((0, 3), np.dtype(np.float32)).shape == (0, 3)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"), [(10, 1, 10), (10, 30 << 20, 2), (10, 90 << 20, 1), (0, 4, 1)]
)
def test_a_chunk_has_a_row_at_least_and_the_bytes_of_a_chunk_at_most(rows, row_bytes, expected):
    assert streams.chunk_rows(rows, row_bytes) == expected
