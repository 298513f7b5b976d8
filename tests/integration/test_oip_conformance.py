"""The Open Inference Protocol over gRPC, rule by rule, against any server.

No conformance suite exists in the protocol's own repository. To point this one at a server, write its models, start the
server on them, and name its address:

    python -m tests.support.conformance /tmp/models
    penstock serve --models /tmp/models --grpc-port 9001
    pytest tests/integration/test_oip_conformance.py --address 127.0.0.1:9001

The server must keep the two newest versions of model `versions` (1, 2, 10) ready and not the oldest, take at most 8
rows per request of model `few_rows`, and let the suite load and unload model `spare`. A model repository of Penstock
says so in `model.toml` files; other servers need their own configuration beside the same graphs. Broken framing needs
the package `h2`.

What the protocol says is asserted of every server. The wording of messages (`refused(..., *words)`) and the tests that
take the fixture `penstock` are about this server, and are left out for servers of another name. Without --address the
suite runs its own server, once per transport.
"""

import concurrent.futures
import threading

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, ServiceDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.unknown_fields import UnknownFieldSet
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from serving import model as serving_model
from serving.pb import open_inference_pb2 as pb
from tests.support import graphs
from tests.support.conformance import (
    BIDIRECTIONAL,
    CALL_TIMEOUT_S,
    ENUMS,
    KINDS,
    ROWS_MAX,
    SERVICE,
    SLOW_ROWS_MAX,
    SLOW_WIDTH,
    TYPED,
    UNARY,
    Field,
    Target,
    framed,
    identity,
    messages,
    raw_call,
    raw_request,
    read_outputs,
    to_raw,
    typed_request,
    write_models,
)
from tests.support.servers import TRANSPORTS, server_thread
from tests.support.sessions import HeldGraph

OWN_MESSAGE_MIB = 8
FORMS = {"raw": raw_request, "typed": typed_request}
DATATYPE_FORMS = [(datatype, form) for datatype in KINDS for form in FORMS if form == "raw" or datatype in TYPED]


def pytest_generate_tests(metafunc):
    if "target" in metafunc.fixturenames:
        address = metafunc.config.getoption("--address")
        metafunc.parametrize("target", [address] if address else list(TRANSPORTS), indirect=True, scope="module")


@pytest.fixture(scope="module")
def target(request, tmp_path_factory):
    if address := request.config.getoption("--address"):
        target = Target(address, message_bytes_max=64 << 20)
        yield target
        target.channel.close()
        return
    models = tmp_path_factory.mktemp("conformance")
    write_models(models)
    with server_thread(models, max_message_mib=OWN_MESSAGE_MIB, **TRANSPORTS[request.param]) as server:
        target = Target(server.address, message_bytes_max=OWN_MESSAGE_MIB << 20)
        yield target
        target.channel.close()


@pytest.fixture
def penstock(target):
    if not target.is_penstock:
        pytest.skip("about this server, not about the protocol")
    return target


@pytest.fixture(params=FORMS)
def form(request):
    """Builds requests, raw and typed."""
    return FORMS[request.param]


def fails(call, request, code, **options):
    """Check that a call ends with a code; return the error."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=CALL_TIMEOUT_S, **options)
    assert caught.value.code().name == code, caught.value.details()
    return caught.value


def refused(target, request, *words, code="INVALID_ARGUMENT"):
    """Check that ModelInfer refuses a request, and that this server's message says all the words."""
    message = fails(target.stub.ModelInfer, request, code).details()
    if target.is_penstock:
        assert not [word for word in words if str(word) not in message], message
    assert "Traceback" not in message


def affine(rows=2, **changes):
    """A good request to `affine`, with fields of the request replaced."""
    request = raw_request("affine", x=("FP32", np.arange(4 * rows, dtype=np.float32).reshape(rows, 4)))
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


def parameter(**choice):
    return pb.InferParameter(**choice)


# ---- fields and methods ----------------------------------------------------------------------------------------------

KNOWN_KINDS = {"bool", "string", "bytes", "int32", "int64", "uint32", "uint64", "float", "double", *messages(),
               *(name.rpartition(".")[2] for name in ENUMS)}  # fmt: skip


@pytest.fixture(scope="module")
def reflection(target):
    return ProtoReflectionDescriptorDatabase(target.channel)


@pytest.fixture(params=["stubs", "server"])
def descriptors(request, reflection):
    """The pool that the stubs come from, and the one that the server shows by reflection."""
    return pb.DESCRIPTOR.pool if request.param == "stubs" else DescriptorPool(reflection)


def fields_of(descriptor):
    """Return the fields of a message as the table writes them, and the numbers it reserves."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    entries = {nested.name: nested for nested in proto.nested_type if nested.options.map_entry}
    fields = set()
    for field in proto.field:
        entry = entries.get(field.type_name.rpartition(".")[2])
        kind = f"map<{','.join(map(kind_of, entry.field))}>" if entry else kind_of(field)
        oneof = proto.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        repeated = field.label == field.LABEL_REPEATED and not entry
        fields.add(Field(field.number, field.name, repeated, kind, oneof))
    return fields, {number for span in proto.reserved_range for number in range(span.start, span.end)}


def kind_of(field):
    if field.type == field.TYPE_ENUM:
        return field.type_name.rpartition(".")[2]
    if field.type == field.TYPE_MESSAGE:
        return field.type_name.removeprefix(".inference.")
    return field.Type.Name(field.type).removeprefix("TYPE_").lower()


def is_listed(field):
    """Say whether a field's type is in the table; fields of other types may be left out."""
    return set(field.kind.removeprefix("map<").removesuffix(">").split(",")) <= KNOWN_KINDS


def test_every_message_has_the_fields_of_the_table(descriptors):
    for name, expected in messages().items():
        fields, _ = fields_of(descriptors.FindMessageTypeByName(f"inference.{name}"))
        assert fields <= set(expected), name
        assert {field for field in expected if is_listed(field)} <= fields, name


def test_every_enum_has_the_values_of_the_table(descriptors):
    for name, values in ENUMS.items():
        found = descriptors.FindEnumTypeByName(f"inference.{name}").values_by_name
        assert {key: value.number for key, value in found.items()} == values, name


def test_our_messages_reserve_the_numbers_that_they_leave_out():
    for name, expected in messages().items():
        _, reserved = fields_of(pb.DESCRIPTOR.pool.FindMessageTypeByName(f"inference.{name}"))
        assert {field.number for field in expected if not is_listed(field)} <= reserved, name
    _, reserved = fields_of(pb.ModelMetadataResponse.DESCRIPTOR)
    assert 6 in reserved  # it means different things to different servers


