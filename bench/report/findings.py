"""What figures mean, in words: the sentence that answers the question, and what to know before trusting it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.outcome import Outcome
from bench.report.units import change, count, is_known, percent, plain, rate, seconds, time_us
from bench.report.views import (
    ComparisonView,
    FrontierView,
    KneeView,
    PeersView,
    Ratio,
    Run,
    RunView,
    SimulationView,
    SweepView,
    View,
)

Severity = Literal["failure", "warning", "note"]
TAIL_ANSWERS_MIN = 10
"""Answers beyond a percentile, below which it says little."""
_NAMED_MAX = 6


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to know about the figures."""

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class Metric:
    """How to speak of a figure of B that is more or less than A's; `{b}` is B's name, `{by}` the difference."""

    more: str
    less: str
    more_is_better: bool = False


METRICS = {
    "throughput": Metric("{b} answers {by} more requests/s", "{b} answers {by} fewer requests/s", more_is_better=True),
    "goodput": Metric("{b} has {by} more goodput", "{b} has {by} less goodput", more_is_better=True),
    "CPU per request": Metric("{b} takes {by} more CPU per request", "{b} takes {by} less CPU per request"),
    "latency mean": Metric("{b} is {by} slower on average", "{b} is {by} faster on average"),
    "latency p50": Metric("{b} is {by} slower at p50", "{b} is {by} faster at p50"),
    "latency p90": Metric("{b} is {by} slower at p90", "{b} is {by} faster at p90"),
    "latency p99": Metric("{b} is {by} slower at p99", "{b} is {by} faster at p99"),
    "latency p99.9": Metric("{b} is {by} slower at p99.9", "{b} is {by} faster at p99.9"),
}
"""The figures that are compared, by their names in tables and plots."""


def metric_of(name: str) -> Metric:
    """Return how to speak of a figure; one that is not in `METRICS` is merely higher or lower."""
    text = plain(name).replace("{", "{{").replace("}", "}}")
    return METRICS.get(name, Metric("{b} is {by} higher in " + text, "{b} is {by} lower in " + text))


def is_shown(ratio: Ratio) -> bool:
    """Tell whether a difference is shown: the interval is known, and does not hold 1."""
    return is_known(ratio.ratio) and (ratio.low > 1 or ratio.high < 1)


def headline(view: View) -> str:
    """Return the one sentence that answers the question the command was asked."""
    match view:
        case RunView():
            found = _of_run(view.run.outcome)
        case SweepView():
            found = _of_sweep(view)
        case KneeView():
            found = _of_knee(view)
        case ComparisonView():
            found = _of_comparison(view)
        case FrontierView():
            found = _of_frontier(view)
        case PeersView():
            found = _of_peers(view)
        case SimulationView():
            found = _of_simulation(view)
    return found


def comparisons(view: ComparisonView) -> list[str]:
    """Return one sentence per compared figure."""
    return [comparison(view, name, ratio) for name, ratio in view.metrics.items()]


def comparison(view: ComparisonView, name: str, ratio: Ratio) -> str:
    """Say what a ratio of B to A means: `B is 8.0 % slower at p99 (95 % interval +5.1 % to +11.0 %)`."""
    text = meaning(view, name, ratio)
    if not is_known(ratio.ratio):
        return f"{plain(name)}: {text}"
    interval = f"{view.confidence * 100:g} % interval {change(ratio.low)} to {change(ratio.high)}"
    if not is_shown(ratio):
        return f"{plain(name)}: {text} ({change(ratio.ratio)}, {interval})"
    return f"{text} ({interval})"


def _of_simulation(view: SimulationView) -> str:
    broken = [f"{rule.name} ({rule.group})" for rule in view.rules if not rule.is_kept]
    if broken:
        return f"The policy breaks {len(broken)} of {len(view.rules)} rules: {', '.join(broken)}"
    return f"The policy keeps all {len(view.rules)} rules over {len(view.workloads)} workloads"


