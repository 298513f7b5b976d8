"""Laws of the codec: what one side writes the other reads, and no bytes make it fail in a way of its own."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequest, ServingError
from serving.pb import open_inference_pb2 as pb
from serving.tensors import ELEMENTS_MAX, to_raw, to_typed
from serving.transport.client import infer_message, read_outputs
from serving.transport.codec import decode_request, encode_answer, encode_stream_answer, encode_stream_error
from serving.types import DATATYPES, DYNAMIC, Datatype, InferAnswer, OutputTensor, Signature, TensorSpec
from serving.validation import ValidRequest, validate

ROWS_MAX = 8
TYPED = [datatype for datatype in Datatype if datatype.typed_field]
FLOAT_BITS = {Datatype.FP16: 16, Datatype.FP32: 32, Datatype.FP64: 64}

texts = st.text(max_size=12) | st.sampled_from(["\0", "a\0b\0", "\U0010ffff", "é", "e\u0301"])
names = st.text(min_size=1, max_size=8)
dimensions = st.integers(0, 4)


def elements(datatype):
    """Values of a datatype, as they lie in memory."""
    if datatype is Datatype.BYTES:
        return texts
    if datatype is Datatype.BOOL:
        return st.booleans()
    if datatype in FLOAT_BITS:
        return st.floats(width=FLOAT_BITS[datatype])
    limits = np.iinfo(datatype.dtype)
    return st.integers(int(limits.min), int(limits.max))


@st.composite
def arrays(draw, datatype, *, rows=None):
    """Arrays of any shape, of a given number of rows if that is given, laid out in memory in any order."""
    shape = draw(st.lists(dimensions, max_size=3).map(tuple))
    shape = shape if rows is None else (rows, *shape)
    count = math.prod(shape)
    values = draw(st.lists(elements(datatype), min_size=count, max_size=count))
    array = np.empty(count, datatype.dtype)
    array[:] = values
    array = array.reshape(shape)
    return np.asfortranarray(array) if draw(st.booleans()) else array


def assert_same(actual, expected):
    """Check that two arrays are equal in every bit but those of NaNs, and in layout row-major."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype.kind == "f":
        np.testing.assert_array_equal(
            np.signbit(actual) & ~np.isnan(actual), np.signbit(expected) & ~np.isnan(expected)
        )
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual.tolist() == expected.tolist()


def read_or_refuse(data, signature) -> ValidRequest | None:
    """Do what the server does with a request's bytes; only a ServingError may come of it."""
    try:
        valid = validate(decode_request(data), signature, rows_max=ROWS_MAX)
    except ServingError:
        return None
    assert 0 <= valid.rows <= ROWS_MAX
    for spec, array in zip(signature.inputs, valid.inputs, strict=True):
        assert array.dtype == spec.datatype.dtype
        assert array.ndim == len(spec.shape)
        assert all(expected in {DYNAMIC, actual} for actual, expected in zip(array.shape, spec.shape, strict=True))
        assert len(to_raw(spec.datatype, array)) >= array.size * spec.datatype.item_bytes
    return valid


# ---- requests --------------------------------------------------------------------------------------------------------


@st.composite
def inputs(draw, datatypes):
    """Up to three named inputs of the same number of rows."""
    rows = draw(st.integers(0, ROWS_MAX))
    chosen = draw(st.dictionaries(names, st.sampled_from(datatypes), min_size=1, max_size=3))
    return {name: (datatype, draw(arrays(datatype, rows=rows))) for name, datatype in chosen.items()}


def typed_message(tensors):
    """Build a request with typed contents."""
    request = pb.ModelInferRequest(model_name="m")
    for name, (datatype, array) in tensors.items():
        tensor = request.inputs.add(name=name, datatype=datatype.wire_name, shape=array.shape)
        getattr(tensor.contents, datatype.typed_field).extend(to_typed(datatype, array))
    return request


