"""Requests without a version are spread over arms as the rule for single requests says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.repository.routing import POINTS, Routing, key_of, point_of
from serving.wire import routes
from serving.wire.infer import SLOTS_DIFFER
from serving.wire.layout import S_ROUTE, SOURCE_BUFFER, SOURCE_POOL, STREAM_COLUMNS
from serving.wire.records import (
    ACCEPTED,
    ORDINARY,
    R_ID_AT,
    R_ID_LENGTH,
    R_SLOT,
    R_SOURCE,
    R_STREAM,
    R_TEXT,
    R_VERDICT,
    RECORD_COLUMNS,
)

BASE, CANARY, CONTROL, OTHER = range(4)
SALT = 0x0123_4567_89AB_CDE


def spread(asked, *, share=0.25, drawn=0):
    """Return the slots of requests (slot, header, id, version, verdict, source), and what the call returns."""
    text = b"".join(each["id"] for each in asked)
    buffer = np.frombuffer(text or b"\0", np.uint8).copy()
    records = np.zeros((len(asked), RECORD_COLUMNS), np.int64)
    streams = np.zeros((len(asked), STREAM_COLUMNS), np.int64)
    at = 0
    for k, each in enumerate(asked):
        records[k, [R_VERDICT, R_SLOT, R_SOURCE, R_STREAM]] = each["verdict"], each["slot"], each["source"], k
        records[k, [R_ID_AT, R_ID_LENGTH]] = at, len(each["id"])
        records[k, [R_TEXT + 2, R_TEXT + 3]] = 0, len(each["version"])
        streams[k, S_ROUTE] = key_of(each["header"]) if each["header"] else 0
        at += len(each["id"])
    table = np.zeros((4, routes.ROUTE_COLUMNS), np.int64)
    table[BASE] = SALT, round(share * POINTS), CANARY, CONTROL
    counter = np.array([drawn])
    found = routes.route_requests(buffer, SOURCE_BUFFER, records, streams, table, counter)
    return records[:, R_SLOT].tolist(), found, int(counter[0])


def asked(*, slot=BASE, header=b"", id=b"", version=b"", verdict=ACCEPTED, source=SOURCE_BUFFER):  # noqa: A002
    return {"slot": slot, "header": header, "id": id, "version": version, "verdict": verdict, "source": source}


def expected(header, id_, share, drawn):
    routing = Routing("m", SALT, round(share * POINTS), CANARY, CONTROL, iter([drawn]))
    arm = routing.arm(key_of(header) if header else key_of(id_) if id_ else 0)
    return BASE if arm is None else arm


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=64)), min_size=1, max_size=20),
       st.floats(0.001, 0.5))  # fmt: skip
def test_the_kernel_routes_as_single_requests_are(keys, share):
    slots, found, drawn = spread([asked(header=header, id=id_) for header, id_ in keys], share=share)
    count, wanted = 0, []
    for header, id_ in keys:
        count += not header and not id_
        wanted.append(expected(header, id_, share, count))
    assert slots == wanted
    assert drawn == count
    assert found == (slots[0] if len(set(slots)) == 1 else SLOTS_DIFFER)


@pytest.mark.parametrize(
    "changes",
    [{"version": b"1"}, {"slot": OTHER}, {"verdict": ORDINARY}, {"source": SOURCE_POOL}],
    ids=["names a version", "another model", "not accepted", "in another buffer"],
)
def test_nothing_else_is_touched(changes):
    requests = [asked(id=b"%d" % k, **changes) for k in range(50)]
    slots, _, _ = spread(requests, share=0.5)
    assert slots == [each["slot"] for each in requests]


def test_what_has_no_key_is_spread_evenly():
    slots, _, drawn = spread([asked() for _ in range(10_000)], share=0.25)
    assert drawn == 10_000
    assert all(abs(slots.count(arm) / 10_000 - 0.25) < 0.02 for arm in (CANARY, CONTROL))


def test_an_arm_that_grows_keeps_what_it_had():
    requests = [asked(id=b"user %d" % k) for k in range(2_000)]
    few, some, half = (spread(requests, share=share)[0] for share in (0.01, 0.1, 0.5))
    for smaller, larger in ((few, some), (some, half)):
        for arm in (CANARY, CONTROL):
            assert all(now == arm for before, now in zip(smaller, larger, strict=True) if before == arm)
    assert set(half) == {CANARY, CONTROL}


def test_a_slot_that_no_table_has_is_left_alone():
    slots, _, _ = spread([asked(slot=7, id=b"x"), asked(slot=-1, id=b"x")])
    assert slots == [7, -1]


def test_points_are_uniform_whatever_the_keys_look_like():
    points = np.array([point_of(key, SALT) for key in range(4_000)])
    assert ((points >= 0) & (points < POINTS)).all()
    counts = np.bincount(points * 8 // POINTS, minlength=8)
    assert ((counts > 420) & (counts < 580)).all()
