import re

import numpy as np
import pytest

from serving.errors import InvalidRequest, NotOffered
from serving.types import DYNAMIC, Datatype, InferRequest, InputTensor, RequestedOutput, Signature, TensorSpec
from serving.validation import TIMEOUT_US_MAX, validate

SIGNATURE = Signature(
    (TensorSpec("a", Datatype.FP32, (DYNAMIC, 2)), TensorSpec("b", Datatype.INT64, (DYNAMIC, DYNAMIC))),
    (TensorSpec("y", Datatype.FP32, (DYNAMIC, 2)), TensorSpec("z", Datatype.FP16, (DYNAMIC,))),
    batchable=True,
)


def raw(name, array, datatype, **facts):
    return InputTensor(name, datatype, array.shape, raw=array.tobytes(), **facts)


def typed(name, shape, datatype, **fields):
    return InputTensor(name, datatype, shape, typed=fields)


A = raw("a", np.arange(6, dtype=np.float32).reshape(3, 2), "FP32")
B = raw("b", np.arange(12, dtype=np.int64).reshape(3, 4), "INT64")


def request(*inputs, outputs=(), parameters=None, raw_count=None):
    count = sum(tensor.raw is not None for tensor in inputs) if raw_count is None else raw_count
    asked = tuple(RequestedOutput(name) for name in outputs)
    return InferRequest("m", "", "", inputs, asked, parameters or {}, count)


def check(*args, signature=SIGNATURE, rows_max=8, **kwargs):
    return validate(request(*args, **kwargs), signature, rows_max=rows_max)


def refused(message, *args, **kwargs):
    with pytest.raises(InvalidRequest, match=re.escape(message)):
        check(*args, **kwargs)


# ---- what is right -------------------------------------------------------------------------------------------------


def test_inputs_come_out_in_the_order_of_the_model():
    valid = check(B, A)
    assert [array.dtype for array in valid.inputs] == [np.float32, np.int64]
    assert (valid.rows, valid.lane) == (3, ((2,), (4,)))
    assert valid.raw
    assert valid.timeout_us == 0


def test_typed_contents_are_read_and_answered_typed_where_every_output_allows_it():
    inputs = (typed("a", (1, 2), "FP32", fp32_contents=[1.0, 2.0]), typed("b", (1, 1), "INT64", int64_contents=[3]))
    assert [array.tolist() for array in check(*inputs).inputs] == [[[1.0, 2.0]], [[3]]]
    assert not check(*inputs, outputs=["y"]).raw
    assert check(*inputs, outputs=["z"]).raw  # FP16 travels raw only
    assert check(*inputs).raw


def test_outputs_are_all_in_the_order_of_the_model_or_those_asked_for_in_their_order():
    assert check(A, B).outputs == (0, 1)
    assert check(A, B, outputs=["z", "y"]).outputs == (1, 0)
    assert check(A, B, outputs=["z"]).outputs == (1,)


def test_a_model_that_is_not_batchable_takes_one_request_as_one_row():
    signature = Signature((TensorSpec("a", Datatype.FP32, (DYNAMIC, 2)),), SIGNATURE.outputs, batchable=False)
    valid = check(A, signature=signature, rows_max=1)
    assert (valid.rows, valid.lane) == (1, ((3, 2),))


def test_zero_rows_are_valid():
    empty = raw("a", np.zeros((0, 2), np.float32), "FP32"), raw("b", np.zeros((0, 1), np.int64), "INT64")
    assert check(*empty).rows == 0


def test_a_model_without_inputs_is_asked_without_inputs():
    assert check(signature=Signature((), SIGNATURE.outputs, batchable=False)).inputs == []


# ---- names ---------------------------------------------------------------------------------------------------------


def test_an_unknown_input_is_refused():
    refused("unknown input 'c', the model takes 'a', 'b'", A, B, raw("c", np.zeros(1), "FP64"))


def test_a_missing_input_is_refused():
    refused("input 'b' is missing, the model takes 'a', 'b', there came 'a'", A)
    refused("input 'a' is missing, the model takes 'a', 'b', there came none")


def test_an_input_that_comes_twice_is_refused():
    refused("input 'a' came twice", A, A, B)