def test_the_service_has_the_methods_of_the_protocol(descriptors):
    service = ServiceDescriptorProto()
    descriptors.FindServiceByName(SERVICE).CopyToProto(service)
    found = {method.name: (method.client_streaming, method.server_streaming) for method in service.method}
    assert found == {**dict.fromkeys(UNARY, (False, False)), **dict.fromkeys(BIDIRECTIONAL, (True, True))}
    for method in service.method:
        assert method.input_type == f".inference.{method.name.replace('Stream', '')}Request"
        assert method.output_type == f".inference.{method.name}Response"


@pytest.mark.parametrize("method", UNARY)
def test_every_method_answers_on_its_path(target, method):
    """An empty request is a valid message, so nothing but the method's own rules can refuse it."""
    call = target.channel.unary_unary(f"/{SERVICE}/{method}")
    try:
        getattr(pb, f"{method}Response").FromString(call(b"", timeout=CALL_TIMEOUT_S))
    except grpc.RpcError as error:
        codes = {"UNIMPLEMENTED"} if "SharedMemory" in method else {"NOT_FOUND", "INVALID_ARGUMENT"}
        assert error.code().name in codes, error.details()  # noqa: PT017 - answering is right too


@pytest.mark.parametrize("method", [name for name in UNARY if not name.startswith("System")])
def test_a_malformed_message_is_an_invalid_argument(target, method):
    call = target.channel.unary_unary(f"/{SERVICE}/{method}")
    fails(call, b"\x0a\xff\xff\xff\xff\x0f", "INVALID_ARGUMENT")


@pytest.mark.parametrize("path", [f"/{SERVICE}/NoSuchMethod", "/no.such.Service/ModelInfer", "/nothing"])
def test_an_unknown_method_is_unimplemented(target, path):
    fails(target.channel.unary_unary(path), b"", "UNIMPLEMENTED")


def test_shared_memory_is_in_the_extensions_or_unimplemented(target):
    extensions = target.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=CALL_TIMEOUT_S).extensions
    if "system_shared_memory" not in extensions:
        stub = target.stub
        fails(stub.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest(), "UNIMPLEMENTED")
        fails(stub.SystemSharedMemoryRegister, pb.SystemSharedMemoryRegisterRequest(name="r"), "UNIMPLEMENTED")
        fails(stub.SystemSharedMemoryUnregister, pb.SystemSharedMemoryUnregisterRequest(name="r"), "UNIMPLEMENTED")


# ---- rule 1: raw contents --------------------------------------------------------------------------------------------


def pair(**changes):
    """A good request to `add_and_subtract`."""
    first = np.arange(32, dtype=np.int64).reshape(2, 16)
    request = raw_request("add_and_subtract", INPUT0=("INT64", first), INPUT1=("INT64", first[::-1] * 3))
    request.MergeFrom(pb.ModelInferRequest(**changes))
    return request


@pytest.mark.parametrize("entries", [1, 3])
def test_raw_contents_have_one_entry_per_input(target, entries):
    request = pair()
    raw = [request.raw_input_contents[0]] * entries
    del request.raw_input_contents[:]
    request.raw_input_contents.extend(raw)
    refused(target, request, "raw_input_contents", entries, 2)


def test_raw_contents_lie_in_the_order_of_the_requests_inputs(target):
    swapped = raw_request(
        "add_and_subtract",
        INPUT1=("INT64", np.full((1, 16), 5, np.int64)),
        INPUT0=("INT64", np.full((1, 16), 7, np.int64)),
    )
    np.testing.assert_array_equal(read_outputs(target.infer(swapped))["OUTPUT1"], np.full((1, 16), 2))


def test_raw_and_typed_contents_do_not_mix(target):
    request = affine()
    request.inputs[0].contents.fp32_contents.extend([0.0] * 8)
    refused(target, request, "'x'", "fp32_contents", "raw_input_contents")


@pytest.mark.parametrize("excess_bytes", [-32, -16, -1, 1, 4])
def test_raw_length_is_the_product_of_shape_and_item_size(target, excess_bytes):
    request = affine()
    request.raw_input_contents[0] = bytes(32 + excess_bytes)
    refused(target, request, "'x'", 32 + excess_bytes, 32)


# ---- rule 2: layout --------------------------------------------------------------------------------------------------


def test_tensors_are_row_major(target, form):
    response = target.infer(form("lookup", index=("INT64", np.array([2, 0, 9]))))
    expected = np.arange(40, dtype=np.float32).reshape(10, 4)[[2, 0, 9]]
    np.testing.assert_array_equal(read_outputs(response)["y"], expected)


@pytest.mark.parametrize("field", ["fp32_contents", "uint_contents", "bytes_contents"])
@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_travels_raw_only(target, datatype, field):
    request = pb.ModelInferRequest(model_name=identity(datatype))
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    getattr(tensor.contents, field).extend([b"\0\0"] * 4 if field == "bytes_contents" else [1] * 4)
    refused(target, request, "'x'", datatype, "raw_input_contents")


MALFORMED_BYTES = {
    "nothing": (b"", (0, 4)),
    "too few elements": (to_raw(np.array([b"a", b"b", b"c"], object)), (15, 4)),
    "too many elements": (to_raw(np.array([b"a"] * 5, object)), (5, 4)),
    "an end inside a length": (to_raw(np.array([b"a"] * 4, object)) + b"\1\0", ()),
    "an end inside an element": (to_raw(np.array([b"a"] * 4, object))[:-1] + b"", (1, 0)),
    "a length beyond the end": (to_raw(np.array([b"a"] * 3, object)) + b"\xff\xff\xff\xffa", (2**32 - 1, 1)),
}


@pytest.mark.parametrize("case", MALFORMED_BYTES)
def test_malformed_raw_bytes_are_refused(target, case):
    raw, words = MALFORMED_BYTES[case]
    request = raw_request("identity_bytes", x=("BYTES", KINDS["BYTES"].array(1)))
    request.raw_input_contents[0] = raw
    refused(target, request, "'x'", *words)


