"""What the conformance suite needs beside its tests: its models, its table of the protocol, tensors and raw HTTP/2.

`python -m tests.support.conformance DIR` writes the suite's models into DIR, in the layout of a model repository, so
that a server can be started on them and the suite be pointed at it with `--address`. Nothing here uses the server's own
code but the generated messages.
"""

import argparse
import re
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from serving.pb import open_inference_pb2 as pb
from serving.pb.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support import graphs

SERVICE = "inference.GRPCInferenceService"
CALL_TIMEOUT_S = 30
"""No call of the suite takes this long; a server that does not answer fails a test and does not hang it."""
SILENCE_TIMEOUT_S = 5

# ---- models ----------------------------------------------------------------------------------------------------------

ROWS_MAX = 8
SLOW_WIDTH = 512
SLOW_ROWS_MAX = 256


def write_models(repository: Path) -> None:
    """Write every model that the suite asks for."""
    for datatype in KINDS:
        graphs.write_model(repository, identity(datatype), graphs.identity(datatype))
    plain = {
        "affine": graphs.affine(),
        "add_and_subtract": graphs.add_and_subtract(),
        "single_and_half": graphs.single_and_half(),
        "lookup": graphs.lookup(),
        "fixed_shape": graphs.fixed_shape(),
        "open_inner": graphs.open_inner(),
        "spare": graphs.affine(),
    }
    for name, graph in plain.items():
        graphs.write_model(repository, name, graph)
    few_rows = f"[batching]\nbatch_rows_max = {ROWS_MAX}\n"
    graphs.write_model(repository, "few_rows", graphs.identity("FP32"), config=few_rows)
    slow = f"[batching]\nbatch_rows_max = {SLOW_ROWS_MAX}\nqueue_rows_max = {SLOW_ROWS_MAX}\n"
    graphs.write_model(repository, "slow", graphs.slow(SLOW_WIDTH), config=slow)
    for version in (1, 2, 10):
        graph = graphs.affine(scale=float(version), offset=0.0)
        graphs.write_model(repository, "versions", graph, version=version, config='version_policy = "latest(2)"\n')
    graphs.write_model(repository, "partly_broken", graphs.affine())
    broken = repository / "partly_broken" / "2"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"this is no graph")


def identity(datatype: str) -> str:
    """Name the model y = x of a datatype, [rows, 4]."""
    return f"identity_{datatype.lower()}"


# ---- tensors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A datatype: its numpy dtype (BF16 as its bits, BYTES as objects), its typed field, and eight telling values."""

    dtype: type
    typed_field: str | None
    values: Sequence[object]

    def array(self, rows: int = 2) -> np.ndarray:
        """Return [rows, 4] of the values, over and over."""
        return np.resize(np.array(self.values, self.dtype), (rows, 4))


def _integers(dtype: type) -> list[int]:
    limits = np.iinfo(dtype)
    return [limits.min, limits.max, 0, 1, 2, limits.max - 1, limits.min + 1, 100]


_FLOATS = [0.0, -0.0, 1.5, -2.25, float("inf"), float("-inf"), float("nan"), 0.099975586]

KINDS = {
    "BOOL": Kind(np.bool_, "bool_contents", [True, False, False, True, True, True, False, False]),
    "UINT8": Kind(np.uint8, "uint_contents", _integers(np.uint8)),
    "UINT16": Kind(np.uint16, "uint_contents", _integers(np.uint16)),
    "UINT32": Kind(np.uint32, "uint_contents", _integers(np.uint32)),
    "UINT64": Kind(np.uint64, "uint64_contents", _integers(np.uint64)),
    "INT8": Kind(np.int8, "int_contents", _integers(np.int8)),
    "INT16": Kind(np.int16, "int_contents", _integers(np.int16)),
    "INT32": Kind(np.int32, "int_contents", _integers(np.int32)),
    "INT64": Kind(np.int64, "int64_contents", _integers(np.int64)),
    "FP16": Kind(np.float16, None, _FLOATS),
    "FP32": Kind(np.float32, "fp32_contents", [*_FLOATS[:7], 1e-45]),
    "FP64": Kind(np.float64, "fp64_contents", [*_FLOATS[:7], 5e-324]),
    "BYTES": Kind(
        np.object_, "bytes_contents",
        [b"", b"a", "Grüße".encode(), "漢字".encode(), b" \n\t", b"x" * 300, b"a\0b\0", "🚰".encode()],
    ),
    "BF16": Kind(np.uint16, None, [0, 0x8000, 0x3FC0, 0xC010, 0x7F80, 0xFF80, 0x7FC0, 0x3DCD]),
}  # fmt: skip
TYPED = [datatype for datatype, kind in KINDS.items() if kind.typed_field]


