"""What one request costs from bytes to event, beside h2 doing the same on the same bytes in the same run.

The bytes are those of real clients, with header blocks as they were recorded: h2load sends its path coded with every
request, and HEADERS of many requests before their DATA; grpcio sends nothing but indexes, and window updates between.
The hpack package sends long messages. Run it as `python -m bench.wire_decode`. It needs the `test` extra for h2 and
hpack; only the ratios count on a machine that others use too.
"""

import struct
import time
from collections.abc import Callable, Iterator

import h2.config
import h2.connection
import hpack
import numpy as np

from serving.wire import connection, http2, layout, streams
from serving.wire.frames import DATA, END_HEADERS, END_STREAM, HEADERS, WINDOW_UPDATE

ROUNDS = 9
REQUESTS = 2016
RECORDED_MESSAGE_BYTES = 152
"""What the recorded content-length leaves for a message behind its prefix."""
FIELDS = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/inference.GRPCInferenceService/ModelInfer"),
    (b":authority", b"localhost:8001"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
    (b"user-agent", b"grpc-python/1.76"),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
    (b"grpc-timeout", b"50m"),
]
PREFACE = bytes(connection.PREFACE) + bytes(3) + b"\x04" + bytes(5)

H2LOAD = [
    bytes.fromhex(
        "3fe11f049f60d54a5b0b510abe2dbaef64aa52d85a885dc5b3b98856341e42d192a94b6786418b089d5c0b8170dc65d744ef837a8f9c54"
        "1c722954d3a5358980aed897075f8b1d75d0620d263d4c4d656440027465864d833505b11f0f0d03313537"
    ),
    bytes.fromhex("049f60d54a5b0b510abe2dbaef64aa52d85a885dc5b3b98856341e42d192a94b6786c183c0bfbe0f0d03313537"),
]
GRPCIO = [
    (
        b"@\x05:path*/inference.GRPCInferenceService/ModelInfer@\n:authority\x0f127.0.0.1:41683\x83\x86"
        b"@\x0ccontent-type\x10application/grpc@\x02te\x08trailers@\x14grpc-accept-encoding\x17identity, deflate, gzip"
        b"@\x0cgrpc-timeout\x055010m@\nuser-agent0grpc-python/1.85.1 grpc-c/58.0.0 (linux; chttp2)"
    ),
    bytes.fromhex("c4c38386c2c1c0bfbe"),
]
"""The header blocks of a connection's first request, and of every later one."""


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Write one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


def body(message_bytes: int) -> bytes:
    """Write a message of zeros behind its prefix."""
    return struct.pack(">BI", 0, message_bytes) + bytes(message_bytes)


def ids_per_read(requests: int, count: int) -> Iterator[range]:
    """Return the stream ids of each of `count` reads."""
    return (range(1 + 2 * read * requests, 1 + 2 * (read + 1) * requests, 2) for read in range(count))


def reads(encoder: hpack.Encoder, requests: int, count: int, message_bytes: int) -> list[bytes]:
    """Return `count` reads of so many requests each, as one client with a warm header table sends them."""
    ended = body(message_bytes)
    return [
        b"".join(
            frame(HEADERS, END_HEADERS, k, encoder.encode(FIELDS)) + frame(DATA, END_STREAM, k, ended) for k in ids
        )
        for ids in ids_per_read(requests, count)
    ]


def h2load_reads(requests: int, count: int) -> list[bytes]:
    """Return what h2load sends for a body of `RECORDED_MESSAGE_BYTES`."""
    ended = body(RECORDED_MESSAGE_BYTES)
    return [
        b"".join(frame(HEADERS, END_HEADERS, k, H2LOAD[k > 1]) for k in ids)
        + b"".join(frame(DATA, END_STREAM, k, ended) for k in ids)
        for ids in ids_per_read(requests, count)
    ]


def grpcio_reads(requests: int, count: int) -> list[bytes]:
    """Return what grpcio sends: it opens its stream's window by a little before each message."""
    ended, update = body(RECORDED_MESSAGE_BYTES), struct.pack(">I", 5)
    return [
        b"".join(
            frame(HEADERS, END_HEADERS, k, GRPCIO[k > 1])
            + frame(WINDOW_UPDATE, 0, k, update)
            + frame(DATA, END_STREAM, k, ended)
            for k in ids
        )
        for ids in ids_per_read(requests, count)
    ]


def compiled(chunks: list[bytes]) -> float:
    """Decode with the kernel and release every stream; returns seconds of decoding."""
    state = layout.State(layout.Limits(connections=1, blocks=1, streams=256))
    connection.open_connection(state.connections, state.shared, state.control, 0, 0)
    arrays = [np.frombuffer(chunk, np.uint8).copy() for chunk in [PREFACE, *chunks]]
    seconds = 0.0
    for source in arrays:
        begin = time.perf_counter()
        status, _, events, _, _ = http2.decode(
            source, state.connections, state.streams, state.pool, state.events, state.control, state.headers,
            state.shared, 0, 0, source.size, 0,
        )  # fmt: skip
        seconds += time.perf_counter() - begin
        assert status == layout.STATUS_HUNGRY
        for row in state.events[:events].tolist():
            stream, generation = row[layout.E_STREAM], row[layout.E_GENERATION]
            streams.release_stream(state.connections, state.streams, state.shared, stream, generation)
    return seconds


def twin(chunks: list[bytes]) -> float:
    """Decode with h2, which allows 100 streams until its settings are acknowledged; returns seconds."""
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    server.initiate_connection()
    server.increment_flow_control_window(2**30)
    server.receive_data(PREFACE)
    begin = time.perf_counter()
    for chunk in chunks:
        server.receive_data(chunk)
    return time.perf_counter() - begin


def best_ns(decode: Callable[[list[bytes]], float], chunks: list[bytes], requests: int, rounds: int) -> float:
    """Return the best time per request over some rounds, each on a fresh connection."""
    return min(decode(chunks) for _ in range(rounds)) / requests * 1e9


def main() -> None:
    """Print one line per client and number of requests in a read."""
    cases = [
        (name, per_read, RECORDED_MESSAGE_BYTES, client(per_read, REQUESTS // per_read))
        for name, client in (("h2load", h2load_reads), ("grpcio", grpcio_reads))
        for per_read in (1, 8, 32)
    ]
    cases += [
        ("hpack", per_read, length, reads(hpack.Encoder(), per_read, REQUESTS // per_read, length))
        for per_read, length in ((32, 200), (96, 200), (32, 12_000))
    ]
    print(f"{'client':8}{'requests/read':>14}{'message bytes':>15}{'compiled ns':>13}{'h2 ns':>10}{'ratio':>8}")
    for name, per_read, message_bytes, chunks in cases:
        ours = best_ns(compiled, chunks, REQUESTS, ROUNDS)
        few = chunks[: max(1, 96 // per_read)]
        theirs = best_ns(twin, few, len(few) * per_read, 2)
        print(f"{name:8}{per_read:>14}{message_bytes:>15}{ours:>13.0f}{theirs:>10.0f}{theirs / ours:>8.0f}")


if __name__ == "__main__":
    main()
