"""Compressed messages and messages in parts: what they become, within which bounds, and in which order."""

import gzip
import tracemalloc
import zlib
from collections import deque
from concurrent.futures import Executor

import numpy as np
import pytest

from serving.config import ModelConfig
from serving.errors import InternalError, InvalidRequest, Overloaded
from serving.transport.calls import SERVICE, STREAM_MESSAGES_MAX
from serving.transport.native.blocks import error_block
from serving.transport.native.messages import INFLATING_MAX, InflatedTooLong, Messages, inflate
from serving.wire import frames
from serving.wire.layout import (
    ENCODING_DEFLATE,
    ENCODING_GZIP,
    ENCODING_IDENTITY,
    S_STATE,
    STREAM_PAUSED,
)
from tests.support import peers
from tests.support.wired import WIDE_OPEN, FakePeer, Wired, message

RESOURCE_EXHAUSTED = 8
MIB = 1 << 20
STREAM_INFER = [*peers.INFER[:2], (b":path", f"/{SERVICE}/ModelStreamInfer".encode()), *peers.INFER[3:]]
HELD_BYTES_MAX = 65_536
TEXT = b"a message " * 100
FORMS = {ENCODING_GZIP: gzip.compress(TEXT), ENCODING_DEFLATE: zlib.compress(TEXT)}
COMPRESS = {ENCODING_GZIP: gzip.compress, ENCODING_DEFLATE: zlib.compress}


# ---- inflating -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", FORMS)
def test_a_message_is_inflated(encoding):
    assert inflate(FORMS[encoding], encoding, MIB) == TEXT
    assert inflate(COMPRESS[encoding](b""), encoding, MIB) == b""


@pytest.mark.parametrize("encoding", FORMS)
def test_a_message_as_long_as_the_bound_passes_and_one_byte_more_does_not(encoding):
    assert inflate(COMPRESS[encoding](bytes(MIB)), encoding, MIB) == bytes(MIB)
    error = inflate(COMPRESS[encoding](bytes(MIB + 1)), encoding, MIB)
    assert isinstance(error, InflatedTooLong)
    assert "max_message_mib = 1 MiB" in str(error)


@pytest.mark.parametrize("encoding", FORMS)
def test_a_bomb_is_inflated_no_further_than_the_bound(encoding):
    bomb = COMPRESS[encoding](bytes(64 * MIB))
    tracemalloc.start()
    try:
        assert isinstance(inflate(bomb, encoding, MIB), InflatedTooLong)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", FORMS)
def test_every_beginning_of_a_message_is_refused(encoding):
    whole = FORMS[encoding]
    for length in range(len(whole)):
        assert isinstance(inflate(whole[:length], encoding, MIB), InvalidRequest)


@pytest.mark.parametrize("encoding", FORMS)
def test_bytes_behind_the_end_are_refused(encoding):
    assert "follow the end" in str(inflate(FORMS[encoding] + b"x", encoding, MIB))
    assert "follow the end" in str(inflate(2 * FORMS[encoding], encoding, MIB))


@pytest.mark.parametrize("content", [b"neither of them", TEXT, zlib.compress(TEXT, wbits=-15)])
@pytest.mark.parametrize("encoding", FORMS)
def test_what_is_not_in_the_encoding_is_refused(encoding, content):
    assert "cannot be inflated" in str(inflate(content, encoding, MIB))


def test_neither_encoding_is_taken_for_the_other():
    assert isinstance(inflate(FORMS[ENCODING_GZIP], ENCODING_DEFLATE, MIB), InvalidRequest)
    assert isinstance(inflate(FORMS[ENCODING_DEFLATE], ENCODING_GZIP, MIB), InvalidRequest)


def test_a_changed_byte_is_noticed():
    whole = bytearray(FORMS[ENCODING_GZIP])
    whole[-5] ^= 1  # of the checksum
    assert "cannot be inflated" in str(inflate(bytes(whole), ENCODING_GZIP, MIB))


# ---- order ---------------------------------------------------------------------------------------------------------


class Later(Executor):
    """A pool that works when the test says so."""

    def __init__(self):
        self.waiting = deque()

    def submit(self, function, /, *arguments, **options):
        self.waiting.append(lambda: function(*arguments, **options))

    def work(self, number=0):
        work = self.waiting[number]
        del self.waiting[number]
        work()


class Told:
    """A call that notes what it is told; the first failure ends it."""

    def __init__(self):
        self.told = []
        self.is_over = False

    def note_backlog(self, messages):
        self.backlog = messages

    def message(self, data):
        self.told.append(data)

    def ended(self):
        self.told.append("ended")

    def failed(self, block):
        self.told.append(block)
        self.is_over = True


@pytest.fixture
def pool():
    return Later()


@pytest.fixture
def core():
    return Wired(ModelConfig(), assembly_bytes_max=HELD_BYTES_MAX).core


@pytest.fixture
def messages(core, pool):
    return Messages(core, pool, lambda work: work(), message_bytes_max=MIB)