def meaning(view: ComparisonView, name: str, ratio: Ratio) -> str:
    """Say what a ratio means, and leave its interval to a table: `B is 8.0 % slower at p99`, `no difference shown`."""
    if not is_known(ratio.ratio):
        return "not compared: one side has no figure"
    if not is_shown(ratio):
        return "no difference shown"
    words = metric_of(name).more if ratio.ratio > 1 else metric_of(name).less
    return words.format(b=plain(view.name_b), by=percent(abs(ratio.ratio - 1)))


def notices(view: View) -> tuple[Notice, ...]:
    """Return what a reader must know, the worst first."""
    found = [Notice("failure", f"Ended before its time: {plain(view.failure, 300)}")] if view.failure else []
    found += [*_failures(view.runs), *_limits(view.runs), *_losses(view.runs), *_thin_tails(view.runs)]
    if isinstance(view, PeersView):
        found += [Notice("note", f"Skipped {plain(name)}: {plain(why, 200)}") for name, why in view.absent.items()]
    if isinstance(view, KneeView) and view.rate_rps is not None:
        found.append(Notice("note", f"The search ended: {plain(view.ended, 300)}"))
    order: tuple[Severity, ...] = ("failure", "warning", "note")
    return tuple(sorted(found, key=lambda notice: order.index(notice.severity)))


def _of_run(outcome: Outcome) -> str:
    if not outcome.answered:
        return f"No request of {count(outcome.sent)} was answered"
    text = f"{rate(outcome.throughput_rps)} requests/s at p99 {time_us(outcome.latency_us.p99)}"
    if outcome.slo_ms is None:
        return text
    return f"{text}; {percent(in_objective(outcome))} of what was sent came back within {time_us(outcome.slo_ms * 1e3)}"


def in_objective(outcome: Outcome) -> float | None:
    """Return the share of sent requests with an OK answer within the objective; None without an objective."""
    if outcome.slo_ms is None or not outcome.sent:
        return None
    return min(1.0, outcome.goodput_rps * outcome.duration_s / outcome.sent)


def _of_sweep(view: SweepView) -> str:
    answered = [run for run in view.runs if run.outcome.answered]
    if not answered:
        return "No load was answered"
    best = max(answered, key=lambda run: run.outcome.goodput_rps)
    word = "goodput" if best.outcome.slo_ms is not None else "throughput"
    return (
        f"Most {word}: {rate(best.outcome.goodput_rps)} requests/s at {plain(best.label)}, "
        f"p99 {time_us(best.outcome.latency_us.p99)}"
    )


def _of_knee(view: KneeView) -> str:
    if view.rate_rps is None:
        return f"No knee: {plain(view.ended, 300)}"
    return (
        f"p99 <= {time_us(view.objective_ms * 1e3)} is met up to {rate(view.rate_rps)} requests/s "
        f"({view.confidence * 100:g} % interval {rate(view.low_rps)} to {rate(view.high_rps)})"
    )


def _of_comparison(view: ComparisonView) -> str:
    if len(view.metrics) == 1:
        return comparisons(view)[0]
    shown = [meaning(view, name, ratio) for name, ratio in view.metrics.items() if is_shown(ratio)]
    return "; ".join(shown) or f"No difference shown between {plain(view.name_a)} and {plain(view.name_b)}"


def _of_frontier(view: FrontierView) -> str:
    for setting in view.settings:
        if setting.recommended:
            return (
                f"Recommended: {plain(setting.label)}, with {rate(setting.throughput_rps)} requests/s "
                f"at p99 {time_us(setting.p99_us)}"
            )
    return f"None of {count(len(view.settings))} settings can be recommended"


def _of_peers(view: PeersView) -> str:
    answered = [run for run in view.runs if run.outcome.answered]
    if not answered:
        return "No server answered"
    best = max(answered, key=lambda run: run.outcome.throughput_rps)
    return f"Most throughput: {plain(best.label)} with {rate(best.outcome.throughput_rps)} requests/s"


