"""What a server does under one load after another, and servers beside each other."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report.plots import canvas
from bench.report.plots.canvas import DASHES, INK, MUTED, SERIES, Plot
from bench.report.units import is_known, rate
from bench.report.views import Run


def throughput_by_load(runs: Sequence[Run]) -> Plot | None:
    """Draw throughput and goodput over the offered rate, or over the concurrency."""
    loads = _loads(runs)
    if len(runs) < 2 or loads is None or not any(run.outcome.answered for run in runs):
        return None
    is_open = runs[0].outcome.offered_rps is not None
    has_objective = any(run.outcome.slo_ms is not None for run in runs)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if is_open:
            axes.plot(
                [0, max(loads)], [0, max(loads)], color=MUTED, linewidth=1, linestyle=DASHES[2], label="all answered"
            )
        axes.plot(loads, [run.outcome.throughput_rps for run in runs], color=SERIES[0], marker="o", label="throughput")
        if has_objective:
            goodput = [run.outcome.goodput_rps for run in runs]
            axes.plot(loads, goodput, color=SERIES[1], marker="s", linestyle=DASHES[1], label="goodput")
        _ring_limited(axes, runs, loads, [run.outcome.throughput_rps for run in runs])
        canvas.rate_axis(axes, "answered requests/s")
        canvas.rate_axis(axes, "offered requests/s" if is_open else "requests in flight", is_horizontal=True)
        canvas.legend(axes, 4)

    title = "Throughput and goodput" if has_objective else "Throughput"
    caption = "Goodput counts the answers within the objective. " if has_objective else ""
    caption += "Where the line leaves the diagonal, the server no longer keeps up." if is_open else ""
    return Plot("throughput", f"{title} by load", caption.strip() or "By requests in flight.", canvas.draw(paint))


def latency_by_throughput(runs: Sequence[Run]) -> Plot | None:
    """Draw p50 and p99 over the throughput, in the order of the loads."""
    answered = [run for run in runs if run.outcome.answered]
    if len(answered) < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        throughput = [run.outcome.throughput_rps for run in answered]
        p50_us = [run.outcome.latency_us.p50 for run in answered]
        p99_us = [run.outcome.latency_us.p99 for run in answered]
        axes.plot(throughput, p99_us, color=SERIES[1], marker="s", label="p99")
        axes.plot(throughput, p50_us, color=SERIES[0], marker="o", label="p50")
        _ring_limited(axes, answered, throughput, p99_us)
        canvas.latency_axis(axes, p50_us + p99_us)
        canvas.rate_axis(axes, "answered requests/s", is_horizontal=True)
        objectives = {run.outcome.slo_ms for run in answered}
        if len(objectives) == 1 and (slo_ms := objectives.pop()) is not None:
            canvas.objective_line(axes, slo_ms)
        axes.set_ylabel("latency")
        canvas.legend(axes, 4)

    caption = "One point per load. A line that turns back or rises steeply shows where requests begin to wait."
    return Plot("latency-throughput", "Latency against throughput", caption, canvas.draw(paint))


def batch_rows_by_load(runs: Sequence[Run]) -> Plot | None:
    """Draw the mean rows of a batch over the load."""
    loads = _loads(runs)
    if loads is None:
        return None
    points = [
        (load, mean)
        for load, run in zip(loads, runs, strict=True)
        if (mean := run.outcome.server.mean_batch_rows) is not None and is_known(mean)
    ]
    if len(points) < 2:
        return None
    is_open = runs[0].outcome.offered_rps is not None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(*zip(*points, strict=True), color=SERIES[0], marker="o")
        canvas.rate_axis(axes, "mean rows of a batch")
        canvas.rate_axis(axes, "offered requests/s" if is_open else "requests in flight", is_horizontal=True)

    return Plot("batches", "Batch sizes by load", "As the server's statistics count them.", canvas.draw(paint, 2.8))


def peers(runs: Sequence[Run]) -> Plot | None:
    """Draw each server's throughput, and its latency from p50 to p99."""
    answered = [run for run in runs if run.outcome.answered]
    if not answered:
        return None
    places = np.arange(len(answered))

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        throughput = [run.outcome.throughput_rps for run in answered]
        left.barh(places, throughput, 0.55, color=SERIES[0])
        for place, value in zip(places, throughput, strict=True):
            left.annotate(rate(value), (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        canvas.rate_axis(left, "requests/s", is_horizontal=True)
        left.set_xlim(0, max(throughput) * 1.25)
        left.xaxis.set_major_locator(canvas.few_ticks())
        left.set_yticks(places, [canvas.label(run.label) for run in answered])
        left.invert_yaxis()
        p50_us = [run.outcome.latency_us.p50 for run in answered]
        p99_us = [run.outcome.latency_us.p99 for run in answered]
        right.hlines(places, p50_us, p99_us, color=MUTED, linewidth=1.5)
        right.plot(p50_us, places, "o", color=SERIES[0], label="p50")
        right.plot(p99_us, places, "s", color=SERIES[1], label="p99")
        canvas.latency_axis(right, p50_us + p99_us, is_horizontal=True)
        right.set_xlabel("latency")
        canvas.legend(right, 2)
        for axes in (left, right):
            axes.grid(visible=False, axis="y")

    caption = "The same requests on the same model, one server after the other on this machine."
    return Plot("peers", "Servers side by side", caption, canvas.draw(paint, 1.4 + 0.42 * len(answered)))


def _loads(runs: Sequence[Run]) -> list[float] | None:
    """Return the offered rates or the concurrencies; None when the runs mix both."""
    rates = [run.outcome.offered_rps for run in runs]
    places = [run.outcome.concurrency for run in runs]
    for loads in (rates, places):
        known = [float(load) for load in loads if load is not None]
        if len(known) == len(runs):
            return known
    return None


def _ring_limited(axes: Axes, runs: Sequence[Run], across: Sequence[float], up: Sequence[float]) -> None:
    """Ring the points that the client limited: they say little about the server."""
    limited = [index for index, run in enumerate(runs) if run.outcome.client_limited]
    points = [across[index] for index in limited], [up[index] for index in limited]
    if limited:
        axes.plot(
            *points, "o", markersize=11, markerfacecolor="none", markeredgecolor=INK, label="client was the limit"
        )
