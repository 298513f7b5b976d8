"""Results as tables of text, for the terminal and the page alike. Pure: it decides what is shown, not how it looks."""

from dataclasses import dataclass

from bench.outcome import Outcome
from bench.report.findings import codes, in_objective, meaning
from bench.report.units import UNKNOWN, change, count, is_known, number, percent, plain, rate, seconds, time_us
from bench.report.views import (
    ComparisonView,
    FrontierView,
    KneeView,
    PeersView,
    Probe,
    Run,
    RunView,
    SimulationView,
    SweepView,
    View,
)

_STAGES = {"queue": "queue", "compute_input": "input", "compute_infer": "infer", "compute_output": "output"}

SETTINGS_MAX = 400
"""Characters of what is said of a server's settings."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a heading each. The `words` columns are read, so they begin at the left; the rest are figures.

    A row in `marked` is the one to look at.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[int] = frozenset({0})
    marked: frozenset[int] = frozenset()


def tables(view: View) -> tuple[Table, ...]:
    """Return the tables that answer what the command was asked, the most important first."""
    found: tuple[Table, ...]
    match view:
        case RunView():
            outcome = view.run.outcome
            found = (latency_table(outcome), *server_tables(outcome), load_table(outcome))
        case SweepView():
            found = (runs_table("Loads", "load", view.runs),)
        case KneeView():
            found = (_probes(view),)
        case ComparisonView():
            found = (_ratios(view), *((runs_table("Both sides", "side", view.runs),) if view.runs else ()))
        case FrontierView():
            found = (_settings(view),)
        case SimulationView():
            found = (_rules(view), _workloads(view))
        case PeersView():
            found = (runs_table("Servers", "server", view.runs, relative=True), *_peer_settings(view))
    return found


def load_table(outcome: Outcome) -> Table:
    """Return what was asked of the server and what came back."""
    within = in_objective(outcome)
    rows = [
        ("load", f"{describe_load(outcome)}, {seconds(outcome.duration_s)}"),
        ("sent", count(outcome.sent)),
        (
            "answered",
            f"{count(outcome.answered)} ({percent(outcome.answered / outcome.sent if outcome.sent else None)})",
        ),
        ("throughput", f"{rate(outcome.throughput_rps)} requests/s, {rate(outcome.throughput_rows_per_s)} rows/s"),
    ]
    if outcome.slo_ms is not None:
        objective = time_us(outcome.slo_ms * 1e3)
        rows.append(
            ("goodput", f"{rate(outcome.goodput_rps)} requests/s within {objective} ({percent(within)} of sent)")
        )
    rows.append(("errors", codes(outcome.errors) or "none"))
    if outcome.unanswered or outcome.unsent:
        rows.append(("lost", f"{count(outcome.unanswered)} unanswered, {count(outcome.unsent)} never sent"))
    rows.append(("client", f"busy {percent(outcome.busy_share)}, sent {time_us(outcome.lag_p99_us)} late (p99)"))
    return Table("Run", ("", ""), tuple(rows), words=frozenset({0, 1}))


def latency_table(outcome: Outcome) -> Table:
    """Return the percentiles."""
    latency = outcome.latency_us
    values = (latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
    columns = ("mean", "p50", "p90", "p99", "p99.9", "max")
    title = "Latency, from the intended moment" if outcome.offered_rps is not None else "Latency"
    return Table(title, columns, (tuple(map(time_us, values)),), words=frozenset())


def server_tables(outcome: Outcome) -> tuple[Table, ...]:
    """Return what the server says of itself; nothing when it says nothing."""
    server = outcome.server
    columns = {f"{_STAGES.get(name, plain(name))}": time_us(value) for name, value in server.stages_us.items()}
    if is_known(server.mean_batch_rows):
        columns["mean batch"] = f"{number(server.mean_batch_rows)} rows"
    if is_known(server.cpu_us_per_request):
        columns["CPU per request"] = time_us(server.cpu_us_per_request)
    if not columns:
        return ()
    return (Table("Server, mean per request", tuple(columns), (tuple(columns.values()),), words=frozenset()),)


def runs_table(title: str, heading: str, runs: tuple[Run, ...], *, relative: bool = False) -> Table:
    """Return one line per run, with the columns that any of them can fill. `relative` compares with the first run."""
    outcomes = [run.outcome for run in runs]
    columns: dict[str, list[str]] = {heading: [plain(run.label) for run in runs]}
    columns["requests/s"] = [rate(outcome.throughput_rps) for outcome in outcomes]
    if relative:
        columns["against the first"] = [_against(outcome, outcomes[0]) for outcome in outcomes]
    if any(outcome.slo_ms is not None for outcome in outcomes):
        columns["goodput"] = [rate(outcome.goodput_rps) for outcome in outcomes]
    for name, quantile in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")):
        columns[name] = [time_us(getattr(outcome.latency_us, quantile)) for outcome in outcomes]
    columns["errors"] = [count(sum(outcome.errors.values()) + outcome.unanswered) for outcome in outcomes]
    if any(is_known(outcome.server.mean_batch_rows) for outcome in outcomes):
        columns["batch rows"] = [number(outcome.server.mean_batch_rows) for outcome in outcomes]
    if any(is_known(outcome.server.cpu_us_per_request) for outcome in outcomes):
        columns["CPU/request"] = [time_us(outcome.server.cpu_us_per_request) for outcome in outcomes]
    remarks = [_remark(outcome) for outcome in outcomes]
    if any(remarks):
        columns["remark"] = remarks
    words = frozenset({0, *((len(columns) - 1,) if any(remarks) else ())})
    return Table(title, tuple(columns), tuple(zip(*columns.values(), strict=True)), words=words)


def describe_load(outcome: Outcome) -> str:
    """Say what was asked: `poisson arrivals, 1,000 requests/s of 1 row`."""
    rows = f"{outcome.rows} row" + ("s" if outcome.rows != 1 else "")
    if outcome.offered_rps is None:
        return f"closed loop, {outcome.concurrency} requests of {rows} in flight"
    return f"{plain(outcome.load)} arrivals, {rate(outcome.offered_rps)} requests/s of {rows}"


def raw_table(run: Run) -> Table:
    """Return every figure of a run under its name in the JSON, without rounding to three digits."""
    values = run.outcome.to_json()
    groups = {name: values.pop(name) for name in ("latency_us", "server")}
    flat = {name: value for name, value in values.items() if name not in ("timeline", "histogram")}
    flat |= {f"{group}.{name}": value for group, items in groups.items() for name, value in items.items()}
    rows = tuple((name, _raw(value)) for name, value in flat.items())
    return Table(plain(run.label), ("name", "value"), rows, words=frozenset({0, 1}))


def timeline_table(run: Run) -> Table:
    """Return the points of a run's timeline."""
    rows = tuple(
        (f"{point.at_s:.2f}", rate(point.sent_rps), rate(point.answered_rps), rate(point.errors_rps),
         time_us(point.p50_us), time_us(point.p99_us))
        for point in run.outcome.timeline
    )  # fmt: skip
    columns = ("until s", "sent/s", "answered/s", "errors/s", "p50", "p99")
    return Table(f"{plain(run.label)}: timeline", columns, rows, words=frozenset())


