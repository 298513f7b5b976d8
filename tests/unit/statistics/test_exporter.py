import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import Cancelled, DeadlineExceeded, InvalidRequest, ModelFailed, Overloaded
from serving.gpu.gauges import GpuReading
from serving.statistics.batching import BatchingView, ServiceTime
from serving.statistics.counters import RequestCounters
from serving.statistics.exporter import Exporter, Snapshot
from serving.statistics.latency import STAGES, Answered, BatchTimes, Histogram, ServableStatistics
from serving.statistics.rollout import ArmView, RolloutView
from serving.statistics.servable_view import Footprint, QueueView, ServableView

BATCHING = BatchingView(
    mode="adaptive", instances=1, target_ns=0.0, sizes=[ServiceTime(1, 2e6, 3e6), ServiceTime(6, 5e6, 6e6)],
    knee_rows=6, chosen_rows=6, best_rows_per_s=1200.0, waiting=None, rows_per_s=10.0, burst=1.0, utilisation=0.1,
    missed=0.0, overhead_ns=1e3, expected_ns=4e9, actual_ns=5e9, releases={"full": 2, "idle": 0}, waits=3,
    rows_allowed=(2, 6), padding_rows=11,
)  # fmt: skip
QUEUE = QueueView(rows=7, input_bytes=112, requests=3)
FULL = Overloaded("full", retry_after_ms=1)
FOOTPRINT = Footprint(load_ns=1_500_000_000, graph_bytes=1_000, memory_bytes=5_000)


def served():
    """Statistics of one batch of 3 requests with 5 rows, and one of 1 request with 1 row."""
    statistics = ServableStatistics()
    times = BatchTimes(rows=5, taken_ns=10_000, input_ns=2_000, infer_ns=100_000, output_ns=1_000, reruns=0)
    statistics.batch_done(times, Answered([(0, 1), (5_000, 1), (9_000, 1)], rows=5), now_ns=120_000, wall_ns=0)
    times = BatchTimes(rows=1, taken_ns=0, input_ns=0, infer_ns=1 << 40, output_ns=0, reruns=0)
    statistics.batch_done(times, Answered([(0, 1)], rows=1), now_ns=1 << 40, wall_ns=0)
    return statistics


def text_of(**options):
    counters = RequestCounters()
    for _ in range(4):
        counters.count("m", "1", None)
    for error in (Cancelled("gone"), ModelFailed("it"), InvalidRequest("x"), DeadlineExceeded("late"), FULL, FULL):
        counters.count("m", "1", error)
    views = [
        ServableView.copy_of("m", "1", served(), batch_rows_max=6, queue=QUEUE, footprint=FOOTPRINT, batching=BATCHING),
        ServableView.copy_of(
            'odd "name"\\\n', "2", ServableStatistics(), batch_rows_max=1, queue=QueueView(), footprint=Footprint()
        ),
    ]
    return Exporter(**options).render(Snapshot(views, counters.outcomes, in_flight=9)).decode()


@pytest.fixture
def page():
    return {family.name: family for family in text_string_to_metric_families(text_of())}


def value(page, family, sample=None, **labels):
    (found,) = [
        item.value
        for item in page[family].samples
        if item.name == (sample or family) and labels.items() <= item.labels.items()
    ]
    return found


def test_the_text_is_read_by_prometheus_own_parser_with_odd_names_intact(page):
    models = {item.labels["model"] for item in page["penstock_rows"].samples}
    assert models == {"m", 'odd "name"\\\n'}


def test_counters_and_gauges_show_what_was_counted(page):
    assert value(page, "penstock_rows", "penstock_rows_total", model="m") == 6
    assert value(page, "penstock_batches", "penstock_batches_total", model="m") == 2
    assert value(page, "penstock_queue_rows", model="m") == 7
    assert value(page, "penstock_queue_bytes", model="m") == 112
    assert value(page, "penstock_requests_in_flight") == 9
    requests = {item.labels["code"]: item.value for item in page["penstock_requests"].samples}
    assert requests == {"OK": 4, "CANCELLED": 1, "INTERNAL": 1, "INVALID_ARGUMENT": 1, "DEADLINE_EXCEEDED": 1} | {
        "RESOURCE_EXHAUSTED": 2
    }


