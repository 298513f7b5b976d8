"""Too many streams, streams reset while they run, connections that vanish and come back: counted, never mixed up."""

import struct

import pytest

from serving.pb import open_inference_pb2 as pb
from serving.wire import frames
from tests.support.conformance import read_outputs
from tests.support.infer_wire import field
from tests.support.peers import INFER, OTHER, frame, headers
from tests.support.raw_client import infer
from tests.support.siege import besieged

STREAMS_MAX = 256
UNKNOWN_FIELD = field(99, 1)
STREAM = [field_ if field_[0] != b":path" else (b":path", b"/inference.GRPCInferenceService/ModelStreamInfer")
          for field_ in INFER]  # fmt: skip
CANCEL = struct.pack(">I", 8)


@pytest.fixture
def siege(repository):
    with besieged(repository) as siege:
        yield siege


def reset(stream_id):
    return frame(frames.RST_STREAM, 0, stream_id, CANCEL)


def values_of(end):
    """Read the first output of an answer."""
    return read_outputs(pb.ModelInferResponse.FromString(end.body[5:]))["y"].tolist()


def test_streams_above_the_bound_are_refused_and_their_place_is_free_again_when_one_ends(siege):
    content = siege.request("waits")
    ids = [2 * k + 1 for k in range(STREAMS_MAX + 20)]
    with siege.connect() as offender:
        # Calls without a message take a place too.
        offender.send(b"".join(headers(stream_id) for stream_id in ids[:100]))
        offender.send(b"".join(infer(stream_id, content) for stream_id in ids[100:]))
        for stream_id in ids[STREAMS_MAX:]:
            assert offender.answer(stream_id).reset == frames.REFUSED_STREAM
        assert siege.refused() == {"too_many_streams": 20}
        offender.send(reset(1) + reset(3) + infer(1001, siege.request("affine")) + infer(1003, siege.request("affine")))
        assert [offender.answer(stream_id).status for stream_id in (1001, 1003)] == [0, 0]
        assert siege.refused() == {"too_many_streams": 20}


def test_a_call_of_the_ordinary_path_takes_a_place_as_well(siege):
    with siege.connect() as offender:
        offender.send(b"".join(headers(2 * k + 1, OTHER) for k in range(STREAMS_MAX + 1)))
        assert offender.answer(2 * STREAMS_MAX + 1).reset == frames.REFUSED_STREAM
    assert siege.refused() == {"too_many_streams": 1}


def test_connections_above_the_bound_are_closed_and_counted(repository):
    with besieged(repository, connections_max=3) as siege:
        kept = [siege.connect() for _ in range(2)]
        for peer in kept:
            peer.sync()
        for _ in range(5):
            with siege.connect() as offender:
                assert offender.is_cut_off()
                assert offender.seen == []
        assert siege.refused() == {"connections_max": 5}
        kept.pop().socket.close()
        siege.wait_until_forgotten(2)
        with siege.connect() as late:
            late.sync()
        kept.pop().socket.close()


@pytest.fixture
def held_siege(repository, held):
    """A server that lets a connection have one stream, and the session of `echo`."""
    with besieged(repository, inline_us_max=0, streams_per_connection_max=1) as siege:
        yield siege, next(session for session in held if session.model == "echo")


def test_a_stream_that_is_reset_while_it_runs_takes_its_place_until_the_run_ends(held_siege):
    siege, session = held_siege
    session.hold()
    with siege.connect() as offender:
        offender.send(infer(1, siege.request("echo")))
        session.wait_until_running()
        offender.send(reset(1) + infer(3, siege.request("affine")))
        assert offender.answer(3).reset == frames.REFUSED_STREAM
        session.let_go()
        siege.server.wait_until(lambda: siege.server.in_flight <= 1)
        offender.sync()
        offender.send(infer(5, siege.request("affine")))
        assert offender.answer(5).status == 0
        assert not [seen for seen in offender.seen if seen.stream_id == 1]
    assert siege.refused() == {"too_many_streams": 1}


@pytest.mark.parametrize("end", ["close", "reset"])
def test_an_answer_never_comes_to_the_next_owner_of_its_slot_and_stream(held_siege, end):
    siege, session = held_siege
    session.hold()
    offender = siege.connect()
    offender.send(infer(1, siege.request("echo", value=666)))
    session.wait_until_running()
    (slot,) = others(siege)
    offender.reset() if end == "reset" else offender.socket.close()
    siege.wait_until_forgotten()
    with siege.connect() as innocent:
        innocent.send(infer(1, siege.request("echo", value=7)))
        innocent.sync()
        assert others(siege) == [slot]
        session.let_go()
        answer = innocent.answer(1)
        assert values_of(answer) == [[7.0] * 4]
        innocent.sync()
        assert sum(seen.kind == frames.DATA for seen in innocent.seen) == 1
        assert {seen.stream_id for seen in innocent.seen} == {0, 1}
    assert session.served == [1, 1]
    assert siege.refused() == {}


def others(siege):
    """The slots of all connections but the bystander's, which came first."""
    return siege.server.call(lambda: sorted(siege.core.connections)[1:])


@pytest.mark.parametrize("way", ["compiled", "ordinary", "stream"])
def test_answers_stay_with_their_connections_however_often_these_vanish(siege, way):
    """No run is held up here: connections vanish before, in and after the turn that answers them."""
    fields = STREAM if way == "stream" else INFER
    more = UNKNOWN_FIELD if way == "ordinary" else b""
    for value in range(1, 400):
        chunk = infer(1, siege.request("affine", value=value) + more, fields)
        doomed = siege.connect()
        doomed.send(chunk)
        if value % 3 == 0:
            doomed.read_until(lambda seen: seen.kind == frames.SETTINGS)
        doomed.reset() if value % 2 else doomed.socket.close()
        with siege.connect() as innocent:
            innocent.send(infer(1, siege.request("affine", value=-value) + more, fields))
            body = innocent.answer(1).body[5:]
            innocent.sync()
            assert sum(seen.kind == frames.DATA for seen in innocent.seen) == 1
        response = (
            pb.ModelStreamInferResponse.FromString(body).infer_response
            if way == "stream"
            else (pb.ModelInferResponse.FromString(body))
        )
        assert read_outputs(response)["y"].tolist() == [[-2.0 * value + 1] * 4]
    assert siege.refused() == {}
