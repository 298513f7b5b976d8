"""How figures look, and how they become SVG inside of a page.

Colours are names: matplotlib is given stand-ins, and the SVG gets `var(--...)` in their place, so that the page's style
sheet decides, for light and for dark. The series follow Okabe and Ito's palette, which colour-blind readers tell
apart; markers and dashes differ too. Text stays text, and is never read as a formula: labels come from users.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from bench.report.units import plain, tick_us

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0501{index:02x}" for index in range(8))
GOOD, BAD, NEUTRAL = SERIES[2], SERIES[1], MUTED
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
WIDTH_IN = 5.6
LABEL_MAX = 28
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"} | {
    color: f"series-{index}" for index, color in enumerate(SERIES)
}
_LINEAR_RATIO_MAX = 4
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "penstock",
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.7,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure: `name` is its anchor, `title` and `caption` are text, `svg` is markup."""

    name: str
    title: str
    caption: str
    svg: str


def draw(paint: Callable[[Figure], None], height_in: float = 3.2) -> str:
    """Return a figure as an `<svg>` element that stands anywhere in a page, and fits its width."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that matplotlib's font lacks are drawn by the reader's browser
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        paint(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return _inline(text.getvalue())


def latency_axis(axes: Axes, values_us: Sequence[float], *, is_horizontal: bool = False) -> None:
    """Make an axis of times: logarithmic where they span much, else from 0."""
    axis = axes.xaxis if is_horizontal else axes.yaxis
    known = np.array([value for value in values_us if np.isfinite(value) and value > 0])
    if len(known) and known.max() / known.min() > _LINEAR_RATIO_MAX:
        (axes.set_xscale if is_horizontal else axes.set_yscale)("log")
        # Side by side there is room for few of them.
        axis.set_major_locator(LogLocator(subs=(1, 3) if is_horizontal else (1, 2, 5), numticks=12))
        axis.set_minor_locator(NullLocator())
    else:
        (axes.set_xlim if is_horizontal else axes.set_ylim)(0, known.max() * 1.15 if len(known) else 1)
        axis.set_major_locator(_round_ticks(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick_us(round(value, 6))))


def rate_axis(axes: Axes, text: str, *, is_horizontal: bool = False) -> None:
    """Make an axis of requests per second, or of other counts, from 0."""
    axis = axes.xaxis if is_horizontal else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_major_locator(_round_ticks(6))
    (axes.set_xlim if is_horizontal else axes.set_ylim)(0, None)
    axis.set_label_text(text)


def whole_numbers() -> MaxNLocator:
    """Place ticks at whole numbers."""
    return MaxNLocator(12, integer=True)


def few_ticks() -> MaxNLocator:
    """Place ticks on an axis that has little room."""
    return _round_ticks(3)


def changes() -> FuncFormatter:
    """Write percents of change: `+5 %`."""
    return FuncFormatter(lambda value, _: f"{value:+g} %" if round(value, 9) else "0 %")


def percentile_axis(axes: Axes, nines: float) -> None:
    """Make the horizontal axis one of percentiles `q` at -log10(1 - q), so that each nine of the tail is as wide."""
    shares = [0.5, *(1 - 10.0**-power for power in range(1, 9))]
    shares = [share for share in shares if -np.log10(1 - share) <= nines + 0.3]
    axes.set_xlim(0, nines + 0.1)
    axes.xaxis.set_major_locator(FixedLocator([-np.log10(1 - share) for share in shares]))
    axes.set_xticklabels([f"{share * 100:.8g} %" for share in shares])
    axes.set_xlabel("share of answers that were at least as fast")


def objective_line(axes: Axes, slo_ms: float, *, is_horizontal: bool = False) -> None:
    """Draw the objective across an axis of times in us."""
    line = axes.axvline if is_horizontal else axes.axhline
    line(slo_ms * 1e3, color=INK, linewidth=1, linestyle=(0, (2, 2)), label=f"objective {slo_ms:g} ms")


def legend(axes: Axes, columns: int = 3) -> None:
    """Name the series above the axes, where they hide nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, borderaxespad=0.2,
                    handlelength=2.2, columnspacing=1.4)  # fmt: skip


def label(text: str) -> str:
    """Make a name fit for a figure. matplotlib hides what begins with an underscore, so a space goes before it."""
    clean = plain(text, LABEL_MAX)
    return f" {clean}" if clean.startswith("_") else clean


def _round_ticks(number_max: int) -> MaxNLocator:
    return MaxNLocator(number_max, steps=[1, 2, 2.5, 5, 10])


def _inline(svg: str) -> str:
    """Cut what only a file of its own needs, name the colours, and drop the ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg[^>]* viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img" aria-hidden="true">', svg, count=1
    )
    svg = re.sub(r"#0[1-5]0[1-4]0[0-9a-f]", lambda match: _color(match[0]), svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = svg.replace("xlink:href", "href")
    return re.sub(r"[ \t]*\n[ \t]*", "\n", svg).strip()


def _color(stand_in: str) -> str:
    return f"var(--{_NAMES[stand_in]})" if stand_in in _NAMES else stand_in
