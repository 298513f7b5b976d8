"""What a watch knows survives a restart, and a file that cannot be used costs nothing but what was in it."""

import numpy as np
import pytest

from serving.config import DriftConfig
from serving.statistics.drift import state
from serving.statistics.drift.report import as_json
from serving.statistics.drift.state import StateFile
from serving.statistics.drift.watch import DriftWatch
from serving.statistics.profile import ReferenceProfile
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 3)),), (), batchable=True)
PROFILE = ReferenceProfile.of_tensors({"x": np.random.default_rng(1).normal(size=(5_000, 3))}, {}).to_bytes()


class Server:
    """One life of a watch."""

    def __init__(self, folder, clock, profile=PROFILE, **config):
        config = DriftConfig(overhead_max=1.0, **config)
        self.clock = clock
        self.watch = DriftWatch("team/model", 1, SIGNATURE, config, clock=clock)
        self.counter = self.watch.counter()
        self.watch.begin(profile, folder)

    def serve(self, rows, *, seed=0, shift=0.0):
        x = np.random.default_rng(seed).normal(shift, 1, (rows, 3)).astype(np.float32)
        self.counter.observe([x], [], rows=rows, infer_ns=1_000_000)

    def next_pane(self):
        self.clock.advance(60_000_000_000)
        self.watch.tick()


def known(server):
    facts = as_json(server.watch.report())
    return {
        name: facts[name]
        for name in ("rows", "rows_seen", "panes", "alarms", "alarm", "evidence", "history", "features")
    }


@pytest.mark.parametrize("config", [{}, {"calibration_panes": 50}])
def test_a_restarted_watch_goes_on_as_if_nothing_had_happened(tmp_path, config):
    first, unbroken = Server(tmp_path, FakeClock(), **config), Server(None, FakeClock(), **config)
    for pane in range(8):
        for server in (first, unbroken):
            server.serve(150, seed=pane, shift=1.0 if pane > 4 else 0.0)
            server.next_pane()
    for server in (first, unbroken):
        server.serve(30, seed=99)
    first.watch.end()
    again = Server(tmp_path, first.clock, **config)
    assert known(again) == known(unbroken)
    for server in (again, unbroken):
        server.serve(200, seed=100, shift=1.0)
        server.next_pane()
    assert known(again) == known(unbroken)


def test_a_state_that_does_not_tell_how_many_rows_were_seen_has_seen_those_that_were_counted(tmp_path):
    first = Server(tmp_path, FakeClock())
    first.serve(150)
    first.watch.end()
    path = StateFile(tmp_path, "team/model", 1).path
    header, arrays = state._FILE.read(path.read_bytes())
    assert header.pop("rows_seen") == 150
    path.write_bytes(state._FILE.write(header, **arrays))
    again = Server(tmp_path, first.clock)
    again.serve(50)
    report = again.watch.report()
    assert (report.rows, report.rows_seen) == (200, 200)


def test_what_a_crash_leaves_is_the_last_pane(tmp_path):
    first = Server(tmp_path, FakeClock())
    first.serve(150)
    first.next_pane()
    first.serve(40)
    assert Server(tmp_path, first.clock).watch.report().rows == 150


def test_a_self_reference_is_kept(tmp_path):
    first = Server(tmp_path, FakeClock(), profile=None, reference_rows=1_000)
    first.serve(1_000)
    first.next_pane()
    first.watch.end()
    again = Server(tmp_path, first.clock, profile=None, reference_rows=1_000)
    report = again.watch.report()
    assert (report.phase, report.is_self_reference) == ("watching", True)
    assert report.data_digest == first.watch.report().data_digest


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"PK\x05\x06" + bytes(18)]
)
def test_a_damaged_file_is_logged_and_the_watch_begins_anew(tmp_path, damage, caplog):
    first = Server(tmp_path, FakeClock())
    first.serve(150)
    first.next_pane()
    path = StateFile(tmp_path, "team/model", 1).path
    path.write_bytes(damage(path.read_bytes()))
    again = Server(tmp_path, first.clock)
    assert again.watch.report().rows == 0
    assert "beginning anew" in caplog.text


def test_other_terms_and_another_reference_begin_anew(tmp_path):
    first = Server(tmp_path, FakeClock())
    first.serve(150)
    first.next_pane()
    assert Server(tmp_path, first.clock, tolerance=0.1).watch.report().rows == 0
    other = ReferenceProfile.of_tensors({"x": np.random.default_rng(2).normal(size=(500, 3))}, {}).to_bytes()
    assert Server(tmp_path, first.clock, profile=other).watch.report().rows == 0


def test_the_name_of_a_model_is_no_path(tmp_path):
    assert StateFile(tmp_path, "../../etc", 1).path.parent.parent == tmp_path / "drift"


def test_a_folder_that_cannot_be_written_is_logged(tmp_path, caplog):
    (tmp_path / "drift").write_text("a file in the way")
    server = Server(tmp_path, FakeClock())
    server.serve(150)
    server.next_pane()
    assert "cannot be written" in caplog.text
    assert server.watch.report().rows == 150
