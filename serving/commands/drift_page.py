"""A drift report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere. Pure.

Names come from models and texts from data, so everything that is shown is escaped.
"""

import html
import math
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from serving.statistics.drift.report import LOG_10, DriftReport, FeatureDrift, expected_of, ranked

PLOTS_MAX = 40
"""Features that get a plot: the strongest ones. The table holds all."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 560, 150, 46, 18

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .3rem}p{margin:.3rem 0}
.state{display:inline-block;padding:.15rem .7rem;border-radius:1rem;color:#fff;font-weight:600}
.alarm{background:#b42318}.quiet{background:#1a7f4b}.waiting{background:#6b7280}
table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid #e4e7ec}
th:first-child,td:first-child,td:last-child,th:last-child{text-align:left}tr.hot td{background:#fef3f2}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(480px,1fr));gap:1rem}
figure{margin:0}figcaption{font-size:13px;font-weight:600}
svg{width:100%;height:auto}svg text{font-size:10px;fill:#475467}
.note{color:#475467;font-size:13px}
"""


def page(report: DriftReport) -> str:
    """Return the page of a report."""
    title = f"Drift of {report.model}/{report.version}"
    features = [*ranked(report), *ranked(report, is_derived=True)]
    body = [_head(title, report)]
    if features:
        body += [_evidence_section(report), _table(report, features), _plots(report, features)]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


def _head(title: str, report: DriftReport) -> str:
    kind = "waiting" if not report.features else "alarm" if report.is_alarm else "quiet"
    state = report.phase if not report.features else "drift" if report.is_alarm else "no drift"
    reference = "its own first rows (nobody vouches for them)" if report.is_self_reference else "the package's profile"
    replicas = f" on {report.replicas} replicas" if report.replicas > 1 else ""
    lines = [
        f"{report.rows:,} of {report.rows_seen:,} rows counted{replicas}; {report.panes_closed:,} panes closed.",
        f"Compared with {reference}, {report.data_digest or 'not there yet'}.",
        f"False alarms: {report.guarantee}.",
    ]
    if report.paused_s:
        some = " on some of them" if report.replicas > 1 else ""
        lines.append(f"Paused: no rows are counted for {report.paused_s:.0f} s more{some}.")
    if (expected := expected_of(report)) is not None:
        lines.append(
            f"Expected to be right on {expected.value:.1%} of rows ({expected.low:.1%} to {expected.high:.1%}); "
            f"it was on {expected.held_out:.1%} of held-out rows. A confidence is taken to mean what it meant there."
        )
    text = "".join(f'<p class="note">{_text(line)}</p>' for line in lines)
    return f'<h1>{_text(title)} <span class="state {kind}">{_text(state)}</span></h1>{text}'


def _evidence_section(report: DriftReport) -> str:
    points = [(boundary, log / LOG_10) for boundary, log in report.evidence if math.isfinite(log)]
    intro = "How many times likelier the rows are under some drift than without, as a power of ten."
    if len(points) < 2:
        drawn = '<p class="note">There will be a plot once two panes are closed.</p>'
    else:
        drawn = _line_plot(points, report.terms.alarm_log / LOG_10, report.terms.pane_s)
    return f"<h2>Evidence over time</h2><p class=note>{_text(intro)}</p>{drawn}"


def _line_plot(points: Sequence[tuple[int, float]], alarm: float, pane_s: float) -> str:
    """Draw the evidence after each pane, and the line that alarms."""
    first, last = points[0][0], points[-1][0]
    low = min(0.0, *(value for _, value in points))
    high = max(alarm * 1.15, *(value for _, value in points))

    def x(boundary: int) -> float:
        return _LEFT + (boundary - first) / max(1, last - first) * (2 * _WIDTH - _LEFT - 10)

    def y(value: float) -> float:
        return 10 + (high - value) / (high - low) * (_HEIGHT - 10 - _BOTTOM)

    path = " ".join(f"{x(boundary):.1f},{y(value):.1f}" for boundary, value in points)
    right, level = 2 * _WIDTH - 10, f"{y(alarm):.1f}"
    parts = [
        f'<line x1="{_LEFT}" x2="{right}" y1="{level}" y2="{level}" stroke="#b42318" stroke-dasharray="5 4"/>',
        f'<text x="{right}" y="{y(alarm) - 4:.1f}" text-anchor="end">alarm</text>',
        f'<polyline points="{path}" fill="none" stroke="#175cd3" stroke-width="1.6"/>',
        *(f'<text x="{_LEFT - 4}" y="{y(v) + 3:.1f}" text-anchor="end">10^{v:.3g}</text>' for v in (0.0, high)),
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{_time(first * pane_s)}</text>',
        f'<text x="{right}" y="{_HEIGHT - 4}" text-anchor="end">{_time(last * pane_s)}</text>',
    ]
    return _svg(2 * _WIDTH, "Evidence after each pane", parts)


