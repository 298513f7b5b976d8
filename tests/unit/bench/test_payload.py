import json
import re

import numpy as np
import pytest

from bench import payload
from bench.payload import MESSAGES, MESSAGES_MAX, parse_shape, read
from serving.errors import ConfigError
from serving.pb import open_inference_pb2 as pb
from serving.tensors import from_raw
from serving.types import DATATYPES


def metadata(*inputs, outputs=(("y", "FP32", (-1,)),), name="m"):
    """Return what a server says of a model of these (name, datatype, shape)."""
    message = pb.ModelMetadataResponse(name=name)
    for tensor, datatype, shape in inputs:
        message.inputs.add(name=tensor, datatype=datatype, shape=shape)
    for tensor, datatype, shape in outputs:
        message.outputs.add(name=tensor, datatype=datatype, shape=shape)
    return message


ROWS = metadata(("x", "FP32", (-1, 3)))
TWO = metadata(("a", "FP32", (-1, 2)), ("b", "INT64", (-1,)))


def arrays(message):
    """Return an encoded request's tensors by name."""
    request = pb.ModelInferRequest.FromString(message)
    return {
        tensor.name: from_raw(tensor.name, DATATYPES[tensor.datatype], tuple(tensor.shape), raw)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def save(tmp_path, value):
    """Write a payload file in the format that its value asks for: an array, arrays by name, or JSON."""
    if isinstance(value, np.ndarray):
        np.save(tmp_path / "payload.npy", value)
        return tmp_path / "payload.npy"
    if isinstance(value, dict) and any(isinstance(item, np.ndarray) for item in value.values()):
        np.savez(tmp_path / "payload.npz", **value)
        return tmp_path / "payload.npz"
    path = tmp_path / "payload.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_request_names_the_model_and_its_version():
    request = pb.ModelInferRequest.FromString(read(None, ROWS, rows=2, version="7")[0])
    assert (request.model_name, request.model_version) == ("m", "7")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in request.inputs] == [("x", "FP32", [2, 3])]


def test_random_requests_differ_and_repeat_with_their_seed():
    messages = read(None, ROWS, rows=1, seed=5)
    assert len(set(messages)) == MESSAGES
    assert messages == read(None, ROWS, rows=1, seed=5)
    assert messages != read(None, ROWS, rows=1, seed=6)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_has_random_values(datatype):
    array = arrays(read(None, metadata(("x", datatype, (-1, 4))), rows=8)[0])["x"]
    assert array.shape == (8, 4)
    assert np.unique(array).size > 1
    if datatype == "BYTES":
        assert all(len(word) == 8 and word.isalpha() for word in array.flat)
    elif array.dtype.kind in "iu" and datatype != "BF16":
        assert array.min() >= 0
        assert array.max() < 256


def test_open_dimensions_are_fixed_by_shapes():
    tokens = metadata(("tokens", "INT64", (-1, -1)), ("scale", "FP32", (-1, 1)))
    assert arrays(read(None, tokens, rows=2, shapes={"tokens": (16,)})[0])["tokens"].shape == (2, 16)


def test_open_dimensions_without_help_are_refused():
    with pytest.raises(ConfigError, match=r"'x' has open dimensions in \[3, -1\]; fix them with --shape x:3,128, or"):
        read(None, metadata(("x", "FP32", (-1, 3, -1))), rows=1)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (4,)}, r"shape \[4\] for one row of input 'x', expected \[3\]"),
        ({"x": (1, 3)}, r"shape \[1, 3\] for one row"),
        ({"xs": (3,)}, "input that the model does not have; did you mean 'x'"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes, message):
    with pytest.raises(ConfigError, match=message):
        read(None, ROWS, rows=1, shapes=shapes)


def test_a_shape_is_read_as_name_and_dimensions():
    assert parse_shape("image:3,224,224") == ("image", (3, 224, 224))
    assert parse_shape("a:b:1") == ("a:b", (1,))


@pytest.mark.parametrize("text", ["image", "image:", ":3", "image:3x4", "image:0", "image:-1"])
def test_what_is_no_shape_is_refused(text):
    with pytest.raises(ConfigError, match="expected an input and its dimensions"):
        parse_shape(text)