def deliver(messages, call, *contents):
    """Deliver messages to a call: bytes as they are, text compressed, None for the end."""
    for content in contents:
        if content is None:
            messages.deliver_end(call)
        elif isinstance(content, str):
            messages.deliver(call, gzip.compress(content.encode()), ENCODING_GZIP)
        else:
            messages.deliver(call, content, ENCODING_IDENTITY)


def test_plain_messages_wait_behind_compressed_ones_of_their_call(messages, pool, core):
    call, other = Told(), Told()
    deliver(messages, call, b"1", "2", b"3", "4", "5", b"6", None)
    deliver(messages, other, b"other", None)
    assert (call.told, other.told) == ([b"1"], [b"other", "ended"])
    pool.work()
    assert call.told == [b"1", b"2", b"3"]
    pool.work()
    assert call.told == [b"1", b"2", b"3", b"4"]
    pool.work()
    assert call.told == [b"1", b"2", b"3", b"4", b"5", b"6", "ended"]
    deliver(messages, call, b"7")
    assert call.told[-1] == b"7"
    assert core.held_bytes == 0


def test_calls_are_inflated_in_any_order(messages, pool, core):
    calls = [Told(), Told()]
    for call in calls:
        deliver(messages, call, "1", None)
    pool.work(1)
    assert [call.told for call in calls] == [[], [b"1", "ended"]]
    pool.work()
    assert calls[0].told == [b"1", "ended"]


def test_a_message_that_cannot_be_inflated_fails_its_call_and_the_rest_is_dropped(messages, pool, core):
    call = Told()
    messages.deliver(call, b"noise", ENCODING_GZIP)
    deliver(messages, call, b"2", None)
    pool.work()
    error = InvalidRequest("the message is flagged as compressed and cannot be inflated")
    assert call.told == [error_block(error)]
    assert core.held_bytes == 0


def test_compressed_messages_count_against_the_bound_while_they_wait(messages, pool, core):
    call, other = Told(), Told()
    messages.deliver(call, gzip.compress(TEXT), ENCODING_GZIP)
    held_bytes = core.held_bytes
    assert held_bytes == len(gzip.compress(TEXT))
    deliver(messages, call, bytes(HELD_BYTES_MAX - held_bytes))
    assert core.held_bytes >= HELD_BYTES_MAX
    messages.deliver(other, b"x", ENCODING_GZIP)
    assert (len(other.told), core.refusals["assembly_bytes"]) == (1, 1)


def test_what_waits_to_be_inflated_is_bounded(messages, pool, core):
    calls = [Told() for _ in range(INFLATING_MAX + 1)]
    for call in calls:
        deliver(messages, call, "1")
    assert [len(call.told) for call in calls] == [0] * INFLATING_MAX + [1]
    assert core.refusals["inflating"] == 1
    pool.work()
    again = Told()
    deliver(messages, again, "1")
    assert again.told == []


def test_a_message_whose_inflating_breaks_costs_its_call_and_nothing_is_held(messages, pool, core, monkeypatch, caplog):
    def run_out_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr("serving.transport.native.messages.inflate", run_out_of_memory)
    call = Told()
    deliver(messages, call, "1", b"2", None)
    pool.work()
    assert call.told == [error_block(InternalError())]
    assert "MemoryError" in caplog.text
    assert (core.held_bytes, messages._inflating, messages._backlogs) == (0, 0, {})


def test_a_bomb_is_counted(messages, pool, core):
    call = Told()
    messages.deliver(call, gzip.compress(bytes(2 * MIB)), ENCODING_GZIP)
    pool.work()
    assert len(call.told) == 1
    assert core.refusals["inflated_length"] == 1


def test_a_compressed_request_is_answered_like_a_plain_one():
    wired = Wired(ModelConfig())
    peer = wired.connect()
    content = gzip.compress(message(2, 5.0))
    (stream_id, _) = peer.request(b"")
    peer.send(peers.headers(stream_id, [*peers.INFER, (b"grpc-encoding", b"gzip")]))
    peer.send(peers.data(stream_id, peers.message(content, 1), frames.END_STREAM))
    wired.loop.run()
    wired.servable.run_all()
    wired.loop.run()
    np.testing.assert_array_equal(peer.read()[stream_id].rows, np.full((2, 4), 11))
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_stream_is_not_read_while_many_of_its_messages_wait_to_be_inflated(pool):
    wired = Wired(ModelConfig(), inflating=pool)
    peer = wired.connect()
    compressed = peers.data(1, peers.message(gzip.compress(message()), 1))
    plain = peers.data(1, peers.message(message()))
    peer.send(peers.headers(1, [*STREAM_INFER, (b"grpc-encoding", b"gzip")]))

    def is_paused():
        (row,) = wired.core.state.streams[wired.core.state.streams[:, S_STATE] != 0]
        return bool(row[S_STATE] & STREAM_PAUSED)

    peer.send(compressed + plain + compressed + (STREAM_MESSAGES_MAX - 2) * plain)
    assert is_paused()
    peer.send(plain + compressed + 2 * STREAM_MESSAGES_MAX * plain)
    for paused in (True, True, False):
        assert is_paused()
        pool.work()
        wired.loop.run()
        while wired.admission.in_flight:
            wired.servable.run_all()
            wired.loop.run()
        assert is_paused() == paused
    assert wired.core.held_bytes == 0


