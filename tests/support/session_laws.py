"""What decoding any bytes of an HTTP/2 connection keeps to, with h2 as the judge where it has an opinion."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from serving.wire import frames, layout
from tests.support.http2_sessions import LIMITS, chunks
from tests.support.odd_sessions import cut_into_frames
from tests.support.peers import INFER, PREFACE, Event, Peer, split_frames

LIMIT_SETS = [
    LIMITS,
    LIMITS | {"control_frames": 20, "streams_per_connection": 2, "streams": 3},
    LIMITS | {"blocks": 0, "continuations": 3, "message_bytes": 5000, "header_list_bytes": 1000},
    LIMITS | {"blocks": 1, "block_bytes": 10_000, "stream_window_bytes": 3000, "connection_window_bytes": 70_000},
]
SINGLE_BYTES_MAX = 300
"""So many bytes of a session are read one by one, since each costs a call."""
OURS_TO_TAKE = (
    "StreamIDTooLowError",  # HEADERS of a lower id, which may be of a stream that is over and forgotten
    "Setting 8",  # a setting that we do not know
    "ConnectionState.CLOSED",  # frames after the peer's GOAWAY
    "may not depend on itself",  # priorities, which RFC 9113 deprecates
    "does not have an :authority",  # which RFC 9113 does not ask for
    "mismatched :authority and Host",  # which it only advises to refuse, and nothing here depends on
    "multiple Host headers",  # the same
)
"""What h2 refuses and we take."""
ALTSVC = 10
"""A type of frame that h2 knows and we do not."""


@dataclass
class TwinStream:
    """What h2 has seen of a stream."""

    fields: list
    body: bytes = b""
    is_ended: bool = False


@dataclass
class Twin:
    """What h2 has seen of a connection, up to the frame that it refused: the bytes before it, and the frame."""

    streams: dict[int, TwinStream] = field(default_factory=dict)
    reset: set[int] = field(default_factory=set)
    refused: tuple[bytes, bytes] | None = None
    must_be_refused: bool = False


def seen_by_the_twin(whole: bytes) -> Twin:
    """Let h2 read a connection frame by frame, with windows that never close."""
    config = h2.config.H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False)
    server = h2.connection.H2Connection(config)
    codes = h2.settings.SettingCodes
    values = {codes.MAX_CONCURRENT_STREAMS: 1000, codes.INITIAL_WINDOW_SIZE: 2**30}
    server.local_settings = h2.settings.Settings(client=False, initial_values=values)
    server.initiate_connection()
    server.increment_flow_control_window(2**30)
    twin, before = Twin(), b""
    for piece in cut_into_frames(whole):
        try:
            events = server.receive_data(piece)
        except h2.exceptions.ProtocolError as error:
            twin.refused = before, piece
            ours_to_take = any(words in repr(error) for words in OURS_TO_TAKE) or piece[3] == ALTSVC
            twin.must_be_refused = not (ours_to_take or is_all_padding(piece))
            break
        for event in events:
            _note(twin, event)
        before += piece
    return twin


def is_all_padding(piece: bytes) -> bool:
    """Say whether a frame is HEADERS of nothing but padding, which CONTINUATION may follow, and which h2 refuses."""
    return len(piece) > 9 and piece[3] == frames.HEADERS and len(piece) == 10 + piece[9]


def _note(twin: Twin, event) -> None:
    if isinstance(event, h2.events.RequestReceived):
        fields = [(bytes(name), bytes(value)) for name, value in event.headers]
        twin.streams[event.stream_id] = TwinStream(fields)
    elif isinstance(event, h2.events.DataReceived):
        twin.streams[event.stream_id].body += event.data
    elif isinstance(event, h2.events.StreamEnded):
        twin.streams[event.stream_id].is_ended = True
    elif isinstance(event, h2.events.StreamReset) and not event.remote_reset:
        twin.reset.add(event.stream_id)


def messages_of(body: bytes) -> list[bytes]:
    """Return the complete messages of a body."""
    found = []
    while len(body) >= 5 and len(body) >= 5 + int.from_bytes(body[1:5], "big"):
        length = int.from_bytes(body[1:5], "big")
        found.append(body[5 : 5 + length])
        body = body[5 + length :]
    return found


def run(reads: list[bytes], limits: dict) -> tuple[Peer, list[Event]]:
    """Give a fresh connection these reads.

    Left out are resets of streams of which nothing else is told but parts of a message: whether a message comes in
    parts depends on the blocks that are free, and so on the reads.
    """
    peer = Peer(greet=False, **limits)
    events = [event for read in reads for event in peer.send(read)]
    named = {event.id for event in events if event.kind != layout.EVENT_RESET}
    return peer, [event for event in events if event.id in named or event.kind != layout.EVENT_RESET]


def check_session(seed: int, pieces: list[bytes]) -> None:
    """Check a session: however it is cut into reads it gives the same, and that is what h2 reads too."""
    choice, whole = random.Random(f"reads {seed}"), b"".join(pieces)
    limits = choice.choice(LIMIT_SETS)
    peer, events = run([whole], limits)
    at = choice.randrange(len(whole) + 1)
    singles = [whole[k : k + 1] for k in range(at, min(at + SINGLE_BYTES_MAX, len(whole)))]
    for reads in (chunks(choice, whole), [whole[:at], *singles, whole[at + SINGLE_BYTES_MAX :]]):
        again, same_events = run(reads, limits)
        assert same_events == events
        assert again.control == peer.control
        assert again.is_closed == peer.is_closed
        assert again.is_closed or again.sides[0].tail == peer.sides[0].tail
    by_stream = defaultdict(list)
    for event in events:
        by_stream[event.id].append(event)
    for stream_id, mine in by_stream.items():
        if stream_id:
            check_order([event.kind for event in mine])
    told = check_control(peer.control, whole)
    if whole.startswith(PREFACE):
        twin = seen_by_the_twin(whole)
        check_refusal(twin, limits)
        compare(twin, by_stream, told, peer)


def check_refusal(twin: Twin, limits: dict) -> None:
    """What h2 refuses is refused: at that frame, or because its stream or the connection was already."""
    if twin.refused is None or not twin.must_be_refused:
        return
    before, piece = twin.refused
    peer, events = run([before], limits)
    dead = refused_streams(peer, events)
    events += peer.send(piece)
    stream_id = int.from_bytes(piece[5:9], "big") & 2**31 - 1
    assert peer.is_closed or stream_id in dead or refused_streams(peer, events) > dead or peer.sides[0].tail


def refused_streams(peer: Peer, events: list[Event]) -> set[int]:
    resets = {stream_id for kind, _, stream_id, _ in split_frames(peer.control) if kind == frames.RST_STREAM}
    return resets | {event.id for event in events if event.kind in {layout.EVENT_FAILED, layout.EVENT_RESET}}


def check_order(kinds: list[int]) -> None:
    """A stream is handed out in order: opened, messages, end; a request once; nothing but a reset after the end."""
    kinds = [kind for kind in kinds if kind != layout.EVENT_WRITABLE]
    if layout.EVENT_RESET in kinds:
        assert kinds[-1] == layout.EVENT_RESET
        assert kinds.count(layout.EVENT_RESET) == 1
        kinds = kinds[:-1]
    if layout.EVENT_FAILED in kinds:
        assert kinds[-1] == layout.EVENT_FAILED
        assert layout.EVENT_ENDED not in kinds
        kinds = kinds[:-1]
    if layout.EVENT_REQUEST in kinds:
        assert kinds == [layout.EVENT_REQUEST]
    elif kinds:
        assert kinds[0] == layout.EVENT_OPENED
        middle = kinds[1:-1] if kinds[-1] == layout.EVENT_ENDED else kinds[1:]
        assert set(middle) <= {layout.EVENT_MESSAGE}


def check_control(control: bytes, whole: bytes) -> set[int]:
    """Everything we write is well-formed, and nothing follows GOAWAY; returns the streams that we reset."""
    told = set()
    written = split_frames(control)
    for kind, flags, stream_id, payload in written:
        if kind == frames.RST_STREAM:
            assert stream_id
            assert len(payload) == 4
            told.add(stream_id)
        elif kind == frames.WINDOW_UPDATE:
            assert 0 < int.from_bytes(payload, "big") < 2**31
        elif kind == frames.PING:
            assert flags == frames.ACK
            assert len(payload) == 8
            assert payload in whole
        elif kind == frames.SETTINGS:
            assert (flags, stream_id, payload) == (frames.ACK, 0, b"")
        else:
            assert kind == frames.GOAWAY
    assert [kind for kind, *_ in written[:-1] if kind == frames.GOAWAY] == []
    return told


def compare(twin: Twin, by_stream: dict[int, list[Event]], told: set[int], peer: Peer) -> None:
    """What we hand out is what h2 reads, what it reads is not lost, and what it resets is not served."""
    assert peer.is_closed or twin.reset <= told | {id_ for id_ in by_stream if is_refused(by_stream[id_])}
    for stream_id, mine in by_stream.items():
        theirs = twin.streams.get(stream_id)
        if stream_id == 0 or theirs is None:
            assert stream_id == 0 or twin.refused is not None or {event.kind for event in mine} <= {layout.EVENT_FAILED}
            continue
        compare_stream(theirs, mine, is_whole=twin.refused is None)
    for stream_id, theirs in twin.streams.items():
        if theirs.is_ended and not peer.is_closed:
            over = {layout.EVENT_REQUEST, layout.EVENT_ENDED, layout.EVENT_FAILED, layout.EVENT_RESET}
            assert stream_id in told or over & {event.kind for event in by_stream[stream_id]}


def is_refused(mine: list[Event]) -> bool:
    return any(event.kind in {layout.EVENT_FAILED, layout.EVENT_RESET} for event in mine)


def compare_stream(theirs: TwinStream, mine: list[Event], *, is_whole: bool) -> None:
    """Compare what h2 and we have seen of one stream; `is_whole` unless h2 gave up before its end."""
    contents = messages_of(theirs.body)
    received = [event.content for event in mine if event.kind == layout.EVENT_MESSAGE]
    shared = min(len(contents), len(received))
    assert received[:shared] == contents[:shared]
    assert len(received) <= len(contents) or not is_whole
    for event in mine:
        if event.kind == layout.EVENT_OPENED:
            assert event.content == theirs.fields
        elif event.kind == layout.EVENT_REQUEST and (is_whole or theirs.is_ended):
            assert theirs.is_ended
            assert (b":path", INFER[2][1]) in theirs.fields
            assert contents == [event.content]
            assert len(theirs.body) == 5 + len(event.content)
