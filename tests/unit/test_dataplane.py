import numpy as np
import pytest

from serving.admission import Admission
from serving.dataplane import DataPlane
from serving.errors import (
    Cancelled,
    Code,
    DeadlineExceeded,
    Draining,
    InternalError,
    InvalidRequest,
    ModelFailed,
    NotReady,
    Overloaded,
    UnknownModel,
)
from serving.repository.manager import ModelRepository
from serving.statistics.counters import RequestCounters
from serving.types import (
    DYNAMIC,
    Datatype,
    InferAnswer,
    InferRequest,
    InputTensor,
    RequestedOutput,
    Signature,
    TensorSpec,
)
from tests.support.clocks import FakeClock
from tests.support.sessions import DEADLINE_S, WARM_UP, HeldSession, Posts, affine, model_config, servable

US, MS = 1_000, 1_000_000


def request(rows=1, *, model="m", version="", value=1.0, parameters=None, outputs=(), **facts):
    x = np.full((rows, 4), value, np.float32)
    tensor = InputTensor("x", "FP32", x.shape, raw=x.tobytes())
    return InferRequest(model, version, "id-7", (tensor,), outputs, parameters or {}, 1, **facts)


class World:
    """A data plane on a fake clock in front of one held model; at the end everything must have been given back."""

    def __init__(self, root, session, config):
        folder = root / "m" / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").touch()
        self.clock, self.posts, self.session = FakeClock(), Posts(), session
        self.counters, self.admission = RequestCounters(), Admission(4)
        self.repository = ModelRepository(
            root,
            lambda name, version, path, _: servable(
                session, self.clock, self.posts, name=name, version=version, config=config
            ),
            self.clock,
            drain_timeout_s=DEADLINE_S,
            changed=lambda: None,
        )
        self.repository.load_all()
        self.plane = DataPlane(self.repository, self.admission, self.counters, clock=self.clock, timers=self.clock)

    @property
    def servable(self):
        return next(self.repository.servables())

    def infer(self, asked, deadline_ns=None):
        answers = []
        return answers, self.plane.infer(asked, deadline_ns=deadline_ns, settle=answers.append)

    def keep_busy(self):
        """Send a request that runs until the session is let go; return its answers."""
        self.session.hold()
        answers, _ = self.infer(request(value=0.0))
        self.session.wait_until_running()
        return answers

    def outcomes(self):
        return {(code, reason): count for (_, _, code, reason), count in self.counters.outcomes.items()}

    def assert_nothing_is_held(self):
        assert self.admission.in_flight == 0
        assert self.clock.pending == 0
        self.repository.unload("m")  # returns only when no handle is in use
        assert self.session.closed


@pytest.fixture
def make(tmp_path):
    worlds = []

    def make(session=None, **batching):
        world = World(tmp_path, session or HeldSession(), model_config(**batching))
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.session.let_go()
        while world.admission.in_flight:
            world.posts.run()
        world.assert_nothing_is_held()


@pytest.fixture
def world(make):
    return make()


def only(answers):
    assert len(answers) == 1
    return answers[0]


# ---- success -------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_with_its_id_and_the_version_that_computed_it(world):
    answers, in_flight = world.infer(request(2, value=3.0))
    assert not in_flight.done
    assert world.admission.in_flight == 1
    world.posts.run()
    answer = only(answers)
    assert (answer.model_name, answer.model_version, answer.id, answer.raw) == ("m", 1, "id-7", True)
    np.testing.assert_array_equal(answer.outputs[0].array, np.full((2, 4), 7, np.float32))
    assert in_flight.done
    assert world.outcomes() == {(Code.OK, ""): 1}


def test_outputs_come_in_the_asked_order(make):
    specs = tuple(TensorSpec(name, Datatype.FP32, (DYNAMIC, 4)) for name in ("y", "z"))
    signature = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 4)),), specs, batchable=True)
    world = make(HeldSession(lambda x: [x, -x], signature))
    answers, _ = world.infer(request(outputs=(RequestedOutput("z"), RequestedOutput("y"))))
    world.posts.run()
    assert [(output.name, output.array[0, 0]) for output in only(answers).outputs] == [("z", -1), ("y", 1)]


