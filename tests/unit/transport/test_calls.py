"""The services through their seam: bytes in, an answer on a call or a stream, without a socket."""

from concurrent.futures import Future

import numpy as np
import pytest

from serving.admission import Admission
from serving.controlplane import ControlPlane
from serving.dataplane import DataPlane
from serving.errors import Cancelled, Forbidden, InvalidRequest, NotOffered, Overloaded, ServingError, UnknownModel
from serving.pb import open_inference_pb2 as pb
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.transport.calls import SERVICE, STREAM_MESSAGES_MAX
from serving.transport.large import LargeMessages
from serving.transport.services import CHANGES_WAITING_MAX, InferenceService
from tests.support.clocks import FakeClock
from tests.support.sessions import DEADLINE_S, HeldSession, Posts, servable


class FakeCall:
    """A unary call: keeps its one answer."""

    takes_pieces = True
    route = 0

    def __init__(self, peer_host="127.0.0.1"):
        self.peer_host, self.deadline_ns, self.on_cancel, self.answers = peer_host, None, None, []
        self.peer_names = ()

    def settle(self, answer):
        self.answers.append(answer)


class FakeStream:
    """A streaming call: keeps what was sent."""

    route = 0

    def __init__(self):
        self.deadline_ns, self.sent, self.finished, self.error, self.paused = None, [], False, None, False
        self.kept_bytes = 0

    def send(self, message):
        self.sent.append(pb.ModelStreamInferResponse.FromString(message))

    def finish(self, error=None):
        self.finished, self.error = True, error

    def keep(self, octets):
        self.kept_bytes += octets

        def let_go():
            self.kept_bytes -= octets

        return let_go

    def pause(self):
        self.paused = True

    def resume(self):
        self.paused = False


class Now:
    """An executor that works at once, on the caller's thread."""

    def submit(self, work):
        work()
        return Future()


class World:
    def __init__(self, root):
        folder = root / "m" / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
        clock, self.posts, self.session = FakeClock(), Posts(), HeldSession()
        self.repository = ModelRepository(
            root, lambda name, version, *_: servable(self.session, clock, self.posts, name=name, version=version),
            clock, drain_timeout_s=DEADLINE_S, changed=lambda: None,
        )  # fmt: skip
        self.repository.load_all()
        self.admission = Admission(1000)
        plane = DataPlane(self.repository, self.admission, RequestCounters(), clock=clock, timers=clock)
        service = InferenceService(
            self.repository, plane, ControlPlane(self.repository, "loopback"),
            large=LargeMessages(Now(), lambda callback: callback()),
            worker=Now(), post=lambda callback: callback(), why_not_ready=self.repository.why_not_ready,
        )  # fmt: skip
        self.unary, self.streaming = service.unary(), service.streaming()

    def call(self, method, request, answer=None, **facts):
        """Call a unary method that answers at once."""
        call = FakeCall(**facts)
        data = request if isinstance(request, bytes) else request.SerializeToString()
        self.unary[f"/{SERVICE}/{method}"](data, call)
        (result,) = call.answers
        return result if isinstance(result, ServingError) else answer.FromString(result)

    def infer(self, message):
        call = FakeCall()
        self.unary[f"/{SERVICE}/ModelInfer"](message.SerializeToString(), call)
        return call

    def stream(self):
        stream = FakeStream()
        return stream, self.streaming[f"/{SERVICE}/ModelStreamInfer"](stream)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.session.let_go()
    while world.admission.in_flight:
        world.posts.run()
    world.repository.close()
    assert world.session.closed


def message(value=1.0, *, rows=1, request_id="r", model="m"):
    request = pb.ModelInferRequest(model_name=model, id=request_id)
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 4])
    request.raw_input_contents.append(np.full((rows, 4), value, np.float32).tobytes())
    return request


# ---- unary ---------------------------------------------------------------------------------------------------------


def test_inference_is_answered_when_its_batch_has_run(world):
    call = world.infer(message(3.0))
    assert call.answers == []
    world.posts.run()
    answer = pb.ModelInferResponse.FromString(b"".join(call.answers[0]))
    assert answer.id == "r"
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [7.0] * 4


def test_a_cancelled_call_drops_its_request(world):
    world.session.hold()
    world.infer(message())
    world.session.wait_until_running()
    call = world.infer(message())
    call.on_cancel()
    assert isinstance(call.answers[0], Cancelled)
    assert world.admission.in_flight == 1


@pytest.mark.parametrize(
    "method",
    ["ModelInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex",
     "RepositoryModelLoad", "RepositoryModelUnload"],
)  # fmt: skip
def test_bytes_that_are_no_message_are_refused(world, method):
    answer = world.call(method, b"\xff\xff\xff")
    assert isinstance(answer, InvalidRequest)
    assert "is not a valid inference." in answer.message


@pytest.mark.parametrize("verb", ["Status", "Register", "Unregister"])
def test_shared_memory_is_not_offered(world, verb):
    assert isinstance(world.call(f"SystemSharedMemory{verb}", b""), NotOffered)