def signature_of(tensors, *, open_dimensions=True):
    """A batchable signature that takes these inputs."""
    specs = tuple(
        TensorSpec(name, datatype, (DYNAMIC, *((DYNAMIC,) * (array.ndim - 1) if open_dimensions else array.shape[1:])))
        for name, (datatype, array) in tensors.items()
    )
    return Signature(specs, specs, batchable=True)


def assert_reads_back(message, tensors, signature):
    valid = validate(decode_request(message.SerializeToString()), signature, rows_max=ROWS_MAX)
    assert valid.rows == len(next(iter(tensors.values()))[1])
    for spec, array in zip(signature.inputs, valid.inputs, strict=True):
        assert_same(array, tensors[spec.name][1])
        assert array.flags.c_contiguous
    return valid


@given(inputs(list(Datatype)), st.booleans(), st.randoms(use_true_random=False))
def test_raw_inputs_are_read_as_they_were_written_in_any_order(tensors, open_dimensions, random):
    signature = signature_of(tensors, open_dimensions=open_dimensions)
    shuffled = dict(random.sample(sorted(tensors.items()), len(tensors)))
    assert assert_reads_back(infer_message("m", shuffled), tensors, signature).raw


@given(inputs(TYPED), st.booleans())
def test_typed_inputs_are_read_as_they_were_written(tensors, open_dimensions):
    signature = signature_of(tensors, open_dimensions=open_dimensions)
    assert not assert_reads_back(typed_message(tensors), tensors, signature).raw


@given(inputs([Datatype.BF16, Datatype.FP16]))
def test_half_precision_is_never_read_from_typed_contents(tensors):
    request = infer_message("m", tensors)
    del request.raw_input_contents[:]
    with pytest.raises(InvalidRequest, match="raw_input_contents"):
        validate(decode_request(request.SerializeToString()), signature_of(tensors), rows_max=ROWS_MAX)


@given(inputs([datatype for datatype in Datatype if datatype is not Datatype.BYTES]), st.integers(-8, 8).filter(bool))
def test_raw_contents_of_another_length_are_refused(tensors, excess_bytes):
    request = infer_message("m", tensors)
    raw = request.raw_input_contents[0]
    request.raw_input_contents[0] = (raw + bytes(8))[: max(0, len(raw) + excess_bytes)]
    wrong = request.raw_input_contents[0] != raw
    assert (read_or_refuse(request.SerializeToString(), signature_of(tensors)) is None) == wrong


@given(inputs(TYPED), st.integers(-3, 3))
def test_typed_contents_of_another_count_are_refused(tensors, excess):
    request = typed_message(tensors)
    datatype, array = next(iter(tensors.values()))
    values = getattr(request.inputs[0].contents, datatype.typed_field)
    more = [b"" if datatype is Datatype.BYTES else 0] * 3
    kept = [*values, *more][: max(0, array.size + excess)]
    del values[:]
    values.extend(kept)
    wrong = len(kept) != array.size
    assert (read_or_refuse(request.SerializeToString(), signature_of(tensors)) is None) == wrong


NARROW = [Datatype.INT8, Datatype.INT16, Datatype.UINT8, Datatype.UINT16]


@given(st.sampled_from(NARROW), st.lists(st.integers(-300, 300) | st.integers(-(2**17), 2**17), max_size=ROWS_MAX))
def test_narrow_integers_are_read_as_they_are_or_refused(datatype, values):
    signed = datatype.typed_field == "int_contents"
    values = values if signed else [abs(value) for value in values]
    spec = TensorSpec("a", datatype, (DYNAMIC,))
    request = pb.ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name="a", datatype=datatype.wire_name, shape=[len(values)])
    getattr(tensor.contents, datatype.typed_field).extend(values)
    valid = read_or_refuse(request.SerializeToString(), Signature((spec,), (spec,), batchable=True))
    limits = np.iinfo(datatype.dtype)
    if all(limits.min <= value <= limits.max for value in values):
        assert valid is not None
        assert valid.inputs[0].tolist() == values
    else:
        assert valid is None


# ---- answers ---------------------------------------------------------------------------------------------------------


