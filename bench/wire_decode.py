"""What one request costs from bytes to event, beside h2 doing the same on the same bytes in the same run.

Run it as `python -m bench.wire_decode`. It needs the `test` extra for h2 and hpack; only the ratios count on a machine
that others use too.
"""

import struct
import time
from collections.abc import Callable

import h2.config
import h2.connection
import hpack
import numpy as np

from serving.wire import connection, http2, layout, streams

ROUNDS = 7
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


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Write one frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


def reads(encoder: hpack.Encoder, requests: int, count: int, message_bytes: int) -> list[bytes]:
    """Return `count` reads of so many requests each, as one client with a warm header table sends them."""
    body = struct.pack(">BI", 0, message_bytes) + bytes(message_bytes)
    found = []
    for read in range(count):
        ids = range(1 + 2 * read * requests, 1 + 2 * (read + 1) * requests, 2)
        found.append(b"".join(frame(1, 4, k, encoder.encode(FIELDS)) + frame(0, 1, k, body) for k in ids))
    return found


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
    """Print one line per number of requests in a read."""
    print(f"{'requests/read':>14}{'message bytes':>15}{'compiled ns':>13}{'h2 ns':>10}{'ratio':>8}")
    for per_read, message_bytes in ((1, 200), (32, 200), (96, 200), (32, 12_000)):
        chunks = reads(hpack.Encoder(), per_read, 2016 // per_read, message_bytes)
        ours = best_ns(compiled, chunks, 2016, ROUNDS)
        few = chunks[: max(1, 96 // per_read)]
        theirs = best_ns(twin, few, len(few) * per_read, 2)
        print(f"{per_read:>14}{message_bytes:>15}{ours:>13.0f}{theirs:>10.0f}{theirs / ours:>8.0f}")


if __name__ == "__main__":
    main()