def _table(report: DriftReport, features: Sequence[FeatureDrift]) -> str:
    header = (
        "feature", "evidence", "PSI", "floor", "JS, bits", "Hellinger", "KS", "W1, IQRs", "mean shift", "spread",
        "missing", "out of range", "moved most",
    )  # fmt: skip
    rows = []
    for drift in features:
        hot = ' class="hot"' if drift.evidence * LOG_10 >= report.terms.alarm_log else ""
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in _cells(drift))
        rows.append(f"<tr{hot}>{cells}</tr>")
    names = "".join(f"<th>{_text(name)}</th>" for name in header)
    note = (
        "The floor is the PSI that this many rows have without any drift. Only evidence alarms; the other numbers say "
        "how a feature moved, over the panes that are kept. Missing and out of range come with 95 % intervals."
    )
    return (
        f'<h2>Features by evidence</h2><p class="note">{_text(note)}</p>'
        f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _cells(drift: FeatureDrift) -> list[str]:
    said = drift.distances
    evidence = f"10^{drift.evidence:.1f}" if math.isfinite(drift.evidence) else "-"
    shares = [f"{r.value:.2%} ({r.low:.2%} to {r.high:.2%})" for r in (said.missing, said.out_of_range)]
    moved = "; ".join(f"{m.slot}: {m.before:.1%} to {m.now:.1%}" for m in said.moved)
    return [
        drift.feature.name, evidence, f"{said.psi:.3f}", f"{said.noise_floor:.3f}", f"{said.jensen_shannon:.3f}",
        f"{said.hellinger:.3f}", _number(said.kolmogorov_smirnov), _number(said.wasserstein), _number(said.mean_shift),
        _number(said.spread_ratio), *shares, moved,
    ]  # fmt: skip


def _plots(report: DriftReport, features: Sequence[FeatureDrift]) -> str:
    rows = {feature.name: row for row, feature in enumerate(report.features)}
    recent = report.recent.counts
    drawn = [_bars(drift, recent[rows[drift.feature.name]]) for drift in features[:PLOTS_MAX]]
    left_out = len(features) - len(drawn)
    note = f"<p class=note>{left_out} weaker features are in the table only.</p>" if left_out else ""
    legend = "Shares of the rows in each slot: grey the reference, blue what was served lately."
    head = f"<h2>Reference and live rows</h2><p class=note>{_text(legend)}</p>"
    return f"{head}<div class=plots>{''.join(drawn)}</div>{note}"


def _bars(drift: FeatureDrift, counts: NDArray[np.int64]) -> str:
    """Draw the shares of a feature's slots, before and now."""
    feature = drift.feature
    live = counts[: feature.slots] / max(1, counts.sum())
    before = feature.counts / max(1, feature.counts.sum())
    high = float(max(live.max(), before.max(), 1e-9))
    step = (_WIDTH - _LEFT) / feature.slots
    floor = _HEIGHT - _BOTTOM
    names = feature.slot_names()
    parts = [
        f'<text x="{_LEFT - 4}" y="16" text-anchor="end">{high:.1%}</text>',
        f'<text x="{_LEFT - 4}" y="{floor}" text-anchor="end">0</text>',
    ]
    for slot in range(feature.slots):
        title = f"<title>{_text(names[slot])}: {before[slot]:.2%} before, {live[slot]:.2%} now</title>"
        for share, offset, colour in ((before[slot], 0.08, "#98a2b3"), (live[slot], 0.5, "#175cd3")):
            height = float(share) / high * (floor - 10)
            x = _LEFT + (slot + offset) * step
            parts.append(
                f'<rect x="{x:.1f}" y="{floor - height:.1f}" width="{0.42 * step:.1f}" height="{height:.1f}" '
                f'fill="{colour}">{title}</rect>'
            )
    ends = [(0, "start", names[0]), (feature.slots - 1, "end", names[-1])]
    for slot, anchor, name in ends:
        x = _LEFT + (slot + (anchor == "end")) * step
        parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{_text(name[:30])}</text>')
    evidence = f"10^{drift.evidence:.1f}" if math.isfinite(drift.evidence) else "none yet"
    caption = f"{feature.name} ({feature.role.value}), evidence {evidence}"
    return f"<figure><figcaption>{_text(caption)}</figcaption>{_svg(_WIDTH, caption, parts)}</figure>"


def _svg(width: int, label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {_HEIGHT}" role="img" aria-label="{_text(label)}">{"".join(parts)}</svg>'


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(text: str) -> str:
    return html.escape(text, quote=True)