def answers(datatypes, *, raw):
    """Answers of up to three outputs."""
    outputs = st.dictionaries(names, st.sampled_from(datatypes), min_size=1, max_size=3).flatmap(
        lambda chosen: st.tuples(
            *(st.builds(OutputTensor, st.just(name), st.just(kind), arrays(kind)) for name, kind in chosen.items())
        )
    )
    return st.builds(
        InferAnswer, st.text(max_size=8), st.integers(0, 2**63 - 1), st.text(max_size=8), outputs, st.just(raw)
    )


any_answers = answers(list(Datatype), raw=True) | answers(TYPED, raw=False)


def assert_answers(message, answer):
    assert (message.model_name, message.id) == (answer.model_name, answer.id)
    assert int(message.model_version) == answer.model_version
    assert len(message.raw_output_contents) == (len(answer.outputs) if answer.raw else 0)
    read = read_outputs(message)
    assert list(read) == [output.name for output in answer.outputs]
    for output in answer.outputs:
        assert_same(read[output.name], output.array)


@given(any_answers)
def test_answers_are_read_as_they_were_written(answer):
    assert_answers(pb.ModelInferResponse.FromString(b"".join(encode_answer(answer))), answer)


@given(any_answers)
def test_answers_on_a_stream_are_read_as_they_were_written(answer):
    message = pb.ModelStreamInferResponse.FromString(encode_stream_answer(answer))
    assert not message.error_message
    assert_answers(message.infer_response, answer)


@given(st.text(min_size=1, max_size=50), st.text(max_size=8))
def test_errors_on_a_stream_carry_their_message_and_the_requests_id(text, request_id):
    message = pb.ModelStreamInferResponse.FromString(encode_stream_error(InvalidRequest(text), request_id))
    assert (message.error_message, message.infer_response.id) == (text, request_id)
    assert not message.infer_response.outputs


# ---- what nobody should send -----------------------------------------------------------------------------------------

SIGNATURES = [
    Signature(
        specs, (TensorSpec("y", Datatype.FP32, (DYNAMIC, 2)), TensorSpec("z", Datatype.BF16, (DYNAMIC,))), batchable
    )
    for batchable, *specs in (
        (True, TensorSpec("a", Datatype.FP32, (DYNAMIC, 2))),
        (True, TensorSpec("a", Datatype.BYTES, (DYNAMIC, DYNAMIC)), TensorSpec("b", Datatype.INT8, (DYNAMIC,))),
        (True, TensorSpec("b", Datatype.BOOL, (DYNAMIC, DYNAMIC, 3)), TensorSpec("a", Datatype.FP16, (DYNAMIC,))),
        (False, TensorSpec("a", Datatype.UINT64, ()), TensorSpec("b", Datatype.FP64, (2, DYNAMIC))),
    )
    for specs in (tuple(specs),)
]


@given(st.binary(max_size=200), st.sampled_from(SIGNATURES))
def test_arbitrary_bytes_are_read_or_refused(data, signature):
    read_or_refuse(data, signature)


@st.composite
def good_requests(draw):
    """A request that a signature takes, and the signature."""
    signature = draw(st.sampled_from(SIGNATURES))
    rows = draw(st.integers(0, 3))
    tensors = {}
    for spec in signature.inputs:
        shape = [rows if dimension == DYNAMIC else dimension for dimension in spec.shape]
        count = math.prod(shape)
        values = draw(st.lists(elements(spec.datatype), min_size=count, max_size=count))
        array = np.empty(count, spec.datatype.dtype)
        array[:] = values
        tensors[spec.name] = (spec.datatype, array.reshape(shape))
    typed = all(spec.datatype.typed_field for spec in signature.inputs) and draw(st.booleans())
    request = typed_message(tensors) if typed else infer_message("m", tensors, outputs=["z", "y"])
    request.parameters["timeout"].int64_param = 1000
    return request, signature


@given(good_requests())
def test_the_requests_to_be_mutated_are_good(case):
    request, signature = case
    assert read_or_refuse(request.SerializeToString(), signature) is not None


mutations = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "cut", "repeat"]), st.floats(0, 1), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


