"""The two transports give one answer to one request: the same bytes, or the same status and message.

Over `native` most of these requests are decoded, batched and answered by kernels, over `grpcio` none is. The sizes lie
around the borders between the ways that a request can take.
"""

from functools import partial

import grpc
import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.pb import open_inference_pb2 as pb
from serving.transport.calls import SERVICE
from tests.support import graphs
from tests.support.conformance import KINDS, TYPED, identity, raw_request, to_raw, typed_request
from tests.support.servers import TRANSPORTS, server_thread

CALL_TIMEOUT_S = 30
OCTETS = 16
ROWS_MAX = 70_000
LARGE = f"[batching]\nbatch_rows_max = {ROWS_MAX}\nqueue_rows_max = {ROWS_MAX}\n"
FEW = "[batching]\nbatch_rows_max = 8\nqueue_rows_max = 8\nqueue_bytes_max = 100\n"
MESSAGE_BYTES_MAX = 2 << 20


def labelled() -> bytes:
    """y = x and label = x as text, from FP32 [rows, 2]."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Cast", ["x"], ["label"], to=TensorProto.STRING),
    ]
    outputs = [("y", "FP32", ("rows", 2)), ("label", "BYTES", ("rows", 2))]
    return graphs.build(nodes, [("x", "FP32", ("rows", 2))], outputs)


def largest() -> bytes:
    """y = the largest row of a table at index - 9, INT64 [rows] -> FP32 [1, 2]: zeros fail, so no probe can tell."""
    constants = [
        helper.make_tensor("table", TensorProto.FLOAT, [8, 2], np.arange(16, dtype=np.float32).tobytes(), raw=True),
        helper.make_tensor("nine", TensorProto.INT64, [], [9]),
    ]
    nodes = [
        helper.make_node("Sub", ["index", "nine"], ["at"]),
        helper.make_node("Gather", ["table", "at"], ["found"]),
        helper.make_node("ReduceMax", ["found"], ["y"], axes=None, keepdims=1),
    ]
    nodes[2] = helper.make_node("TopK", ["found", "one"], ["y", "places"], axis=0)
    constants.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    return graphs.build(nodes, [("index", "INT64", ("rows",))], [("y", "FP32", ("found", 2))], constants)


def many_inputs(count: int) -> bytes:
    """y = the sum of so many inputs, FP32 [rows, 1]."""
    names = [f"x{k}" for k in range(count)]
    inputs = [(name, "FP32", ("rows", 1)) for name in names]
    return graphs.build([helper.make_node("Sum", names, ["y"])], inputs, [("y", "FP32", ("rows", 1))])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model repository with a model for each kind of request."""
    repository = tmp_path_factory.mktemp("agreement")
    write = partial(graphs.write_model, repository)
    for datatype in KINDS:
        write(identity(datatype), graphs.identity(datatype))
    for version in (1, 2):
        write("versions", graphs.affine(scale=float(version)), version=version, config='version_policy = "all"\n')
    for name, graph in {
        "add_and_subtract": graphs.add_and_subtract(),
        "fixed_shape": graphs.fixed_shape(),
        "open_inner": graphs.open_inner(),
        "lookup": graphs.lookup(),
        "single_and_half": graphs.single_and_half(),
        "column": graphs.identity("FP64", ("rows",)),
        "scalar": graphs.identity("FP32", ()),
        "labelled": labelled(),
        "largest": largest(),
        "inputs_32": many_inputs(32),
        "inputs_33": many_inputs(33),
    }.items():
        write(name, graph)
    write("octets", graphs.identity("UINT8", ("rows", OCTETS)), config=LARGE)
    write("few", graphs.identity("FP32"), config=FEW)
    write("padded", graphs.affine(rows=8), config="[batching]\nbatch_rows_allowed = [8]\n")
    write("padded_texts", graphs.identity("BYTES"), config="[batching]\nbatch_rows_allowed = [2, 8]\n")
    return repository


