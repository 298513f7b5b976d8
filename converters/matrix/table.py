"""The matrix as a table of Markdown, between two marks of the README."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from converters.matrix.measure import Cell
from serving.errors import ConfigError

BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
_FAILURE_CHARACTERS = 110


def rendered(cells: Iterable[Cell]) -> str:
    """Return a row per family, and below it what does not convert, and why."""
    families: dict[str, list[Cell]] = {}
    for cell in cells:
        families.setdefault(cell.entry.family, []).append(cell)
    lines = ["| family | converts | largest error | KiB | times as fast |", "| --- | --- | --- | --- | --- |"]
    refused: list[str] = []
    for family, found in families.items():
        done = [cell for cell in found if not cell.failure]
        refused += [f"- {cell.entry.name}: {_short(cell.failure)}" for cell in found if cell.failure]
        if done:
            names = ", ".join(dict.fromkeys(cell.entry.name for cell in done))
            largest = max(cell.error for cell in done)
            sizes = _span([cell.graph_bytes / 1024 for cell in done])
            lines.append(f"| {family} | {names} | {largest:.1g} | {sizes} | {_span([cell.speed for cell in done])} |")
    told = ["", "Not converted:", "", *refused] if refused else []
    return "\n".join([*lines, *told])


def write(path: Path, text: str) -> None:
    """Put the table between the marks of a file. Raises ConfigError when they are not there."""
    before = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(before):
        raise ConfigError(f"{path} lacks the marks {BEGIN} and {END}, between which the table belongs")
    path.write_text(pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", before), encoding="utf-8")


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    one, other = _number(low), _number(high)
    return one if one == other else f"{one} to {other}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _short(failure: str) -> str:
    line = failure.replace("|", "/")
    return line if len(line) <= _FAILURE_CHARACTERS else f"{line[:_FAILURE_CHARACTERS].rsplit(' ', 1)[0]} ..."
