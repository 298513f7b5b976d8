"""Requests that name a model and no version, spread over the arms of a rollout: by what they say of themselves.

A route belongs to the slot of the servable that is found by name. A request's key, from its header or else its id,
gives a point in [0, 2^32): below the route's share it goes to the canary, within the same share from the end to the
control, and else it stays. So arms of growing shares keep what they had, and who says the same comes to the same arm.
What has no key is spread at random. It knows the columns of records and streams, and no message.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import int64, kernel, part, unsigned
from serving.wire.infer import SLOTS_DIFFER
from serving.wire.layout import S_ROUTE
from serving.wire.octets import key_of
from serving.wire.records import ACCEPTED, R_ID_AT, R_ID_LENGTH, R_SLOT, R_SOURCE, R_STREAM, R_TEXT, R_VERDICT

POINTS = 1 << 32

(
    ROUTE_SALT,
    ROUTE_BELOW,  # how many of POINTS each arm has; 0 for a slot without a route
    ROUTE_CANARY,  # slots
    ROUTE_CONTROL,
) = range(4)
ROUTE_COLUMNS = 4

_GAMMA, _MIX_A, _MIX_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@part
def point_of(key: int, salt: int) -> int:
    """Return where a key lies among POINTS: the mixing step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    mixed = (unsigned(key) ^ unsigned(salt)) + unsigned(_GAMMA)
    mixed = (mixed ^ (mixed >> unsigned(30))) * unsigned(_MIX_A)
    mixed = (mixed ^ (mixed >> unsigned(27))) * unsigned(_MIX_B)
    return int64((mixed ^ (mixed >> unsigned(31))) >> unsigned(32))


@kernel("i8(u1[::1], i8, i8[:, ::1], i8[:, ::1], i8[:, ::1], i8[::1])")
def route_requests(
    buffer: NDArray[np.uint8],
    source: int,
    records: NDArray[np.int64],
    streams: NDArray[np.int64],
    routes: NDArray[np.int64],
    drawn: NDArray[np.int64],
) -> int:
    """Give accepted records whose messages lie in `buffer`, which is `source`, the slots of their arms.

    `routes` has a row per slot. drawn[0] counts the requests without a key. Returns the slot of all these records,
    SLOTS_DIFFER when they have several.
    """
    assert routes.shape[1] == ROUTE_COLUMNS, "bug: these are no routes"
    common, seen = SLOTS_DIFFER, 0
    for k in range(records.shape[0]):
        record = records[k]
        if record[R_VERDICT] != ACCEPTED or record[R_SOURCE] != source:
            continue
        slot = record[R_SLOT]
        below = routes[slot, ROUTE_BELOW] if 0 <= slot < routes.shape[0] else 0
        if below > 0 and record[R_TEXT + 2] == record[R_TEXT + 3]:
            stream, id_at, id_bytes = record[R_STREAM], record[R_ID_AT], record[R_ID_LENGTH]
            key = streams[stream, S_ROUTE] if 0 <= stream < streams.shape[0] else 0
            if key == 0 and id_bytes > 0 and 0 <= id_at <= buffer.size - id_bytes:
                key = key_of(buffer, id_at, id_at + id_bytes)
            if key == 0:
                drawn[0] += 1
                key = drawn[0]
            point = point_of(key, routes[slot, ROUTE_SALT])
            if point < below:
                slot = routes[slot, ROUTE_CANARY]
            elif point >= POINTS - below:
                slot = routes[slot, ROUTE_CONTROL]
            record[R_SLOT] = slot
        common = slot if seen == 0 or slot == common else SLOTS_DIFFER
        seen += 1
    return common