def _remark(outcome: Outcome) -> str:
    remarks = ["ended early"] if outcome.failure is not None else []
    return ", ".join(remarks + (["client-limited"] if outcome.client_limited else []))


def _against(outcome: Outcome, first: Outcome) -> str:
    """Say how the throughput relates to that of the first run: `0.42 x`."""
    return f"{outcome.throughput_rps / first.throughput_rps:.2f} x" if first.throughput_rps > 0 else UNKNOWN


def _probes(view: KneeView) -> Table:
    rows = tuple(
        (str(index), rate(probe.rate_rps), time_us(probe.p99_us), _met(probe))
        for index, probe in enumerate(view.probes, 1)
    )
    title = f"Probes of p99 <= {time_us(view.objective_ms * 1e3)}"
    return Table(title, ("#", "requests/s", "p99", "objective"), rows, words=frozenset({0, 3}))


def _met(probe: Probe) -> str:
    return {"passed": "met", "failed": "missed", "undecided": "too close to tell", "late": "not counted: sent late"}[
        probe.verdict
    ]


def _ratios(view: ComparisonView) -> Table:
    rows = tuple(
        (plain(name), change(ratio.ratio), change(ratio.low), change(ratio.high),
         count(len(view.pairs.get(name, ()))), meaning(view, name, ratio))
        for name, ratio in view.metrics.items()
    )  # fmt: skip
    title = f"{plain(view.name_b)} against {plain(view.name_a)}, {percent(view.confidence)} intervals".replace(
        ".0 %", " %"
    )
    columns = ("figure", "change", "from", "to", "pairs", "meaning")
    return Table(title, columns, rows, words=frozenset({0, 5}))


def _settings(view: FrontierView) -> Table:
    """Return the settings, the most throughput first; the numbers are those in the plot."""
    rows = tuple(
        (str(index), plain(setting.label), rate(setting.throughput_rps), time_us(setting.p99_us),
         "recommended" if setting.recommended else "on the frontier" if setting.on_frontier else "")
        for index, setting in enumerate(view.settings, 1)
    )  # fmt: skip
    marked = frozenset(index for index, setting in enumerate(view.settings) if setting.recommended)
    return Table("Settings", ("#", "setting", "requests/s", "p99", ""), rows, words=frozenset({0, 1, 4}), marked=marked)


def _peer_settings(view: PeersView) -> tuple[Table, ...]:
    """Return in what each server differs from how its vendor ships it; nothing when nobody says."""
    rows = tuple((plain(label), plain(settings, SETTINGS_MAX)) for label, settings in view.settings.items())
    title = "How each server was set up, where it differs from what its vendor ships"
    return (Table(title, ("server", "settings"), rows, words=frozenset({0, 1})),) if rows else ()


def _raw(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if is_known(value) else UNKNOWN
    if isinstance(value, dict):
        return ", ".join(f"{plain(str(key))}: {_raw(item)}" for key, item in value.items()) or UNKNOWN
    return UNKNOWN if value is None else plain(str(value), 300)


def _rules(view: SimulationView) -> Table:
    rows = [
        (rule.group, rule.name, f"{rule.ratio:.3f}", f"{rule.ratio_min:.2f}", "kept" if rule.is_kept else "BROKEN")
        for rule in view.rules
    ]
    columns = ("workloads", "our goodput over", "ratio", "at least", "")
    marked = frozenset(index for index, rule in enumerate(view.rules) if not rule.is_kept)
    return Table("Rules of comparison", columns, tuple(rows), words=frozenset({0, 1, 4}), marked=marked)


def _workloads(view: SimulationView) -> Table:
    policies = tuple(view.workloads[0].goodput) if view.workloads else ()
    rows = [
        (plain(one.name), *(f"{one.goodput[policy]:.4f}" for policy in policies), one.window) for one in view.workloads
    ]
    title = "Part of requests answered within the objective"
    return Table(title, ("workload", *policies, "best window"), tuple(rows), words=frozenset({0}))
