"""`penstock models`: ask a running server what it serves, and change it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from serving.commands.options import Connect, client_options, json_option, model_option, show
from serving.errors import RemoteError
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client

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
    show(_table(header, rows), entries, json_file)


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
    table = _table(header, [_statistics_row(entry) for entry in answer.model_stats])
    show(table, [_statistics_dict(entry) for entry in answer.model_stats], json_file)


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
    }


def _statistics_row(entry: pb.ModelStatistics) -> tuple[str, ...]:
    counted = entry.inference_stats
    mean_batch = entry.inference_count / entry.execution_count if entry.execution_count else 0.0
    numbers = (counted.success.count, counted.fail.count, entry.inference_count, entry.execution_count)
    times = (_mean_us(item) for item in (counted.queue, counted.compute_infer, counted.success))
    return (entry.name, entry.version, *map(str, numbers), f"{mean_batch:.2f}", *times)


def _mean_us(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e3:.0f}" if duration.count else "-"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    return "\n".join(lines)