def _failures(runs: Sequence[Run]) -> list[Notice]:
    failed = [
        Notice("failure", f"{_begin(runs, [run])} ended after {seconds(run.outcome.duration_s)}, before its time: "
               f"{plain(run.outcome.failure, 300)}. The figures are of what came before.")
        for run in runs if run.outcome.failure is not None
    ]  # fmt: skip
    silent = [run for run in runs if not run.outcome.answered]
    if silent:
        failed.append(Notice("failure", f"{_begin(runs, silent)} had no OK answer, so there is no latency to show."))
    return failed


def _limits(runs: Sequence[Run]) -> list[Notice]:
    """Warn of a client that was the limit, with what makes one think so and what to do."""
    limited = [run for run in runs if run.outcome.client_limited]
    if not limited:
        return []
    busiest = max(run.outcome.busy_share for run in limited)
    lags_us = [run.outcome.lag_p99_us for run in limited if is_known(run.outcome.lag_p99_us)]
    unsent = sum(run.outcome.unsent for run in limited)
    why = f"it was busy {percent(busiest)} of the time"
    why += f", sent {time_us(max(lags_us))} late (p99)" if lags_us else ""
    why += f", could not send {count(unsent)} requests at all" if unsent else ""
    return [
        Notice(
            "warning",
            f"{_where(runs, limited)}the client was the limit: {why}. These figures say as much about the client as "
            "about the server. Lower the rate, use the native client, give it a core of its own, or run it on another "
            "machine than the server.",
        )
    ]


def _losses(runs: Sequence[Run]) -> list[Notice]:
    """Warn of requests without an OK answer."""
    found = []
    if failed := [run for run in runs if run.outcome.errors]:
        errors = sum((Counter(run.outcome.errors) for run in failed), Counter[str]())
        share = errors.total() / max(1, sum(run.outcome.sent for run in failed))
        text = f"{_where(runs, failed)}{count(errors.total())} errors, {percent(share)} of what was sent"
        found.append(Notice("warning", f"{text}: {codes(errors)}. Latency is of OK answers alone."))
    if waiting := [run for run in runs if run.outcome.unanswered]:
        total = sum(run.outcome.unanswered for run in waiting)
        text = f"{_where(runs, waiting)}{count(total)} requests had no answer when waiting ended"
        found.append(Notice("warning", f"{text}; they are in no percentile, so the true tail is longer."))
    return found


def _thin_tails(runs: Sequence[Run]) -> list[Notice]:
    """Note the lowest percentile that rests on a few answers."""
    for name, share in (("p99", 0.01), ("p99.9", 0.001)):
        if thin := [run for run in runs if 0 < run.outcome.answered * share < TAIL_ANSWERS_MIN]:
            text = f"{_where(runs, thin)}{name} rests on fewer than {TAIL_ANSWERS_MIN} answers; measure for longer."
            return [Notice("note", text)]
    return []


def codes(errors: dict[str, int] | Counter[str]) -> str:
    """Write errors by code, the most frequent first: `UNAVAILABLE 120, DEADLINE_EXCEEDED 3`."""
    return ", ".join(f"{plain(code)} {count(number)}" for code, number in Counter(errors).most_common())


def _begin(runs: Sequence[Run], of: Sequence[Run]) -> str:
    """Name the runs that a sentence is about."""
    if len(runs) == 1:
        return "The run"
    if len(of) == len(runs):
        return f"All {len(runs)} runs"
    names = ", ".join(plain(run.label) for run in of[:_NAMED_MAX])
    more = f" and {len(of) - _NAMED_MAX} more" if len(of) > _NAMED_MAX else ""
    return f"{names}{more}"


def _where(runs: Sequence[Run], of: Sequence[Run]) -> str:
    """Name the runs before a sentence that does not; nothing where there is but one."""
    return f"{_begin(runs, of)}: " if len(runs) > 1 else ""
