"""Flags of the bench's commands, made of the fields of `Scenario`, and how they become one."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_origin

import click

from bench.scenario import Scenario

_Command = Callable[..., Any]
LOADS = ("rate", "concurrency")
_FILE = click.Path(dir_okay=False, path_type=Path)


def scenario_options(without: Sequence[str] = ()) -> Callable[[_Command], _Command]:
    """Add `--scenario FILE` and a flag for every field but `without`; they reach the command by their names."""

    def add(command: _Command) -> _Command:
        for item in reversed(dataclasses.fields(Scenario)):
            if item.name not in without:
                command = _flag(item)(command)
        return click.option(
            "--scenario", "scenario_file", type=_FILE, metavar="FILE",
            help="A TOML file with these options, keys with underscores; flags are stronger.",
        )(command)  # fmt: skip

    return add


def report_options(command: _Command) -> _Command:
    """Add `--json FILE` and `--html FILE`."""
    command = click.option(
        "--html", "html_file", type=_FILE, metavar="FILE", help="Write a report with plots, one page, to FILE."
    )(command)
    return click.option(
        "--json", "json_file", metavar="FILE",
        help="Write one JSON object per line and run to FILE, - for standard output.",
    )(command)  # fmt: skip


def read_scenario(values: dict[str, Any]) -> Scenario:
    """Take the scenario's flags out of a command's arguments. Raises ConfigError."""
    given = {item.name: values.pop(item.name, None) for item in dataclasses.fields(Scenario)}
    file = values.pop("scenario_file", None)
    return Scenario.of({name: value for name, value in given.items() if value not in (None, ())}, file)


def _flag(item: dataclasses.Field[Any]) -> Callable[[_Command], _Command]:
    rules = item.metadata
    is_list = get_origin(item.type) is tuple
    name = item.name.removesuffix("s") if is_list else item.name
    return click.option(
        f"--{name.replace('_', '-')}",
        item.name,
        type=click.Choice(rules["choices"]) if rules.get("choices") else str,  # `build` converts, checks and explains
        multiple=is_list,
        metavar=None if rules.get("choices") else _metavar(item),
        default=None,
        help=rules["help"] + _default(item),
    )


def _default(item: dataclasses.Field[Any]) -> str:
    return "" if item.default in {"", 0, ()} else f"  [default: {item.default}]"


def _metavar(item: dataclasses.Field[Any]) -> str:
    if get_origin(item.type) is tuple:
        return "NAME:DIM,..."
    return item.metadata.get("metavar") or {int: "N", float: "SECONDS", str: "TEXT"}[item.type]  # type: ignore[index]
