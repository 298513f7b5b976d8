import pytest

from serving.pipeline.program import Workspace
from serving.pipeline.step import Flow
from serving.types import DYNAMIC, Datatype, TensorSpec


@pytest.mark.parametrize(
    ("dims", "rows", "room"),
    [((4,), 1, 64), ((4,), 65, 128), ((1 << 20,), 1, 16), ((1 << 30,), 1, 1), ((1 << 29,), 3, 4), ((0,), 1, 64)],
)
def test_room_is_made_for_many_small_rows_and_for_few_large_ones(dims, rows, room):
    """The largest of these are never written, and so take no memory."""
    flow = Flow(TensorSpec("x", Datatype.UINT8, (DYNAMIC, *dims)), 0)
    buffer = Workspace(1).buffer(flow, rows, dims)
    assert buffer.shape == (rows, *dims)
    assert buffer.base.shape == (room, *dims)


def test_room_is_used_again_until_more_rows_come():
    flow = Flow(TensorSpec("x", Datatype.FP32, (DYNAMIC, 2)), 0)
    space = Workspace(1)
    first = space.buffer(flow, 64, (2,)).base
    assert space.buffer(flow, 3, (2,)).base is first
    assert space.buffer(flow, 65, (2,)).base is not first
