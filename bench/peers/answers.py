"""Whether a peer answers as onnxruntime does in this process: a server that answers wrongly is not worth measuring.

Requests are sent one after another, then all at once, because a server that mixes up a batch is right about each
request alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import grpc
import numpy as np

from bench.peers.model import PeerModel
from bench.peers.peer import HOST, PeerFailed
from serving.errors import ConfigError, InvalidRequest, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.tensors import from_raw
from serving.transport.calls import SERVICE
from serving.transport.client import read_outputs
from serving.types import Array, Datatype, TensorSpec

CHECKED_MAX = 16
"""Requests that are compared."""
TOLERANCES: Mapping[Datatype, float] = {
    Datatype.FP16: 1e-2,
    Datatype.BF16: 2e-2,
    Datatype.FP32: 1e-3,
    Datatype.FP64: 1e-3,
}
"""Of each datatype's value, and of the largest value of its tensor a tenth of it: above what releases of onnxruntime
and batches differ by, below any wrong answer. Other datatypes are to be the same."""
_ANSWER_S_MAX = 60.0
_MESSAGE_BYTES_MAX = (1 << 31) - 1

Outputs = Mapping[str, Array]


def expected(model: PeerModel, requests: Sequence[bytes]) -> list[Outputs]:
    """Return what onnxruntime answers to the first encoded requests. Raises ConfigError for one that does not fit."""
    session = model.open()
    names = [spec.name for spec in model.signature.outputs]
    try:
        return [
            dict(zip(names, session.run(_inputs(model, request)), strict=True)) for request in requests[:CHECKED_MAX]
        ]
    except ConfigError:
        raise
    except InvalidRequest as error:
        raise ConfigError(f"a request for model '{model.name}' cannot be read: {error}") from None
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"model '{model.name}' fails on the payload: {said}; send other rows") from None
    finally:
        session.close()


def check(model: PeerModel, port: int, requests: Sequence[bytes], answers: Sequence[Outputs]) -> None:
    """Compare what the peer on a port answers with what is expected. Raises PeerFailed when it is something else."""
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.enable_http_proxy", 0),
    ]
    with grpc.insecure_channel(f"{HOST}:{port}", options) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        for request, answer in zip(requests, answers, strict=False):
            _compare(model, infer.future(request, timeout=_ANSWER_S_MAX), answer)
        at_once = [infer.future(request, timeout=_ANSWER_S_MAX) for request in requests[: len(answers)]]
        for call, answer in zip(at_once, answers, strict=True):
            _compare(model, call, answer, f" to {len(answers)} requests at once")


def _inputs(model: PeerModel, request: bytes) -> list[Array]:
    """Read a request's tensors, in the model's order."""
    message = pb.ModelInferRequest.FromString(request)
    if message.model_name != model.name:
        raise ConfigError(f"a request is for model '{message.model_name}', expected '{model.name}'")
    found = {
        tensor.name: from_raw(tensor.name, _datatype(model, tensor), tuple(tensor.shape), raw)
        for tensor, raw in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    missing = [spec.name for spec in model.signature.inputs if spec.name not in found]
    if missing:
        raise ConfigError(f"a request lacks input '{missing[0]}', it has {', '.join(found) or 'none'}")
    return [found[spec.name] for spec in model.signature.inputs]


def _datatype(model: PeerModel, tensor: Any) -> Datatype:
    for spec in model.signature.inputs:
        if spec.name == tensor.name and spec.datatype.wire_name == tensor.datatype:
            return spec.datatype
    names = ", ".join(f"'{spec.name}' {spec.datatype.wire_name}" for spec in model.signature.inputs)
    raise ConfigError(f"a request has input '{tensor.name}' {tensor.datatype}, the model takes {names}")


def _compare(model: PeerModel, call: Any, answer: Outputs, when: str = "") -> None:
    try:
        outputs = read_outputs(pb.ModelInferResponse.FromString(call.result()))
    except grpc.RpcError as error:
        status = cast("grpc.Call", error)
        raise PeerFailed(f"gives {status.code().name}{when}: {status.details() or ''}") from None
    except RemoteError as error:
        raise PeerFailed(f"answers wrongly{when}: {error}") from None
    for spec in model.signature.outputs:
        if spec.name not in outputs:
            raise PeerFailed(f"answers wrongly{when}: no output '{spec.name}', it sent {', '.join(outputs) or 'none'}")
        if difference := _difference(spec, outputs[spec.name], answer[spec.name]):
            raise PeerFailed(f"answers wrongly{when}: output '{spec.name}' {difference}")


def _difference(spec: TensorSpec, received: Array, right: Array) -> str | None:
    """Say in which way an output is not the right one, if it is not."""
    if right.ndim == 1 and received.shape == (len(right), 1):
        received = received.reshape(right.shape)  # Triton has no rows of a single number, and makes lists of one
    if received.shape != right.shape:
        return f"has shape {list(received.shape)}, onnxruntime's has {list(right.shape)}"
    if received.dtype != right.dtype:
        return f"is {received.dtype}, onnxruntime's is {right.dtype}"
    tolerance = TOLERANCES.get(spec.datatype)
    if tolerance is None:
        wrong = received != right
    else:
        one, other = _numbers(spec, received), _numbers(spec, right)
        largest = np.max(np.abs(other), initial=0.0, where=np.isfinite(other))
        wrong = ~np.isclose(one, other, tolerance, tolerance / 10 * largest, equal_nan=True)
    if not np.any(wrong):
        return None
    place = tuple(int(index) for index in np.argwhere(wrong)[0])
    return f"is {received[place]} at {list(place)}, onnxruntime says {right[place]}"


def _numbers(spec: TensorSpec, array: Array) -> "np.ndarray[Any, np.dtype[np.float64]]":
    if spec.datatype is Datatype.BF16:
        return (array.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return array.astype(np.float64)