# ---- rule 3: typed contents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3, 5])
@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_hold_as_many_elements_as_the_shape_says(target, datatype, count):
    request = typed_request(identity(datatype), x=(datatype, KINDS[datatype].array(1)))
    contents = getattr(request.inputs[0].contents, KINDS[datatype].typed_field)
    elements = (list(contents) * 2)[:count]
    del contents[:]
    contents.extend(elements)
    refused(target, request, "'x'", count, 4)


@pytest.mark.parametrize("datatype", TYPED)
def test_typed_contents_come_in_the_datatypes_own_field(target, datatype):
    kind = KINDS[datatype]
    other = "fp64_contents" if kind.typed_field != "fp64_contents" else "fp32_contents"
    request = pb.ModelInferRequest(model_name=identity(datatype))
    tensor = request.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    getattr(tensor.contents, other).extend([1.0] * 4)
    refused(target, request, "'x'", other, kind.typed_field)
    getattr(tensor.contents, kind.typed_field).extend(kind.array(1).reshape(-1).tolist())
    refused(target, request, "'x'", other, kind.typed_field)


@pytest.mark.parametrize(
    ("datatype", "wrong"),
    [("INT8", 128), ("INT8", -129), ("INT16", 2**15), ("INT16", -(2**15) - 1), ("UINT8", 256), ("UINT16", 2**16)],
)
def test_narrow_integers_are_range_checked(target, datatype, wrong):
    request = typed_request(identity(datatype), x=(datatype, np.zeros((1, 4), KINDS[datatype].dtype)))
    getattr(request.inputs[0].contents, KINDS[datatype].typed_field)[2] = wrong
    limits = np.iinfo(KINDS[datatype].dtype)
    refused(target, request, "'x'", wrong, datatype, limits.min, limits.max)


# ---- rule 4: datatypes -----------------------------------------------------------------------------------------------


def assert_same(actual, expected):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.dtype == np.object_:
        assert actual.tolist() == expected.tolist()
    else:
        assert actual.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("datatype", "form"), DATATYPE_FORMS)
def test_every_datatype_comes_back_as_it_went(target, datatype, form):
    array = KINDS[datatype].array()
    response = target.infer(FORMS[form](identity(datatype), x=(datatype, array)))
    assert response.outputs[0].datatype == datatype
    assert_same(read_outputs(response)["y"], array)


@pytest.mark.parametrize("datatype", ["", "FP8", "fp32", "STRING", "TYPE_FP32"])
def test_an_unknown_datatype_is_refused(target, form, datatype):
    request = form("affine", x=("FP32", np.zeros((1, 4), np.float32)))
    request.inputs[0].datatype = datatype
    refused(target, request, "'x'", datatype or "missing", "FP32")


# ---- rule 5: inputs against the model's signature --------------------------------------------------------------------


@pytest.mark.parametrize("datatype", [name for name in TYPED if name != "FP32"])
def test_another_datatype_than_the_models_is_refused(target, form, datatype):
    request = form("affine", x=(datatype, KINDS[datatype].array(1)))
    refused(target, request, "'x'", datatype, "FP32")


def test_an_unknown_input_is_refused(target, form):
    rows = ("FP32", np.zeros((1, 4), np.float32))
    refused(target, form("affine", x=rows, z=rows), "'z'", "'x'")


@pytest.mark.parametrize("name", ["", "z\n\0\x7fé🚰", "z" * 60_000])
def test_a_refusal_reaches_the_client_whatever_it_names(target, name):
    """Messages travel in trailers, which take no raw bytes and no great length."""
    request = affine()
    request.inputs[0].name = name
    refused(target, request, "unknown input")


def test_a_missing_input_is_refused(target, form):
    request = form("add_and_subtract", INPUT0=("INT64", np.zeros((1, 16), np.int64)))
    refused(target, request, "'INPUT1'", "'INPUT0'")
    refused(target, pb.ModelInferRequest(model_name="affine"), "'x'", "missing")


def test_a_doubled_input_is_refused(target, form):
    request = form("affine", x=("FP32", np.zeros((1, 4), np.float32)))
    request.inputs.add().CopyFrom(request.inputs[0])
    request.raw_input_contents.extend(request.raw_input_contents)
    refused(target, request, "'x'", "twice", "once")


SHAPES = {
    "a rank too low": ("affine", [4], [-1, 4]),
    "a rank too high": ("affine", [1, 1, 4], [-1, 4]),
    "no dimensions": ("affine", [], [-1, 4]),
    "another fixed dimension": ("affine", [1, 5], [-1, 4]),
    "a negative batch dimension": ("affine", [-1, 4], [-1, 4]),
    "a negative inner dimension": ("open_inner", [1, -1], [-1, -1]),
    "two negative dimensions": ("open_inner", [-2, -2], [-1, -1]),
    "another first dimension of a model that is not batchable": ("fixed_shape", [1, 3], [2, 3]),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_shape_that_the_model_does_not_take_is_refused(target, form, case):
    model, shape, expected = SHAPES[case]
    request = form(model, x=("FP32", np.zeros(abs(int(np.prod(shape))), np.float32)))
    request.inputs[0].shape[:] = shape
    refused(target, request, "'x'", shape, expected)


@pytest.mark.parametrize("shape", [[1, 2**62], [2, 2**62], [4, 2**62], [8, 2**63 - 1], [0, 2**62], [0, 2**63 - 1]])
def test_a_product_that_overflows_is_refused(target, form, shape):
    request = form("open_inner", x=("FP32", np.zeros(0, np.float32)))
    request.inputs[0].shape[:] = shape
    refused(target, request, "'x'", shape[1])


@pytest.mark.parametrize("rows", [2**31, 2**62, 2**63 - 1])
def test_a_huge_number_of_rows_is_refused(target, form, rows):
    request = form("affine", x=("FP32", np.zeros((1, 4), np.float32)))
    request.inputs[0].shape[0] = rows
    refused(target, request, "'x'", rows)


def test_inputs_that_disagree_on_rows_are_refused(target, form):
    two, three = np.zeros((2, 16), np.int64), np.zeros((3, 16), np.int64)
    request = form("add_and_subtract", INPUT0=("INT64", two), INPUT1=("INT64", three))
    refused(target, request, "'INPUT1'", 3, "'INPUT0'", 2)


def test_more_rows_than_the_model_takes_are_refused_and_as_many_are_not(target, form):
    response = target.infer(form("few_rows", x=("FP32", np.zeros((ROWS_MAX, 4), np.float32))))
    assert list(response.outputs[0].shape) == [ROWS_MAX, 4]
    request = form("few_rows", x=("FP32", np.zeros((ROWS_MAX + 1, 4), np.float32)))
    refused(target, request, "'x'", ROWS_MAX + 1, f"batch_rows_max = {ROWS_MAX}")


@pytest.mark.parametrize(("datatype", "form"), DATATYPE_FORMS)
def test_zero_rows_give_zero_rows(target, datatype, form):
    response = target.infer(FORMS[form](identity(datatype), x=(datatype, KINDS[datatype].array(0))))
    assert_same(read_outputs(response)["y"], KINDS[datatype].array(0))
    assert len(response.raw_output_contents) == (1 if form == "raw" else 0)


def test_zero_rows_do_not_run_the_model(penstock, form):
    before = penstock.statistics("affine").execution_count
    penstock.infer(form("affine", x=("FP32", np.zeros((0, 4), np.float32))))
    assert penstock.statistics("affine").execution_count == before


def test_a_request_of_zero_rows_is_counted_as_a_success(target):
    before = target.statistics("affine")
    target.infer(affine(rows=0))
    after = target.statistics("affine")
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1
    assert after.inference_stats.queue.count == before.inference_stats.queue.count + 1
    assert after.inference_count == before.inference_count


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_other_dimensions_may_be_zero_too(target, form, shape):
    response = target.infer(form("open_inner", x=("FP32", np.zeros(shape, np.float32))))
    assert tuple(response.outputs[0].shape) == shape


# ---- rule 6: requested outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ([], ["OUTPUT0", "OUTPUT1"]),
        (["OUTPUT0"], ["OUTPUT0"]),
        (["OUTPUT1"], ["OUTPUT1"]),
        (["OUTPUT1", "OUTPUT0"], ["OUTPUT1", "OUTPUT0"]),
    ],
)
def test_outputs_are_those_asked_for_in_the_asked_order(target, asked, given):
    request = pair(outputs=[{"name": name} for name in asked])
    response = target.infer(request)
    assert [tensor.name for tensor in response.outputs] == given
    first = np.arange(32, dtype=np.int64).reshape(2, 16)
    expected = {"OUTPUT0": first + first[::-1] * 3, "OUTPUT1": first - first[::-1] * 3}
    for name, array in read_outputs(response).items():
        np.testing.assert_array_equal(array, expected[name])


