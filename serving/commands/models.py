"""`penstock models`: ask a running server what it serves, and change it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from serving.commands.options import client_options, json_option
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client

_LOAD_TIMEOUT_S = 3600.0


@click.group("models")
def group() -> None:
    """List, load and unload the models of a running server, and see what they did."""


@group.command("list")
@client_options
@json_option
def list_models(address: str, json_file: Path | None) -> None:
    """List every version and its state."""
    with Client(address) as client:
        index = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    rows = [(entry.name, entry.version or "-", entry.state, entry.reason) for entry in index.models]
    _print_table(("MODEL", "VERSION", "STATE", "REASON"), rows)
    write_json(MessageToDict(index, preserving_proto_field_name=True), json_file)


@group.command("load")
@click.argument("name")
@client_options
def load(name: str, address: str) -> None:
    """Load model NAME as its folder is now, also when it was unloaded."""
    with Client(address, timeout_s=_LOAD_TIMEOUT_S) as client:
        request = pb.RepositoryModelLoadRequest(model_name=name)
        client.call("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse)
    click.echo(f"{name} is loaded")


@group.command("unload")
@click.argument("name")
@client_options
def unload(name: str, address: str) -> None:
    """Unload model NAME once its requests in flight are answered."""
    with Client(address, timeout_s=_LOAD_TIMEOUT_S) as client:
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        client.call("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)
    click.echo(f"{name} is unloaded")


@group.command("ready")
@click.argument("name", required=False)
@client_options
def ready(name: str | None, address: str) -> None:
    """Say whether model NAME, or the whole server, is ready; exit status 1 when it is not."""
    with Client(address) as client:
        if name:
            is_ready = client.call("ModelReady", pb.ModelReadyRequest(name=name), pb.ModelReadyResponse).ready
        else:
            is_ready = client.call("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
    click.echo(f"{name or 'server'} is {'ready' if is_ready else 'not ready'}")
    if not is_ready:
        raise click.exceptions.Exit(1)


@group.command("stats")
@click.option("--model", default="", metavar="NAME", help="Only this model.")
@client_options
@json_option
def stats(model: str, address: str, json_file: Path | None) -> None:
    """Show requests, rows, batches and mean times since each version was loaded."""
    with Client(address) as client:
        request = pb.ModelStatisticsRequest(name=model)
        answer = client.call("ModelStatistics", request, pb.ModelStatisticsResponse)
    header = ("MODEL", "VERSION", "OK", "FAILED", "ROWS", "BATCHES", "ROWS/BATCH", "QUEUE us", "INFER us", "REQUEST us")
    _print_table(header, [_statistics_row(entry) for entry in answer.model_stats])
    write_json(MessageToDict(answer, preserving_proto_field_name=True), json_file)


def _statistics_row(entry: pb.ModelStatistics) -> tuple[str, ...]:
    counted = entry.inference_stats
    mean_batch = entry.inference_count / entry.execution_count if entry.execution_count else 0.0
    numbers = (counted.success.count, counted.fail.count, entry.inference_count, entry.execution_count)
    times = (_mean_us(item) for item in (counted.queue, counted.compute_infer, counted.success))
    return (entry.name, entry.version, *map(str, numbers), f"{mean_batch:.2f}", *times)


def _mean_us(duration: pb.StatisticDuration) -> str:
    return f"{duration.ns / duration.count / 1e3:.0f}" if duration.count else "-"


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_json(value: Any, file: Path | None) -> None:
    """Write a value where `--json` says."""
    if file is not None:
        with click.open_file(str(file), "w") as stream:
            stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
