"""The other end of the wire: a small synchronous client for the commands, with tensors as numpy arrays."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import grpc
import numpy as np

from serving.errors import InvalidRequest, RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.tensors import from_raw, from_typed, to_raw
from serving.transport.calls import SERVICE
from serving.transport.codec import M
from serving.transport.pem import read_authorities, read_key_pair, read_system_authorities
from serving.types import DATATYPES, Array, Datatype

_MESSAGE_BYTES_MAX = 2**31 - 1
_CLOSED = r"Socket closed|[Cc]onnection reset|End of TCP stream|FD [Ss]hutdown|Broken pipe"


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How to speak TLS with a server.

    `ca` is the PEM file of the CAs to trust; without one, those that this machine trusts. `cert` and `key` are what to
    show to a server that asks for a client certificate (mTLS).
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises ConfigError."""
        authorities = read_authorities(self.ca) if self.ca else read_system_authorities()
        if self.cert is None or self.key is None:
            return grpc.ssl_channel_credentials(authorities)
        pair = read_key_pair(self.cert, self.key)
        return grpc.ssl_channel_credentials(authorities, pair.key, pair.chain)


class Client:
    """A connection to an Open Inference Protocol server. Not thread-safe; close it, or use it in a `with`.

    Without `tls` it is not encrypted.
    """

    def __init__(self, address: str, *, timeout_s: float = 60.0, tls: ClientTls | None = None) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._tls = tls
        options = [
            ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = (
            grpc.insecure_channel(address, options)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def call(self, method: str, request: Any, answer: type[M], *, service: str = SERVICE) -> M:
        """Call a unary method, of the inference service if no other is named. Raises RemoteError."""
        invoke = self._channel.unary_unary(f"/{service}/{method}")
        try:
            data = invoke(request.SerializeToString(), timeout=self._timeout_s)
        except grpc.RpcError as error:
            status = cast("grpc.Call", error)
            message = status.details() or ""
            if status.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in message:
                message = _why_not_connected(message, self._address, self._tls)
            raise RemoteError(status.code().name, message) from None
        return answer.FromString(data)

    def metadata(self, model: str, version: str = "") -> pb.ModelMetadataResponse:
        """Return the names, datatypes and shapes of a model's tensors."""
        request = pb.ModelMetadataRequest(name=model, version=version)
        return self.call("ModelMetadata", request, pb.ModelMetadataResponse)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, tuple[Datatype, Array]],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
    ) -> tuple[pb.ModelInferResponse, dict[str, Array]]:
        """Send one request in raw form; return the answer's message and its outputs by name."""
        request = infer_message(model, inputs, version=version, outputs=outputs)
        response = self.call("ModelInfer", request, pb.ModelInferResponse)
        return response, read_outputs(response)


def _why_not_connected(details: str, address: str, tls: ClientTls | None) -> str:
    """Say in a person's words why there is no connection, and what to do. `details` are grpcio's."""
    if refusal := re.search(r"CERTIFICATE_VERIFY_FAILED(?:: ([^:]+))?", details):
        reason = f" ({refusal[1]})" if refusal[1] else ""
        return f"the certificate of {address} is not to be trusted{reason}; name the PEM file of its CA with --tls-ca"
    if "Hostname Verification" in details:
        return f"the certificate of {address} is for another name; name in --address one that the certificate holds"
    if "WRONG_VERSION_NUMBER" in details:
        return f"{address} answers without TLS; leave out --tls and its kin, or name the port that speaks it"
    if tls is None and re.search(_CLOSED, details):
        return f"{address} closed the connection at once; if it speaks TLS, add --tls-ca FILE, or --tls"
    if re.search(_CLOSED, details):
        shown = "the certificate in --tls-cert" if tls and tls.cert else "a client without a certificate"
        remedy = "one of a CA that the server trusts" if tls and tls.cert else "--tls-cert FILE --tls-key FILE"
        return f"{address} closed the connection; it may refuse {shown}: give {remedy}"
    return f"no server answers at {address}; start one with `penstock serve`, or name --address"


def infer_message(
    model: str, inputs: Mapping[str, tuple[Datatype, Array]], *, version: str = "", outputs: Sequence[str] = ()
) -> pb.ModelInferRequest:
    """Build a request with raw contents."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    for name, (datatype, array) in inputs.items():
        request.inputs.add(name=name, datatype=datatype.wire_name, shape=array.shape)
        request.raw_input_contents.append(to_raw(datatype, array))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def read_outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """Return the outputs of an answer by name, whether they came raw or typed. Raises RemoteError."""
    arrays: dict[str, Array] = {}
    try:
        for index, tensor in enumerate(response.outputs):
            datatype, shape = DATATYPES[tensor.datatype], tuple(tensor.shape)
            if response.raw_output_contents:
                arrays[tensor.name] = from_raw(tensor.name, datatype, shape, response.raw_output_contents[index])
            else:
                field = datatype.typed_field
                elements = getattr(tensor.contents, field) if field else ()
                arrays[tensor.name] = from_typed(tensor.name, datatype, shape, elements)
    except (KeyError, IndexError, InvalidRequest) as error:
        raise RemoteError("INTERNAL", f"the server's answer breaks the protocol: {error}") from None
    return arrays


def as_datatype(name: str, values: Any, datatype: Datatype) -> Array:
    """Convert what a person wrote to an array of a datatype. Raises InvalidRequest."""
    try:
        if datatype is Datatype.BYTES:
            return np.asarray(values, np.object_)
        if datatype is Datatype.BF16:
            single = np.asarray(values, np.float32)
            return _to_bfloat16(single)
        array = np.asarray(values)
        if datatype.dtype.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
            raise InvalidRequest(f"input '{name}' holds fractions, expected whole numbers for {datatype.wire_name}")
        with np.errstate(over="raise"):
            return np.ascontiguousarray(np.asarray(values, datatype.dtype))
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise InvalidRequest(f"input '{name}' cannot be read as {datatype.wire_name}: {error}") from None


def _to_bfloat16(single: "np.ndarray[Any, np.dtype[np.float32]]") -> Array:
    """Round float32 to bfloat16, to nearest and ties to even, as its 16 bits."""
    bits = np.ascontiguousarray(single).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet_nan = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(single), quiet_nan, rounded).astype(np.uint16)
