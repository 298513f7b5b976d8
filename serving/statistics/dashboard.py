"""A Grafana dashboard of the metrics that `exporter` writes. It knows their names and Grafana's JSON, and no server.

The dashboard asks which Prometheus, models and versions to show, so that one file serves every installation.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_UID = "penstock"
_SCHEMA_VERSION = 39  # Grafana 10 and later read it
_COLUMNS = 24
_DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SERVED = 'model=~"$model", version=~"$version"'
_BY = "model, version"


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its lines are called; `format` is Grafana's: time_series, table or heatmap."""

    expression: str
    legend: str = "{{model}}/{{version}}"
    format: str = "time_series"


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot: what it shows, in which of Grafana's units, of which kind, how many of 24 columns wide."""

    title: str
    text: str
    unit: str
    queries: Sequence[Query]
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False


def _rate(name: str, *, by: str = _BY) -> str:
    return f"sum by ({by}) (rate({name}{{{_SERVED}}}[$__rate_interval]))"


def _quantile(quantile: float, stage: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'penstock_{stage}_seconds_bucket', by=f'le, {_BY}')})"


def _mean(name: str) -> str:
    return f"{_rate(f'{name}_sum')} / {_rate(f'{name}_count')}"


def _ratio(part: str, whole: str) -> str:
    return f"{_rate(part)} / {_rate(whole)}"


def _gauge(name: str) -> str:
    return f"{name}{{{_SERVED}}}"