def test_what_a_batcher_has_learnt_and_done_is_shown(page):
    releases = {item.labels["reason"]: item.value for item in page["penstock_batch_releases"].samples}
    times = {item.labels["rows"]: item.value for item in page["penstock_service_seconds"].samples}
    assert (releases, times) == ({"full": 2, "idle": 0}, {"1": 0.002, "6": 0.005})
    assert value(page, "penstock_batch_waits", "penstock_batch_waits_total") == 3
    assert value(page, "penstock_batch_expected_seconds", "penstock_batch_expected_seconds_total") == 4
    assert value(page, "penstock_batch_actual_seconds", "penstock_batch_actual_seconds_total") == 5


@pytest.mark.parametrize("stage", STAGES)
def test_a_histogram_grows_to_its_count(page, stage):
    family = f"penstock_{stage}_seconds"
    buckets = [item for item in page[family].samples if item.name.endswith("_bucket") and item.labels["model"] == "m"]
    values = [item.value for item in buckets]
    assert values == sorted(values)
    assert buckets[-1].labels["le"] == "+Inf"
    assert values[-1] == value(page, family, f"{family}_count", model="m") == 4
    edges = [float(item.labels["le"]) for item in buckets]
    assert edges == sorted(set(edges))


def test_sums_are_in_seconds(page):
    total = value(page, "penstock_compute_infer_seconds", "penstock_compute_infer_seconds_sum", model="m")
    assert total == pytest.approx((3 * 100_000 + (1 << 40)) / 1e9)


def test_rows_per_batch_lie_in_powers_of_two(page):
    buckets = {
        item.labels["le"]: item.value
        for item in page["penstock_batch_rows"].samples
        if item.name.endswith("_bucket") and item.labels["model"] == "m"
    }
    assert buckets == {"1": 1, "2": 1, "4": 1, "8": 2, "+Inf": 2}
    assert value(page, "penstock_batch_rows", "penstock_batch_rows_sum", model="m") == 6


def test_padding_is_counted_apart_from_rows(page):
    assert value(page, "penstock_padding_rows", "penstock_padding_rows_total", model="m") == 11
    assert value(page, "penstock_rows", "penstock_rows_total", model="m") == 6


def test_only_known_words_are_labels(page):
    labels = {name for family in page.values() if family.name.startswith("penstock") for item in family.samples
              for name in item.labels}  # fmt: skip
    assert labels == {"model", "version", "code", "reason", "le", "rows"}


def test_the_process_itself_is_measured(page):
    assert value(page, "process_resident_memory_bytes") > 0


def test_what_loading_took_is_shown(page):
    assert value(page, "penstock_model_load_seconds", model="m") == 1.5
    assert value(page, "penstock_model_graph_bytes", model="m") == 1_000
    assert value(page, "penstock_model_memory_bytes", model="m") == 5_000


def test_tritons_metrics_are_there_only_when_they_are_asked_for():
    assert "nv_inference" not in text_of()
    assert "nv_inference_count" in text_of(has_triton=True)


def test_tritons_metrics_have_its_names_types_and_meanings():
    text = text_of(has_triton=True)
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE nv_"))
    gauges = {name for name, kind in types.items() if kind == "gauge"}
    assert gauges == {"nv_inference_pending_request_count"}
    assert set(types.values()) == {"counter", "gauge"}
    samples = {}
    for line in text.splitlines():
        if line.startswith("nv_") and 'model="m"' in line:
            labels, number = line.rsplit(" ", 1)
            samples[labels.replace('model="m",', "").replace('{version="1"}', "")] = float(number)
    assert samples.pop("nv_inference_request_success") == 4
    assert samples.pop("nv_inference_count") == 6
    assert samples.pop("nv_inference_exec_count") == 2
    assert samples.pop("nv_inference_pending_request_count") == 3
    assert samples.pop("nv_inference_compute_infer_duration_us") == (3 * 100_000 + (1 << 40)) // 1_000
    assert samples.pop("nv_inference_queue_duration_us") == (10_000 + 5_000 + 1_000) // 1_000
    reasons = {line.split('"')[1]: samples[line] for line in samples if "failure" in line}
    assert reasons == {"REJECTED": 3, "CANCELED": 1, "BACKEND": 1, "OTHER": 1}
    times = {line.partition("{")[0] for line in samples} - {"nv_inference_request_failure"}
    assert times == {f"nv_inference_{stage}_duration_us" for stage in ("request", "compute_input", "compute_output")}


