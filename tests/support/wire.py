"""How tests call kernels: twice, with different garbage around everything, so that a stray read or write shows."""

import random
import struct

import numpy as np

from serving.wire import hpack, layout
from tests.support.header_blocks import decode_headers

CANARY_BYTES = 64


def fenced(content: bytes, garbage: int) -> tuple[np.ndarray, int, int]:
    """Return `content` with garbage before and after it, and where it lies."""
    noise = random.Random(garbage).randbytes(2 * CANARY_BYTES)
    whole = noise[:CANARY_BYTES] + content + noise[CANARY_BYTES:]
    return np.frombuffer(whole, np.uint8).copy(), CANARY_BYTES, CANARY_BYTES + len(content)


def records(out: bytes) -> list[tuple[bytes, bytes]]:
    """Read the records of the header output."""
    fields, at = [], 0
    while at < len(out):
        name_bytes, value_bytes = struct.unpack_from("<II", out, at)
        name_at = at + hpack.RECORD_BYTES
        value_at = name_at + name_bytes
        at = value_at + value_bytes
        fields.append((out[name_at:value_at], out[value_at:at]))
    return fields


class HeaderDecoder:
    """Decodes header blocks of one connection with the kernel, in states that differ in garbage only.

    One of them does not keep the records of a ModelInfer, which must change nothing else.
    """

    def __init__(self, **limits):
        limits = layout.Limits(connections=3, blocks=0, streams=4, **limits)
        self.states = [layout.State(limits) for _ in range(3)]
        for garbage, state in enumerate(self.states):
            state.pool[:] = garbage * 0x55 + 1
            state.headers[:] = garbage * 0x3A + 2
            state.connections[:, layout.C_TABLE_LIMIT] = layout.TABLE_BYTES_MAX

    def decode(self, block: bytes):
        """Return (fields or the kernel's error, what the shared row says about them)."""
        first, second, (kept, *said) = (
            self._decode(state, block, garbage, keeps_all=garbage < 2) for garbage, state in enumerate(self.states)
        )
        assert first == second
        assert said == list(first[1:])
        assert kept == (first[0] if isinstance(first[0], int) else first[0][: len(kept)])
        return first

    def _decode(self, state, block, garbage, *, keeps_all):
        source, at, end = fenced(block, garbage)
        untouched = [state.connections[0].copy(), state.connections[2].copy(), source.copy()]
        neighbours = state.pool.reshape(3, -1)[[0, 2]].copy()
        result = decode_headers(
            source, at, end, state.connections, 1, state.pool, state.headers, state.shared, keeps_all
        )
        assert (state.connections[0] == untouched[0]).all()
        assert (state.connections[2] == untouched[1]).all()
        assert (source == untouched[2]).all()
        assert (state.pool.reshape(3, -1)[[0, 2]] == neighbours).all()
        room = state.limits.header_list_bytes + hpack.OUTPUT_SLACK_BYTES
        assert (state.headers[room:] == garbage * 0x3A + 2).all()
        head = state.shared[layout.HEAD_FLAGS : layout.HEAD_LIST_BYTES + 1].tolist()
        table = self.table(state)
        return (records(state.headers[:result].tobytes()) if result >= 0 else result), head, table

    @staticmethod
    def table(state):
        row = state.connections[1]
        stretch = state.pool[layout.TABLE_POOL_BYTES : 2 * layout.TABLE_POOL_BYTES].tobytes()
        fields = []
        for k in range(row[layout.C_TABLE_COUNT]):
            place = (row[layout.C_TABLE_FIRST] + row[layout.C_TABLE_COUNT] - 1 - k) % layout.TABLE_ENTRIES_MAX
            entry = int(row[layout.C_TABLE_ENTRIES + place])
            at, name_bytes, value_bytes = entry & 8191, entry >> 13 & 8191, entry >> 26 & 8191
            fields.append((stretch[at : at + name_bytes], stretch[at + name_bytes :][:value_bytes]))
        return fields
