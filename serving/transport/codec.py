"""Protobuf messages of ModelInfer and the server's own nouns, in both directions. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from serving.errors import InvalidRequest, ServingError
from serving.pb import open_inference_pb2 as pb
from serving.tensors import raw_view, to_raw, to_typed
from serving.types import InferAnswer, InferRequest, InputTensor, ParameterValue, RequestedOutput

M = TypeVar("M", bound=Message)

RAW_OUTPUT_CONTENTS = bytes([6 << 3 | 2])
"""The key of this field of ModelInferResponse, its last one."""

ENTRIES_MAX = 4096
"""Inputs, outputs, raw contents and parameters of one request, each."""


def parse(kind: type[M], data: bytes) -> M:
    """Parse a message. Raises InvalidRequest."""
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidRequest(f"the request is not a valid {kind.DESCRIPTOR.full_name} message") from None


def decode_request(data: bytes) -> InferRequest:
    """Read a ModelInferRequest. Raises InvalidRequest when it is no such message; its content is not judged here."""
    message = parse(pb.ModelInferRequest, data)
    _check_counts(message)
    raw = list(message.raw_input_contents)
    per_input: Iterable[bytes | None] = raw if len(raw) == len(message.inputs) else [None] * len(message.inputs)
    return InferRequest(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        inputs=tuple(
            InputTensor(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape),
                raw=contents,
                typed=_typed_fields(tensor) if tensor.HasField("contents") else {},
                parameters=_parameters(tensor.parameters),
            )
            for tensor, contents in zip(message.inputs, per_input, strict=True)
        ),
        outputs=tuple(RequestedOutput(output.name, _parameters(output.parameters)) for output in message.outputs),
        parameters=_parameters(message.parameters),
        raw_count=len(raw),
        wire_bytes=len(data),
    )


def encode_answer(answer: InferAnswer) -> list[bytes | memoryview]:
    """Write a ModelInferResponse, in pieces that join to what protobuf would write: raw contents are not copied."""
    pieces: list[bytes | memoryview] = [_answer_message(answer).SerializeToString()]
    if answer.raw:
        for output in answer.outputs:
            contents = raw_view(output.datatype, output.array)
            pieces += [RAW_OUTPUT_CONTENTS + _varint(len(contents)), contents]
    return pieces


def encode_whole(answer: InferAnswer) -> bytes:
    """Write a ModelInferResponse, in one piece."""
    return b"".join(encode_answer(answer))


def encode_stream_answer(answer: InferAnswer) -> bytes:
    """Write a ModelStreamInferResponse."""
    message = _answer_message(answer)
    if answer.raw:
        message.raw_output_contents.extend(to_raw(output.datatype, output.array) for output in answer.outputs)
    return pb.ModelStreamInferResponse(infer_response=message).SerializeToString()


def encode_stream_error(error: ServingError, request_id: str) -> bytes:
    """Write a ModelStreamInferResponse that says what went wrong, with the id of its request."""
    message = pb.ModelStreamInferResponse(error_message=error.message)
    message.infer_response.id = request_id
    return message.SerializeToString()


def _check_counts(message: pb.ModelInferRequest) -> None:
    """Refuse what no model has before anything is made of it: a message can hold millions of empty entries."""
    counts = {
        "inputs": len(message.inputs),
        "outputs": len(message.outputs),
        "raw_input_contents": len(message.raw_input_contents),
        "parameters": len(message.parameters),
    }
    for name, count in counts.items():
        if count > ENTRIES_MAX:
            raise InvalidRequest(f"the request has {count} {name}, expected at most {ENTRIES_MAX}")


def _typed_fields(tensor: Any) -> dict[str, Any]:
    return {field.name: values for field, values in tensor.contents.ListFields()}


def _parameters(parameters: Mapping[str, Any]) -> dict[str, ParameterValue]:
    """Read a map of parameters; one without a value counts as an empty string."""
    values: dict[str, ParameterValue] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else ""
    return values


def _varint(number: int) -> bytes:
    """Write a number as protobuf does: seven bits per byte, the lowest first."""
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _answer_message(answer: InferAnswer) -> pb.ModelInferResponse:
    """Make an answer's message but for its raw contents."""
    message = pb.ModelInferResponse(model_name=answer.model_name, model_version=str(answer.model_version), id=answer.id)
    for output in answer.outputs:
        tensor = message.outputs.add(name=output.name, datatype=output.datatype.wire_name, shape=output.array.shape)
        if not answer.raw:
            assert output.datatype.typed_field is not None, "bug: an answer with an untyped output is raw"
            getattr(tensor.contents, output.datatype.typed_field).extend(to_typed(output.datatype, output.array))
    return message
