"""From batches to alarms: a watch on a fake clock, fed as an executor would."""

import dataclasses
import logging
import threading

import numpy as np
import pytest

from serving.commands.drift_page import page
from serving.config import DriftConfig
from serving.statistics.derived import Derivation
from serving.statistics.drift.counter import Collector
from serving.statistics.drift.report import as_json, merged, ranked
from serving.statistics.drift.watch import VIEW_REST, DriftWatch
from serving.statistics.profile import COLUMNS_PER_TENSOR_MAX, ReferenceProfile
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.clocks import FakeClock

WIDTH = 4
SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, WIDTH)),), (TensorSpec("y", Datatype.INT64, (DYNAMIC,)),), batchable=True
)
PANE_S = 60


def elements(report):
    return [feature for feature in report.features if feature.derivation is Derivation.ELEMENT]


class Served:
    """A watched model and the rows that it serves."""

    def __init__(self, *, profile=True, signature=SIGNATURE, executors=1, seed=0, **config):
        self.clock = FakeClock()
        self.rng = np.random.default_rng(seed)
        reference = np.random.default_rng(99)
        self.profile = ReferenceProfile.of_tensors(*self._tensors(reference, 10_000)).to_bytes() if profile else None
        self.watch = DriftWatch("m", 1, signature, DriftConfig(overhead_max=1.0, **config), clock=self.clock)
        self.counters = [self.watch.counter() for _ in range(executors)]
        self.watch.begin(self.profile)

    @staticmethod
    def _tensors(rng, rows, shift=0.0):
        x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
        x[:, 1] += shift
        return {"x": x}, {"y": rng.integers(0, 3, rows)}

    def serve(self, rows=100, shift=0.0, executor=0):
        inputs, outputs = self._tensors(self.rng, rows, shift)
        self.counters[executor].observe([inputs["x"]], [outputs["y"]], rows=rows, infer_ns=1_000_000)
        return inputs["x"], outputs["y"]

    def next_pane(self):
        self.clock.advance(PANE_S * 1_000_000_000)
        return self.watch.tick()


def test_rows_are_counted_and_a_pane_closes_at_the_boundary_only():
    served = Served()
    served.serve(150)
    assert served.watch.tick() is False
    assert served.watch.report().panes_closed == 0
    served.next_pane()
    report = served.watch.report()
    assert (report.panes_closed, report.rows, report.open.rows) == (1, 150, 0)


def test_a_pane_with_too_few_rows_goes_on_over_the_boundary():
    served = Served()
    served.serve(60)
    served.next_pane()
    assert served.watch.report().panes_closed == 0
    served.serve(60)
    served.next_pane()
    assert served.watch.report().panes[0].block.rows == 120


def test_a_shift_alarms_once_names_its_feature_and_the_alarm_ends_after_the_drift(caplog):
    served = Served()
    began = []
    with caplog.at_level(logging.WARNING):
        for pane in range(120):
            served.serve(100, shift=2.0 if 5 <= pane < 15 else 0.0)
            began.append(served.next_pane())
    assert 5 <= began.index(True) <= 8
    assert sum(began) == 1
    assert "drifted" in caplog.text
    report = served.watch.report()
    assert not report.is_alarm
    assert report.alarms == 1


def test_a_drift_that_stays_keeps_the_alarm():
    served = Served()
    standing = []
    for _ in range(60):
        served.serve(100, shift=2.0)
        served.next_pane()
        standing.append(served.watch.report().is_alarm)
    assert all(standing[3:])
    assert ranked(served.watch.report())[0].feature.name == "x[1]"


def test_a_report_sees_the_open_pane_at_once():
    served = Served()
    served.serve(500, shift=3.0)
    report = served.watch.report()
    assert report.panes_closed == 0
    assert report.is_alarm
    said = as_json(report)
    assert said["alarm"] is True
    assert said["features"][0]["name"] == "x[1]"
    assert said["features"][0]["mean_shift"] == pytest.approx(3.0, abs=0.3)
    assert said["evidence"] > said["alarm_at"] == pytest.approx(3.0)


def test_without_drift_nothing_alarms():
    served = Served()
    for _ in range(80):
        served.serve(200)
        assert served.next_pane() is False
    assert served.watch.report().alarms == 0


def test_without_a_profile_the_first_rows_are_the_reference():
    served = Served(profile=False, reference_rows=1_000)
    assert served.watch.report().phase == "collecting"
    for _ in range(10):
        served.serve(100)
    served.next_pane()
    report = served.watch.report()
    assert (report.phase, report.is_self_reference, report.rows) == ("watching", True, 0)
    assert [feature.name for feature in elements(report)] == ["x[0]", "x[1]", "x[2]", "x[3]", "y"]
    assert all(feature.counts.sum() == 1_000 for feature in elements(report))
    assert {feature.name for feature in report.features} > {"x: mahalanobis", "x: projection 0"}
    served.serve(500, shift=3.0)
    assert served.watch.report().is_alarm