# ---- what is held --------------------------------------------------------------------------------------------------


def stream_data(content, flag=0):
    body = peers.message(content, flag)
    return b"".join(peers.data(1, body[at : at + 16_384]) for at in range(0, len(body), 16_384))


@pytest.mark.parametrize("is_reset", [False, True])
def test_messages_of_a_stream_are_held_until_they_are_decoded_even_if_it_is_over(is_reset):
    decoding, content = Later(), message(rows=200, width=800)
    wired = Wired(ModelConfig(), decoding=decoding, assembly_bytes_max=2 * len(content))
    peer = wired.connect()
    peer.send(peers.headers(1, STREAM_INFER))
    for k in range(1, 3):
        peer.send(stream_data(content))
        wired.loop.run()
        assert (len(decoding.waiting), wired.core.held_bytes) == (k, k * len(content))
    if is_reset:
        peer.cancel(1)
    else:
        peer.send(stream_data(content))
        wired.loop.run()
        heard = peer.read()[1]
        assert (heard.status, wired.core.refusals["assembly_bytes"]) == (RESOURCE_EXHAUSTED, 1)
        assert f"assembly_bytes_max = {2 * len(content)}" in heard.message
    wired.loop.run()
    assert wired.core.held_bytes == 2 * len(content)
    decoding.work()
    wired.loop.run()
    assert wired.core.held_bytes == len(content)
    decoding.work()
    wired.loop.run()
    peer.close()
    wired.check_that_nothing_is_held()


def test_messages_that_wait_to_be_inflated_are_held_even_if_their_call_is_over(pool):
    wired = Wired(ModelConfig(), inflating=pool)
    peer = wired.connect()
    content = gzip.compress(message())
    peer.send(peers.headers(1, [*STREAM_INFER, (b"grpc-encoding", b"gzip")]))
    peer.send(stream_data(content, 1) + stream_data(content, 1))
    held_bytes = wired.core.held_bytes
    assert held_bytes >= 2 * len(content)
    peer.cancel(1)
    wired.loop.run()
    assert wired.core.held_bytes == held_bytes
    pool.work()
    wired.loop.run()
    assert (wired.core.held_bytes, len(pool.waiting)) == (0, 0)
    peer.close()
    wired.check_that_nothing_is_held()


def test_a_stream_whose_answers_find_no_room_is_ended():
    wired = Wired(ModelConfig(), assembly_bytes_max=65_536, unsent_bytes_max=65_536)
    peer = FakePeer(wired)
    peer.send(peers.PREFACE + peers.settings((4, 0)) + peers.frame(frames.SETTINGS, frames.ACK, 0))
    peer.send(peers.headers(1, STREAM_INFER))
    for _ in range(50):
        peer.send(stream_data(message(rows=200)))
        wired.loop.run()
        wired.servable.run_all()
        wired.loop.run()
        assert wired.core.held_bytes <= 65_536
    assert wired.core.refusals["assembly_bytes"] == 1
    peer.send(WIDE_OPEN + peers.frame(frames.WINDOW_UPDATE, 0, 1, (2**20).to_bytes(4, "big")))
    wired.loop.run()
    assert peer.read()[1].status == RESOURCE_EXHAUSTED
    assert wired.core.held_bytes == 0
    peer.close()
    wired.check_that_nothing_is_held()


# ---- parts ---------------------------------------------------------------------------------------------------------


class Parted:
    """A connection, as far as parts of messages hang on it."""

    def __init__(self):
        self.parts = {}


def octets(content):
    return np.frombuffer(content, np.uint8)


def test_parts_become_one_message(messages, core):
    connection = Parted()
    for part in (b"one ", b"", b"message"):
        assert messages.add_part(connection, 3, octets(part), 11) is None
    assert core.held_bytes == 11
    assert messages.take_parts(connection, 3).tobytes() == b"one message"
    assert (core.held_bytes, connection.parts) == (0, {})


def test_held_bytes_are_bounded_over_all_connections_and_what_is_refused_is_forgotten(messages, core):
    first, second = Parted(), Parted()
    rest = HELD_BYTES_MAX - 600
    assert messages.add_part(first, 1, octets(bytes(600)), 700) is None
    assert messages.add_part(second, 1, octets(bytes(rest)), HELD_BYTES_MAX) is None
    error = messages.add_part(second, 1, octets(b"x"), HELD_BYTES_MAX)
    assert isinstance(error, Overloaded)
    assert f"assembly_bytes_max = {HELD_BYTES_MAX}" in str(error)
    assert (core.held_bytes, second.parts, core.refusals["assembly_bytes"]) == (600, {}, 1)
    messages.drop_parts(first, 1)
    messages.drop_parts(first, 1)
    assert core.held_bytes == 0