def to_raw(array: np.ndarray) -> bytes:
    """Write the raw form."""
    if array.dtype == np.object_:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.reshape(-1))
    return array.tobytes()


def raw_request(model: str, **inputs: tuple[str, np.ndarray]) -> pb.ModelInferRequest:
    """Build a raw request from (datatype, array) by input name."""
    request = pb.ModelInferRequest(model_name=model)
    for name, (datatype, array) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(to_raw(array))
    return request


def typed_request(model: str, **inputs: tuple[str, np.ndarray]) -> pb.ModelInferRequest:
    """Build a typed request from (datatype, array) by input name."""
    request = pb.ModelInferRequest(model_name=model)
    for name, (datatype, array) in inputs.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        getattr(tensor.contents, KINDS[datatype].typed_field).extend(array.reshape(-1).tolist())
    return request


def read_outputs(response: pb.ModelInferResponse) -> dict[str, np.ndarray]:
    """Read an answer in either form, by the rules of the protocol."""
    if response.raw_output_contents:
        assert len(response.raw_output_contents) == len(response.outputs)
        assert not any(tensor.HasField("contents") for tensor in response.outputs)
    return {tensor.name: _read(response, index) for index, tensor in enumerate(response.outputs)}


def _read(response: pb.ModelInferResponse, index: int) -> np.ndarray:
    tensor = response.outputs[index]
    kind = KINDS[tensor.datatype]
    if not response.raw_output_contents:
        fields = tensor.contents.ListFields()
        assert {descriptor.name for descriptor, _ in fields} <= {kind.typed_field}
        elements = list(getattr(tensor.contents, kind.typed_field))
    elif tensor.datatype == "BYTES":
        elements = _split(response.raw_output_contents[index])
    else:
        elements = np.frombuffer(response.raw_output_contents[index], kind.dtype)
    return np.array(elements, kind.dtype).reshape(tensor.shape)


def _split(raw: bytes) -> list[bytes]:
    elements = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        assert len(raw) >= 4 + length
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return elements


# ---- the server under test -------------------------------------------------------------------------------------------


class Target:
    """A server that serves the suite's models, seen from a client."""

    def __init__(self, address: str, *, message_bytes_max: int) -> None:
        self.address = address
        self.message_bytes_max = message_bytes_max
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, [*unlimited, ("grpc.enable_http_proxy", 0)])
        self.stub = GRPCInferenceServiceStub(self.channel)
        metadata = self.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
        self.is_penstock = metadata.name == "penstock"

    def infer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        """Send one request."""
        return self.stub.ModelInfer(request, timeout=CALL_TIMEOUT_S)

    def stream(self, *requests: pb.ModelInferRequest) -> list[pb.ModelStreamInferResponse]:
        """Send requests on one stream; return its answers in the order in which they came."""
        return list(self.stub.ModelStreamInfer(iter(requests), timeout=CALL_TIMEOUT_S))

    def statistics(self, model: str, version: str = "1") -> pb.ModelStatistics:
        """Ask for the statistics of one version."""
        request = pb.ModelStatisticsRequest(name=model, version=version)
        (statistics,) = self.stub.ModelStatistics(request, timeout=CALL_TIMEOUT_S).model_stats
        return statistics

    def index(self) -> dict[tuple[str, str], pb.RepositoryIndexResponse.ModelIndex]:
        """Ask for the repository's index, by model and version."""
        response = self.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=CALL_TIMEOUT_S)
        return {(entry.name, entry.version): entry for entry in response.models}


# ---- raw HTTP/2: what no gRPC library would send ---------------------------------------------------------------------

