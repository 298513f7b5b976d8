"""Windows that are exceeded, never opened, or opened and never read behind: what waits for a peer stays bounded."""

import struct

import numpy as np
import pytest

from serving.wire import frames, layout
from tests.support.conformance import raw_request
from tests.support.peers import INFER, data, frame, headers, message, settings
from tests.support.raw_client import infer
from tests.support.siege import besieged

UNSENT_BYTES_MAX = 1 << 20
ANSWER_BYTES = 400_000
STALL_TIMEOUT_S = 0.3
NO_WINDOW = settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 0))
STREAM = [field if field[0] != b":path" else (b":path", b"/inference.GRPCInferenceService/ModelStreamInfer")
          for field in INFER]  # fmt: skip
LARGE = raw_request("echo", x=("FP32", np.zeros((1, ANSWER_BYTES // 4), np.float32))).SerializeToString()


@pytest.fixture
def siege(repository):
    with besieged(repository, unsent_bytes_max=UNSENT_BYTES_MAX) as siege:
        yield siege


@pytest.fixture
def full_siege(repository):
    """A server that holds no more on all connections together than on one."""
    with besieged(repository, unsent_bytes_max=UNSENT_BYTES_MAX, assembly_bytes_max=UNSENT_BYTES_MAX) as siege:
        yield siege


@pytest.fixture
def stalling_siege(repository):
    with besieged(repository, unsent_bytes_max=UNSENT_BYTES_MAX, stall_timeout_s=STALL_TIMEOUT_S) as siege:
        yield siege


def window_update(stream_id, increment):
    return frame(frames.WINDOW_UPDATE, 0, stream_id, struct.pack(">I", increment))


def unsent_bytes(siege):
    """The most that any connection has unsent."""
    return siege.server.call(lambda: int(siege.core.state.connections[:, layout.C_UNSENT].max()))


def test_a_connection_window_opened_too_far_ends_the_connection(siege):
    with siege.connect() as offender:
        offender.send(window_update(0, 2**31 - 1))
        assert offender.goaway()[0] == frames.FLOW_CONTROL_ERROR
    assert siege.refused() == {"flow_control_error": 1}


def test_a_stream_window_opened_too_far_costs_its_own_stream(siege):
    with siege.connect() as offender:
        offender.send(headers(1) + window_update(1, 2**31 - 1) + infer(3, siege.request("affine")))
        assert offender.answer(1).reset == frames.FLOW_CONTROL_ERROR
        assert offender.answer(3).status == 0
    assert siege.refused() == {"stream_flow_control": 1}


def test_an_initial_window_that_opens_streams_too_far_ends_the_connection(siege):
    with siege.connect(opening=settings()) as offender:
        offender.send(headers(1) + window_update(1, 2**31 - 1 - 65_535))
        offender.send(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 65_536)))
        assert offender.goaway()[0] == frames.FLOW_CONTROL_ERROR
    assert siege.refused() == {"flow_control_error": 1}


def test_a_peer_that_sends_beyond_our_window_loses_its_stream(siege):
    """Requests that wait stop the reading of their stream, and so the opening of its window."""
    waiting = data(1, message(siege.request("waits")))
    count = 2 * layout.Limits().stream_window_bytes // len(waiting)
    with siege.connect() as offender:
        offender.send(headers(1, STREAM) + waiting * count)
        assert offender.answer(1).reset == frames.FLOW_CONTROL_ERROR
        offender.send(infer(3, siege.request("affine")))
        assert offender.answer(3).status == 0
    assert siege.refused() == {"stream_flow_control": 1}


def test_answers_that_no_window_lets_out_pile_up_to_a_bound_and_come_when_it_opens(full_siege):
    siege = full_siege
    with siege.connect(opening=NO_WINDOW) as peer:
        asked, refused = range(1, 41, 2), set()
        for stream_id in asked:
            peer.send(infer(stream_id, LARGE))
            peer.sync()
            assert unsent_bytes(siege) <= UNSENT_BYTES_MAX + ANSWER_BYTES + 100
        refused = {seen.stream_id for seen in peer.seen if seen.kind == frames.RST_STREAM}
        peer.send(settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 2**30)) + window_update(0, 2**30))
        ends = {stream_id: peer.answer(stream_id) for stream_id in asked}
        answered = [end for end in ends.values() if end.reset is None and end.status == 0]
        late = [end for end in ends.values() if end.reset is None and end.status == 8]
        assert all(len(end.body) > ANSWER_BYTES for end in answered)
        assert UNSENT_BYTES_MAX // ANSWER_BYTES <= len(answered) <= UNSENT_BYTES_MAX // ANSWER_BYTES + 2
        assert {ends[stream_id].reset for stream_id in refused} <= {frames.REFUSED_STREAM, None}
        assert siege.refused() == {"too_much_unsent": len(refused) + len(late)}
        assert len(answered) + len(late) + sum(end.reset == frames.REFUSED_STREAM for end in ends.values()) == len(
            asked
        )
        peer.send(infer(41, siege.request("affine")))
        assert peer.answer(41).status == 0


