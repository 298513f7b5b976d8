"""Every RPC of the inference service, bytes in and bytes out, on the I/O thread.

Answers about what is loaded are given at once. Loading and unloading run on a worker; inference is answered when its
batch has run.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Executor

from google.protobuf.message import Message

from serving import __version__
from serving.controlplane import ControlPlane
from serving.dataplane import DataPlane, InFlight
from serving.errors import Cancelled, InternalError, InvalidRequest, NotOffered, Overloaded, ServingError
from serving.model import Post, Servable
from serving.pb import open_inference_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.transport import describe
from serving.transport.calls import SERVICE, STREAM_MESSAGES_MAX, Call, Stream, StreamMethod, UnaryMethod, immediate
from serving.transport.codec import M, encode_answer, encode_stream_answer, encode_stream_error, encode_whole, parse
from serving.transport.large import LargeMessages
from serving.types import Datatype, InferAnswer, InferRequest

CHANGES_WAITING_MAX = 64
"""Loads and unloads that wait for a worker or run; further ones are refused."""

EXTENSIONS = ("model_repository", "model_configuration", "binary_tensor_data", "statistics")

_log = logging.getLogger(__name__)


class InferenceService:
    """The methods of `inference.GRPCInferenceService`."""

    def __init__(
        self, repository: ModelRepository, data_plane: DataPlane, control_plane: ControlPlane,
        *, large: LargeMessages, worker: Executor, post: Post, why_not_ready: Callable[[], str],
    ) -> None:  # fmt: skip
        self._repository = repository
        self._data_plane = data_plane
        self._control_plane = control_plane
        self._large = large
        self._worker = worker
        self._post = post
        self._why_not_ready = why_not_ready
        self._changes_waiting = 0

    def unary(self) -> dict[str, UnaryMethod]:
        """Return the unary methods by path."""
        answers: dict[str, Callable[[bytes], Message]] = {
            "ServerLive": _server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": _server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
        }
        methods: dict[str, UnaryMethod] = {name: immediate(answer) for name, answer in answers.items()}
        methods["ModelInfer"] = self._infer
        methods["RepositoryModelLoad"] = self._load
        methods["RepositoryModelUnload"] = self._unload
        for verb in ("Status", "Register", "Unregister"):
            methods[f"SystemSharedMemory{verb}"] = _not_offered
        return {f"/{SERVICE}/{name}": method for name, method in methods.items()}

    def streaming(self) -> dict[str, StreamMethod]:
        """Return the streaming methods by path."""
        return {f"/{SERVICE}/ModelStreamInfer": lambda stream: InferStream(self._data_plane, self._large, stream)}

    # ---- inference -------------------------------------------------------------------------------------------------

    def _infer(self, data: bytes, call: Call) -> None:
        gone = False

        def note_gone() -> None:
            nonlocal gone
            gone = True

        def start(request: InferRequest | ServingError) -> None:
            if isinstance(request, ServingError):
                self._data_plane.refuse(request, call.settle)
            elif gone:
                call.settle(Cancelled("the client cancelled the request"))
            else:
                self.infer(request, call)

        call.on_cancel = note_gone
        self._large.decode(data, start)

    def infer(self, request: InferRequest, call: Call) -> None:
        """Answer a request that has been decoded."""

        def settle(result: InferAnswer | ServingError) -> None:
            if isinstance(result, ServingError):
                call.settle(result)
            elif call.takes_pieces and result.raw and not _has_strings(result):
                call.settle(encode_answer(result))  # next to nothing is copied, however large it is
            else:
                self._large.encode(result, encode_whole, call.settle)

        traceparent = call.traceparent if self._data_plane.tracer is not None else ""
        in_flight = self._data_plane.infer(
            request, deadline_ns=call.deadline_ns, settle=settle, route=call.route, traceparent=traceparent
        )
        call.on_cancel = in_flight.cancel if in_flight is not None else None

    # ---- metadata, statistics --------------------------------------------------------------------------------------

    def _with_servable(self, name: str, version: str, describe_it: Callable[[Servable], M]) -> M:
        handle = self._repository.find(name, version)
        try:
            return describe_it(handle.servable)
        finally:
            handle.release()

    def _server_ready(self, data: bytes) -> Message:
        parse(pb.ServerReadyRequest, data)
        return pb.ServerReadyResponse(ready=not self._why_not_ready())

    def _model_ready(self, data: bytes) -> Message:
        request = parse(pb.ModelReadyRequest, data)
        return pb.ModelReadyResponse(ready=self._repository.is_ready(request.name, request.version))

    def _model_metadata(self, data: bytes) -> Message:
        request = parse(pb.ModelMetadataRequest, data)
        versions = self._repository.ready_versions(request.name)
        return self._with_servable(
            request.name, request.version, lambda servable: describe.metadata(servable, versions)
        )

    def _model_config(self, data: bytes) -> Message:
        request = parse(pb.ModelConfigRequest, data)
        return self._with_servable(request.name, request.version, describe.config)

    def _model_statistics(self, data: bytes) -> Message:
        request = parse(pb.ModelStatisticsRequest, data)
        if request.version:
            one = self._with_servable(request.name, request.version, describe.statistics)
            return pb.ModelStatisticsResponse(model_stats=[one])
        if request.name:
            self._repository.ready_versions(request.name)  # raises UnknownModel
        return pb.ModelStatisticsResponse(
            model_stats=[
                describe.statistics(servable)
                for servable in self._repository.servables()
                if request.name in {"", servable.name}
            ]
        )

    # ---- the model repository --------------------------------------------------------------------------------------

    def _repository_index(self, data: bytes) -> Message:
        request = parse(pb.RepositoryIndexRequest, data)
        _check_repository_name(request.repository_name)
        return describe.index(self._control_plane.index(ready_only=request.ready))

    def _load(self, data: bytes, call: Call) -> None:
        def prepare() -> Callable[[], None]:
            request = parse(pb.RepositoryModelLoadRequest, data)
            _check_repository_name(request.repository_name)
            for name in request.parameters:
                if name == "config" or name.startswith("file:"):
                    raise InvalidRequest(f"parameter '{name}' is not offered; write the file into the model repository")
            return lambda: self._control_plane.load(request.model_name)

        self._on_worker(call, prepare, pb.RepositoryModelLoadResponse())

    def _unload(self, data: bytes, call: Call) -> None:
        def prepare() -> Callable[[], None]:
            request = parse(pb.RepositoryModelUnloadRequest, data)
            _check_repository_name(request.repository_name)
            return lambda: self._control_plane.unload(request.model_name)

        self._on_worker(call, prepare, pb.RepositoryModelUnloadResponse())

    def _on_worker(self, call: Call, prepare: Callable[[], Callable[[], None]], answer: Message) -> None:
        """Check that the peer may, then do what `prepare` returns on a worker, and settle on the I/O thread."""
        try:
            self._control_plane.check_access(call.peer_host, call.peer_names)
            work = prepare()
        except ServingError as error:
            call.settle(error)
            return

        if self._changes_waiting >= CHANGES_WAITING_MAX:
            call.settle(
                Overloaded(
                    f"{CHANGES_WAITING_MAX} loads and unloads wait already; try again later", retry_after_ms=1_000
                )
            )
            return

        def run() -> None:
            result: bytes | ServingError
            try:
                work()
                result = answer.SerializeToString()
            except ServingError as error:
                result = error
            except Exception:  # noqa: BLE001 - a bug of ours must not leave the client without an answer
                _log.exception("a control-plane call failed")
                result = InternalError()
            self._post(lambda: call.settle(result))

        self._changes_waiting += 1
        change = self._worker.submit(run)

        def over() -> None:
            self._changes_waiting -= 1
            if change.cancelled():
                call.settle(Cancelled("the client cancelled the request"))

        change.add_done_callback(lambda _: self._post(over))

        def give_up() -> None:
            change.cancel()  # does nothing once it runs

        call.on_cancel = give_up


class InferStream:
    """One ModelStreamInfer call: an answer per request, as they finish, each with its request's id.

    At most `STREAM_MESSAGES_MAX` requests are in work at a time; then the stream is not read until one is answered.
    """

    def __init__(self, data_plane: DataPlane, large: LargeMessages, stream: Stream) -> None:
        self._data_plane = data_plane
        self._large = large
        self._stream = stream
        self._in_flight: dict[int, InFlight | None] = {}
        self._next_key = 0
        self._half_closed = False
        self._over = False

    def message(self, data: bytes) -> None:
        """Start one request."""
        key = self._next_key
        self._next_key += 1
        self._in_flight[key] = None
        let_go = self._stream.keep(len(data))

        def decoded(request: InferRequest | ServingError) -> None:
            let_go()
            self._start(key, request)

        self._large.decode(data, decoded)
        if len(self._in_flight) >= STREAM_MESSAGES_MAX:
            self._stream.pause()

    def half_closed(self) -> None:
        """End the call once everything is answered."""
        self._half_closed = True
        self._finish_if_done()

    def cancelled(self) -> None:
        """Drop every request that is still in work."""
        self._over = True
        for in_flight in list(self._in_flight.values()):
            if in_flight is not None:
                in_flight.cancel()

    def _start(self, key: int, request: InferRequest | ServingError) -> None:
        if isinstance(request, ServingError):
            self._data_plane.refuse(request, lambda refusal: self._answer(key, encode_stream_error(refusal, "")))
            return
        if self._over:
            return

        def settle(result: InferAnswer | ServingError) -> None:
            if isinstance(result, ServingError):
                self._answer(key, encode_stream_error(result, request.id))
            else:
                self._large.encode(result, encode_stream_answer, lambda answer: self._encoded(key, answer, request.id))

        stream = self._stream
        in_flight = self._data_plane.infer(request, deadline_ns=stream.deadline_ns, settle=settle, route=stream.route)
        if in_flight is not None:
            self._in_flight[key] = in_flight

    def _encoded(self, key: int, answer: bytes | ServingError, request_id: str) -> None:
        self._answer(key, encode_stream_error(answer, request_id) if isinstance(answer, ServingError) else answer)

    def _answer(self, key: int, answer: bytes) -> None:
        del self._in_flight[key]
        if self._over:
            return
        self._stream.send(answer)
        self._stream.resume()
        self._finish_if_done()

    def _finish_if_done(self) -> None:
        if self._half_closed and not self._in_flight:
            self._stream.finish()


def _has_strings(answer: InferAnswer) -> bool:
    return any(output.datatype is Datatype.BYTES for output in answer.outputs)


def _server_live(data: bytes) -> Message:
    parse(pb.ServerLiveRequest, data)
    return pb.ServerLiveResponse(live=True)


def _server_metadata(data: bytes) -> Message:
    parse(pb.ServerMetadataRequest, data)
    return pb.ServerMetadataResponse(name="penstock", version=__version__, extensions=EXTENSIONS)


def _not_offered(_data: bytes, call: Call) -> None:
    call.settle(NotOffered("shared memory is not offered by this server; send tensors in the request"))


def _check_repository_name(name: str) -> None:
    if name:
        raise InvalidRequest(
            f"unknown repository '{name}'; this server has one model repository, so leave the name empty"
        )
