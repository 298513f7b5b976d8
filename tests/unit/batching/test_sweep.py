from serving.batching.sweep import MEMORY_SHARE, RUNS, SWEEP_NS_MAX, Probe, sweep
from tests.support.clocks import FakeClock

SIZES = (1, 2, 4, 8, 16)


class Machine:
    """Runs that take time and memory as a test says."""

    def __init__(self, ns_per_row=1_000, bytes_per_row=0, free_bytes=1 << 40, first_run_ns=0):
        self.clock, self.runs, self.resident_bytes, self.free_bytes = FakeClock(), [], 1 << 30, free_bytes
        self._ns_per_row, self._bytes_per_row, self._first_run_ns = ns_per_row, bytes_per_row, first_run_ns

    def run(self, rows):
        is_first = rows not in self.runs
        self.runs.append(rows)
        self.clock.time_ns += self._ns_per_row * rows + (self._first_run_ns if is_first else 0)
        if is_first:
            self.resident_bytes += self._bytes_per_row * rows

    def sweep(self, sizes=SIZES, **known):
        probe = Probe(self.run, self.clock.now_ns, lambda: self.resident_bytes, lambda: self.free_bytes)
        return sweep(probe, sizes, **known)


def test_every_size_is_run_and_timed():
    machine = Machine()
    assert machine.sweep() == [(rows, 1_000.0 * rows) for rows in SIZES]
    assert machine.runs == [rows for rows in SIZES for _ in range(RUNS)]


def test_the_first_run_of_a_size_is_not_what_it_takes():
    assert Machine(first_run_ns=10**6).sweep() == [(rows, 1_000.0 * rows) for rows in SIZES]


def test_a_slow_model_is_swept_as_far_as_the_time_goes():
    machine = Machine(ns_per_row=SWEEP_NS_MAX // 20)
    assert [rows for rows, _ in machine.sweep()] == [1, 2]
    assert machine.clock.now_ns() - FakeClock().now_ns() <= SWEEP_NS_MAX


def test_the_least_size_is_measured_once_when_it_takes_all_of_the_time():
    machine = Machine(ns_per_row=2 * SWEEP_NS_MAX)
    assert machine.sweep() == [(1, 2.0 * SWEEP_NS_MAX)]
    assert machine.runs == [1]


def test_a_row_that_is_known_to_take_long_is_not_run_again():
    machine = Machine(ns_per_row=2 * SWEEP_NS_MAX)
    assert machine.sweep(one_row_ns=2.0 * SWEEP_NS_MAX) == [(1, 2.0 * SWEEP_NS_MAX)]
    assert not machine.runs


def test_a_size_that_would_take_too_much_memory_is_not_tried():
    machine = Machine(bytes_per_row=1 << 20, free_bytes=int((8 << 20) / MEMORY_SHARE))
    assert [rows for rows, _ in machine.sweep()] == [1, 2, 4]
