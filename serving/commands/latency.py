"""`penstock models latency`: how long requests waited and ran, stage by stage."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import MessageToDict

from serving.commands.options import Connect, Number, client_options, json_option, model_option, show
from serving.commands.table import table
from serving.pb import penstock_pb2 as pb
from serving.transport.latency import QUANTILES_MAX, QUANTILES_USUAL, decode, encode
from serving.transport.monitor import MONITOR_SERVICE


@click.command("latency")
@model_option(required=False)
@click.option("--quantile", "quantiles", multiple=True, type=Number(0, 1), metavar="Q",
              help=f"Show this quantile, such as 0.99; may be repeated, up to {QUANTILES_MAX} times.")  # fmt: skip
@click.option("--for-s", type=Number(0.1, 86_400), metavar="SECONDS",
              help="Wait so long, and show what was answered meanwhile, and nothing from before.")  # fmt: skip
@client_options
@json_option
def latency(
    model: str, quantiles: tuple[float, ...], for_s: float | None, connect: Connect, json_file: Path | None
) -> None:
    """Show how long requests waited and ran since each version was loaded: quantiles of every stage, within 3.2 %."""
    asked = quantiles or QUANTILES_USUAL
    if len(asked) > QUANTILES_MAX:
        raise click.UsageError(f"--quantile was given {len(asked)} times, at most {QUANTILES_MAX}")
    reports = _ask(connect, model, asked)
    if for_s is not None:
        time.sleep(for_s)
        reports = _since(reports, _ask(connect, model, asked), asked)
    header = ("MODEL", "VERSION", "STAGE", "COUNT", "MEAN us", *(f"p{100 * q:.10g} us" for q in asked))
    rows = [_row(report, stage, len(asked)) for report in reports for stage in report.stages]
    show(table(header, rows), [_as_dict(report) for report in reports], json_file)


def _ask(connect: Connect, model: str, quantiles: Sequence[float]) -> list[pb.ServableLatency]:
    request = pb.LatencyReportRequest(name=model, quantiles=quantiles)
    with connect() as client:
        answer = client.call("LatencyReport", request, pb.LatencyReportResponse, service=MONITOR_SERVICE)
    return list(answer.servables)


def _since(
    before: Sequence[pb.ServableLatency], now: Sequence[pb.ServableLatency], quantiles: Sequence[float]
) -> list[pb.ServableLatency]:  # fmt: skip
    """Return what the later reports have counted after the earlier ones."""
    known = {(report.name, report.version): decode(report) for report in before}
    found = []
    for report in now:
        stages, earlier = decode(report), known.get((report.name, report.version), {})
        later = {stage: one.since(earlier[stage]) if stage in earlier else one for stage, one in stages.items()}
        found.append(encode(report.name, report.version, later, quantiles))
    return found


def _row(report: pb.ServableLatency, stage: pb.StageLatency, quantiles: int) -> tuple[str, ...]:
    mean = f"{stage.total_s / stage.count * 1e6:.0f}" if stage.count else "-"
    times = [f"{item.us:.0f}" for item in stage.quantiles] or ["-"] * quantiles
    return (report.name, report.version, stage.stage, str(stage.count), mean, *times)


def _as_dict(report: pb.ServableLatency) -> dict[str, Any]:
    """Return a report for machines; counts as numbers, where protobuf's own JSON has them as texts."""
    plain = MessageToDict(report, always_print_fields_with_no_presence=True, preserving_proto_field_name=True)
    for stage in plain["stages"]:
        stage["count"] = int(stage["count"])
        stage["buckets"] = [{key: int(value) for key, value in bucket.items()} for bucket in stage["buckets"]]
    found: dict[str, Any] = plain
    return found