_REQUESTS = "penstock_requests_total"
_OF_GPU = "{{instance}} GPU {{gpu}}"
_BATCH_STAGES = ("queue", "compute_input", "compute_infer", "compute_output")

ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Traffic",
        (
            Panel("Answers", "Requests answered per second, by code.", "reqps",
                  [Query(f"sum by (code) (rate({_REQUESTS}{{{_SERVED}}}[$__rate_interval]))", "{{code}}")],
                  is_stacked=True),
            Panel("Not answered with outputs", "Why: the client's mistakes, overload, deadlines, ours.", "reqps",
                  [Query(f'sum by (code, reason) (rate({_REQUESTS}{{code!="OK"}}[$__rate_interval]))',
                         "{{code}} {{reason}}")]),
            Panel("Rows", "Rows answered per second.", "rowsps", [Query(_rate("penstock_rows_total"))]),
        ),
    ),
    (
        "Latency",
        (
            Panel("Requests", "From arrival to answer.", "s",
                  [Query(_quantile(q, "request"), f"p{q * 100:g} {{{{model}}}}/{{{{version}}}}")
                   for q in (0.5, 0.9, 0.99)]),
            Panel("Mean of the stages", "What the mean request waits for.", "s",
                  [Query(_mean(f"penstock_{stage}_seconds"), f"{stage} {{{{model}}}}/{{{{version}}}}")
                   for stage in _BATCH_STAGES], is_stacked=True),
            Panel("p99 of the stages", "What the slowest hundredth waits for; stages' quantiles do not add up.", "s",
                  [Query(_quantile(0.99, stage), f"{stage} {{{{model}}}}/{{{{version}}}}") for stage in _BATCH_STAGES]),
            Panel("Requests by latency", "How many requests took how long.", "s",
                  [Query(_rate("penstock_request_seconds_bucket", by="le"), "{{le}}", "heatmap")],
                  kind="heatmap", width=16),
            Panel("Late answers", "Answers later than the model's slo_ms, of all that were answered.", "percentunit",
                  [Query(_ratio("penstock_slo_missed_total", "penstock_request_seconds_count"))]),
        ),
    ),
    (
        "Batching",
        (
            Panel("Rows per batch", "The mean of executed batches.", "none", [Query(_mean("penstock_batch_rows"))]),
            Panel("Batches by why they were taken", "full, deadline, efficiency, idle, drain or shape.", "ops",
                  [Query(_rate("penstock_batch_releases_total", by="reason"), "{{reason}}")], is_stacked=True),
            Panel("Queue", "Rows that wait for an instance.", "none", [Query(_gauge("penstock_queue_rows"))]),
            Panel("Time of batches", "Over what was expected; above 1 a model has become slower.", "none",
                  [Query(_ratio("penstock_batch_actual_seconds_total", "penstock_batch_expected_seconds_total"))]),
            Panel("Batch time by rows", "As learnt.", "s",
                  [Query(_gauge("penstock_service_seconds"), "{{model}}/{{version}} {{rows}} rows")]),
            Panel("Wasted", "Rows that ran for nobody, and runs that split failed batches.", "ops",
                  [Query(_rate("penstock_dead_rows_total"), "rows {{model}}/{{version}}"),
                   Query(_rate("penstock_batch_reruns_total"), "reruns {{model}}/{{version}}")]),
        ),
    ),
    (
        "Drift",
        (
            Panel("Alarm", "1 while the rows have drifted from the reference, or their counting is paused.", "none",
                  [Query(_gauge("penstock_drift_alarm")),
                   Query(_gauge("penstock_drift_paused"), "paused {{model}}/{{version}}")]),
            Panel("Evidence", "As a power of ten; it alarms at alarm_panes, 3 unless it was set.", "none",
                  [Query(_gauge("penstock_drift_evidence"))]),
            Panel("Time spent counting", "Of the time that batches take.", "percentunit",
                  [Query(_ratio("penstock_drift_seconds_total", "penstock_batch_actual_seconds_total"))]),
            Panel("Expected accuracy", "Before labels, where the profile was calibrated.", "percentunit",
                  [Query(_gauge("penstock_drift_expected_accuracy"))]),
            Panel("Evidence by feature", "The ten strongest.", "none",
                  [Query(_gauge("penstock_drift_feature_evidence"), "{{model}}/{{version}} {{feature}}")]),
            Panel("Missing", "Share of rows that are missing or NaN.", "percentunit",
                  [Query(_gauge("penstock_drift_feature_missing"), "{{model}}/{{version}} {{feature}}")]),
            Panel("Out of range", "Share of rows beyond the reference, or unseen in it.", "percentunit",
                  [Query(_gauge("penstock_drift_feature_out_of_range"), "{{model}}/{{version}} {{feature}}")]),
        ),
    ),
    (
        "Server",
        (
            Panel("In flight", "Requests, gRPC calls and connections.", "none",
                  [Query("penstock_requests_in_flight", "requests {{instance}}"),
                   Query("penstock_streams", "calls {{instance}}"),
                   Query("penstock_connections", "connections {{instance}}")]),
            Panel("Refused by the transport", "Streams refused and connections cut off.", "ops",
                  [Query("sum by (reason) (rate(penstock_refused_total[$__rate_interval])) > 0", "{{reason}}")]),
            Panel("CPU", "Cores in use.", "none",
                  [Query("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")]),
            Panel("Memory", "Resident memory of the process.", "bytes",
                  [Query("process_resident_memory_bytes", "{{instance}}")]),
            Panel("Memory by model", "Growth of resident memory while a version was loaded.", "bytes",
                  [Query(_gauge("penstock_model_memory_bytes"))]),
            Panel("Load time", "With warm-up and sweep.", "s", [Query(_gauge("penstock_model_load_seconds"))]),
            Panel("Open files", "Of those that the process may open.", "percentunit",
                  [Query("process_open_fds / process_max_fds", "{{instance}}")]),
        ),
    ),
    (
        "GPUs",
        (
            Panel("Memory in use", "Of GPUs that run models, by anybody.", "percentunit",
                  [Query("penstock_gpu_memory_used_bytes / penstock_gpu_memory_bytes", _OF_GPU)]),
            Panel("GPU memory by model", "Growth of the memory in use while a version was loaded.", "bytes",
                  [Query(_gauge("penstock_model_gpu_memory_bytes"))]),
            Panel("Busy", "Share of the last second or less in which something ran.", "percentunit",
                  [Query("penstock_gpu_utilisation_ratio", _OF_GPU)]),
            Panel("Power", "What GPUs draw.", "watt", [Query("penstock_gpu_power_watts", _OF_GPU)]),
        ),
    ),
)  # fmt: skip
"""The dashboard's rows, each a title and its panels."""

_HEIGHT = 8


def dashboard() -> dict[str, Any]:
    """Return the dashboard, for Grafana's import or its provisioning of dashboards from files."""
    return {
        "uid": _UID,
        "title": "Penstock",
        "tags": ["penstock"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    queries = (("model", "penstock_rows_total"), ("version", 'penstock_rows_total{model=~"$model"}'))
    for name, metric in queries:
        query = f"label_values({metric}, {name})"
        yield {
            "name": name,
            "type": "query",
            "datasource": _DATA_SOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": _place(0, y, _COLUMNS, 1)}
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > _COLUMNS:
                x, y = 0, y + _HEIGHT
            number += 1
            yield {"id": number, "gridPos": _place(x, y, panel.width, _HEIGHT)} | _plot(panel)
            x += panel.width
        y += _HEIGHT


def _plot(panel: Panel) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 20} if panel.is_stacked else {}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom"}}
    if panel.kind == "heatmap":
        options = {"calculate": False, "yAxis": {"unit": panel.unit}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATA_SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATA_SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                "format": query.format,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}
