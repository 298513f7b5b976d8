"""A report as one HTML page that needs no network. Pure."""

from collections.abc import Mapping
from html import escape

from serving.release.policy import Policy
from serving.release.report import HEADER, Report

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }
td:nth-child(3), td:nth-child(4), td:nth-child(5) { font-variant-numeric: tabular-nums; white-space: nowrap; }
.pass { color: #14692f; } .fail { color: #a51d1d; } .inconclusive { color: #8a5a00; } .not { color: #666; }
code { font-size: 90%; overflow-wrap: anywhere; }
"""


def page(report: Report, policy: Policy, waived: Mapping[str, str]) -> str:
    """Return the page."""
    passes = not report.blocking(policy, waived)
    title = f"{report.version} {'may' if passes else 'may not'} be promoted"
    head = "".join(f"<th>{escape(name.capitalize())}</th>" for name in HEADER)
    body = "\n".join(_row(row) for row in report.rows(policy, waived))
    against = f"{report.against} was {report.production or 'nothing'}"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>
<h1>{escape(title)}</h1>
<p>Package <code>{escape(report.package)}</code>. Compared with <code>{escape(against)}</code>, under the policy
<code>{escape(report.policy)}</code>.</p>
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
</html>
"""


def _row(cells: tuple[str, ...]) -> str:
    kind = cells[1].split(",")[0].split(" ")[0]
    shown = "".join(
        f"<td{f' class={kind}' if place == 1 else ''}>{escape(cell)}</td>" for place, cell in enumerate(cells)
    )
    return f"<tr>{shown}</tr>"