GPUS = [GpuReading(0, "GPU-a", 3e9, 8e9, 0.25, 70.5), GpuReading(2, "GPU-b", 1e9, 4e9, math.nan, math.nan)]


@pytest.fixture
def of_gpus(monkeypatch):
    """What a server with a model on each of two GPUs shows; one of them does not tell how busy it is."""
    monkeypatch.setattr("serving.gpu.gauges.read", {gpu.number: gpu for gpu in GPUS}.get)
    views = [
        ServableView.copy_of(
            model,
            "1",
            ServableStatistics(),
            batch_rows_max=1,
            queue=QUEUE,
            footprint=Footprint(gpu_bytes=held),
            gpu=gpu,
        )
        for model, held, gpu in (("m", 2_000, 0), ("n", 3_000, 2), ("on the CPU", 0, None))
    ]
    text = Exporter(has_triton=True).render(Snapshot(views, {}, 0)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples if "gpu" in sample.name}


def test_gpus_are_shown_as_far_as_they_tell(of_gpus):
    assert of_gpus == {
        ("penstock_model_gpu_memory_bytes", "m", "1"): 2_000, ("penstock_model_gpu_memory_bytes", "n", "1"): 3_000,
        ("penstock_gpu_memory_used_bytes", "0", "GPU-a"): 3e9, ("penstock_gpu_memory_used_bytes", "2", "GPU-b"): 1e9,
        ("penstock_gpu_memory_bytes", "0", "GPU-a"): 8e9, ("penstock_gpu_memory_bytes", "2", "GPU-b"): 4e9,
        ("penstock_gpu_utilisation_ratio", "0", "GPU-a"): 0.25, ("penstock_gpu_power_watts", "0", "GPU-a"): 70.5,
        ("nv_gpu_memory_used_bytes", "GPU-a"): 3e9, ("nv_gpu_memory_used_bytes", "GPU-b"): 1e9,
        ("nv_gpu_memory_total_bytes", "GPU-a"): 8e9, ("nv_gpu_memory_total_bytes", "GPU-b"): 4e9,
        ("nv_gpu_utilization", "GPU-a"): 0.25, ("nv_gpu_power_usage", "GPU-a"): 70.5,
    }  # fmt: skip


def test_without_a_gpu_nothing_is_said_of_any(page):
    assert not any("gpu" in name for name in page)


LABELS = ("model", "arm", "outcome", "reason")


def test_a_rollout_has_series_per_model_and_arm_and_versions_are_values():
    latency = Histogram()
    latency.add(3_000_000, 7)
    arms = (ArmView("canary", 12, 0.1, 9, 2, latency), ArmView("control", 11, 0.1, 8, 0, Histogram()))
    shadow = RolloutView("n", (ArmView("shadow", 3, 0.0, 5, 1),), differing=2, dropped={"load": 4, "busy": 0})
    text = Exporter().render(Snapshot([], {}, 0, rollouts=[RolloutView("m", arms), shadow])).decode()
    samples = {
        (sample.name, *(sample.labels[name] for name in LABELS if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        if family.name.startswith("penstock_rollout")
        for sample in family.samples
    }
    assert samples["penstock_rollout_version", "m", "canary"] == 12
    assert samples["penstock_rollout_share", "m", "control"] == 0.1
    assert samples["penstock_rollout_requests_total", "m", "canary", "failed"] == 2
    assert samples["penstock_rollout_requests_total", "n", "shadow", "ok"] == 4
    assert samples["penstock_rollout_request_seconds_count", "m", "canary"] == 7
    assert ("penstock_rollout_request_seconds_count", "n", "shadow") not in samples
    assert samples["penstock_rollout_shadow_differing_total", "n"] == 2
    assert samples["penstock_rollout_shadow_dropped_total", "n", "load"] == 4
    assert ("penstock_rollout_shadow_differing_total", "m") not in samples


def test_without_a_rollout_there_are_no_series_of_one(page):
    assert not any(name.startswith("penstock_rollout") for name in page)