_CODES = {0: "INTERNAL", 1: "INTERNAL", 2: "INTERNAL", 7: "UNAVAILABLE", 8: "CANCELLED", 11: "RESOURCE_EXHAUSTED"}
"""Which status a client makes of a reset stream (gRPC over HTTP2, "HTTP2 Transport Mapping")."""


@dataclass
class RawAnswer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    reset: int | None = None

    @property
    def code(self) -> str:
        """The status code's name, as a client would see it."""
        if "grpc-status" in self.headers:
            number = int(self.headers["grpc-status"])
            return next(code.name for code in grpc.StatusCode if code.value[0] == number)
        return _CODES.get(self.reset, f"UNKNOWN (reset {self.reset}, headers {self.headers})")


def raw_call(address: str, method: str, body: bytes, **headers: str) -> RawAnswer:
    """Make a call whose body is sent as it is, followed by the end of the stream; `_` in a header's name means `-`."""
    import h2.connection
    import h2.events

    connection = h2.connection.H2Connection()
    connection.initiate_connection()
    named = {
        ":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}", ":authority": address,
        "te": "trailers", "content-type": "application/grpc", "user-agent": "conformance",
    }  # fmt: skip
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.send_headers(1, list(named.items()))
    connection.send_data(1, body, end_stream=True)
    host, _, port = address.rpartition(":")
    answer = RawAnswer()
    with socket.create_connection((host, int(port)), SILENCE_TIMEOUT_S) as sock:
        sock.sendall(connection.data_to_send())
        while data := sock.recv(1 << 16):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                    answer.headers |= {_text(name): _text(value) for name, value in event.headers}
                elif isinstance(event, h2.events.StreamReset):
                    answer.reset = int(event.error_code)
                    return answer
                elif isinstance(event, h2.events.StreamEnded):
                    return answer
            sock.sendall(connection.data_to_send())
    return answer


def framed(message: bytes, *, compressed: bool = False) -> bytes:
    """Frame one message as gRPC does."""
    return struct.pack(">BI", compressed, len(message)) + message


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


# ---- the table of messages -------------------------------------------------------------------------------------------