def test_an_unknown_output_is_refused(target):
    refused(target, pair(outputs=[{"name": "OUTPUT0"}, {"name": "OUTPUT2"}]), "'OUTPUT2'", "'OUTPUT0', 'OUTPUT1'")


def test_an_output_asked_for_twice_is_refused(penstock):
    refused(penstock, pair(outputs=[{"name": "OUTPUT0"}] * 2), "'OUTPUT0'", "twice", "once")


# ---- rule 7: the answer ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["", "a", "Grüße 🚰", "x" * 5000])
def test_the_answer_echoes_the_id(target, request_id):
    assert target.infer(affine(id=request_id)).id == request_id


def test_the_answer_names_the_model_and_the_version(target):
    response = target.infer(affine())
    assert (response.model_name, response.model_version) == ("affine", "1")


def test_the_answer_comes_in_the_form_of_the_request(target, form):
    response = target.infer(form("affine", x=("FP32", np.zeros((1, 4), np.float32))))
    is_raw = form is raw_request
    assert len(response.raw_output_contents) == (1 if is_raw else 0)
    assert response.outputs[0].HasField("contents") is not is_raw


def test_an_output_without_typed_form_makes_the_whole_answer_raw(target, form):
    rows = np.array([[1, 2, 3, 4]], np.float32)
    outputs = read_outputs(response := target.infer(form("single_and_half", x=("FP32", rows))))
    assert len(response.raw_output_contents) == 2
    assert_same(outputs["single"], rows)
    assert_same(outputs["half"], rows.astype(np.float16))


def test_an_output_that_was_not_asked_for_does_not_make_the_answer_raw(target):
    request = typed_request("single_and_half", x=("FP32", np.zeros((1, 4), np.float32)))
    request.outputs.add(name="single")
    assert not target.infer(request).raw_output_contents


# ---- rule 8: versions and parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "answers", "scale"), [("", "10", 10), ("10", "10", 10), ("2", "2", 2)])
def test_a_version_is_picked_by_policy_or_by_name(target, version, answers, scale):
    request = raw_request("versions", x=("FP32", np.ones((1, 4), np.float32)))
    request.model_version = version
    response = target.infer(request)
    assert response.model_version == answers
    np.testing.assert_array_equal(read_outputs(response)["y"], np.full((1, 4), scale, np.float32))


@pytest.mark.parametrize("version", ["3", "0", "-1", "01", "1.0", "one", " 2", "2" * 30, "2" * 5000])
def test_an_unknown_version_is_not_found(target, version):
    request = raw_request("versions", x=("FP32", np.ones((1, 4), np.float32)))
    request.model_version = version
    refused(target, request, "'versions'", version[:50], code="NOT_FOUND")


@pytest.mark.parametrize("model", ["", "no_such_model", "../affine", "affine/1", "Affine", "x" * 5000])
def test_an_unknown_model_is_not_found(target, model):
    request = affine()
    request.model_name = model
    refused(target, request, f"'{model[:50]}", code="NOT_FOUND")


@pytest.mark.parametrize(("model", "version"), [("versions", "1"), ("partly_broken", "2")])
def test_a_version_that_is_known_and_not_ready_is_unavailable(target, model, version):
    request = raw_request(model, x=("FP32", np.ones((1, 4), np.float32)))
    request.model_version = version
    refused(target, request, f"'{model}'", version, code="UNAVAILABLE")


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("choice", ["int64_param", "uint64_param"])
@pytest.mark.parametrize("value", [0, 60_000_000])
def test_timeout_and_priority_are_integers_of_either_sign(target, name, choice, value):
    target.infer(affine(parameters={name: parameter(**{choice: value})}))


@pytest.mark.parametrize("choice", ["int64_param", "uint64_param"])
def test_a_timeout_that_cannot_be_met_exceeds_the_deadline(target, choice):
    request = affine(parameters={"timeout": parameter(**{choice: 1})})
    refused(target, request, "deadline", code="DEADLINE_EXCEEDED")


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize(
    "choice", [{"int64_param": -1}, {"string_param": "5"}, {"bool_param": True}, {"double_param": 5}]
)
def test_a_timeout_or_priority_that_is_no_count_is_refused(penstock, name, choice):
    refused(penstock, affine(parameters={name: parameter(**choice)}), name, "expected")


