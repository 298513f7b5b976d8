"""Plots of batching policies in virtual time."""

import numpy as np
from matplotlib.figure import Figure

from bench.report.plots import canvas
from bench.report.plots.canvas import INK, MUTED, SERIES, SURFACE, Plot
from bench.report.views import SimulationView

OURS = "ours"
_ROW_IN = 0.19


def ratios(view: SimulationView) -> Plot | None:
    """Draw our goodput over every other policy's, one dot per workload."""
    others = [name for name in (view.workloads[0].goodput if view.workloads else ()) if name != OURS]
    if not others:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axvline(0, color=INK, linewidth=1)
        for place, name in enumerate(others):
            changes = sorted(_change(one.goodput[OURS], one.goodput[name]) for one in view.workloads)
            heights = place - 0.2 + 0.4 * (np.arange(len(changes)) * 0.618 % 1)  # spread, and the same every time
            axes.plot(changes, heights, "o", color=SERIES[0], alpha=0.5, markersize=4, markeredgewidth=0)
            axes.plot([np.median(changes)], [place], "D", color=INK, markeredgecolor=SURFACE, markersize=7)
        axes.set_yticks(range(len(others)), [canvas.label(name) for name in others])
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.set_xlim(-30, 105)
        axes.xaxis.set_major_formatter(canvas.changes())
        axes.set_xlabel("goodput of ours against the other's")

    caption = "Right of 0 ours is better. Dots: workloads, those beyond +100 % at the edge; diamond: the median."
    return Plot("ratios", "Ours against the others", caption, canvas.draw(paint, 1.0 + 0.5 * len(others)))


def goodput(view: SimulationView) -> Plot | None:
    """Draw the goodput of every policy on every workload."""
    if not view.workloads:
        return None
    shown = view.workloads[::-1]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, name in enumerate(view.workloads[0].goodput):
            values = [one.goodput[name] * 100 for one in shown]
            marker, color = ("D", INK) if name == OURS else ("o", SERIES[index % len(SERIES)])
            axes.plot(values, range(len(shown)), marker, color=color, alpha=0.8, markersize=4, label=name)
        names = [f"{canvas.label(one.name)}{' (aside)' if one.is_aside else ''}" for one in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=6.5, color=MUTED)
        axes.set_xlim(-2, 102)
        axes.set_xlabel("requests answered within the objective, %")
        canvas.legend(axes, 6)

    caption = "All policies see the same arrivals. The window is the best of its grid for each workload, in hindsight."
    return Plot("goodput", "Workload by workload", caption, canvas.draw(paint, 1.2 + _ROW_IN * len(shown)))


def _change(ours: float, theirs: float) -> float:
    """Return how much better ours is in percent, at most 100."""
    return min(100.0, (ours / theirs - 1) * 100) if theirs > 0 else (100.0 if ours > 0 else 0.0)