def test_a_peer_that_opens_no_window_for_too_long_is_cut_off(stalling_siege):
    with stalling_siege.connect(opening=NO_WINDOW) as offender:
        offender.send(infer(1, LARGE))
        assert offender.is_cut_off()
    assert stalling_siege.refused() == {"stalled": 1}
    assert stalling_siege.exported("stalled") == 1


def test_a_peer_that_reads_nothing_is_cut_off_when_its_socket_is_full(stalling_siege):
    before = stalling_siege.answered(model="echo")
    with stalling_siege.connect() as offender:
        offender.socket.settimeout(0.05)
        sent = 0
        try:
            for stream_id in range(1, 4001, 2):
                offender.socket.sendall(infer(stream_id, LARGE))
                sent += 1
        except (TimeoutError, ConnectionError):
            pass  # nobody reads what we send, because we read nothing
        stalling_siege.wait_until_forgotten()
    assert sent < 2000
    assert stalling_siege.refused()["stalled"] == 1
    assert stalling_siege.answered(model="echo") - before <= sent + 1


def test_a_peer_that_takes_its_answer_byte_by_byte_is_cut_off(siege):
    with siege.connect(opening=NO_WINDOW) as offender:
        offender.send(infer(1, LARGE) + window_update(0, 2**30))
        offender.read_until(lambda seen: seen.kind == frames.HEADERS)
        offender.send(window_update(1, 1) * 1100)
        assert offender.goaway()[0] == frames.ENHANCE_YOUR_CALM
        taken = sum(len(seen.payload) for seen in offender.seen if seen.kind == frames.DATA)
    assert taken <= 1100
    assert siege.refused() == {"control_flood": 1}


def test_a_peer_with_a_small_window_that_it_opens_in_time_gets_its_whole_answer(siege):
    with siege.connect(opening=settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 2048))) as peer:
        peer.send(infer(1, LARGE) + window_update(0, 2**30))
        received = 0
        for seen in peer.frames_of(frames.DATA, frames.HEADERS):
            received += len(seen.payload) if seen.kind == frames.DATA else 0
            if seen.flags & frames.END_STREAM:
                break
            if seen.kind == frames.DATA:
                peer.send(window_update(1, 2048))
        assert received > ANSWER_BYTES
    assert siege.refused() == {}


def test_a_peer_gets_its_whole_answer_however_small_its_window_is(siege):
    with siege.connect(opening=settings((frames.SETTINGS_INITIAL_WINDOW_SIZE, 64))) as peer:
        peer.send(infer(1, LARGE))
        received = 0
        for seen in peer.frames_of(frames.DATA, frames.HEADERS):
            received += len(seen.payload) if seen.kind == frames.DATA else 0
            if seen.flags & frames.END_STREAM:
                break
            if seen.kind == frames.DATA:
                peer.send(window_update(1, len(seen.payload)) + window_update(0, len(seen.payload)))
        assert received > ANSWER_BYTES
    assert siege.refused() == {}


def test_what_an_answer_has_brought_does_not_pay_for_a_flood_of_other_frames(siege):
    with siege.connect() as offender:
        offender.send(infer(1, LARGE))
        offender.answer(1)
        offender.send(frame(frames.PRIORITY, 0, 1, bytes(5)) * 1100)
        assert offender.goaway()[0] == frames.ENHANCE_YOUR_CALM
    assert siege.refused() == {"control_flood": 1}
