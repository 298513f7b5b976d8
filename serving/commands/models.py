"""`penstock models`: ask a running server what it serves, and change it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from serving.commands.latency import latency
from serving.commands.options import Connect, client_options, json_option, model_option, show
from serving.commands.table import table
from serving.errors import RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.pb import penstock_pb2 as monitor_pb
from serving.transport.client import Client
from serving.transport.monitor import MONITOR_SERVICE

_LOAD_TIMEOUT_S = 3600.0
_DIGEST_SHOWN = len("sha256:") + 12


@click.group("models")
def group() -> None:
    """List, load and unload the models of a running server, and see what they did."""


@group.command("list")
@model_option(required=False)
@client_options
@json_option
def list_models(model: str, connect: Connect, json_file: Path | None) -> None:
    """List every version and its state, of all models or of one."""
    with connect() as client:
        index = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        entries = [_index_dict(client, entry) for entry in index.models if model in {"", entry.name}]
    header = ("MODEL", "VERSION", "STATE", "PACKAGE", "REASON")
    rows = [(entry["name"], entry["version"] or "-", entry["state"], entry["package"][:_DIGEST_SHOWN] or "-",
             entry["reason"]) for entry in entries]  # fmt: skip
    show(table(header, rows), entries, json_file)


@group.command("load")
@model_option(required=True)
@client_options
@json_option
def load(model: str, connect: Connect, json_file: Path | None) -> None:
    """Load a model as its folder is now, also when it was unloaded."""
    with connect(timeout_s=_LOAD_TIMEOUT_S) as client:
        request = pb.RepositoryModelLoadRequest(model_name=model)
        client.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    show(f"{model} is loaded", {"model": model, "loaded": True}, json_file)


@group.command("unload")
@model_option(required=True)
@client_options
@json_option
def unload(model: str, connect: Connect, json_file: Path | None) -> None:
    """Unload a model once its requests in flight are answered; it stays so until the next `load`."""
    with connect(timeout_s=_LOAD_TIMEOUT_S) as client:
        request = pb.RepositoryModelUnloadRequest(model_name=model)
        client.call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)
    show(f"{model} is unloaded", {"model": model, "loaded": False}, json_file)


@group.command("ready")
@model_option(required=False)
@client_options
@json_option
def ready(model: str, connect: Connect, json_file: Path | None) -> None:
    """Say whether a model, or the whole server, is ready; exit status 1 when it is not."""
    with connect() as client:
        if model:
            is_ready = client.call("ModelReady", pb.ModelReadyRequest(name=model), pb.ModelReadyResponse).ready
        else:
            is_ready = client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    show(
        f"{model or 'server'} is {'ready' if is_ready else 'not ready'}", {"model": model, "ready": is_ready}, json_file
    )
    if not is_ready:
        raise click.exceptions.Exit(1)


@group.command("stats")
@model_option(required=False)
@client_options
@json_option
def stats(model: str, connect: Connect, json_file: Path | None) -> None:
    """Show requests, rows, batches and mean times since each version was loaded."""
    with connect() as client:
        request = pb.ModelStatisticsRequest(name=model)
        answer = client.call("ModelStatistics", request, pb.ModelStatisticsResponse)
    header = ("MODEL", "VERSION", "OK", "FAILED", "ROWS", "BATCHES", "ROWS/BATCH", "QUEUE us", "INFER us", "REQUEST us")
    text = table(header, [_statistics_row(entry) for entry in answer.model_stats])
    show(text, [_statistics_dict(entry) for entry in answer.model_stats], json_file)


group.add_command(latency)


@group.command("pipeline")
@model_option(required=True)
@client_options
@json_option
def pipeline(model: str, connect: Connect, json_file: Path | None) -> None:
    """Show what is done to a batch before the model and behind it: steps, shapes, and ns per row so far.

    Steps in one line go through the batch together. A line is the work of code that numba compiled, of a library, or of
    the GPU, whose steps are timed together with what is copied there.
    """
    with connect() as client:
        answer = client.call("ModelConfig", pb.ModelConfigRequest(name=model), pb.ModelConfigResponse)
    report = answer.config.parameters["pipeline"].string_value
    passes = json.loads(report) if report else []
    header = ("WHEN", "STEPS", "BY", "READS", "WRITES", "ns/ROW")
    text = table(header, [_pass_row(item) for item in passes])
    show(text if passes else f"{model} has no pipeline: clients send what the model takes", passes, json_file)


def _pass_row(item: dict[str, Any]) -> tuple[str, ...]:
    by = "GPU" if item["runs_on"] == "gpu" else "numba" if item["compiled"] else "library"
    ns = "-" if item["ns_per_row"] is None else f"{item['ns_per_row']:,.0f}"
    return (item["when"], ", ".join(item["steps"]), by, "; ".join(item["reads"]), "; ".join(item["writes"]), ns)


@group.command("batching")
@model_option(required=True)
@client_options
@json_option
def batching(model: str, connect: Connect, json_file: Path | None) -> None:
    """Show how requests of a model are grouped: what was learnt, what is decided now, and who was turned away."""
    with connect() as client:
        request = monitor_pb.BatchingReportRequest(name=model)
        answer = client.call("BatchingReport", request, monitor_pb.BatchingReportResponse, service=MONITOR_SERVICE)
    text = "\n\n".join(_batching_text(entry) for entry in answer.servables)
    show(text or f"{model} has no ready version", [_batching_dict(entry) for entry in answer.servables], json_file)


def _batching_dict(entry: monitor_pb.ServableBatching) -> dict[str, Any]:
    return MessageToDict(entry, always_print_fields_with_no_presence=True, preserving_proto_field_name=True)


def _batching_text(entry: monitor_pb.ServableBatching) -> str:
    """Describe the batcher of one version on a page."""
    objective = f"slo_ms = {entry.slo_ms:g}" if entry.slo_ms else "no objective"
    decision = "nothing waits"
    if entry.HasField("decision"):
        decision = f"take {entry.decision.rows} rows" if entry.decision.rows else "wait"
        decision += f" ({entry.decision.reason})"
    off = f"{entry.actual_s / entry.expected_s:.2f}" if entry.expected_s else "-"
    facts = (
        ("mode", f"{entry.mode}, {objective}, {entry.instances} instances, up to {entry.batch_rows_max} rows"),
        ("knee", f"{entry.knee_rows} rows; if many waited, a batch would have {entry.chosen_rows}"),
        ("capacity", f"{entry.best_rows_per_s:,.0f} rows/s"),
        ("arrivals", f"{entry.arrival_rows_per_s:,.0f} rows/s now, {entry.burst_factor:.1f} times the usual"),
        ("in use", f"{entry.utilisation:.0%} of the instances' time; {entry.missed:.1%} of rows lately missed"),
        ("queue", f"{entry.queued_rows} rows, {entry.queued_bytes} bytes; now: {decision}"),
        ("overhead", f"{entry.overhead_us:.0f} us per batch; batches take {off} of what is expected"),
        ("batches", f"{sum(item.count for item in entry.batches)}, filled to {entry.fill_ratio:.1%}"),
        ("padding", _padding(entry)),
        ("taken as", _reasons(entry.releases)),
        ("waits", f"{entry.waits} times an idle instance waited for more rows"),
        ("not answered", _reasons(entry.rejections)),
        ("late, split", f"{entry.slo_missed} beyond slo_ms, {entry.reruns} reruns, {entry.dead_rows} rows for nobody"),
    )
    sizes = [
        (str(item.rows), f"{item.mean_us:.0f}", f"{item.upper_us:.0f}", f"{item.rows / item.mean_us * 1e6:,.0f}")
        for item in entry.service_times
        if item.mean_us
    ]
    lines = [f"{entry.name}/{entry.version}", *(f"  {name:13} {text}" for name, text in facts), ""]
    return "\n".join(lines) + "\n" + table(("ROWS", "MEAN us", "9 OF 10 us", "ROWS/s"), sizes)


def _padding(entry: monitor_pb.ServableBatching) -> str:
    if not entry.batch_rows_allowed:
        return "none, any number of rows runs as it is"
    rows = sum(item.rows * item.count for item in entry.batches)
    share = entry.padding_rows / (rows + entry.padding_rows) if entry.padding_rows else 0.0
    return f"to {', '.join(map(str, entry.batch_rows_allowed))} rows; {share:.1%} of the rows that ran"


def _reasons(counts: Sequence[monitor_pb.ReasonCount]) -> str:
    return ", ".join(f"{item.count} {item.reason}" for item in counts if item.count) or "none"


def _index_dict(client: Client, entry: pb.RepositoryIndexResponse.ModelIndex) -> dict[str, Any]:
    package = _package_digest(client, entry.name, entry.version) if entry.state == "READY" else ""
    facts = {"name": entry.name, "version": entry.version, "state": entry.state}
    return {**facts, "package": package, "reason": entry.reason}


def _package_digest(client: Client, name: str, version: str) -> str:
    """Return the digest of the package that a version came in; empty when it came in none, or nobody can tell."""
    request = pb.ModelConfigRequest(name=name, version=version)
    try:
        config = client.call("ModelConfig", request, pb.ModelConfigResponse).config
    except RemoteError:  # unloaded meanwhile, or a server without this part of the protocol
        return ""
    return config.parameters["package_digest"].string_value


def _statistics_dict(entry: pb.ModelStatistics) -> dict[str, Any]:
    stages = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    durations = {stage: getattr(entry.inference_stats, stage) for stage in stages}
    return {
        "name": entry.name,
        "version": entry.version,
        "last_inference_ms": entry.last_inference,
        "inference_count": entry.inference_count,
        "execution_count": entry.execution_count,
        "inference_stats": {stage: {"count": item.count, "ns": item.ns} for stage, item in durations.items()},
        "batches": [
            {"rows": item.batch_size, "count": item.compute_infer.count, "compute_infer_ns": item.compute_infer.ns}
            for item in entry.batch_stats
        ],
        "memory": [{"type": item.type, "id": item.id, "bytes": item.byte_size} for item in entry.memory_usage],
    }


def _statistics_row(entry: pb.ModelStatistics) -> tuple[str, ...]:
    counted = entry.inference_stats
    mean_batch = entry.inference_count / entry.execution_count if entry.execution_count else 0.0
    numbers = (counted.success.count, counted.fail.count, entry.inference_count, entry.execution_count)
    times = (_mean_us(item) for item in (counted.queue, counted.compute_infer, counted.success))
    return (entry.name, entry.version, *map(str, numbers), f"{mean_batch:.2f}", *times)


def _mean_us(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e3:.0f}" if duration.count else "-"