@pytest.fixture(scope="module")
def ask(models):
    """Send a message to both servers; return their answers, in the order of TRANSPORTS."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
    with (
        server_thread(models, max_message_mib=MESSAGE_BYTES_MAX >> 20, **TRANSPORTS["native"]) as native,
        server_thread(models, max_message_mib=MESSAGE_BYTES_MAX >> 20, **TRANSPORTS["grpcio"]) as other,
        grpc.insecure_channel(native.address, options) as first,
        grpc.insecure_channel(other.address, options) as second,
    ):
        invocations = [channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in (first, second)]
        yield lambda message: tuple(answer(invoke, message) for invoke in invocations)
        for server in (native, other):
            server.wait_until(lambda server=server: server.in_flight == 0)


def answer(invoke, message):
    """Return the bytes of an answer, or (status, message, metadata) of an error."""
    content = message if isinstance(message, bytes) else message.SerializeToString()
    try:
        return invoke(content, timeout=CALL_TIMEOUT_S)
    except grpc.RpcError as error:
        return error.code(), error.details(), tuple(error.trailing_metadata())


def agreed(ask, message) -> pb.ModelInferResponse:
    """Return the one answer to a request that must have outputs."""
    native, other = ask(message)
    assert native == other
    assert isinstance(native, bytes)
    return pb.ModelInferResponse.FromString(native)


def fp32(model="identity_fp32", rows=2, width=4, **facts) -> pb.ModelInferRequest:
    request = raw_request(model, x=("FP32", np.arange(rows * width, dtype=np.float32).reshape(rows, width)))
    for name, value in facts.items():
        setattr(request, name, value)
    return request


# ---- answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("datatype", KINDS)
@pytest.mark.parametrize("rows", [1, 3])
def test_raw_tensors_of_every_datatype(ask, datatype, rows):
    array = KINDS[datatype].array(rows)
    response = agreed(ask, raw_request(identity(datatype), x=(datatype, array)))
    assert response.raw_output_contents[0] == to_raw(array)


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_tensors_of_every_datatype(ask, datatype):
    agreed(ask, typed_request(identity(datatype), x=(datatype, KINDS[datatype].array())))


@pytest.mark.parametrize(
    "names", [(), ("OUTPUT0",), ("OUTPUT1",), ("OUTPUT1", "OUTPUT0"), ("OUTPUT0", "OUTPUT1")], ids=str
)
@pytest.mark.parametrize("order", ["INPUT0 INPUT1", "INPUT1 INPUT0"])
def test_any_outputs_in_any_order_for_inputs_in_any_order(ask, names, order):
    arrays = {"INPUT0": np.arange(32).reshape(2, 16), "INPUT1": np.full((2, 16), 7)}
    request = raw_request("add_and_subtract", **{name: ("INT64", arrays[name]) for name in order.split()})
    for name in names:
        request.outputs.add(name=name)
    response = agreed(ask, request)
    assert [output.name for output in response.outputs] == list(names or ("OUTPUT0", "OUTPUT1"))


@pytest.mark.parametrize("names", [(), ("y",), ("label",), ("label", "y")], ids=str)
def test_outputs_of_numbers_and_strings_apart_and_together(ask, names):
    request = fp32("labelled", width=2)
    for name in names:
        request.outputs.add(name=name)
    assert len(agreed(ask, request).outputs) == len(names or "yl")


@pytest.mark.parametrize("names", [(), ("single",), ("half",), ("half", "single")], ids=str)
@pytest.mark.parametrize("build", [raw_request, typed_request])
def test_a_typed_request_gets_typed_outputs_where_there_are_any(ask, names, build):
    request = build("single_and_half", x=("FP32", np.ones((2, 4), np.float32)))
    for name in names:
        request.outputs.add(name=name)
    native, other = ask(request)
    assert native == other


@pytest.mark.parametrize("version", ["", "1", "2"])
@pytest.mark.parametrize("name", ["", "7", "a" * 63, "b" * 64, "c" * 65, "Grüße " * 9, "漢" * 22])
def test_any_version_and_id(ask, version, name):
    response = agreed(ask, fp32("versions", model_version=version, id=name))
    assert (response.id, response.model_version) == (name, version or "2")


@pytest.mark.parametrize("shape", [(2, 3)])
def test_a_model_without_rows(ask, shape):
    agreed(ask, raw_request("fixed_shape", x=("FP32", np.ones(shape, np.float32))))


@pytest.mark.parametrize("rows", [0, 1, 3, 7, 8])
def test_a_model_whose_batches_are_padded(ask, rows):
    response = agreed(ask, fp32("padded", rows=rows))
    assert response.outputs[0].shape == [rows, 4]
    assert response.raw_output_contents[0] == (2 * np.arange(4 * rows, dtype=np.float32) + 1).tobytes()
    texts = KINDS["BYTES"].array(rows)
    response = agreed(ask, raw_request("padded_texts", x=("BYTES", texts)))
    assert response.raw_output_contents[0] == to_raw(texts)


@pytest.mark.parametrize("length", [0, 1, 5])
@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_of_any_length(ask, rows, length):
    native, other = ask(raw_request("open_inner", x=("FP32", np.ones((rows, length), np.float32))))
    assert native == other


def test_tensors_of_one_and_of_no_dimension(ask):
    agreed(ask, raw_request("column", x=("FP64", np.arange(3.0))))
    agreed(ask, raw_request("scalar", x=("FP32", np.float32(3).reshape(()))))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_outputs_that_do_not_follow_rows(ask, rows):
    response = agreed(ask, raw_request("largest", index=("INT64", np.arange(9, 9 + rows))))
    assert list(response.outputs[0].shape) == [1, 2]


@pytest.mark.parametrize("count", [32, 33])
def test_as_many_inputs_as_the_kernels_take_and_one_more(ask, count):
    agreed(
        ask, raw_request(f"inputs_{count}", **{f"x{k}": ("FP32", np.full((2, 1), k, np.float32)) for k in range(count)})
    )


def test_a_request_for_no_rows(ask):
    assert list(agreed(ask, fp32(rows=0)).outputs[0].shape) == [0, 4]


# ---- sizes ---------------------------------------------------------------------------------------------------------


def octets(rows, named="") -> pb.ModelInferRequest:
    array = np.resize(np.arange(251, dtype=np.uint8), (rows, OCTETS))
    request = raw_request("octets", x=("UINT8", array))
    request.id = named
    return request


def sized(message_bytes: int) -> pb.ModelInferRequest:
    """Return a request of so many bytes."""
    for rows in range(message_bytes // OCTETS, message_bytes // OCTETS - 9, -1):
        missing = message_bytes - octets(rows).ByteSize() - 2
        if 0 < missing <= 64:
            request = octets(rows, "i" * missing)
            assert request.ByteSize() == message_bytes
            return request
    raise AssertionError("no request has this length")


@pytest.mark.parametrize("border", [16_384 - 5, 16_384, 65_536 - 5, 65_536, 1 << 20, MESSAGE_BYTES_MAX >> 1])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_messages_around_the_borders(ask, border, beyond):
    agreed(ask, sized(border + beyond))


@pytest.mark.parametrize("output_bytes", [16_384, 65_536, 1 << 20])
@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_outputs_around_the_borders(ask, output_bytes, beyond):
    request = octets(output_bytes // OCTETS + beyond)
    assert len(agreed(ask, request).raw_output_contents[0]) == output_bytes + beyond * OCTETS


# ---- errors --------------------------------------------------------------------------------------------------------


def changed(change, **facts) -> pb.ModelInferRequest:
    """Return a good request after a change for the worse."""
    request = fp32(**facts)
    change(request)
    return request


def renamed(old: bytes, new: bytes, **facts) -> bytes:
    """Return a good request with other bytes of the same number in it."""
    content = fp32(**facts).SerializeToString()
    assert content.count(old) == 1
    assert len(old) == len(new)
    return content.replace(old, new)


def set_parameter(name, **value):
    def change(request):
        for field, content in value.items():
            setattr(request.parameters[name], field, content)

    return change


BAD = {
    "unknown model": fp32("absent"),
    "no model": fp32(""),
    "unknown version": fp32(model_version="9"),
    "version that is no number": fp32(model_version="one"),
    "version with a zero before it": fp32(model_version="01"),
    "unknown input": changed(lambda request: setattr(request.inputs[0], "name", "z")),
    "no input": changed(lambda request: request.ClearField("inputs")),
    "no contents": changed(lambda request: request.ClearField("raw_input_contents")),
    "doubled input": changed(lambda request: request.inputs.append(request.inputs[0])),
    "doubled input and contents": changed(
        lambda request: (request.inputs.append(request.inputs[0]), request.raw_input_contents.append(bytes(32)))
    ),
    "one content too many": changed(lambda request: request.raw_input_contents.append(b"")),
    "unknown output": changed(lambda request: request.outputs.add(name="z")),
    "doubled output": changed(lambda request: (request.outputs.add(name="y"), request.outputs.add(name="y"))),
    "nameless output": changed(lambda request: request.outputs.add()),
    "other datatype": changed(lambda request: setattr(request.inputs[0], "datatype", "INT32")),
    "unknown datatype": changed(lambda request: setattr(request.inputs[0], "datatype", "FP31")),
    "other width": fp32(width=3),
    "other rank": changed(lambda request: request.inputs[0].shape.append(1)),
    "no shape": changed(lambda request: request.inputs[0].ClearField("shape")),
    "negative rows": changed(lambda request: request.inputs[0].shape.__setitem__(0, -1)),
    "more rows than bytes": changed(lambda request: request.inputs[0].shape.__setitem__(0, 3)),
    "fewer rows than bytes": changed(lambda request: request.inputs[0].shape.__setitem__(0, 1)),
    "rows without end": changed(lambda request: request.inputs[0].shape.__setitem__(0, 2**62)),
    "no bytes": changed(lambda request: request.raw_input_contents.__setitem__(0, b"")),
    "one byte too few": changed(lambda request: request.raw_input_contents.__setitem__(0, bytes(31))),
    "rows above batch_rows_max": fp32("few", rows=9),
    "rows above the largest batch allowed": fp32("padded", rows=9),
    "bytes above queue_bytes_max": fp32("few", rows=8),
    "raw and typed": changed(lambda request: request.inputs[0].contents.fp32_contents.append(1.0)),
    "timeout of nothing": changed(set_parameter("timeout", int64_param=0)),
    "timeout in text": changed(set_parameter("timeout", string_param="1s")),
    "negative timeout": changed(set_parameter("timeout", int64_param=-5)),
    "sequence": changed(set_parameter("sequence_id", int64_param=5)),
    "unknown parameter": changed(set_parameter("colour", string_param="red")),
    "empty parameter": changed(lambda request: request.parameters["priority"].SetInParent()),
    "unknown field": fp32().SerializeToString() + b"\xa2\x06\x01x",
    "index beyond the table": raw_request("lookup", index=("INT64", np.array([3, 10**6]))),
    "model name that is no UTF-8": renamed(b"identity_fp32", b"identity_fp3\xff"),
    "id that is no UTF-8": renamed(b"named", b"nam\xffd", id="named"),
    "input name that is no UTF-8": renamed(b"\x0a\x01x", b"\x0a\x01\xff"),
    "nothing": b"",
    "garbage": b"\xff" * 40,
    "cut off": fp32().SerializeToString()[:-1],
    "contents beyond the end": fp32().SerializeToString()[:-33] + b"\x21" + bytes(32),
    "group": b"\x0b\x0c" + fp32().SerializeToString(),
    "second model name": fp32().SerializeToString() + pb.ModelInferRequest(model_name="column").SerializeToString(),
    "wrong shape in full": raw_request("fixed_shape", x=("FP32", np.ones((3, 3), np.float32))),
    "missing second input": raw_request("add_and_subtract", INPUT0=("INT64", np.ones((1, 16), np.int64))),
    "inputs of other rows": raw_request(
        "add_and_subtract", INPUT0=("INT64", np.ones((1, 16), np.int64)), INPUT1=("INT64", np.ones((2, 16), np.int64))
    ),
    "bytes that are cut off": changed(
        lambda request: (
            setattr(request, "model_name", "identity_bytes"),
            setattr(request.inputs[0], "datatype", "BYTES"),
            request.raw_input_contents.__setitem__(0, b"\xff\x00\x00\x00a"),
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_one_status_and_one_message_for_every_mistake(ask, what):
    native, other = ask(BAD[what])
    assert native == other


def test_nearly_all_of_them_are_mistakes(ask):
    answered = [what for what, message in BAD.items() if isinstance(ask(message)[0], bytes)]
    assert answered == ["timeout of nothing", "unknown parameter", "unknown field", "group"]


def test_booleans_of_any_byte_are_true(ask):
    request = raw_request("identity_bool", x=("BOOL", np.ones((2, 4), np.bool_)))
    request.raw_input_contents[0] = bytes([0, 1, 2, 255, 0, 1, 128, 7])
    agreed(ask, request)