MESSAGES = """
ServerLiveRequest { }
ServerLiveResponse { 1:live bool }
ServerReadyRequest { }
ServerReadyResponse { 1:ready bool }
ModelReadyRequest { 1:name string; 2:version string }
ModelReadyResponse { 1:ready bool }
ServerMetadataRequest { }
ServerMetadataResponse { 1:name string; 2:version string; 3:extensions[] string }
ModelMetadataRequest { 1:name string; 2:version string }
ModelMetadataResponse { 1:name string; 2:versions[] string; 3:platform string; 4:inputs[]
    ModelMetadataResponse.TensorMetadata; 5:outputs[] ModelMetadataResponse.TensorMetadata }
ModelMetadataResponse.TensorMetadata { 1:name string; 2:datatype string; 3:shape[] int64 }
InferParameter { 1:bool_param bool(oneof parameter_choice); 2:int64_param int64(oneof parameter_choice);
    3:string_param string(oneof parameter_choice); 4:double_param double(oneof parameter_choice); 5:uint64_param
    uint64(oneof parameter_choice) }
InferTensorContents { 1:bool_contents[] bool; 2:int_contents[] int32; 3:int64_contents[] int64; 4:uint_contents[]
    uint32; 5:uint64_contents[] uint64; 6:fp32_contents[] float; 7:fp64_contents[] double; 8:bytes_contents[] bytes
    }
ModelInferRequest { 1:model_name string; 2:model_version string; 3:id string; 4:parameters
    map<string,InferParameter>; 5:inputs[] ModelInferRequest.InferInputTensor; 6:outputs[]
    ModelInferRequest.InferRequestedOutputTensor; 7:raw_input_contents[] bytes }
ModelInferRequest.InferInputTensor { 1:name string; 2:datatype string; 3:shape[] int64; 4:parameters
    map<string,InferParameter>; 5:contents InferTensorContents }
ModelInferRequest.InferRequestedOutputTensor { 1:name string; 2:parameters map<string,InferParameter> }
ModelInferResponse { 1:model_name string; 2:model_version string; 3:id string; 4:parameters
    map<string,InferParameter>; 5:outputs[] ModelInferResponse.InferOutputTensor; 6:raw_output_contents[] bytes }
ModelInferResponse.InferOutputTensor { 1:name string; 2:datatype string; 3:shape[] int64; 4:parameters
    map<string,InferParameter>; 5:contents InferTensorContents }
ModelStreamInferResponse { 1:error_message string; 2:infer_response ModelInferResponse }
ModelConfigRequest { 1:name string; 2:version string }
ModelConfigResponse { 1:config ModelConfig }
ModelStatisticsRequest { 1:name string; 2:version string }
StatisticDuration { 1:count uint64; 2:ns uint64 }
InferStatistics { 1:success StatisticDuration; 2:fail StatisticDuration; 3:queue StatisticDuration; 4:compute_input
    StatisticDuration; 5:compute_infer StatisticDuration; 6:compute_output StatisticDuration; 7:cache_hit
    StatisticDuration; 8:cache_miss StatisticDuration }
InferBatchStatistics { 1:batch_size uint64; 2:compute_input StatisticDuration; 3:compute_infer StatisticDuration;
    4:compute_output StatisticDuration }
MemoryUsage { 1:type string; 2:id int64; 3:byte_size uint64 }
ModelStatistics { 1:name string; 2:version string; 3:last_inference uint64; 4:inference_count uint64;
    5:execution_count uint64; 6:inference_stats InferStatistics; 7:batch_stats[] InferBatchStatistics;
    8:memory_usage[] MemoryUsage }
ModelStatisticsResponse { 1:model_stats[] ModelStatistics }
ModelRepositoryParameter { 1:bool_param bool(oneof parameter_choice); 2:int64_param int64(oneof parameter_choice);
    3:string_param string(oneof parameter_choice); 4:bytes_param bytes(oneof parameter_choice) }
RepositoryIndexRequest { 1:repository_name string; 2:ready bool }
RepositoryIndexResponse { 1:models[] RepositoryIndexResponse.ModelIndex }
RepositoryIndexResponse.ModelIndex { 1:name string; 2:version string; 3:state string; 4:reason string }
RepositoryModelLoadRequest { 1:repository_name string; 2:model_name string; 3:parameters
    map<string,ModelRepositoryParameter> }
RepositoryModelLoadResponse { }
RepositoryModelUnloadRequest { 1:repository_name string; 2:model_name string; 3:parameters
    map<string,ModelRepositoryParameter> }
RepositoryModelUnloadResponse { }
SystemSharedMemoryStatusRequest { 1:name string }
SystemSharedMemoryStatusResponse { 1:regions map<string,SystemSharedMemoryStatusResponse.RegionStatus> }
SystemSharedMemoryStatusResponse.RegionStatus { 1:name string; 2:key string; 3:offset uint64; 4:byte_size uint64 }
SystemSharedMemoryRegisterRequest { 1:name string; 2:key string; 3:offset uint64; 4:byte_size uint64 }
SystemSharedMemoryRegisterResponse { }
SystemSharedMemoryUnregisterRequest { 1:name string }
SystemSharedMemoryUnregisterResponse { }
ModelInstanceGroup { 1:name string; 4:kind Kind; 2:count int32; 6:rate_limiter ModelRateLimiter; 3:gpus[] int32;
    8:secondary_devices[] ModelInstanceGroup.SecondaryDevice; 5:profile[] string; 7:passive bool; 9:host_policy
    string }
ModelInput { 1:name string; 2:data_type DataType; 3:format Format; 4:dims[] int64; 5:reshape ModelTensorReshape;
    6:is_shape_tensor bool; 7:allow_ragged_batch bool; 8:optional bool }
ModelOutput { 1:name string; 2:data_type DataType; 3:dims[] int64; 5:reshape ModelTensorReshape; 4:label_filename
    string; 6:is_shape_tensor bool }
ModelVersionPolicy { 1:latest ModelVersionPolicy.Latest(oneof policy_choice); 2:all ModelVersionPolicy.All(oneof
    policy_choice); 3:specific ModelVersionPolicy.Specific(oneof policy_choice) }
ModelVersionPolicy.Latest { 1:num_versions uint32 }
ModelVersionPolicy.All { }
ModelVersionPolicy.Specific { 1:versions[] int64 }
ModelQueuePolicy { 1:timeout_action TimeoutAction; 2:default_timeout_microseconds uint64; 3:allow_timeout_override
    bool; 4:max_queue_size uint32 }
ModelDynamicBatching { 1:preferred_batch_size[] int32; 2:max_queue_delay_microseconds uint64; 3:preserve_ordering
    bool; 4:priority_levels uint64; 5:default_priority_level uint64; 6:default_queue_policy ModelQueuePolicy;
    7:priority_queue_policy map<uint64,ModelQueuePolicy> }
ModelParameter { 1:string_value string }
ModelWarmup { 1:name string; 2:batch_size uint32; 3:inputs map<string,ModelWarmup.Input>; 4:count uint32 }
ModelWarmup.Input { 1:data_type DataType; 2:dims[] int64; 3:zero_data bool(oneof input_data_type); 4:random_data
    bool(oneof input_data_type); 5:input_data_file string(oneof input_data_type) }
ModelTransactionPolicy { 1:decoupled bool }
ModelResponseCache { 1:enable bool }
ModelConfig { 1:name string; 2:platform string; 17:backend string; 3:version_policy ModelVersionPolicy;
    4:max_batch_size int32; 5:input[] ModelInput; 6:output[] ModelOutput; 20:batch_input[] BatchInput;
    21:batch_output[] BatchOutput; 12:optimization ModelOptimizationPolicy; 11:dynamic_batching
    ModelDynamicBatching(oneof scheduling_choice); 13:sequence_batching ModelSequenceBatching(oneof
    scheduling_choice); 15:ensemble_scheduling ModelEnsembling(oneof scheduling_choice); 7:instance_group[]
    ModelInstanceGroup; 8:default_model_filename string; 9:cc_model_filenames map<string,string>; 10:metric_tags
    map<string,string>; 14:parameters map<string,ModelParameter>; 16:model_warmup[] ModelWarmup; 18:model_operations
    ModelOperations; 19:model_transaction_policy ModelTransactionPolicy; 23:model_repository_agents
    ModelRepositoryAgents; 24:response_cache ModelResponseCache }
"""

