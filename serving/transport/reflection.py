"""Server reflection, v1 and v1alpha, so that grpcurl and its like need no .proto files.

The two versions are the same messages under two package names, so one servicer answers both; v1's own descriptor is
made from v1alpha's by renaming. Source: grpc/doc/server-reflection.md.
"""

from collections.abc import Iterable

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import ReflectionServicer

from serving.errors import ServingError
from serving.pb import open_inference_pb2, penstock_pb2
from serving.transport.calls import Stream, StreamMethod
from serving.transport.codec import parse

_V1ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
SERVICES = (f"{_V1}.ServerReflection", f"{_V1ALPHA}.ServerReflection")


class ReflectionService:
    """Answers questions about the services named at construction and about itself."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = ReflectionServicer([*services, *SERVICES], _pool())

    def streaming(self) -> dict[str, StreamMethod]:
        """Return the streaming methods by path."""
        return {f"/{service}/ServerReflectionInfo": self._open for service in SERVICES}

    def answer(self, data: bytes) -> bytes:
        """Answer one question. Raises InvalidRequest."""
        request = parse(reflection_pb2.ServerReflectionRequest, data)
        (response,) = self._servicer.ServerReflectionInfo(iter((request,)), None)
        answer: bytes = response.SerializeToString()
        return answer

    def _open(self, stream: Stream) -> "ReflectionStream":
        return ReflectionStream(self, stream)


class ReflectionStream:
    """One reflection call: an answer per question, in order."""

    def __init__(self, service: ReflectionService, stream: Stream) -> None:
        self._service = service
        self._stream = stream

    def message(self, data: bytes) -> None:
        """Answer a question."""
        try:
            self._stream.send(self._service.answer(data))
        except ServingError as error:
            self._stream.finish(error)

    def half_closed(self) -> None:
        """No more questions."""
        self._stream.finish()

    def cancelled(self) -> None:
        """The client went away; nothing is held for it."""


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for module in (open_inference_pb2, penstock_pb2, health_pb2, reflection_pb2):
        _add(pool, module.DESCRIPTOR)
    v1alpha = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(v1alpha)
    pool.AddSerializedFile(_renamed(v1alpha).SerializeToString())
    return pool


def _add(pool: DescriptorPool, descriptor: FileDescriptor) -> None:
    for dependency in descriptor.dependencies:
        _add(pool, dependency)
    pool.AddSerializedFile(descriptor.serialized_pb)


def _renamed(v1alpha: FileDescriptorProto) -> FileDescriptorProto:
    """Return v1alpha's file under v1's names."""
    v1 = FileDescriptorProto()
    v1.CopyFrom(v1alpha)
    v1.name = "grpc/reflection/v1/reflection.proto"
    v1.package = _V1
    fields = [field for message in v1.message_type for field in message.field if field.type_name]
    for field in fields:
        field.type_name = field.type_name.replace(_V1ALPHA, _V1)
    for method in v1.service[0].method:
        method.input_type = method.input_type.replace(_V1ALPHA, _V1)
        method.output_type = method.output_type.replace(_V1ALPHA, _V1)
    return v1
