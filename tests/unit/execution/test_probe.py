import numpy as np
import pytest

from serving.execution.probe import depends_on_batchmates, probed
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec


def spec(name, *shape):
    return TensorSpec(name, Datatype.FP32, shape)


def signature(*output, batchable=True):
    return Signature((spec("x", DYNAMIC, 4),), (spec("y", *output),), batchable=batchable)


@pytest.mark.parametrize(
    ("declared", "shape_of", "shape", "batchable"),
    [
        ((DYNAMIC, 3), lambda rows: (rows, 3), (DYNAMIC, 3), True),
        ((), lambda rows: (rows, 3), (DYNAMIC, DYNAMIC), True),  # a rank that the graph does not tell
        ((), lambda rows: (), (), False),
        ((DYNAMIC, 3), lambda rows: (1, 3), (DYNAMIC, 3), False),  # rows are summed up
        ((DYNAMIC, 3), lambda rows: (2 * rows, 3), (DYNAMIC, 3), False),  # two output rows per row
        ((5, 3), lambda rows: (5, 3), (5, 3), False),
    ],
)
def test_runs_of_one_and_two_rows_correct_the_signature(declared, shape_of, shape, batchable):
    given = signature(*declared)
    found = probed(given, lambda inputs: [np.zeros(shape_of(len(inputs[0])), np.float32)])
    assert found.outputs[0].shape == shape
    assert found.batchable == batchable
    assert found.inputs == given.inputs


def test_fixed_inputs_are_not_made_batchable():
    given = Signature((spec("x", 1, 4),), (spec("y", DYNAMIC, 4),), batchable=False)
    assert not probed(given, lambda inputs: [inputs[0]]).batchable


def test_rows_that_are_mixed_with_their_batchmates_are_noticed():
    given = signature(DYNAMIC, 4)
    assert depends_on_batchmates(given, lambda inputs: [inputs[0] - inputs[0].mean(axis=0)])
    assert not depends_on_batchmates(given, lambda inputs: [inputs[0] * 2])
    assert not probed(given, lambda inputs: [inputs[0] - inputs[0].mean(axis=0)]).batchable


def test_rounding_and_chance_are_not_taken_for_mixing():
    given, random = signature(DYNAMIC, 4), np.random.default_rng(1)
    assert not depends_on_batchmates(given, lambda inputs: [inputs[0] + 1e-6 * len(inputs[0])])
    assert not depends_on_batchmates(given, lambda inputs: [random.random(inputs[0].shape)])


def test_a_graph_that_refuses_random_numbers_is_not_judged():
    def refuse(inputs):
        raise ValueError("not these")

    assert not depends_on_batchmates(signature(DYNAMIC, 4), refuse)