@pytest.mark.parametrize("data", [b"", b"no profile at all", b"PK\x05\x06" + bytes(18)])
def test_a_profile_that_cannot_be_used_is_logged_and_the_first_rows_are_used(data, caplog):
    watch = DriftWatch("m", 1, SIGNATURE, DriftConfig(), clock=FakeClock())
    watch.begin(data)
    assert watch.report().phase == "collecting"
    assert "m/1: this is not a reference profile" in caplog.text


def test_a_profile_of_another_model_is_logged_and_the_first_rows_are_used(caplog):
    watch = DriftWatch("m", 1, SIGNATURE, DriftConfig(), clock=FakeClock())
    watch.begin(ReferenceProfile.of_tensors({"z": np.zeros((9, 2))}, {}).to_bytes())
    assert watch.report().phase == "collecting"
    assert "'z'" in caplog.text


def test_what_is_switched_off_counts_nothing():
    served = Served(enabled=False)
    served.serve(500)
    assert served.watch.report().phase == "off"


def test_two_executors_are_one_model():
    served = Served(executors=2)
    served.serve(100, executor=0)
    served.serve(80, executor=1)
    assert served.watch.report().rows == 180


def test_an_executor_that_comes_later_counts_as_well():
    served = Served()
    served.counters.append(served.watch.counter())
    served.serve(50, executor=1)
    assert served.watch.report().rows == 50


def test_replicas_added_up_are_what_one_server_would_have_seen():
    one, left, right = Served(), Served(seed=1), Served(seed=2)
    for pane in range(12):
        for replica in (left, right):
            x, y = replica.serve(100, shift=0.3 if pane > 4 else 0.0)
            one.counters[0].observe([x], [y], rows=100, infer_ns=1_000_000)
        for each in (one, left, right):
            each.next_pane()
    left.serve(0)
    whole, added = one.watch.report(), merged([left.watch.report(), right.watch.report()])
    assert added.rows == whole.rows == 2_400
    np.testing.assert_array_equal(added.recent.counts, whole.recent.counts)
    np.testing.assert_allclose(added.logs, whole.logs)
    np.testing.assert_allclose(added.evidence, whole.evidence)
    assert added.is_alarm == whole.is_alarm
    assert added.replicas == 2


def test_reports_of_different_references_are_not_added_up():
    served = Served()
    report = served.watch.report()
    other = dataclasses.replace(report, data_digest="sha256:other")
    with pytest.raises(Exception, match="same reference"):
        merged([report, other])


def test_calibration_takes_the_first_panes_and_then_says_so():
    served = Served(calibration_panes=50)
    for _ in range(50):
        served.counters[0].observe(*self_clustered(served), rows=200, infer_ns=1_000_000)
        served.next_pane()
        assert not served.watch.report().is_alarm
    report = served.watch.report()
    assert (report.phase, report.is_calibrated) == ("watching", True)
    assert "calibrated" in report.guarantee
    assert (report.effects[:WIDTH] > 3).all()
    for _ in range(30):
        served.counters[0].observe(*self_clustered(served), rows=200, infer_ns=1_000_000)
        assert served.next_pane() is False


def self_clustered(served):
    """Rows that come in clusters of five equal ones."""
    inputs, outputs = served._tensors(served.rng, 40)
    return [np.repeat(inputs["x"], 5, axis=0)], [np.repeat(outputs["y"], 5)]


def test_a_row_of_a_wide_tensor_is_watched_at_evenly_spaced_elements():
    wide = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 50, 100)),), (), batchable=True)
    served = Served(profile=False, signature=wide, reference_rows=100)
    batch = np.random.default_rng(0).normal(size=(100, 50, 100)).astype(np.float32)
    served.counters[0].observe([batch], [], rows=100, infer_ns=1_000_000)
    served.counters[0].observe([batch], [], rows=100, infer_ns=1_000_000)
    features = elements(served.watch.report())
    assert len(features) == COLUMNS_PER_TENSOR_MAX
    assert (features[-1].name, features[-1].column) == ("x[4999]", 4_999)
    served.counters[0].observe([batch], [], rows=100, infer_ns=1_000_000)
    report = served.watch.report()
    np.testing.assert_array_equal(report.open.counts[: len(features), 1:31].sum(1), 100)