SEQUENCE = {
    "sequence_id": parameter(int64_param=7), "sequence_start": parameter(bool_param=True),
    "sequence_end": parameter(bool_param=True),
}  # fmt: skip
SHARED_MEMORY = {
    "shared_memory_region": parameter(string_param="region"), "shared_memory_byte_size": parameter(int64_param=32),
    "shared_memory_offset": parameter(int64_param=0),
}  # fmt: skip
NOT_OFFERED = {
    **{f"request {name}": {"parameters": {name: value}} for name, value in SEQUENCE.items()},
    **{
        f"input {name}": {"inputs": [{"name": "x", "parameters": {name: value}}]}
        for name, value in SHARED_MEMORY.items()
    },
    **{f"output {name}": {"outputs": [{"name": "y", "parameters": {name: v}}]} for name, v in SHARED_MEMORY.items()},
    "output classification": {"outputs": [{"name": "y", "parameters": {"classification": parameter(int64_param=3)}}]},
}


@pytest.mark.parametrize("case", NOT_OFFERED)
def test_a_parameter_that_would_change_the_answer_is_unimplemented(penstock, case):
    changes = dict(NOT_OFFERED[case])
    request = affine()
    for tensor in changes.pop("inputs", ()):
        request.inputs[0].MergeFrom(pb.ModelInferRequest.InferInputTensor(**tensor))
    request.MergeFrom(pb.ModelInferRequest(**changes))
    refused(penstock, request, case.split()[1], code="UNIMPLEMENTED")


def test_other_parameters_are_ignored(target):
    others = {
        "binary_data": parameter(bool_param=True), "tag": parameter(string_param="Grüße"),
        "weight": parameter(double_param=0.5), "count": parameter(int64_param=-1),
        "big": parameter(uint64_param=2**64 - 1), "nothing": parameter(), "": parameter(string_param=""),
    }  # fmt: skip
    request = affine(parameters=others, outputs=[{"name": "y", "parameters": others}])
    for name, value in others.items():
        request.inputs[0].parameters[name].CopyFrom(value)
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(read_outputs(target.infer(request))["y"], 2 * rows + 1)


# ---- status codes ----------------------------------------------------------------------------------------------------


def slow_request(rows=SLOW_ROWS_MAX):
    return raw_request("slow", x=("FP32", np.zeros((rows, SLOW_WIDTH), np.float32)))


def test_a_failing_model_is_an_internal_error_without_a_traceback(target):
    request = raw_request("lookup", index=("INT64", np.array([3, 10])))
    refused(target, request, "'lookup'", code="INTERNAL")
    assert target.infer(raw_request("lookup", index=("INT64", np.array([3]))))


def test_an_expired_request_is_not_answered(target):
    target.infer(slow_request(rows=1))  # so that no run that was given up is still under way: behind one it is refused
    before = target.statistics("slow").inference_stats.success.count
    with pytest.raises(grpc.RpcError) as caught:
        target.stub.ModelInfer(slow_request(), timeout=0.005)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    target.infer(slow_request(rows=1))
    assert target.statistics("slow").inference_stats.success.count == before + 1


def test_a_cancelled_request_is_not_answered(target):
    before = target.statistics("slow").inference_stats.success.count
    first, second = (target.stub.ModelInfer.future(slow_request(), timeout=CALL_TIMEOUT_S) for _ in range(2))
    second.cancel()
    assert second.code() is grpc.StatusCode.CANCELLED
    assert first.result().outputs
    target.infer(slow_request(rows=1))
    assert target.statistics("slow").inference_stats.success.count == before + 2


def test_a_full_queue_exhausts_a_resource_and_says_when_to_come_back(target):
    calls = [target.stub.ModelInfer.future(slow_request(), timeout=CALL_TIMEOUT_S) for _ in range(12)]
    codes = [call.code().name for call in calls]
    assert set(codes) == {"OK", "RESOURCE_EXHAUSTED"}
    for call in calls:
        if call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            assert int(dict(call.trailing_metadata())["grpc-retry-pushback-ms"]) >= 0