def test_no_rows_are_answered_without_the_model(world):
    answers, in_flight = world.infer(request(0))
    assert in_flight is None
    assert only(answers).outputs[0].array.shape == (0, 4)
    assert world.session.runs == WARM_UP  # the warm-up's
    assert world.outcomes() == {(Code.OK, ""): 1}


def test_no_rows_of_open_dimensions_are_the_models_to_answer(make):
    specs = [(TensorSpec(name, Datatype.FP32, (DYNAMIC, DYNAMIC)),) for name in "xy"]
    world = make(HeldSession(affine, Signature(*specs, batchable=True)))
    answers, in_flight = world.infer(request(0))
    assert in_flight is not None
    world.posts.run()
    assert only(answers).outputs[0].array.shape == (0, 4)


# ---- refused -------------------------------------------------------------------------------------------------------


def test_an_unknown_model_or_version_is_refused(world):
    for asked in (request(model="nobody"), request(version="2"), request(version="one"), request(version="1" * 5000)):
        answers, in_flight = world.infer(asked)
        assert in_flight is None
        assert isinstance(only(answers), UnknownModel)
        assert world.admission.in_flight == 0
    assert world.counters.outcomes == {("", "", Code.NOT_FOUND, "unknown_model"): 4}


def test_an_unloaded_model_is_not_ready(world):
    world.repository.unload("m")
    answers, _ = world.infer(request())
    assert isinstance(only(answers), NotReady)
    assert "unloaded on request" in answers[0].message
    assert world.counters.outcomes == {("m", "", Code.UNAVAILABLE, "not_ready"): 1}


@pytest.mark.parametrize(
    "asked",
    [
        request(300),
        request(outputs=(RequestedOutput("nothing"),)),
        request(parameters={"timeout": -1}),
        InferRequest("m", "", "", ()),
        InferRequest("m", "", "", (InputTensor("x", "FP32", (0, 2**63 - 1), raw=b""),), raw_count=1),
    ],
)
def test_an_invalid_request_is_refused_by_the_model_it_names(world, asked):
    answers, in_flight = world.infer(asked)
    assert in_flight is None
    assert isinstance(only(answers), InvalidRequest)
    assert world.servable.statistics.fail.count == 1
    assert world.counters.outcomes == {("m", "1", Code.INVALID_ARGUMENT, "invalid"): 1}


def test_a_full_queue_refuses(make):
    world = make(queue_rows_max=2, batch_rows_max=2)
    busy = world.keep_busy()
    waiting, _ = world.infer(request(2))
    refused, in_flight = world.infer(request(1))
    assert in_flight is None
    assert isinstance(only(refused), Overloaded)
    assert world.admission.in_flight == 2
    world.session.let_go()
    world.posts.run(2)
    assert isinstance(only(busy), InferAnswer)
    assert isinstance(only(waiting), InferAnswer)


def test_a_full_server_refuses_before_it_looks_at_the_request(world):
    world.keep_busy()
    for _ in range(3):
        world.infer(request())
    answers, in_flight = world.infer(request(model="nobody"))
    assert in_flight is None
    assert isinstance(only(answers), Overloaded)
    assert world.admission.in_flight == 4


def test_a_draining_server_refuses_and_answers_what_is_in_flight(world):
    busy = world.keep_busy()
    idle = []
    world.admission.drain(lambda: idle.append(1))
    refused, _ = world.infer(request())
    assert isinstance(only(refused), Draining)
    assert idle == []
    world.session.let_go()
    world.posts.run()
    assert idle == [1]
    assert isinstance(only(busy), InferAnswer)


def test_a_mistake_of_ours_is_answered_and_keeps_nothing(world, monkeypatch, caplog):
    monkeypatch.setattr(world.servable, "submit", None)
    answers, in_flight = world.infer(request())
    assert in_flight is None
    assert isinstance(only(answers), InternalError)
    assert "could not be started" in caplog.text