def test_readiness_and_statistics_of_an_unknown_model_are_refused(world):
    for method, kind in (
        ("ModelReady", pb.ModelReadyRequest),
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
        ("ModelStatistics", pb.ModelStatisticsRequest),
    ):
        assert isinstance(world.call(method, kind(name="nobody")), UnknownModel)


def test_describing_a_model_leaves_no_handle_in_use(world):
    metadata = world.call("ModelMetadata", pb.ModelMetadataRequest(name="m"), pb.ModelMetadataResponse)
    assert metadata.versions == ["1"]
    assert world.call("ModelConfig", pb.ModelConfigRequest(name="m"), pb.ModelConfigResponse).config.name == "m"
    world.repository.unload("m")
    assert world.session.closed


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_a_peer_elsewhere_may_not_change_what_serves(world, method):
    kind = getattr(pb, f"{method}Request")
    for host in ("10.0.0.1", None):
        assert isinstance(world.call(method, kind(model_name="m"), peer_host=host), Forbidden)
    assert world.repository.ready_versions("m") == [1]


def test_unload_and_load_answer_when_they_are_done(world):
    request = pb.RepositoryModelUnloadRequest(model_name="m")
    world.call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)
    assert world.repository.ready_versions("m") == []
    world.session = HeldSession()
    world.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="m"), pb.RepositoryModelLoadResponse)
    assert world.repository.ready_versions("m") == [1]


@pytest.mark.parametrize("name", ["config", "file:1/model.onnx"])
def test_a_load_with_files_in_it_is_refused(world, name):
    request = pb.RepositoryModelLoadRequest(model_name="m")
    request.parameters[name].string_param = "{}"
    answer = world.call("RepositoryModelLoad", request)
    assert isinstance(answer, InvalidRequest)
    assert f"parameter '{name}' is not offered" in answer.message


def test_there_is_one_repository_without_a_name(world):
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        request = getattr(pb, f"{method}Request")(repository_name="other")
        assert isinstance(world.call(method, request), InvalidRequest)


# ---- streaming -----------------------------------------------------------------------------------------------------


def test_a_stream_answers_every_request_and_ends_after_the_last(world):
    stream, receiver = world.stream()
    world.session.hold()
    for index in range(3):
        receiver.message(message(index, request_id=str(index)).SerializeToString())
    receiver.half_closed()
    assert not stream.finished
    world.session.let_go()
    while not stream.finished:
        world.posts.run()
    assert sorted(answer.infer_response.id for answer in stream.sent) == ["0", "1", "2"]
    assert stream.error is None


def test_a_refused_request_of_a_stream_is_answered_with_its_id_and_the_stream_goes_on(world):
    stream, receiver = world.stream()
    receiver.message(message(request_id="bad", model="nobody").SerializeToString())
    receiver.message(b"\xff\xff\xff")
    receiver.message(message(request_id="good").SerializeToString())
    world.posts.run()
    assert [bool(answer.error_message) for answer in stream.sent] == [True, True, False]
    assert [answer.infer_response.id for answer in stream.sent] == ["bad", "", "good"]
    receiver.half_closed()
    assert stream.finished


def test_a_stream_is_not_read_while_too_many_of_its_requests_are_in_work(world):
    stream, receiver = world.stream()
    world.session.hold()
    for _ in range(STREAM_MESSAGES_MAX):
        assert not stream.paused
        receiver.message(message().SerializeToString())
    assert stream.paused
    world.session.let_go()
    world.posts.run()
    assert not stream.paused


def test_a_client_that_leaves_a_stream_takes_its_requests_along(world):
    stream, receiver = world.stream()
    world.session.hold()
    for _ in range(3):
        receiver.message(message().SerializeToString())
    receiver.cancelled()
    assert world.admission.in_flight == 0
    assert stream.sent == []


class Never:
    """An executor that never gets round to anything."""

    def __init__(self):
        self.futures = []

    def submit(self, _work):
        self.futures.append(Future())
        return self.futures[-1]


def test_loads_that_wait_are_bounded_and_their_clients_can_give_up(world):
    worker = Never()
    service = InferenceService(
        world.repository, None, ControlPlane(world.repository, "on"),
        large=None, worker=worker, post=lambda callback: callback(), why_not_ready=world.repository.why_not_ready,
    )  # fmt: skip
    load = service.unary()[f"/{SERVICE}/RepositoryModelLoad"]
    data = pb.RepositoryModelLoadRequest(model_name="m").SerializeToString()
    waiting = [FakeCall() for _ in range(CHANGES_WAITING_MAX)]
    for call in waiting:
        load(data, call)
    refused = FakeCall()
    load(data, refused)
    assert isinstance(refused.answers[0], Overloaded)
    waiting[0].on_cancel()
    assert worker.futures[0].cancelled()
    accepted = FakeCall()
    load(data, accepted)
    assert accepted.answers == []