def open_inner_of(message_bytes):
    """Build a request to `open_inner` whose message is about as long as asked."""
    return raw_request("open_inner", x=("FP32", np.zeros((1, message_bytes // 4), np.float32)))


def test_a_message_over_the_limit_exhausts_a_resource(target):
    refused(target, open_inner_of(target.message_bytes_max), code="RESOURCE_EXHAUSTED")


def test_a_message_below_the_limit_is_answered(target):
    request = open_inner_of(target.message_bytes_max - 4096)
    assert target.infer(request).outputs[0].shape == request.inputs[0].shape


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(target, compression):
    request = affine()
    response = target.stub.ModelInfer(request, timeout=CALL_TIMEOUT_S, compression=compression)
    assert response.raw_output_contents == target.infer(request).raw_output_contents


GOOD = affine().SerializeToString()
BROKEN_FRAMING = {
    "an unknown compression": ("UNIMPLEMENTED", framed(GOOD, compressed=True), {"grpc_encoding": "no-such-codec"}),
    "a compressed message without an encoding": ("INTERNAL", framed(GOOD, compressed=True), {}),
    "an end inside a message": ("INTERNAL", framed(GOOD)[:-1], {}),
    "an end inside a length": ("INTERNAL", framed(GOOD)[:3], {}),
    "no message at all": ("INTERNAL", b"", {}),
    "two messages": ("INTERNAL", framed(GOOD) * 2, {}),
}
GRPCIO_ANSWERS_OTHERWISE = {"an unknown compression": "with INTERNAL"}
"""What grpcio's core answers before a handler hears of a call. A Penstock at an address may run on it."""


@pytest.mark.parametrize("case", BROKEN_FRAMING)
def test_broken_framing_has_its_own_codes(request, target, case):
    pytest.importorskip("h2")
    may_be_grpcio = target.is_penstock and request.node.callspec.params["target"] not in TRANSPORTS.keys() - {"grpcio"}
    if may_be_grpcio and case in GRPCIO_ANSWERS_OTHERWISE:
        pytest.skip(f"grpcio answers this {GRPCIO_ANSWERS_OTHERWISE[case]}")
    code, body, headers = BROKEN_FRAMING[case]
    assert raw_call(target.address, "ModelInfer", body, **headers).code == code


def test_framing_that_is_not_broken_is_answered(target):
    """The counterpart of broken framing: what is refused there is not refused for another reason."""
    pytest.importorskip("h2")
    assert raw_call(target.address, "ModelInfer", framed(GOOD)).code == "OK"
    assert raw_call(target.address, "ModelInfer", framed(GOOD), grpc_encoding="identity").code == "OK"


def test_requests_at_once_get_their_own_answers(target):
    def ask(number):
        rows = np.full((1 + number % 3, 4), number, np.float32)
        request = raw_request("affine", x=("FP32", rows))
        request.id = str(number)
        response = target.infer(request)
        assert response.id == str(number)
        np.testing.assert_array_equal(read_outputs(response)["y"], 2 * rows + 1)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(200)))


# ---- streams ---------------------------------------------------------------------------------------------------------


def test_every_request_of_a_stream_is_answered_with_its_id(target):
    requests = [affine(rows=1 + number % 3, id=str(number)) for number in range(300)]
    answers = target.stream(*requests)
    assert not any(answer.error_message for answer in answers)
    assert sorted(answer.infer_response.id for answer in answers) == sorted(request.id for request in requests)
    for answer in answers:
        rows = 1 + int(answer.infer_response.id) % 3
        expected = 2 * np.arange(4 * rows, dtype=np.float32).reshape(rows, 4) + 1
        np.testing.assert_array_equal(read_outputs(answer.infer_response)["y"], expected)


def test_an_error_does_not_end_its_stream(target):
    bad_model = affine(id="bad model")
    bad_model.model_name = "no_such_model"
    bad_input = affine(id="bad input")
    bad_input.inputs[0].name = "z"
    failing = raw_request("lookup", index=("INT64", np.array([99])))
    failing.id = "failing"
    answers = target.stream(affine(id="first"), bad_model, bad_input, failing, affine(id="last"))
    errors = {answer.infer_response.id: answer.error_message for answer in answers}
    assert {name for name, error in errors.items() if error} == {"bad model", "bad input", "failing"}
    assert {name for name, error in errors.items() if not error} == {"first", "last"}


@pytest.mark.parametrize("version", ["x", "2" * 5000])
def test_a_bad_version_does_not_end_its_stream(target, version):
    bad, good = affine(id="bad", model_version=version), affine(id="good")
    answers = target.stream(bad, good)
    assert {answer.infer_response.id: bool(answer.error_message) for answer in answers} == {"bad": True, "good": False}


def test_a_malformed_message_does_not_end_its_stream(target):
    call = target.channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer", response_deserializer=pb.ModelStreamInferResponse.FromString
    )
    answers = list(call(iter([b"\xff", affine(id="good").SerializeToString()]), timeout=CALL_TIMEOUT_S))
    assert [bool(answer.error_message) for answer in answers] == [True, False]
    assert answers[1].infer_response.id == "good"


def test_a_stream_without_requests_ends_well(target):
    assert target.stream() == []


def test_answers_come_while_the_stream_is_open(target):
    answered = threading.Event()

    def requests():
        yield affine(id="1")
        assert answered.wait(CALL_TIMEOUT_S)
        yield affine(id="2")

    answers = target.stub.ModelStreamInfer(requests(), timeout=CALL_TIMEOUT_S)
    assert next(answers).infer_response.id == "1"
    answered.set()
    assert next(answers).infer_response.id == "2"
    assert list(answers) == []


def test_streams_side_by_side_keep_their_answers_apart(target):
    def ask(number):
        return target.stub.ModelStreamInfer(iter([affine(id=str(number))] * 100), timeout=CALL_TIMEOUT_S)

    for number, answers in enumerate([ask(number) for number in range(8)]):
        assert [answer.infer_response.id for answer in answers] == [str(number)] * 100


def test_a_message_over_the_limit_ends_its_stream(target):
    with pytest.raises(grpc.RpcError) as caught:
        target.stream(affine(), open_inner_of(target.message_bytes_max))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_cancelled_stream_leaves_the_server_serving(target):
    answers = target.stub.ModelStreamInfer((slow_request(rows=8) for _ in range(20)), timeout=CALL_TIMEOUT_S)
    next(answers)
    answers.cancel()
    assert target.infer(slow_request(rows=1)).outputs


def test_stream_answers_have_the_form_of_their_request(target):
    raw = affine(id="raw")
    typed = typed_request("affine", x=("FP32", np.zeros((1, 4), np.float32)))
    typed.id = "typed"
    answers = {answer.infer_response.id: answer.infer_response for answer in target.stream(raw, typed)}
    assert answers["raw"].raw_output_contents
    assert not answers["typed"].raw_output_contents


# ---- metadata and configuration --------------------------------------------------------------------------------------


def metadata(target, name, version=""):
    return target.stub.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version), timeout=CALL_TIMEOUT_S)


def model_config(target, name, version=""):
    return target.stub.ModelConfig(pb.ModelConfigRequest(name=name, version=version), timeout=CALL_TIMEOUT_S).config


def test_the_server_is_live_and_ready(target):
    assert target.stub.ServerLive(pb.ServerLiveRequest(), timeout=CALL_TIMEOUT_S).live
    assert target.stub.ServerReady(pb.ServerReadyRequest(), timeout=CALL_TIMEOUT_S).ready


def test_the_extensions_are_known_words(target):
    response = target.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=CALL_TIMEOUT_S)
    assert response.name
    assert response.version
    known = {"model_repository", "model_configuration", "system_shared_memory", "binary_tensor_data", "parameters",
             "statistics", "schedule_policy"}  # fmt: skip
    assert len(set(response.extensions)) == len(response.extensions)
    assert "statistics" in response.extensions  # perf_analyzer asks for it
    if target.is_penstock:
        assert set(response.extensions) <= known


@pytest.mark.parametrize(
    ("model", "version", "ready"),
    [("affine", "", True), ("affine", "1", True), ("versions", "2", True), ("versions", "1", False),
     ("partly_broken", "", True), ("partly_broken", "2", False)],
)  # fmt: skip
def test_a_model_is_ready_when_its_version_is(target, model, version, ready):
    request = pb.ModelReadyRequest(name=model, version=version)
    assert target.stub.ModelReady(request, timeout=CALL_TIMEOUT_S).ready is ready


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize("model", ["", "no_such_model", "x" * 5000])
def test_questions_about_an_unknown_model_find_nothing(target, method, model):
    request = getattr(pb, f"{method}Request")(name=model, version="1")
    fails(getattr(target.stub, method), request, "NOT_FOUND")