def test_a_model_that_is_not_batchable_has_one_row_per_run():
    fixed = Signature((TensorSpec("x", Datatype.FP32, (2, 3)),), (), batchable=False)
    served = Served(profile=False, signature=fixed, reference_rows=100)
    for value in range(101):
        served.counters[0].observe([np.full((2, 3), value, np.float32)], [], rows=1, infer_ns=1_000_000)
    assert [feature.name for feature in elements(served.watch.report())] == [f"x[{k}]" for k in range(6)]


def test_collected_texts_are_bounded_and_let_the_request_go():
    collector = Collector([1], 100)
    text = "a" * 10_000
    collector.take([np.array([[text]], object)], rows=1, start=0, step=1)
    assert collector.samples[0][0].tolist() == [[b"a" * 201]]


def test_collected_bytes_are_bounded(monkeypatch):
    monkeypatch.setattr(Collector, "BYTES_MAX", 1_000)
    collector = Collector([100], 1_000_000)
    collector.take([np.zeros((50, 100), np.float32)], rows=50, start=0, step=1)
    assert collector.is_full


def test_numbers_that_go_together_otherwise_are_found_though_each_looks_as_before():
    mixing = np.array([[1.0, 0.95], [0.0, np.sqrt(1 - 0.95**2)]])
    signature = Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 2)),), (), batchable=True)

    def together(rng, rows):
        return (rng.normal(size=(rows, 2)) @ mixing).astype(np.float32)

    served = Served(profile=False, signature=signature, reference_rows=10_000)
    served.watch.begin(ReferenceProfile.of_tensors({"x": together(served.rng, 10_000)}, {}).to_bytes())
    for _ in range(10):
        served.counters[0].observe([together(served.rng, 500)], [], rows=500, infer_ns=1_000_000)
        assert served.next_pane() is False
    apart = served.rng.normal(size=(2_000, 2)).astype(np.float32)
    served.counters[0].observe([apart], [], rows=2_000, infer_ns=1_000_000)
    said = as_json(served.watch.report())
    assert said["alarm"] is True
    assert said["derived"][0]["name"] in {"x: mahalanobis", "x: reconstruction"}
    assert max(feature["evidence"] for feature in said["features"]) < 1.0
    assert said["derived"][0]["evidence"] > 3.0


def test_what_scrapes_see_rests_unless_a_pane_closes():
    served = Served()
    clock = served.watch._clock
    now_ns = clock.now_ns

    def later():
        clock.advance(1_000_000)  # whatever is done takes a millisecond or more
        return now_ns()

    served.serve(200)
    served.watch._clock.now_ns = later
    first = served.watch.view()
    served.serve(200)
    assert served.watch.view() is first
    clock.advance(VIEW_REST * 50_000_000)
    second = served.watch.view()
    assert (first.rows, second.rows) == (200, 400)
    served.serve(200)
    served.next_pane()
    assert (served.watch.view().rows, served.watch.view().panes) == (600, 1)


def test_a_pause_ends_by_itself_or_when_somebody_says_so():
    served = Served()
    watch, clock = served.watch, served.clock
    assert (watch.paused_s, watch.report().paused_s) == (0, 0)
    watch.pause(90)
    assert (watch.paused_s, watch.report().paused_s) == (90, 90)
    clock.advance(60_000_000_000)
    assert clock.now_ns() < watch.paused_until_ns
    assert watch.paused_s == 30
    watch.pause(120)
    assert watch.paused_s == 120, "in place of what was asked before"
    clock.advance(120_000_000_000)
    assert clock.now_ns() >= watch.paused_until_ns
    assert watch.paused_s == 0
    watch.pause(90)
    watch.pause(0)
    assert watch.paused_s == 0


def test_of_replicas_the_longest_pause_is_told_and_that_it_is_not_of_all():
    served = Served()
    served.serve(200)
    paused = dataclasses.replace(served.watch.report(), paused_s=7.0)
    both = merged([served.watch.report(), paused])
    assert as_json(both)["paused_s"] == 7
    assert "no rows are counted for 7 s more." in page(paused)
    assert "no rows are counted for 7 s more on some of them." in page(both)
    assert "Paused" not in page(served.watch.report())


def test_a_pause_waits_for_no_pane_that_is_being_closed():
    served = Served()
    pausing = threading.Thread(target=served.watch.pause, args=(60,), daemon=True)
    with served.watch._busy:
        pausing.start()
        pausing.join(10)
        assert not pausing.is_alive()
    assert served.watch.paused_s == 60


def test_while_rows_are_sampled_one_in_eight_of_them_is_looked_at_as_a_whole():
    served = Served()
    for _ in range(100):
        served.counters[0].governor.step = 2
        served.serve(160)
    report = served.watch.report()
    rows = {f.name: int(report.open.counts[row].sum()) for row, f in enumerate(report.features)}
    assert rows["x[0]"] == 8_000
    assert rows["x: mahalanobis"] == rows["x: projection 0"] == 1_000