# ---- deadlines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "running"])
def test_a_request_expires_at_its_deadline_wherever_it_is(world, waiting):
    if waiting:
        world.keep_busy()
    world.session.hold()
    answers, in_flight = world.infer(request(), deadline_ns=world.clock.now_ns() + 5 * MS)
    if not waiting:
        world.session.wait_until_running()
    world.clock.advance(5 * MS - 1)
    assert answers == []
    world.clock.advance(1)
    assert isinstance(only(answers), DeadlineExceeded)
    assert in_flight.done
    assert world.servable.batcher.queued_rows == 0
    world.session.let_go()
    world.posts.run()
    assert len(answers) == 1


def test_an_expired_request_that_waited_is_never_run(world):
    world.keep_busy()
    runs = len(world.session.runs)
    world.infer(request(5), deadline_ns=world.clock.now_ns() + MS)
    world.clock.advance(MS)
    world.session.let_go()
    world.posts.run()
    assert world.session.runs[runs:] == [1]


@pytest.mark.parametrize(("deadline_ms", "timeout_ms", "expires_ms"), [(None, 3, 3), (5, 3, 3), (3, 5, 3), (3, 0, 3)])
def test_the_earlier_of_deadline_and_timeout_counts(world, deadline_ms, timeout_ms, expires_ms):
    world.keep_busy()
    deadline_ns = None if deadline_ms is None else world.clock.now_ns() + deadline_ms * MS
    answers, _ = world.infer(request(parameters={"timeout": timeout_ms * MS // US}), deadline_ns)
    world.clock.advance(expires_ms * MS - 1)
    assert answers == []
    world.clock.advance(1)
    assert isinstance(only(answers), DeadlineExceeded)


def test_a_deadline_that_has_passed_is_refused_at_once(world):
    answers, in_flight = world.infer(request(), deadline_ns=world.clock.now_ns())
    assert in_flight is None
    assert isinstance(only(answers), DeadlineExceeded)
    assert world.session.runs == WARM_UP


def test_an_answer_in_time_forgets_the_deadline(world):
    answers, _ = world.infer(request(), deadline_ns=world.clock.now_ns() + MS)
    world.posts.run()
    world.clock.advance(2 * MS)
    assert isinstance(only(answers), InferAnswer)


# ---- cancelled, failed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "running"])
def test_a_cancelled_request_is_over_at_once(world, waiting):
    if waiting:
        world.keep_busy()
    world.session.hold()
    answers, in_flight = world.infer(request(), deadline_ns=world.clock.now_ns() + MS)
    if not waiting:
        world.session.wait_until_running()
    before = world.admission.in_flight
    in_flight.cancel()
    assert isinstance(only(answers), Cancelled)
    assert world.admission.in_flight == before - 1
    in_flight.cancel()
    world.clock.advance(2 * MS)
    world.session.let_go()
    world.posts.run()
    assert len(answers) == 1


def test_cancelling_after_the_end_is_harmless(world):
    answers, in_flight = world.infer(request())
    world.posts.run()
    in_flight.cancel()
    assert isinstance(only(answers), InferAnswer)


def test_a_failure_of_the_model_is_answered_and_counted(make):
    def fail(x):
        if x.any():
            raise RuntimeError("secret")
        return affine(x)

    world = make(HeldSession(fail))
    answers, _ = world.infer(request())
    world.posts.run()
    assert isinstance(only(answers), ModelFailed)
    assert "secret" not in answers[0].message
    assert world.outcomes() == {(Code.INTERNAL, "model_failed"): 1}
    assert world.servable.statistics.fail.count == 1


def test_settling_twice_is_a_bug(world):
    answers, in_flight = world.infer(request())
    world.posts.run()
    with pytest.raises(AssertionError, match="settled twice"):
        in_flight.finish(Cancelled("again"))
    assert len(answers) == 1


def test_an_answer_that_cannot_be_made_is_an_internal_error_and_holds_nothing(make):
    world = make(HeldSession(lambda x: affine(x) if not x.any() else []))  # zeros are the warm-up
    answers, _ = world.infer(request())
    world.posts.run()
    (answer,) = answers
    assert isinstance(answer, InternalError)
    assert world.admission.in_flight == 0