def test_a_model_without_a_row_dimension_takes_one_row():
    whole = metadata(("x", "FP32", (5, 3)))
    assert arrays(read(None, whole, rows=1)[0])["x"].shape == (5, 3)
    with pytest.raises(ConfigError, match=r"rows = 2, expected 1: .* first dimension is fixed"):
        read(None, whole, rows=2)


def test_rows_of_a_file_are_cut_and_cycled(tmp_path):
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    messages = read(save(tmp_path, rows), ROWS, rows=3)
    taken = [arrays(message)["x"][:, 0].astype(int) // 3 for message in messages]
    assert [list(row) for row in taken] == [[0, 1, 2], [3, 0, 1], [2, 3, 0], [1, 2, 3]]


def test_messages_of_a_file_are_bounded(tmp_path):
    rows = np.zeros((MESSAGES_MAX + 1, 3), np.float32)
    assert len(read(save(tmp_path, rows), ROWS, rows=1)) == MESSAGES_MAX


def test_the_bytes_of_all_messages_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "TOTAL_BYTES_MAX", 200)
    assert len(read(None, ROWS, rows=8)) == 2


@pytest.mark.parametrize(
    "value",
    [
        {"a": np.ones((2, 2), np.float32), "b": np.array([1, 2])},
        {"a": [[1, 1], [1, 1]], "b": [1, 2]},
        {"inputs": {"a": [[1, 1], [1, 1]], "b": [1, 2]}},
        {"inputs": [{"name": "a", "shape": [2, 2], "data": [1, 1, 1, 1]}, {"name": "b", "shape": [2], "data": [1, 2]}]},
    ],
    ids=["npz", "json", "json under inputs", "json of the protocol"],
)
def test_a_file_holds_arrays_by_input_name(tmp_path, value):
    sent = arrays(read(save(tmp_path, value), TWO, rows=2)[0])
    assert (sent["a"].dtype, sent["a"].tolist()) == (np.float32, [[1, 1], [1, 1]])
    assert (sent["b"].dtype, sent["b"].tolist()) == (np.int64, [1, 2])


def test_an_input_may_be_called_inputs(tmp_path):
    model = metadata(("inputs", "FP32", (-1, 2)))
    assert arrays(read(save(tmp_path, {"inputs": [[1.0, 2.0]]}), model, rows=1)[0])["inputs"].tolist() == [[1, 2]]


@pytest.mark.parametrize("value", [{"x": [["a"], ["bc"]]}, np.array([["a"], ["bc"]]), np.array([[b"a"], [b"bc"]])])
def test_strings_are_sent_as_bytes(tmp_path, value):
    words = metadata(("x", "BYTES", (-1, 1)))
    assert arrays(read(save(tmp_path, value), words, rows=2)[0])["x"].tolist() == [["a"], ["bc"]]


def test_a_model_without_a_row_dimension_gets_the_file_as_it_is(tmp_path):
    whole = metadata(("x", "FP32", (2, 3)))
    messages = read(save(tmp_path, np.ones((2, 3))), whole, rows=1)
    assert [arrays(message)["x"].shape for message in messages] == [(2, 3)]


