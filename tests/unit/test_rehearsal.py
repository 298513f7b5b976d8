import pytest

from serving.batching.pace import Pace
from serving.rehearsal import Rehearsal
from tests.support.clocks import FakeClock
from tests.support.sessions import FakeSession

S = 1_000_000_000


class TimedSession(FakeSession):
    """Takes so long per row, on a clock that moves when it runs."""

    def __init__(self, ns_per_row):
        super().__init__()
        self.clock, self._ns_per_row, self.rows = FakeClock(), ns_per_row, 0

    def run(self, inputs):
        outputs = super().run(inputs)
        self.clock.time_ns += self._ns_per_row * len(inputs[0])
        self.rows += len(inputs[0])
        return outputs


@pytest.mark.parametrize(("seconds_per_row", "rows_max"), [(3, 8), (60, 8)])
def test_a_model_of_seconds_per_row_is_run_for_few_rows_before_it_serves(seconds_per_row, rows_max):
    session, pace = TimedSession(seconds_per_row * S), Pace()
    rehearsal = Rehearsal(session, None, session.clock, name="heavy/1")
    rehearsal.warm_up(pace)
    assert rehearsal.sweep((1, 2, 4, 8)) == [(1, seconds_per_row * S)]
    assert session.rows <= rows_max
    assert not pace.is_cheap
    assert rehearsal.signature.batchable


def test_a_quick_model_is_run_at_every_size():
    session = TimedSession(1_000)
    rehearsal = Rehearsal(session, None, session.clock, name="light/1")
    rehearsal.warm_up(Pace())
    assert [rows for rows, _ in rehearsal.sweep((1, 2, 4, 8))] == [1, 2, 4, 8]
