"""What a command concludes: the probes of a knee, the ratios of a comparison, the frontier of a tuning."""

import numpy as np
from matplotlib.figure import Figure

from bench.report.findings import is_shown, metric_of
from bench.report.plots import canvas
from bench.report.plots.canvas import BAD, DASHES, GOOD, INK, MUTED, NEUTRAL, SERIES, SURFACE, Plot
from bench.report.units import is_known
from bench.report.views import ComparisonView, FrontierView, KneeView, Ratio

_VERDICTS = {
    "passed": ("o", GOOD, "met"),
    "failed": ("X", BAD, "missed"),
    "undecided": ("D", MUTED, "too close to tell"),
    "late": ("x", MUTED, "sent late"),
}


def knee(view: KneeView) -> Plot | None:
    """Draw p99 over the rate of each probe, the objective, and where the knee lies."""
    probes = [probe for probe in view.probes if is_known(probe.p99_us)]
    if not probes:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if view.low_rps is not None and view.high_rps is not None:
            axes.axvspan(view.low_rps, view.high_rps, color=SERIES[4], alpha=0.35, linewidth=0, label="its interval")
        if view.rate_rps is not None:
            axes.axvline(view.rate_rps, color=SERIES[0], linewidth=1.2, label="the knee")
        for verdict, (marker, color, text) in _VERDICTS.items():
            points = [(probe.rate_rps, probe.p99_us) for probe in probes if probe.verdict == verdict]
            if points:
                axes.plot(
                    *zip(*points, strict=True), marker, color=color, markeredgecolor=SURFACE, markersize=8, label=text
                )
        canvas.latency_axis(axes, [*(probe.p99_us for probe in probes), view.objective_ms * 1e3])
        canvas.objective_line(axes, view.objective_ms)
        canvas.rate_axis(axes, "offered requests/s", is_horizontal=True)
        axes.set_xlim(0, 1.05 * max(probe.rate_rps for probe in probes))
        axes.set_ylabel("p99")
        canvas.legend(axes)

    caption = "One mark per probe; what it shows is met or missed with confidence, or too close to tell."
    return Plot("knee", "Probes of the knee", caption, canvas.draw(paint))


def comparison(view: ComparisonView) -> Plot | None:
    """Draw the ratio of every pair of slices, and the interval of each figure."""
    metrics = {name: ratio for name, ratio in view.metrics.items() if is_known(ratio.ratio)}
    if not metrics:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1)
        for place, (name, ratio) in enumerate(metrics.items()):
            pairs = np.array([pair for pair in view.pairs.get(name, ()) if is_known(pair)])
            heights = place + 0.12 + 0.22 * (np.arange(len(pairs)) * 0.618 % 1)  # spread, and the same every time
            axes.plot((pairs - 1) * 100, heights, "o", color=MUTED, alpha=0.45, markersize=3.5, markeredgewidth=0)
            color = _color(name, ratio)
            ends = [(ratio.low - 1) * 100, (ratio.high - 1) * 100]
            axes.plot(ends, [place, place], color=color, linewidth=4, solid_capstyle="butt", alpha=0.55)
            axes.plot([(ratio.ratio - 1) * 100], [place], "D", color=color, markeredgecolor=SURFACE, markersize=7)
        axes.set_yticks(range(len(metrics)), [canvas.label(name) for name in metrics])
        axes.set_ylim(len(metrics) - 0.45, -0.45)
        axes.grid(visible=False, axis="y")
        axes.xaxis.set_major_formatter(canvas.changes())
        axes.set_xlabel(f"change from {canvas.label(view.name_a)} to {canvas.label(view.name_b)}")

    caption = (
        f"Bar: {view.confidence * 100:g} % interval, diamond: the estimate; green is better, orange is "
        "worse, grey shows no difference. Dots: one per pair of slices. A bar across 0 shows no difference."
    )
    return Plot("comparison", "Comparison", caption, canvas.draw(paint, 1.2 + 0.62 * len(metrics)))


def frontier(view: FrontierView) -> Plot | None:
    """Draw p99 over throughput of every setting, and the settings that no other one beats in both."""
    known = [
        (number, setting)
        for number, setting in enumerate(view.settings, 1)
        if is_known(setting.throughput_rps) and is_known(setting.p99_us)
    ]
    if not known:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        best = sorted((setting.throughput_rps, setting.p99_us) for _, setting in known if setting.on_frontier)
        if best:
            axes.plot(*zip(*best, strict=True), color=SERIES[0], linewidth=1.2, linestyle=DASHES[1], marker="o",
                      markersize=7, label="frontier")  # fmt: skip
        others = [(setting.throughput_rps, setting.p99_us) for _, setting in known if not setting.on_frontier]
        if others:
            axes.plot(*zip(*others, strict=True), "o", color=MUTED, markersize=5, label="other settings")
        chosen = [(setting.throughput_rps, setting.p99_us) for _, setting in known if setting.recommended]
        if chosen:
            axes.plot(*zip(*chosen, strict=True), "*", color=BAD, markeredgecolor=SURFACE, markersize=17,
                      label="recommended")  # fmt: skip
        for number, setting in known:
            if setting.on_frontier or setting.recommended:
                axes.annotate(str(number), (setting.throughput_rps, setting.p99_us), (6, -11),
                              textcoords="offset points", fontsize=8.5)  # fmt: skip
        canvas.latency_axis(axes, [setting.p99_us for _, setting in known])
        canvas.rate_axis(axes, "requests/s", is_horizontal=True)
        axes.set_ylabel("p99")
        canvas.legend(axes, 4)

    caption = "To the right is more throughput, down is less latency. Numbers are those of the table."
    return Plot("frontier", "Tuning frontier", caption, canvas.draw(paint))


def _color(name: str, ratio: Ratio) -> str:
    if not is_shown(ratio):
        return NEUTRAL
    return GOOD if (ratio.ratio > 1) == metric_of(name).more_is_better else BAD
