"""All that one read has brought, in one call, when it is what it nearly always is: requests for one servable.

What is done is what `arrivals`, `infer` and `rows` do, one after the other; being called from Python three times took
longer than doing it. It knows no more than they do.
"""

import numpy as np
from numpy.typing import NDArray

from serving.wire.arrivals import note_requests
from serving.wire.compiler import kernel
from serving.wire.infer import scan_requests
from serving.wire.layout import NO_DEADLINE, SOURCE_BUFFER
from serving.wire.rows import take_rows


@kernel(
    "UniTuple(i8, 7)(i8[:, ::1], i8, i8, i8[:, ::1], u1[::1], i8[::1], u1[::1], i8, u1[::1], i8, i8, i8[:, ::1], i8,"
    " u1[::1], i8[::1], i8, i8)"
)
def take_read(
    events: NDArray[np.int64],
    count: int,
    connection: int,
    records: NDArray[np.int64],
    buffer: NDArray[np.uint8],
    numbers: NDArray[np.int64],
    text: NDArray[np.uint8],
    slot: int,
    arena: NDArray[np.uint8],
    row: int,
    row_end: int,
    requests: NDArray[np.int64],
    request: int,
    ids: NDArray[np.uint8],
    groups: NDArray[np.int64],
    group: int,
    requests_max: int,
) -> tuple[int, int, int, int, int, int, int]:
    """Note the requests among the first `count` events of a connection, scan those in `buffer`, and take them.

    They are taken only if all are accepted, for servable `slot`, and no more than `requests_max`; then as many as find
    room. Returns how many were noted, how many of them accepted, and for which slot (see `scan_requests`); and, as
    `take_rows` does, the first record that was not taken, row and request that are free, and the earliest deadline.
    """
    noted = note_requests(events, count, connection, records, 0)
    accepted, found = scan_requests(buffer, SOURCE_BUFFER, records, 0, noted, numbers, text)
    if found != slot or accepted < noted or noted > requests_max:
        return noted, accepted, found, 0, row, request, NO_DEADLINE
    taken = take_rows(
        buffer, SOURCE_BUFFER, records, 0, noted, numbers, slot, arena, row, row_end, requests, request, ids, groups,
        group,
    )  # fmt: skip
    return noted, accepted, found, taken[0], taken[1], taken[2], taken[3]