def test_a_model_that_says_nothing_gets_the_arrays_of_a_file(tmp_path):
    silent = metadata(outputs=())
    path = save(tmp_path, {"x": np.ones((2, 3), np.float16), "words": np.array(["a", "b"])})
    sent = arrays(read(path, silent, rows=2)[0])
    assert (sent["x"].dtype, sent["words"].tolist()) == (np.float16, ["a", "b"])
    with pytest.raises(ConfigError, match=r"does not say what it takes; send a .npz file"):
        read(None, silent, rows=1)
    with pytest.raises(ConfigError, match="complex128 of shape"):
        read(save(tmp_path, {"x": np.ones(2, np.complex128)}), silent, rows=1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((4, 2)), r"'x' has shape [4, 2], expected [-1, 3] (-1 is any)"),
        (np.ones(3), "'x' has shape [3], expected [-1, 3]"),
        (np.array([["a", "b", "c"]]), "'x' holds <U1, expected FP32"),
        (np.ones((1, 3), np.complex64), "'x' holds complex64, expected FP32"),
        (np.full((1, 3), 1e39), "'x' cannot be read as FP32: overflow"),
        (np.ones((2, 3)), "2 rows, expected at least the 3 of one request"),
        (np.ones((0, 3)), "0 rows, expected at least the 3 of one request"),
        (np.array([[1, 2, 3], [1, 2, np.nan]]), "'x' is nan in row 1, column 2"),
        (np.array([[1, -np.inf, 3]]), "'x' is -inf in row 0, column 1"),
        ('{"x": [[1, NaN, 3]]}', "'x' is nan in row 0, column 1"),
        ({"x": [[1, None, 3]]}, "'x' holds nulls or values of several kinds, expected FP32"),
        ({"x": [["1", "2", "3"]]}, "'x' holds <U1, expected FP32"),
        ({"x": [[1, 2, 3], [1, 2]]}, "'x' has lists of different lengths"),
        ({"y": [[1, 2, 3]]}, "input 'x' is missing; it holds y"),
        ({"x": [[1, 2, 3]] * 3, "xs": 1}, "'xs' is no input of the model; did you mean 'x'?"),
        ([[1, 2, 3]], "a JSON list, expected an object by input name"),
        ("{", "cannot be read: Expecting property name"),
        ("[" * 100_000, "cannot be read: maximum recursion depth"),
        ({"inputs": [{"name": "x"}]}, "'inputs' is not a list of name, shape and data"),
        (np.array([[1, 2, {}]], dtype=object), "it holds Python objects; save numbers as a numeric array"),
        ({"x": np.array([{}], dtype=object)}, "it holds Python objects"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(save(tmp_path, value), ROWS, rows=3)


@pytest.mark.parametrize(
    ("datatype", "values", "message"),
    [
        ("INT8", [1, 300], "'x' holds 300, which INT8 cannot"),
        ("UINT8", [-1, 1], "'x' holds -1, which UINT8 cannot"),
        ("INT32", [0.5, 1.0], "'x' holds fractions"),
        ("BOOL", [0, 2], "'x' holds 2, which BOOL cannot"),
        ("BYTES", [1, 2], "'x' holds int64, expected BYTES"),
        ("FP16", [1.0, 1e6], "'x' cannot be read as FP16: overflow"),
        ("BF16", [1.0, float("nan")], "'x' is nan in row 1 (counted from 0)"),
    ],
)
@pytest.mark.parametrize("form", [np.array, list])
def test_values_that_a_datatype_cannot_hold_are_refused(tmp_path, datatype, values, message, form):
    value = {"x": form(values)} if form is list else np.array(values)
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(save(tmp_path, value), metadata(("x", datatype, (-1,))), rows=1)


def test_mixed_values_are_no_strings(tmp_path):
    with pytest.raises(ConfigError, match="'x' holds a int, expected strings for BYTES"):
        read(save(tmp_path, {"x": ["a", 1]}), metadata(("x", "BYTES", (-1,))), rows=1)


def test_inputs_of_different_numbers_of_rows_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"different numbers of rows \('a' 2, 'b' 3\)"):
        read(save(tmp_path, {"a": np.ones((2, 2)), "b": np.array([1, 2, 3])}), TWO, rows=1)


def test_one_array_for_several_inputs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"one array, and the model has no one input; save a .npz"):
        read(save(tmp_path, np.ones((2, 2))), TWO, rows=1)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("payload.csv", b"", "ends in '.csv', expected one of .npy, .npz, .json"),
        ("payload.npz", b"PK\3\4 no archive", "cannot be read"),
        ("payload.npy", b"\x93NUMPY no array", "cannot be read"),
        ("payload.npy", b"", "cannot be read: No data left in file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name, ROWS, rows=1)


def test_a_file_named_as_the_other_kind_is_refused(tmp_path):
    save(tmp_path, np.ones((1, 3))).rename(tmp_path / "payload.npz")
    with pytest.raises(ConfigError, match=r"name it .npy or .npz as it was saved"):
        read(tmp_path / "payload.npz", ROWS, rows=1)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "none.npy", ROWS, rows=1)


@pytest.mark.parametrize(("rows", "message"), [(0, "rows = 0"), (1 << 30, "bytes long, expected at most 2147483647")])
def test_a_number_of_rows_that_cannot_be_sent_is_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        read(None, ROWS, rows=rows)


def test_a_datatype_that_the_protocol_does_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"'x' is FP31, which the protocol does not know; did you mean 'FP32'"):
        read(None, metadata(("x", "FP31", (-1, 3))), rows=1)
