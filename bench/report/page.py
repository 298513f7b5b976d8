"""A result as one HTML file that needs nothing else: no script, no font, no picture from elsewhere; it opens offline.

What comes from users, such as names and commands, is text and nothing but text: the template escapes all of it. Only
the figures are markup, and their labels are escaped by matplotlib.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import findings, summary
from bench.report.libraries import needed
from bench.report.machine import Machine
from bench.report.units import number, plain
from bench.report.views import (
    ComparisonView,
    Context,
    FrontierView,
    KneeView,
    PeersView,
    Run,
    RunView,
    SimulationView,
    SweepView,
    View,
)
from serving.errors import ConfigError

if TYPE_CHECKING:
    from bench.report.plots.canvas import Plot

TEMPLATE = Path(__file__).with_name("page.html")
COMMAND_MAX = 2_000
TITLES = {
    "run": "One load",
    "sweep": "Loads from low to high",
    "knee": "The largest rate that meets the objective",
    "compare": "Two servers compared",
    "tune": "Settings tried",
    "peers": "Servers side by side",
    "simulate": "Batching policies in virtual time",
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of what was measured under which conditions."""

    name: str
    value: str


def check_place(path: Path) -> None:
    """Raise ConfigError when a page cannot be written there, before minutes of measuring."""
    if path.is_dir():
        raise ConfigError(f"--html cannot write {str(path)!r}: it is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--html cannot write {str(path)!r}: its folder does not exist")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise ConfigError(f"--html cannot write {str(path)!r}: permission denied")


def write(path: Path, view: View, context: Context) -> None:
    """Write the page of a result. Raises ConfigError when it cannot be written or a library is absent."""
    text = render(view, context)
    try:
        path.write_text(text, encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(f"--html cannot write {str(path)!r}: {reason}") from None


def render(view: View, context: Context) -> str:
    """Return the page of a result. Raises ConfigError when a library is absent."""
    with needed():
        from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - behind the extra
        from markupsafe import Markup  # noqa: PLC0415
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["svg"] = Markup  # of matplotlib's making
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        kind=view.kind,
        title=TITLES[view.kind],
        subject=plain(context.subject, 200),
        headline=findings.headline(view),
        sentences=findings.comparisons(view) if isinstance(view, ComparisonView) else [],
        notices=findings.notices(view),
        command=plain(context.command, COMMAND_MAX),
        at=context.at.strftime("%Y-%m-%d %H:%M:%S %Z").strip(),
        facts=_facts(context),
        scenario=[Fact(plain(str(name)), plain(str(value), 300)) for name, value in context.scenario.items()],
        tables=summary.tables(view),
        model_toml=view.model_toml if isinstance(view, FrontierView) else None,
        plots=plots(view),
        raw=[(summary.raw_table(run), summary.timeline_table(run)) for run in view.runs],
    )


def plots(view: View) -> list["Plot"]:
    """Return the figures of a result, the one that answers the question first; those without data are left out."""
    with needed():
        from bench.report.plots import loads, policies, runs, verdicts  # noqa: PLC0415 - behind the extra
    found: Sequence[Plot | None]
    match view:
        case RunView():
            run = view.run
            found = [runs.distribution([run]), runs.timeline(run), runs.stages([run]), runs.batch_sizes(run)]
        case SweepView():
            found = [loads.latency_by_throughput(view.runs), loads.throughput_by_load(view.runs)]
            found += [runs.distribution(view.runs), loads.batch_rows_by_load(view.runs), runs.stages(view.runs)]
        case KneeView():
            found = [
                verdicts.knee(view),
                loads.latency_by_throughput(_by_rate(view)),
                runs.distribution(_by_rate(view)),
            ]
        case ComparisonView():
            found = [verdicts.comparison(view), runs.distribution(view.runs), runs.stages(view.runs)]
        case FrontierView():
            found = [verdicts.frontier(view), runs.distribution(view.runs)]
        case SimulationView():
            found = [policies.ratios(view), policies.goodput(view)]
        case PeersView():
            found = [loads.peers(view.runs), runs.distribution(view.runs), runs.stages(view.runs)]
    return [plot for plot in found if plot is not None]


def _by_rate(view: KneeView) -> list[Run]:
    return sorted(view.runs, key=lambda run: run.outcome.offered_rps or 0.0)


def _facts(context: Context) -> list[Fact]:
    """Return the conditions, each in a line."""
    machine = context.machine
    return [
        Fact("commit", context.commit or "not measured from a checkout"),
        Fact("seed", str(context.seed)),
        Fact("processor", f"{machine.cpu}; {_cores(machine)}"),
        Fact("memory", f"{number(machine.memory_gib)} GiB"),
        Fact("system", f"{machine.system}; {machine.kernel}"),
        Fact("software", ", ".join([machine.python, *(f"{name} {of}" for name, of in machine.packages.items())])),
        Fact("frequency governor", machine.governor or "not told by this machine"),
        Fact("load average before", number(machine.load_1min)),
    ]


def _cores(machine: Machine) -> str:
    used = f", {machine.cores_usable:g} usable" if machine.cores_usable != machine.cores else ""
    return f"{machine.cores} cores{used}"