def test_an_unknown_or_doubled_output_is_refused():
    refused("unknown output 'x', the model gives 'y', 'z'", A, B, outputs=["x"])
    refused("output 'y' is asked for twice", A, B, outputs=["y", "y"])


# ---- shapes and datatypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 2, 1), (), (3, -2), (-1, 2)])
def test_a_shape_that_does_not_fit_is_refused_with_both(shape):
    refused(
        f"input 'a': shape {list(shape)}, expected [-1, 2] where -1 is any length",
        InputTensor("a", "FP32", shape, raw=b""), B,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("datatype", "came"),
    [
        ("FP64", "FP64"),
        ("", "missing"),
        ("float", "float (which is no datatype of the protocol)"),
    ],
)
def test_a_wrong_datatype_is_refused_with_both(datatype, came):
    refused(f"input 'a': datatype {came}, expected FP32", raw("a", np.zeros((3, 2)), datatype), B)


def test_inputs_that_disagree_on_rows_are_refused():
    refused("input 'b' has 1 rows, expected 3 as input 'a' has", A, raw("b", np.zeros((1, 4), np.int64), "INT64"))


def test_too_many_rows_are_refused_and_not_split():
    assert check(A, B, rows_max=3).rows == 3
    refused("input 'a' has 3 rows, the model takes at most batch_rows_max = 2", A, B, rows_max=2)


def test_a_shape_whose_product_overflows_is_refused():
    refused("more elements than can be addressed", A, InputTensor("b", "INT64", (3, 2**62), raw=b""))
    empty = raw("a", np.zeros((0, 2), np.float32), "FP32")
    refused("more elements than can be addressed", empty, InputTensor("b", "INT64", (0, 2**62), raw=b""))


# ---- contents ------------------------------------------------------------------------------------------------------


def test_every_input_has_one_raw_entry():
    refused("raw_input_contents has 1 entries, expected one for each of 2 inputs", A, B, raw_count=1)


def test_raw_and_typed_contents_do_not_mix():
    both = raw("b", np.zeros((3, 4), np.int64), "INT64", typed={"int64_contents": [0] * 12})
    refused("input 'b' has 'int64_contents' beside raw_input_contents", A, both)


def test_contents_in_the_field_of_another_datatype_are_refused():
    wrong = typed("b", (1, 1), "INT64", int_contents=[1])
    refused("input 'b': contents came in int_contents, expected int64_contents for INT64",
            typed("a", (1, 2), "FP32", fp32_contents=[0, 0]), wrong)  # fmt: skip


def test_a_missing_typed_field_counts_no_elements():
    refused("fp32_contents holds 0 elements, expected 2", typed("a", (1, 2), "FP32"), typed("b", (1, 1), "INT64"))


@pytest.mark.parametrize("datatype", [Datatype.FP16, Datatype.BF16])
def test_half_precision_travels_raw_only(datatype):
    signature = Signature((TensorSpec("h", datatype, (DYNAMIC,)),), SIGNATURE.outputs, batchable=True)
    refused(
        f"input 'h': {datatype.wire_name} travels in raw_input_contents only",
        typed("h", (1,), datatype.wire_name, fp32_contents=[1.0]), signature=signature,
    )  # fmt: skip


# ---- parameters ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sequence_id", "sequence_start", "shared_memory_region", "classification"])
def test_parameters_that_would_change_the_answer_are_not_offered(name):
    with pytest.raises(NotOffered, match=f"parameter '{name}' is not offered"):
        check(A, B, parameters={name: 1})
    with pytest.raises(NotOffered):
        check(raw("a", np.zeros((3, 2), np.float32), "FP32", parameters={name: 1}), B)
    asked = InferRequest("m", "", "", (A, B), (RequestedOutput("y", {name: 1}),), {}, 2)
    with pytest.raises(NotOffered):
        validate(asked, SIGNATURE, rows_max=8)


def test_unknown_parameters_are_ignored():
    check(A, B, parameters={"binary_data_output": True, "mood": "good"})


@pytest.mark.parametrize("value", [0, 1, TIMEOUT_US_MAX])
def test_a_timeout_is_an_integer(value):
    assert check(A, B, parameters={"timeout": value}).timeout_us == value


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 2**64])
def test_another_timeout_or_priority_is_refused(name, value):
    refused(f"parameter '{name}' is {value!r}, expected an integer from 0", A, B, parameters={name: value})
