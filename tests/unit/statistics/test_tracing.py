import threading

import pytest

from serving.errors import Code, InvalidRequest
from serving.statistics.latency import BatchTimes
from serving.statistics.tracing import FinishedTrace, RequestTrace, Tracer
from tests.support.clocks import FakeClock

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TIMES = BatchTimes(rows=4, taken_ns=50, input_ns=1, infer_ns=10, output_ns=2, reruns=0)


@pytest.fixture
def exported():
    return []


def tracer(exported, ratio=0.0):
    return Tracer(FakeClock(), ratio, exported.append)


@pytest.mark.parametrize(
    ("parent", "is_traced"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"cc-{TRACE}-{PARENT}-01-what-comes-later", True),
    ],
)
def test_the_caller_decides(parent, is_traced, exported):
    for ratio in (0.0, 1.0):
        trace = tracer(exported, ratio).begin(parent)
        assert (trace is not None) is is_traced
        assert trace is None or trace.parent == parent


@pytest.mark.parametrize(
    "parent",
    [
        None, "", 7, "00", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01-more", f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}-0g",
        f"cc-{TRACE}-{PARENT}-01-" + "x" * 300,
    ],
)  # fmt: skip
def test_what_is_no_traceparent_counts_as_none(parent, exported):
    assert tracer(exported, ratio=0.0).begin(parent) is None
    assert tracer(exported, ratio=1.0).begin(parent).parent == ""


def test_of_many_requests_the_ratio_is_traced_however_they_come(exported):
    one = tracer(exported, ratio=0.1)
    one.compiled("m", "1", TIMES, [(10, 25), (20, 3), (30, 2)])
    assert [(trace.began_ns, trace.times) for trace in exported] == [(10, TIMES), (10, TIMES), (30, TIMES)]
    assert one.begin("") is None


def test_a_traced_request_knows_the_times_of_its_batch_and_is_forgotten_at_its_end(exported):
    one, entry = tracer(exported, ratio=1.0), object()
    trace = one.begin("")
    one.follow(trace, entry)
    one.ran(object(), TIMES)
    assert trace.times is None
    one.ran(entry, TIMES)
    one.clock.advance(1_000)
    one.end("m", "1", trace, None)
    (finished,) = exported
    assert (finished.times, finished.ended_ns - finished.began_ns, finished.code) == (TIMES, 1_000, Code.OK)
    assert finished.began_ns + finished.epoch_ns == one.clock.wall_ns() - 1_000
    assert one.traced == {}


def test_an_error_is_told(exported):
    tracer(exported).end("m", "1", RequestTrace("", 0), InvalidRequest("no such thing"))
    assert (exported[0].code, exported[0].message) == (Code.INVALID_ARGUMENT, "no such thing")


def test_what_cannot_be_kept_up_with_is_dropped_and_counted(monkeypatch):
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="needs penstock[otel]"
    )
    from serving.statistics import spans

    monkeypatch.setattr(spans, "WAITING_MAX", 2)
    exporter, begun, go_on = memory.InMemorySpanExporter(), threading.Event(), threading.Event()
    one = spans.Spans(exporter)
    make = one._make_spans

    def slowly(finished):
        begun.set()
        assert go_on.wait(60)
        make(finished)

    monkeypatch.setattr(one, "_make_spans", slowly)
    finished = FinishedTrace("m", "1", "", 0, 100, 0, TIMES, Code.OK, "")
    for _ in range(5):
        one.export(finished)
    assert begun.wait(60)
    go_on.set()
    one.close()
    assert (one.traced, one.dropped) == (2, 3)
    assert len(exporter.get_finished_spans()) == 2 * 5


def test_a_collector_that_does_not_answer_is_given_up_at_the_end(monkeypatch):
    sdk = pytest.importorskip("opentelemetry.sdk.trace.export", reason="needs penstock[otel]")
    from serving.statistics import spans

    class Silent(sdk.SpanExporter):
        def __init__(self):
            self.over, self.given_up_by = threading.Event(), []

        def export(self, _):
            assert self.over.wait(60)
            return sdk.SpanExportResult.FAILURE

        def shutdown(self):
            self.given_up_by.append(threading.current_thread())
            self.over.set()

    monkeypatch.setattr(spans, "_CLOSE_S", 0.0)
    exporter = Silent()
    one = spans.Spans(exporter)
    one.export(FinishedTrace("m", "1", "", 0, 100, 0, TIMES, Code.OK, ""))
    one.close()
    assert exporter.given_up_by[0] is not threading.current_thread()


def test_a_trace_that_cannot_be_made_into_spans_harms_no_other():
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="needs penstock[otel]"
    )
    from serving.statistics import spans

    exporter = memory.InMemorySpanExporter()
    one = spans.Spans(exporter)
    one.export(FinishedTrace("m", "1", "", None, 100, 0, TIMES, Code.OK, ""))
    one.export(FinishedTrace("m", "1", "", 0, 100, 0, TIMES, Code.OK, ""))
    one.close()
    assert len(exporter.get_finished_spans()) == 5
