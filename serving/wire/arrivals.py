"""From the events of a connection to the records of its requests, before anybody has looked into a message.

It knows the columns of events and of records, and no byte of either.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.compiler import kernel
from serving.wire.layout import (
    E_AT,
    E_DEADLINE_NS,
    E_ENCODING,
    E_GENERATION,
    E_KIND,
    E_LENGTH,
    E_SOURCE,
    E_STREAM,
    ENCODING_IDENTITY,
    EVENT_REQUEST,
)
from serving.wire.records import (
    ORDINARY,
    R_AT,
    R_CONNECTION,
    R_DEADLINE_NS,
    R_LENGTH,
    R_SOURCE,
    R_STREAM,
    R_STREAM_GENERATION,
    R_VERDICT,
    SOURCE_NONE,
)


@kernel("i8(i8[:, ::1], i8, i8, i8[:, ::1], i8)")
def note_requests(
    events: NDArray[np.int64],
    count: int,
    connection: int,
    records: NDArray[np.int64],
    at: int,
) -> int:
    """Make a record, from row `at` on, of each complete ModelInfer among the first `count` events of a connection.

    Each is ORDINARY until it is scanned, and a compressed one lies in no buffer, so that it stays so. Returns the first
    free row; `records` needs one for each event.
    """
    assert count <= events.shape[0], "bug: more events than there can be"
    assert 0 <= at <= records.shape[0] - count, "bug: no room for a record of each event"
    for k in range(count):
        if events[k, E_KIND] != EVENT_REQUEST:
            continue
        record = records[at]
        record[R_CONNECTION] = connection
        record[R_STREAM], record[R_STREAM_GENERATION] = events[k, E_STREAM], events[k, E_GENERATION]
        record[R_DEADLINE_NS] = events[k, E_DEADLINE_NS]
        record[R_SOURCE] = events[k, E_SOURCE] if events[k, E_ENCODING] == ENCODING_IDENTITY else SOURCE_NONE
        record[R_AT], record[R_LENGTH] = events[k, E_AT], events[k, E_LENGTH]
        record[R_VERDICT] = ORDINARY
        at += 1
    return at
