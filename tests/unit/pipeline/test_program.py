import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.pipeline.flaws import RefusedRowsError
from serving.pipeline.program import Workspace
from serving.pipeline.step import Flow
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support.pipelines import after, before, pipeline

SCALE = {"step": "scale", "input": "x", "mean": [1.0, 2.0], "scale": 2.0}
CAST = {"step": "cast", "input": "x", "datatype": "FP32"}


@pytest.mark.parametrize(
    ("dims", "rows", "room"),
    [((4,), 1, 64), ((4,), 65, 128), ((1 << 20,), 1, 16), ((1 << 30,), 1, 1), ((1 << 29,), 3, 4), ((0,), 1, 64)],
)
def test_room_is_made_for_many_small_rows_and_for_few_large_ones(dims, rows, room):
    """The largest of these are never written, and so take no memory."""
    space = Workspace([Flow(TensorSpec("x", Datatype.UINT8, (DYNAMIC, *dims)), 7)], passes=1, empty=np.empty)
    space.grow(rows)
    assert (space.capacity, space.buffers[7].shape, len(space.flaws)) == (room, (room, *dims), room)


def test_room_is_used_again_until_more_rows_come():
    built = pipeline(PipelineConfig(preprocess=(CAST,), inputs=({"name": "x", "datatype": "FP64", "shape": [-1, 2]},)),
                     [TensorSpec("x", Datatype.FP32, (DYNAMIC, 2))])  # fmt: skip
    given = np.random.default_rng(0).random((65, 2))
    bases = [built.preprocess([given[:rows]], "test")[0].base for rows in (0, 64, 3, 65, 1)]
    assert bases[0] is bases[1] is bases[2]
    assert bases[3] is bases[4] is not bases[0]
    assert built.report()[0]["rows"] == 133  # which a workspace that grows does not forget


def chain_of(values, *, is_strict=True, runner="test"):
    built = pipeline(PipelineConfig(preprocess=(SCALE, CAST), inputs=({"name": "x", "datatype": "FP64",
                     "shape": [-1, 2]},)), [TensorSpec("x", Datatype.FP32, (DYNAMIC, 2))])  # fmt: skip
    return built.preprocess([values], runner, is_strict=is_strict)[0]


@pytest.mark.parametrize("is_strict", [True, False])
def test_rows_that_were_refused_are_forgotten_by_the_next_run(is_strict):
    bad = np.array([[0.0, 0.0], [1e300, 0.0], [0.0, 0.0]])
    if is_strict:
        with pytest.raises(RefusedRowsError) as caught:
            chain_of(bad)
        assert list(caught.value.reasons) == [1]
    else:
        chain_of(bad, is_strict=False)
    good = np.ones((3, 2))
    np.testing.assert_array_equal(chain_of(good), (good - [1, 2]) / 2)


def test_what_lies_behind_the_rows_of_a_batch_is_no_part_of_it():
    chain_of(np.full((5, 2), 9.0))
    with pytest.raises(RefusedRowsError) as caught:
        chain_of(np.array([[1e300, 1.0]]))
    assert list(caught.value.reasons) == [0]
    assert chain_of(np.ones((2, 2))).shape == (2, 2)


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), np.ones((2, 2), np.float32), np.ones(2), np.float64(1)])
def test_what_is_not_as_promised_is_refused_before_compiled_code_sees_it(wrong):
    with pytest.raises(ValueError, match=r"tensor 'x' is float\d+ .*expected float64"):
        chain_of(np.asarray(wrong))


def test_tensors_of_several_dimensions_are_laid_out_for_kernels_with_room_for_more_rows():
    """Vectors of [rows, 2, 3] are 2 for each row, in a buffer that is larger than the batch."""
    rows = np.random.default_rng(0).random((5, 2, 3), np.float32)
    answer = after([{"step": "sigmoid", "input": "y", "output": "z"}, {"step": "softmax", "input": "z"},
                    {"step": "l2_normalise", "input": "z"}], {"y": rows})["z"]  # fmt: skip
    powers = np.exp(1 / (1 + np.exp(-rows)))
    expected = powers / np.linalg.norm(powers, axis=-1, keepdims=True)
    np.testing.assert_allclose(answer, expected, rtol=1e-5)


def test_numbers_of_several_columns_and_types_go_with_their_own_columns():
    """Parameters lie in tables, one for each datatype: of FP64 and of FP32 here, of columns and of all."""
    steps = [{"step": "impute", "input": "x", "value": [0.5, 2.5]}, {"step": "scale", "input": "x", "scale": 0.25},
             CAST, {"step": "clip", "input": "x", "min": [-1.0, 0.0], "max": 8.0}]  # fmt: skip
    rows = np.random.default_rng(0).standard_normal((700, 2))
    rows[::3] = np.nan
    filled = np.where(np.isnan(rows), [0.5, 2.5], rows)
    expected = np.clip((filled / 0.25).astype(np.float32), np.float32([-1, 0]), np.float32(8))
    np.testing.assert_array_equal(before(steps, {"x": rows}, expected), expected)
