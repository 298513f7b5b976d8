"""What one run looked like: how latency is distributed, how it went over time, and what the server did meanwhile."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.histogram import Histogram
from bench.outcome import Outcome
from bench.report.plots import canvas
from bench.report.plots.canvas import DASHES, INK, SERIES, SURFACE, Plot
from bench.report.units import count, is_known, number, time_us
from bench.report.views import Run

CURVES_MAX = 6
"""Distributions in one figure; of more runs, some from the first to the last are shown."""
_POINTS = 400
_STAGES = {"queue": "queue", "compute_input": "input", "compute_infer": "infer", "compute_output": "output"}


def distribution(runs: Sequence[Run]) -> Plot | None:
    """Draw latency over percentiles, one curve per run with an answer."""
    answered = [run for run in runs if run.outcome.histogram.count]
    if not answered:
        return None
    shown = _spread(answered, CURVES_MAX)
    curves = [_curve(run.outcome.histogram) for run in shown]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (run, (nines, times_us)) in enumerate(zip(shown, curves, strict=True)):
            name = canvas.label(run.label) if len(shown) > 1 else None
            axes.plot(nines, times_us, color=SERIES[index], label=name, linestyle=DASHES[index // 3])
        if len(shown) == 1:
            _mark_percentiles(axes, shown[0].outcome)
        canvas.percentile_axis(axes, max(nines[-1] for nines, _ in curves))
        canvas.latency_axis(axes, np.concatenate([times_us for _, times_us in curves]).tolist())
        _objective(axes, [run.outcome for run in shown])
        axes.set_ylabel("latency")
        canvas.legend(axes)

    caption = "Each step to the right is one more nine of the tail. A curve ends at its slowest answer."
    if len(shown) < len(answered):
        caption += f" {len(shown)} of {len(answered)} runs are shown."
    return Plot("distribution", "Latency distribution", caption, canvas.draw(paint))


def timeline(run: Run) -> Plot | None:
    """Draw rates and latency over time; two axes on one clock."""
    points = run.outcome.timeline
    if len(points) < 2:
        return None
    at_s = [point.at_s for point in points]

    def paint(figure: Figure) -> None:
        rates, times = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.2))
        rates.plot(at_s, [point.sent_rps for point in points], color=SERIES[0], label="sent", linestyle=DASHES[1])
        rates.plot(at_s, [point.answered_rps for point in points], color=SERIES[2], label="answered")
        if any(point.errors_rps for point in points):
            rates.plot(at_s, [point.errors_rps for point in points], color=SERIES[1], label="errors")
        canvas.rate_axis(rates, "per second")
        canvas.legend(rates, 4)
        p50_us, p99_us = [point.p50_us for point in points], [point.p99_us for point in points]
        times.plot(at_s, p99_us, color=SERIES[1], label="p99")
        times.plot(at_s, p50_us, color=SERIES[0], label="p50")
        canvas.latency_axis(times, p50_us + p99_us)
        _objective(times, [run.outcome])
        times.set_xlim(0, at_s[-1])
        times.set_ylabel("latency")
        times.set_xlabel("seconds since the first counted moment")
        canvas.legend(times, 4)

    caption = "Rates by the moment of sending and of the answer; percentiles of the answers of each stretch."
    return Plot("timeline", "Timeline", caption, canvas.draw(paint, 4.0))


def batch_sizes(run: Run) -> Plot | None:
    """Draw how many executed batches had how many rows."""
    batches = {rows: number_of for rows, number_of in sorted(run.outcome.server.batch_rows.items()) if number_of}
    if not batches:
        return None
    width = max(0.8, max(batches) / 80)  # wide enough to be seen
    total, mean = sum(batches.values()), run.outcome.server.mean_batch_rows

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.bar(
            list(batches), [100 * number_of / total for number_of in batches.values()], color=SERIES[0], width=width
        )
        canvas.rate_axis(axes, "% of batches")
        axes.set_xlim(0.4, max(batches) + 0.6)
        axes.xaxis.set_major_locator(canvas.whole_numbers())
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("rows in the batch")
        if mean is not None and is_known(mean):
            axes.axvline(mean, color=INK, linewidth=1, linestyle=DASHES[1], label=f"mean {number(mean)} rows")
        canvas.legend(axes)

    caption = f"{count(total)} batches that the server ran in the measured time, as its statistics count them."
    return Plot("batches", "Batch sizes", caption, canvas.draw(paint, 2.8))


def stages(runs: Sequence[Run]) -> Plot | None:
    """Draw where the mean request spent its time in the server, and the rest of what the client waited for."""
    told = [run for run in runs if run.outcome.server.stages_us and is_known(run.outcome.latency_us.mean)]
    if not told:
        return None
    shown = _spread(told, 12)
    names = list(dict.fromkeys(name for run in shown for name in run.outcome.server.stages_us))[: len(SERIES)]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = np.arange(len(shown))
        left = np.zeros(len(shown))
        columns = [[run.outcome.server.stages_us.get(name, 0.0) for run in shown] for name in names]
        rest = [max(0.0, run.outcome.latency_us.mean - sum(run.outcome.server.stages_us.values())) for run in shown]
        colors = [*SERIES[: len(names)], canvas.GRID]
        labels = [*(canvas.label(_STAGES.get(name, name)) for name in names), "the rest"]
        for values, color, name in zip([*columns, rest], colors, labels, strict=True):
            axes.barh(places, values, 0.62, left, color=color, label=name, edgecolor=SURFACE, linewidth=0.8)
            left += np.nan_to_num(values)
        canvas.latency_axis(axes, [float(left.max())], is_horizontal=True)
        axes.set_yticks(places, [canvas.label(run.label) if len(runs) > 1 else "" for run in shown])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean per request")
        canvas.legend(axes, 3)

    caption = (
        "The server's own means per request, stacked; the rest of the mean latency is network, transport and client."
    )
    return Plot("stages", "Where the time goes", caption, canvas.draw(paint, 1.3 + 0.3 * len(shown)))


def _curve(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return -log10(1 - q) and the time in us at q, from the fastest answer to the slowest."""
    last = float(np.log10(histogram.count)) if histogram.count > 1 else 0.3
    nines = np.linspace(0, last, _POINTS)
    times_us = [histogram.quantile_ns(1 - 10**-value) / 1e3 for value in nines[:-1]]
    return nines, np.array([*times_us, histogram.max_ns / 1e3])


def _mark_percentiles(axes: Axes, outcome: Outcome) -> None:
    """Point out p50, p90, p99 and p99.9 where enough answers carry them."""
    latency = outcome.latency_us
    behind = {"facecolor": SURFACE, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
    for nines, value in ((np.log10(2), latency.p50), (1, latency.p90), (2, latency.p99), (3, latency.p999)):
        if nines <= np.log10(max(1, outcome.histogram.count)):
            axes.plot([nines], [value], "o", color=SERIES[0], markeredgecolor=SURFACE)
            axes.annotate(
                time_us(value), (nines, value), (6, -12), textcoords="offset points", fontsize=8.5, bbox=behind
            )


def _objective(axes: Axes, outcomes: Sequence[Outcome]) -> None:
    objectives = {outcome.slo_ms for outcome in outcomes}
    slo_ms = objectives.pop() if len(objectives) == 1 else None
    if slo_ms is not None:
        canvas.objective_line(axes, slo_ms)


def _spread(runs: Sequence[Run], number_max: int) -> list[Run]:
    """Return at most so many runs, evenly from the first to the last."""
    if len(runs) <= number_max:
        return list(runs)
    return [runs[round(index)] for index in np.linspace(0, len(runs) - 1, number_max)]