def mutated(data, changes):
    """Apply changes, each at a place from 0 (the beginning) to 1 (the end)."""
    data = bytearray(data)
    for kind, place, byte in changes:
        at = int(place * len(data))
        if kind == "set" and at < len(data):
            data[at] = byte
        elif kind == "insert":
            data.insert(at, byte)
        elif kind == "delete":
            del data[at : at + 1]
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data += data[at : at + byte]
    return bytes(data)


@settings(max_examples=500)
@given(good_requests(), mutations)
def test_mutated_requests_are_read_or_refused(case, changes):
    request, signature = case
    read_or_refuse(mutated(request.SerializeToString(), changes), signature)


extremes = st.sampled_from([0, 1, 2, 3, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, -1, -(2**63)])
parameters = st.dictionaries(
    st.sampled_from(["timeout", "priority", "sequence_id", "tag", ""]),
    st.builds(pb.InferParameter, int64_param=extremes)
    | st.builds(pb.InferParameter, uint64_param=st.integers(0, 2**64 - 1))
    | st.builds(pb.InferParameter, double_param=st.floats())
    | st.builds(pb.InferParameter, string_param=texts)
    | st.builds(pb.InferParameter),
    max_size=1,
)
contents = st.builds(
    pb.InferTensorContents,
    fp32_contents=st.lists(st.floats(width=32), max_size=4),
    int_contents=st.just([]) | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    uint64_contents=st.just([]) | st.lists(st.integers(0, 2**64 - 1), max_size=2),
    bytes_contents=st.just([]) | st.lists(st.binary(max_size=4), max_size=4),
)
few_names = st.sampled_from(["a", "b", "c", ""])
odd_requests = st.builds(
    pb.ModelInferRequest,
    parameters=parameters,
    inputs=st.lists(
        st.builds(
            pb.ModelInferRequest.InferInputTensor,
            name=few_names,
            datatype=st.sampled_from([*DATATYPES, "FP8", ""]),
            shape=st.lists(extremes, max_size=4),
            contents=st.none() | contents,
            parameters=parameters,
        ),
        max_size=3,
    ),
    outputs=st.lists(
        st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=st.sampled_from(["y", "z", "a"])), max_size=3
    ),
    raw_input_contents=st.lists(st.binary(max_size=32), max_size=3),
)


@st.composite
def nearly_good_requests(draw):
    """A good request in which the shapes, or the contents, of one input are odd."""
    request, signature = draw(good_requests())
    odd = draw(st.sampled_from(list(request.inputs)))
    if draw(st.booleans()):
        odd.shape[:] = draw(st.lists(extremes, min_size=len(odd.shape), max_size=len(odd.shape)))
    else:
        odd.contents.CopyFrom(draw(contents))
        if draw(st.booleans()):
            del request.raw_input_contents[:]
    return request, signature


@settings(max_examples=300)
@given(odd_requests, st.sampled_from(SIGNATURES))
def test_odd_requests_are_read_or_refused(request, signature):
    read_or_refuse(request.SerializeToString(), signature)


@settings(max_examples=500)
@given(nearly_good_requests())
def test_nearly_good_requests_are_read_or_refused(case):
    request, signature = case
    read_or_refuse(request.SerializeToString(), signature)


@pytest.mark.parametrize("form", ["raw", "typed"])
@given(st.lists(extremes, min_size=2, max_size=2), st.binary(max_size=40))
@example([0, 2**62], b"")
@example([ELEMENTS_MAX, 1], b"")
def test_no_shape_costs_more_memory_than_the_bytes_that_came(form, shape, raw):
    """Shapes come from strangers: what they promise must be there, before memory is taken for it."""
    spec = TensorSpec("a", Datatype.BYTES, (DYNAMIC, DYNAMIC))
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="a", datatype="BYTES", shape=shape)
    if form == "raw":
        request.raw_input_contents.append(raw)
    valid = read_or_refuse(request.SerializeToString(), Signature((spec,), (spec,), batchable=False))
    assert valid is None or valid.inputs[0].size <= len(raw)