ENUMS = {
    "DataType": {
        "TYPE_INVALID": 0, "TYPE_BOOL": 1, "TYPE_UINT8": 2, "TYPE_UINT16": 3, "TYPE_UINT32": 4, "TYPE_UINT64": 5,
        "TYPE_INT8": 6, "TYPE_INT16": 7, "TYPE_INT32": 8, "TYPE_INT64": 9, "TYPE_FP16": 10, "TYPE_FP32": 11,
        "TYPE_FP64": 12, "TYPE_STRING": 13, "TYPE_BF16": 14,
    },
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2, "KIND_MODEL": 3},
    "ModelInput.Format": {"FORMAT_NONE": 0, "FORMAT_NHWC": 1, "FORMAT_NCHW": 2},
    "ModelQueuePolicy.TimeoutAction": {"REJECT": 0, "DELAY": 1},
}  # fmt: skip

UNARY = (
    "ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelConfig",
    "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
)  # fmt: skip
BIDIRECTIONAL = ("ModelStreamInfer",)

_FIELD = re.compile(r"(\d+):(\w+)(\[\])? ([\w.<>,]+)(?:\(oneof (\w+)\))?")


@dataclass(frozen=True)
class Field:
    """One line of the table. `kind` is a scalar's name, a message's, or map<key,value>."""

    number: int
    name: str
    repeated: bool
    kind: str
    oneof: str | None


def messages() -> dict[str, list[Field]]:
    """Return the fields of every message of the table."""
    return {name: list(_fields(body)) for name, body in re.findall(r"(\S+) \{(.*?)\}", MESSAGES, re.DOTALL)}


def _fields(body: str) -> Iterator[Field]:
    for text in filter(None, (" ".join(part.split()) for part in body.split(";"))):
        number, name, brackets, kind, oneof = _FIELD.fullmatch(text).groups()
        yield Field(int(number), name, brackets is not None, kind, oneof)


def main() -> None:
    """Write the models into a folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.conformance", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    write_models(folder)


if __name__ == "__main__":
    main()