@pytest.mark.parametrize("method", ["ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"])
@pytest.mark.parametrize("version", ["99", "x", "2" * 5000])
def test_questions_about_an_unknown_version_find_nothing(target, method, version):
    request = getattr(pb, f"{method}Request")(name="affine", version=version)
    fails(getattr(target.stub, method), request, "NOT_FOUND")


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_questions_about_a_version_that_is_not_ready_are_unavailable(target, method):
    request = getattr(pb, f"{method}Request")(name="versions", version="1")
    fails(getattr(target.stub, method), request, "UNAVAILABLE")


def tensors(group):
    return [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in group]


@pytest.mark.parametrize("datatype", KINDS)
def test_metadata_names_every_datatype_and_the_open_batch_dimension(target, datatype):
    response = metadata(target, identity(datatype))
    assert response.name == identity(datatype)
    assert tensors(response.inputs) == [("x", datatype, [-1, 4])]
    assert tensors(response.outputs) == [("y", datatype, [-1, 4])]


def test_metadata_lists_tensors_in_the_models_order(target):
    response = metadata(target, "add_and_subtract")
    assert [tensor.name for tensor in response.inputs] == ["INPUT0", "INPUT1"]
    assert [tensor.name for tensor in response.outputs] == ["OUTPUT0", "OUTPUT1"]


def test_metadata_of_fixed_shapes_has_no_open_dimension(target):
    assert tensors(metadata(target, "fixed_shape").inputs) == [("x", "FP32", [2, 3])]


def test_metadata_lists_the_ready_versions(target):
    assert list(metadata(target, "versions").versions) == ["2", "10"]


@pytest.mark.parametrize("model", ["affine", "fixed_shape", "versions"])
def test_field_6_of_the_metadata_is_never_written(target, model):
    assert len(UnknownFieldSet(metadata(target, model))) == 0


@pytest.mark.parametrize("datatype", KINDS)
def test_the_configuration_spells_datatypes_its_own_way(target, datatype):
    config = model_config(target, identity(datatype))
    expected = f"TYPE_{'STRING' if datatype == 'BYTES' else datatype}"
    for tensor in (*config.input, *config.output):
        field = tensor.DESCRIPTOR.fields_by_name["data_type"]
        assert field.enum_type.values_by_number[tensor.data_type].name == expected


def test_the_configuration_of_a_batchable_model_leaves_the_batch_dimension_out(target):
    config = model_config(target, "few_rows")
    assert config.name == "few_rows"
    assert config.max_batch_size == ROWS_MAX
    assert [(tensor.name, list(tensor.dims)) for tensor in config.input] == [("x", [4])]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("y", [4])]


def test_the_configuration_of_other_models_has_all_dimensions(target):
    config = model_config(target, "fixed_shape")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [2, 3]
    assert list(config.output[0].dims) == [2, 3]


def test_the_configuration_says_which_versions_serve(penstock):
    assert model_config(penstock, "versions").version_policy.latest.num_versions == 2


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_the_queue_is_counted_with_every_request(target, form):
    request = form("affine", x=("FP32", np.zeros((1, 4), np.float32)))
    counts = []
    for _ in range(4):
        target.infer(request)
        counts.append(target.statistics("affine").inference_stats.queue.count)
    assert counts == list(range(counts[0], counts[0] + 4))


def test_requests_rows_and_batches_are_counted_apart(target):
    before = target.statistics("affine")
    for _ in range(2):
        target.infer(affine(rows=3))
    after = target.statistics("affine")
    assert after.inference_count - before.inference_count == 6
    assert after.execution_count - before.execution_count == 2
    for stage in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        grown = getattr(after.inference_stats, stage), getattr(before.inference_stats, stage)
        assert grown[0].count - grown[1].count == 2, stage
        assert grown[0].ns >= grown[1].ns, stage
    assert after.inference_stats.success.ns > before.inference_stats.success.ns
    assert after.inference_stats.fail.count == before.inference_stats.fail.count
    of_three = [
        sum(entry.compute_infer.count for entry in statistics.batch_stats if entry.batch_size == 3)
        for statistics in (before, after)
    ]
    assert of_three[1] - of_three[0] == 2


def test_the_last_inference_is_in_milliseconds_since_the_epoch(target):
    target.infer(affine())
    assert 1e12 < target.statistics("affine").last_inference < 1e14


def test_failures_are_counted_apart(target):
    before = target.statistics("lookup")
    refused(target, raw_request("lookup", index=("INT64", np.array([99]))), code="INTERNAL")
    after = target.statistics("lookup")
    assert after.inference_stats.fail.count == before.inference_stats.fail.count + 1
    assert after.inference_stats.success.count == before.inference_stats.success.count
    assert after.inference_count == before.inference_count


def test_statistics_cover_one_version_one_model_or_all(target):
    def ask(**request):
        response = target.stub.ModelStatistics(pb.ModelStatisticsRequest(**request), timeout=CALL_TIMEOUT_S)
        return {(statistics.name, statistics.version) for statistics in response.model_stats}

    assert ask(name="versions", version="2") == {("versions", "2")}
    assert ask(name="versions") == {("versions", "2"), ("versions", "10")}
    assert {("versions", "2"), ("versions", "10"), ("affine", "1"), ("lookup", "1")} <= ask()


# ---- the model repository --------------------------------------------------------------------------------------------


def load(target, name, **options):
    request = pb.RepositoryModelLoadRequest(model_name=name, **options)
    return target.stub.RepositoryModelLoad(request, timeout=CALL_TIMEOUT_S)


def unload(target, name):
    return target.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=CALL_TIMEOUT_S)


@pytest.fixture
def unloaded(target):
    """The model `spare`, unloaded; loaded again afterwards."""
    unload(target, "spare")
    yield "spare"
    load(target, "spare")


def test_the_index_lists_every_version_with_its_state(target):
    index = target.index()
    for model, version in (("affine", "1"), ("versions", "2"), ("versions", "10"), ("partly_broken", "1")):
        assert (index[model, version].state, index[model, version].reason) == ("READY", "")
    assert index["partly_broken", "2"].state == "UNAVAILABLE"
    assert index["partly_broken", "2"].reason
    assert {entry.state for entry in index.values()} <= {"UNKNOWN", "READY", "UNAVAILABLE", "LOADING", "UNLOADING"}


