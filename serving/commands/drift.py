"""`penstock drift`: how the rows that a server gets differ from those that its models were made for."""

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from google.protobuf.message import DecodeError

from serving.commands.calibrate import calibrate
from serving.commands.drift_page import page
from serving.commands.options import Connect, Number, client_options, json_option, model_option, show
from serving.commands.table import table
from serving.errors import ConfigError
from serving.pb import penstock_pb2 as pb
from serving.statistics.drift.accuracy import ExpectedAccuracy
from serving.statistics.drift.report import DriftReport, FeatureDrift, as_json, expected_of, merged, ranked
from serving.transport.drift import decode
from serving.transport.monitor import LABELS_MAX, MONITOR_SERVICE, PAUSE_S_MAX

_FEATURES_SHOWN = 15
_RAW_BYTES_MAX = 256 << 20
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group("drift")
def group() -> None:
    """See whether the rows that are served still look like those of the reference, and which features moved."""


def _page_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Write one HTML page with plots to FILE; it needs no network."
    return click.option("--html", "html_file", type=_FILE, metavar="FILE", help=text)(command)


def _version_option(without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--version", default="", metavar="N", help=f"The version; {without} without one.")


@group.command("report")
@model_option(required=True)
@_version_option("the newest")
@client_options
@json_option
@_page_option
@click.option("--raw", "raw_file", type=_FILE, metavar="FILE", help="Write the counts to FILE, for `drift merge`.")
def report(
    model: str, version: str, connect: Connect, json_file: Path | None, html_file: Path | None, raw_file: Path | None
) -> None:
    """Report a model's drift: the evidence against "nothing has changed", and its features, the strongest first."""
    message = _ask_for_message(connect, model, version)
    found = decode(message)
    if raw_file is not None:
        _write(raw_file, message.SerializeToString(), "--raw")
    _show(found, json_file, html_file, _errors(message))


@group.command("merge")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
@_page_option
def merge(files: tuple[Path, ...], json_file: Path | None, html_file: Path | None) -> None:
    """Add up what replicas of a model have counted: FILES written by `drift report --raw` on each of them."""
    _show(merged([_read(path) for path in files]), json_file, html_file)


@group.command("watch")
@model_option(required=True)
@_version_option("the newest")
@client_options
@click.option("--interval-s", default=10.0, show_default=True, type=Number(0.1, 86_400), help="Between lines.")
@click.option("--count", default=0, metavar="N", type=click.IntRange(0), help="End after N lines; 0 goes on for ever.")
def watch(model: str, version: str, connect: Connect, interval_s: float, count: int) -> None:
    """Print a line again and again; exit status 3 when the last one tells of an alarm."""
    lines = 0
    while True:
        found = _ask(connect, model, version)
        click.echo(_line(found))
        lines += 1
        if count and lines >= count:
            break
        time.sleep(interval_s)
    if found.is_alarm:
        raise click.exceptions.Exit(3)


@group.command("feedback")
@model_option(required=True)
@_version_option("the newest")
@click.option("--labels", "source", required=True, metavar="FILE|-", type=click.Path(allow_dash=True, dir_okay=False),
              help='JSON like {"id of a request": label}, numbers or texts; - reads standard input.')  # fmt: skip
@client_options
@json_option
def feedback(model: str, version: str, source: str, connect: Connect, json_file: Path | None) -> None:
    """Say what would have been right, for requests that were sent with an id."""
    labels = _read_labels(source)
    matched = unmatched = doubled = 0
    mean_error = 0.0
    with connect() as client:
        for begin in range(0, len(labels), LABELS_MAX):
            request = pb.FeedbackRequest(name=model, version=version, labels=labels[begin : begin + LABELS_MAX])
            counts = client.call("Feedback", request, pb.FeedbackResponse, service=MONITOR_SERVICE).labels
            matched, unmatched = matched + counts.matched, unmatched + counts.unmatched
            doubled, mean_error = doubled + counts.doubled, counts.mean_error
    facts = {"matched": matched, "unmatched": unmatched, "doubled": doubled, "mean_error": mean_error}
    text = f"{matched} labels matched, {unmatched} knew no request, {doubled} came again; mean error {mean_error:.4g}"
    show(text, facts, json_file)


@group.command("pause")
@model_option(required=True)
@_version_option("all of them")
@click.option(
    "--for-s", "pause_s", default=3600.0, show_default=True, metavar="SECONDS",
    type=Number(0, PAUSE_S_MAX, min_open=True), help="Then rows are counted again, see also `drift resume`.",
)  # fmt: skip
@client_options
@json_option
def pause(model: str, version: str, pause_s: float, connect: Connect, json_file: Path | None) -> None:
    """Count no rows for a while: those of a load test or a replay, which say nothing about what clients send.

    They are answered as ever, and labels that come for them count. What was counted before still counts. /metrics shows
    penstock_drift_paused.
    """
    _pause(connect, model, version, pause_s, json_file)


@group.command("resume")
@model_option(required=True)
@_version_option("all of them")
@client_options
@json_option
def resume(model: str, version: str, connect: Connect, json_file: Path | None) -> None:
    """Count rows again after `drift pause`."""
    _pause(connect, model, version, 0.0, json_file)


def _pause(connect: Connect, model: str, version: str, pause_s: float, json_file: Path | None) -> None:
    request = pb.DriftPauseRequest(name=model, version=version, pause_s=pause_s)
    with connect() as client:
        answer = client.call("DriftPause", request, pb.DriftPauseResponse, service=MONITOR_SERVICE)
    versions = list(answer.versions)
    until = f"not counted for the next {pause_s:g} s" if pause_s else "counted again"
    facts = {"model": model, "versions": versions, "paused_s": pause_s}
    show("\n".join(f"{model}/{each}: rows are {until}" for each in versions), facts, json_file)


group.add_command(calibrate)


def _read_labels(source: str) -> list[pb.Label]:
    try:
        with click.open_file(source) as stream:
            values = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(f"--labels {source} cannot be read: {error}") from None
    if not isinstance(values, dict) or not all(_is_label(value) for value in values.values()):
        raise click.UsageError(f"--labels {source} holds no JSON object of numbers and texts by request id")
    return [
        pb.Label(id=key, text=value) if isinstance(value, str) else pb.Label(id=key, number=float(value))
        for key, value in values.items()
    ]


def _is_label(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and abs(value if not isinstance(value, str) else 0) < 1 << 53


def _ask(connect: Connect, model: str, version: str) -> DriftReport:
    return decode(_ask_for_message(connect, model, version))


def _ask_for_message(connect: Connect, model: str, version: str) -> pb.ServableDrift:
    request = pb.DriftReportRequest(name=model, version=version)
    with connect() as client:
        answer = client.call("DriftReport", request, pb.DriftReportResponse, service=MONITOR_SERVICE)
    if not answer.servables:
        raise ConfigError(f"model '{model}' has no ready version")
    return max(answer.servables, key=lambda item: int(item.version))


def _read(path: Path) -> DriftReport:
    try:
        if path.stat().st_size > _RAW_BYTES_MAX:
            raise ConfigError(f"{path} is longer than {_RAW_BYTES_MAX} bytes; this cannot be a report")
        return decode(pb.ServableDrift.FromString(path.read_bytes()))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except DecodeError:
        raise ConfigError(f"{path} was not written by `penstock drift report --raw`") from None


def _write(path: Path, data: bytes, option: str) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written: {error.strerror}") from None


def _show(
    found: DriftReport, json_file: Path | None, html_file: Path | None, errors: dict[str, Any] | None = None
) -> None:  # fmt: skip
    """Print a report and write it where it was asked for; `errors` are facts about labels that have come."""
    if html_file is not None:
        _write(html_file, page(found).encode(), "--html")
    text = _text(found)
    if errors is not None:
        text += f"\n\nlabels: {errors['matched']} matched, mean error {errors['mean_error']:.4g}, {errors['state']}"
    show(text, as_json(found) | {"labels": errors}, json_file)


def _errors(message: pb.ServableDrift) -> dict[str, Any] | None:
    """Return what is known of realised errors, None when no requests are remembered for labels."""
    if not message.HasField("labels"):
        return None
    counts, report_ = message.labels, decode(message.realised_error)
    return {
        "matched": counts.matched,
        "unmatched": counts.unmatched,
        "doubled": counts.doubled,
        "mean_error": counts.mean_error,
        "state": _state(report_),
        "alarm": report_.is_alarm,
    }


def _text(found: DriftReport) -> str:
    """Write a report for people."""
    lines = [f"{found.model}/{found.version}: {_state(found)}", f"  {_counted(found)}"]
    if not found.features:
        return "\n".join(lines)
    lines.append(f"  {found.guarantee}")
    if (expected := expected_of(found)) is not None:
        lines.append(f"  {_expected(expected)}")
    lines.append("")
    header = ("FEATURE", "EVIDENCE", "PSI", "FLOOR", "MISSING", "OUT OF RANGE", "MEAN SHIFT", "MOVED MOST")
    features = ranked(found)
    shown = len(features)
    lines += _lines(header, [_row(drift) for drift in features[:_FEATURES_SHOWN]])
    if shown > _FEATURES_SHOWN:
        lines.append(f"... and {shown - _FEATURES_SHOWN} more; --json and --html hold all")
    if derived := ranked(found, is_derived=True):
        lines += ["", *_lines(("OF WHOLE ROWS", *header[1:]), [_row(drift) for drift in derived[:_FEATURES_SHOWN]])]
    return "\n".join(lines)


def _lines(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return table(header, rows).splitlines()


def _expected(expected: ExpectedAccuracy) -> str:
    interval = f"{expected.low:.1%} to {expected.high:.1%}"
    return (
        f"expected to be right on {expected.value:.1%} ({interval}), as {expected.held_out_rows:,} held-out rows tell, "
        f"{expected.held_out:.1%} of which were; if a confidence still means what it meant"
    )


def _state(found: DriftReport) -> str:
    state = _verdict(found)
    if not found.paused_s:
        return state
    some = " on some replicas" if found.replicas > 1 else ""
    return f"{state}; paused: no rows are counted for {found.paused_s:.0f} s more{some}"


def _verdict(found: DriftReport) -> str:
    if found.phase == "off":
        return "not watched; its [drift] table says so, or no tensor of it has a fixed number of elements per row"
    if found.phase == "collecting":
        return "the first rows are being collected, to be the reference"
    if found.phase == "calibrating":
        return "the first panes tell how much panes vary by themselves"
    return f"{'DRIFT' if found.is_alarm else 'no drift'}, evidence {_decades(found.evidence_log)}"


def _counted(found: DriftReport) -> str:
    reference = "the first rows" if found.is_self_reference else "the package's profile"
    replicas = f" on {found.replicas} replicas" if found.replicas > 1 else ""
    counted = f"{found.rows:,} of {found.rows_seen:,} rows counted{replicas}, {found.panes_closed:,} panes closed"
    return f"{counted}, beside {reference}" if found.features else counted


def _row(drift: FeatureDrift) -> tuple[str, ...]:
    said = drift.distances
    moved = "; ".join(f"{m.slot}: {m.before:.1%} -> {m.now:.1%}" for m in said.moved[:1])
    shift = "-" if said.mean_shift is None else f"{said.mean_shift:+.2f}"
    numbers = (
        f"{said.psi:.3f}",
        f"{said.noise_floor:.3f}",
        f"{said.missing.value:.2%}",
        f"{said.out_of_range.value:.2%}",
    )
    return (drift.feature.name, _decades(drift.evidence * math.log(10)), *numbers, shift, moved)


def _decades(log: float) -> str:
    return f"10^{log / math.log(10):.1f}" if math.isfinite(log) else "-"


def _line(found: DriftReport) -> str:
    now = datetime.now(UTC).strftime("%H:%M:%S")
    strongest = f", strongest {ranked(found)[0].feature.name}" if found.features else ""
    return f"{now}  {found.model}/{found.version}  {_state(found)}, {found.rows:,} rows{strongest}"
