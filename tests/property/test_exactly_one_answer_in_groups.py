"""Every request is answered exactly once over the native transport too, whatever happens in whatever order.

The machine of `test_exactly_one_answer` again, one floor higher: peers write frames, several requests per read, and the
queue holds groups of compiled requests beside ordinary ones. Batches are of any size, and some rows fail their batch.
"""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.config import BatchingConfig, ModelConfig
from tests.support.sessions import FakeSession, affine
from tests.support.wired import Wired, message

CONFIG = ModelConfig(batching=BatchingConfig(batch_rows_max=8, queue_rows_max=24, queue_bytes_max=24 * 16))
IN_FLIGHT_MAX = 14
CONNECTIONS = 3
BAD = -1.0
OK, CANCELLED, INVALID, DEADLINE, NOT_FOUND, EXHAUSTED, INTERNAL = 0, 1, 3, 4, 5, 8, 13


def affine_or_fail(x):
    if (x == BAD).any():
        raise RuntimeError("one row is bad")
    return affine(x)


REQUEST = st.fixed_dictionaries(
    {
        "connection": st.integers(0, CONNECTIONS - 1),
        "rows": st.sampled_from([1, 1, 1, 2, 3, 8, 9]),
        "timeout_us": st.none() | st.integers(1, 50),
        "is_typed": st.sampled_from([False, False, False, True]),
        "is_bad": st.sampled_from([False, False, False, False, True]),
    }
)


class Asked:
    """A request: what was asked, and where its answer comes."""

    def __init__(self, peer, rows, value, stream_id):
        self.peer, self.rows, self.value, self.stream_id = peer, rows, value, stream_id
        self.is_given_up = False

    @property
    def heard(self):
        heard = self.peer.read().get(self.stream_id)
        return heard if heard is not None and heard.status is not None else None

    @property
    def is_over(self):
        return self.is_given_up or self.heard is not None

    def check(self):
        heard = self.heard
        if heard is None or heard.status in {INVALID, DEADLINE, NOT_FOUND, EXHAUSTED}:
            return
        if self.value == BAD:
            assert heard.status == INTERNAL
            assert "failed to compute this request" in heard.message
        else:
            assert heard.status == OK
            np.testing.assert_array_equal(heard.rows, affine(np.full((self.rows, 4), self.value, np.float32))[0])


class GroupMachine(RuleBasedStateMachine):
    """Submit, cancel, disconnect, let time pass, take, finish, retire, in any order."""

    def __init__(self):
        super().__init__()
        self.wired = Wired(
            CONFIG, FakeSession(affine_or_fail), requests_in_flight_max=IN_FLIGHT_MAX, connections_max=CONNECTIONS
        )
        self.batcher, self.handle = self.wired.servable.batcher, self.wired.handle
        self.peers = [self.wired.connect() for _ in range(CONNECTIONS)]
        self.requests, self.running, self.idle, self.retired = [], [], [], False

    @rule(requests=st.lists(REQUEST, min_size=1, max_size=6))
    def submit(self, requests):
        """Have requests read, those of a connection at once, and run a turn."""
        reads = dict.fromkeys(self.peers, b"")
        for request in requests:
            peer, number = self.peers[request["connection"]], len(self.requests)
            value = BAD if request["is_bad"] else float(number)
            timeout = b"%du" % request["timeout_us"] if request["timeout_us"] else b""
            content = message(request["rows"], value, id=str(number), typed=request["is_typed"])
            stream_id, chunk = peer.request(content, timeout=timeout)
            reads[peer] += chunk
            self.requests.append(Asked(peer, request["rows"], value, stream_id))
        for peer, chunk in reads.items():
            peer.send(chunk)
        self.wired.loop.run()

    @precondition(lambda self: any(not request.is_over for request in self.requests))
    @rule(data=st.data(), runs_a_turn=st.booleans())
    def cancel(self, data, runs_a_turn):
        request = data.draw(st.sampled_from([request for request in self.requests if not request.is_over]))
        request.is_given_up = True
        request.peer.cancel(request.stream_id)
        if runs_a_turn:
            self.wired.loop.run()

    @rule(number=st.integers(0, CONNECTIONS - 1))
    def reconnect(self, number):
        peer = self.peers[number]
        for request in self.requests:
            if request.peer is peer and not request.is_over:
                request.is_given_up = True
        peer.close()
        self.peers[number] = self.wired.connect()

    @rule(duration_us=st.integers(1, 30))
    def let_time_pass(self, duration_us):
        self.wired.clock.advance(duration_us * 1_000)
        self.wired.loop.run()

    @precondition(lambda self: self.batcher.queued_rows)
    @rule(rows_max=st.integers(1, 8))
    def take(self, rows_max):
        batch = self.batcher.take_now(rows_max)
        assert batch.rows == sum(entry.rows for entry in batch.entries)
        assert batch.rows <= rows_max or batch.requests == 1
        self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        self.wired.servable.finish(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))))
        self.wired.loop.run()

    @precondition(lambda self: not self.retired)
    @rule(is_followed=st.booleans())
    def retire(self, is_followed):
        self.retired = True
        self.handle.retire(lambda: self.idle.append(1))
        if is_followed:
            self.wired.transport.follow([])
        self.wired.loop.run()

    @invariant()
    def those_in_flight_are_the_unanswered(self):
        unanswered = sum(not request.is_over for request in self.requests)
        given_up = sum(request.is_given_up for request in self.requests)
        in_flight = self.wired.admission.in_flight
        assert unanswered <= in_flight <= min(unanswered + given_up, IN_FLIGHT_MAX)
        assert self.idle == ([1] if self.retired and not in_flight else [])

    @invariant()
    def the_queue_keeps_its_bounds(self):
        assert 0 <= self.batcher.queued_rows <= CONFIG.batching.queue_rows_max
        assert 0 <= self.batcher.queued_bytes <= CONFIG.batching.queue_bytes_max
        assert self.batcher.queued_rows == sum(entry.rows for entry in self.batcher._queue)
        assert self.batcher.queued_bytes == sum(entry.input_bytes for entry in self.batcher._queue)

    @invariant()
    def answers_are_right(self):
        for request in self.requests:
            request.check()

    def teardown(self):
        self.wired.loop.run()
        while self.running:
            self.wired.servable.finish(self.running.pop())
        self.wired.servable.run_all()
        self.wired.loop.run()
        assert all(request.is_over for request in self.requests)
        self.answers_are_right()
        self.wired.check_that_nothing_is_held(connections=CONNECTIONS)


GroupMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_every_request_is_answered_exactly_once = GroupMachine.TestCase