def test_the_index_of_what_is_ready_leaves_the_rest_out(target):
    everything = target.index().values()
    ready = target.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=CALL_TIMEOUT_S).models
    assert list(ready) == [entry for entry in everything if entry.state == "READY"]


def test_an_unloaded_model_is_known_and_not_ready(target, unloaded):
    assert target.index()[unloaded, "1"].state == "UNAVAILABLE"
    assert not target.stub.ModelReady(pb.ModelReadyRequest(name=unloaded), timeout=CALL_TIMEOUT_S).ready
    request = affine()
    request.model_name = unloaded
    refused(target, request, f"'{unloaded}'", "unloaded", code="UNAVAILABLE")
    fails(target.stub.ModelMetadata, pb.ModelMetadataRequest(name=unloaded), "UNAVAILABLE")


def test_a_loaded_model_serves_again(target, unloaded):
    load(target, unloaded)
    assert target.index()[unloaded, "1"].state == "READY"
    request = affine()
    request.model_name = unloaded
    assert target.infer(request).model_version == "1"


def test_loading_and_unloading_twice_is_harmless(target, unloaded):
    unload(target, unloaded)
    load(target, unloaded)
    load(target, unloaded)
    assert target.index()[unloaded, "1"].state == "READY"


@pytest.mark.parametrize("name", ["", "no_such_model", "..", "../affine", "affine/1", "x" * 300, "x" * 5000, "a\0b"])
def test_loading_or_unloading_an_unknown_model_finds_nothing(target, name):
    stub = target.stub
    fails(stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=name), "NOT_FOUND")
    fails(stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=name), "NOT_FOUND")


def test_loading_a_broken_version_says_why_and_leaves_the_others_serving(penstock):
    request = pb.RepositoryModelLoadRequest(model_name="partly_broken")
    message = fails(penstock.stub.RepositoryModelLoad, request, "INTERNAL").details()
    assert "version 2" in message
    request = affine()
    request.model_name = "partly_broken"
    assert penstock.infer(request).model_version == "1"


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx"])
def test_loading_with_a_configuration_or_files_is_refused(penstock, name):
    parameters = {name: pb.ModelRepositoryParameter(string_param="{}")}
    request = pb.RepositoryModelLoadRequest(model_name="spare", parameters=parameters)
    assert name in fails(penstock.stub.RepositoryModelLoad, request, "INVALID_ARGUMENT").details()


def test_other_parameters_of_unloading_are_ignored(target, unloaded):
    parameters = {"unload_dependents": pb.ModelRepositoryParameter(bool_param=False)}
    request = pb.RepositoryModelUnloadRequest(model_name=unloaded, parameters=parameters)
    target.stub.RepositoryModelUnload(request, timeout=CALL_TIMEOUT_S)


# ---- health ----------------------------------------------------------------------------------------------------------

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


@pytest.fixture
def health(target):
    return health_pb2_grpc.HealthStub(target.channel)


@pytest.mark.parametrize("service", ["", SERVICE])
def test_health_check_says_serving(health, service):
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request, timeout=CALL_TIMEOUT_S).status == SERVING


def test_health_check_of_an_unknown_service_finds_nothing(health):
    fails(health.Check, health_pb2.HealthCheckRequest(service="no.such.Service"), "NOT_FOUND")


@pytest.mark.parametrize(
    ("service", "status"), [("", SERVING), (SERVICE, SERVING), ("no.such.Service", SERVICE_UNKNOWN)]
)
def test_health_watch_begins_with_the_status_and_stays_open(health, service, status):
    watch = health.Watch(health_pb2.HealthCheckRequest(service=service), timeout=CALL_TIMEOUT_S)
    assert next(watch).status == status
    assert watch.is_active()
    watch.cancel()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_draining_server_tells_its_watchers_and_takes_nothing_new(repository, transport, monkeypatch):
    """A request whose run is held up keeps the server draining."""
    sessions = []
    monkeypatch.setattr(serving_model, "Session", lambda *loading: sessions.append(HeldGraph(*loading)) or sessions[-1])
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository, inline_us_max=0, **TRANSPORTS[transport]) as server:
        target = Target(server.address, message_bytes_max=OWN_MESSAGE_MIB << 20)
        watch = health_pb2_grpc.HealthStub(target.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S
        )
        assert next(watch).status == SERVING
        (session,) = sessions
        session.hold()
        held = target.stub.ModelInfer.future(affine(), timeout=CALL_TIMEOUT_S)
        session.wait_until_running()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert next(watch).status == NOT_SERVING
        refused(target, affine(), "shutting down", code="UNAVAILABLE")
        session.let_go()
        assert held.result(CALL_TIMEOUT_S).model_name == "affine"
        stopping.join(CALL_TIMEOUT_S)
        assert not stopping.is_alive()
        target.channel.close()


# ---- reflection ------------------------------------------------------------------------------------------------------


def test_reflection_lists_the_services(reflection):
    versions = {"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
    assert {SERVICE, "grpc.health.v1.Health", *versions} <= set(reflection.get_services())


def test_reflection_is_enough_to_make_a_call(target, reflection):
    pool = DescriptorPool(reflection)
    method = pool.FindServiceByName(SERVICE).methods_by_name["ModelMetadata"]
    request = GetMessageClass(method.input_type)(name="affine")
    call = target.channel.unary_unary(f"/{SERVICE}/ModelMetadata")
    answer = GetMessageClass(method.output_type).FromString(call(request.SerializeToString(), timeout=CALL_TIMEOUT_S))
    assert (answer.name, answer.inputs[0].datatype) == ("affine", "FP32")


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_both_versions_of_reflection_answer_in_order(target, version):
    """The messages of the two are the same, field by field."""
    ask = reflection_pb2.ServerReflectionRequest
    questions = [
        ask(list_services=""),
        ask(file_containing_symbol=SERVICE),
        ask(file_containing_symbol="no.such.Symbol"),
        ask(file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"),
        ask(file_by_filename="no/such/file.proto"),
    ]
    call = target.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = list(call(iter(questions), timeout=CALL_TIMEOUT_S))
    assert [answer.original_request for answer in answers] == questions
    services, ours, unknown, own, no_file = answers
    assert SERVICE in {service.name for service in services.list_services_response.service}
    assert first_file(ours).package == "inference"
    assert first_file(own).package == f"grpc.reflection.{version}"
    for answer in (unknown, no_file):
        assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def first_file(answer):
    return FileDescriptorProto.FromString(answer.file_descriptor_response.file_descriptor_proto[0])
