"""`penstock registry rollout`: let a package take over an alias step by step, while servers watch it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.commands.options import json_option, show
from serving.commands.registry_options import Open, check_known, registry_options, show_change
from serving.commands.table import table
from serving.errors import ConfigError
from serving.registry.names import check_word, parse_alias, parse_version
from serving.release.rollout import Rollout, State

if TYPE_CHECKING:
    from serving.registry.client import Registry
    from serving.release.rollouts import Rollouts

_FILE = click.Path(dir_okay=False, exists=True, path_type=Path)
_reason = click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")


@click.group("rollout")
def group() -> None:
    """Let a package take over an alias step by step: servers that follow it route, compare, promote or roll back."""


@group.command("start")
@click.argument("package", metavar="NAME/SEQ")
@click.option("--to", "alias", required=True, metavar="ALIAS", help="The alias, such as production.")
@click.option("--policy", "policy_file", type=_FILE, metavar="FILE",
              help="Take [rollout] from this policy file.  [default: the model's policy in the registry]")  # fmt: skip
@_reason
@registry_options
@json_option
def start(
    package: str, alias: str, policy_file: Path | None, reason: str, connect: Open, json_file: Path | None
) -> None:
    """Begin to let PACKAGE take over ALIAS; refused unless a check lets it through."""
    version = parse_version(package)
    with connect() as registry:
        from serving.release.policy import read_policy  # noqa: PLC0415 - needs the registry's extra

        config = None if policy_file is None else read_policy(policy_file).rollout
        rollout = _rollouts(registry).start(version, alias, config=config, reason=reason)
        _show_change(rollout, registry, json_file)


@group.command("status")
@click.argument("name", metavar="[NAME[@ALIAS]]", default=None, required=False)
@click.option("--all", "with_past", is_flag=True, help="Show those that are over, too, and not only the last one.")
@registry_options
@json_option
def status(name: str | None, with_past: bool, connect: Open, json_file: Path | None) -> None:
    """Show the last rollout of each alias, of all models or of one: where it is, and what was seen in this step."""
    alias = parse_alias(name) if name is not None and "@" in name else None
    model = alias.model if alias is not None else name
    if model is not None:
        check_word("a model's name", model)
    with connect() as registry:
        check_known(model, registry)
        found = [each for each in _rollouts(registry).listed(model) if alias in {None, each.alias}]
        if not with_past:
            found = list({rollout.alias: rollout for rollout in found}.values())
        seen = [_seen(registry, rollout) for rollout in found]
    rows = [_row(rollout, facts) for rollout, facts in zip(found, seen, strict=True)]
    header = ("ALIAS", "PACKAGE", "INSTEAD OF", "STATE", "STEP", "SINCE", "CANARY", "CONTROL", "WHY")
    facts = [{**rollout.describe(), "seen": each} for rollout, each in zip(found, seen, strict=True)]
    show(table(header, rows) if rows else "no rollouts", facts, json_file)


@group.command("pause")
@click.argument("alias", metavar="NAME@ALIAS")
@_reason
@registry_options
@json_option
def pause(alias: str, reason: str, connect: Open, json_file: Path | None) -> None:
    """Send no request to the canary until `resume`."""
    with connect() as registry:
        _show_change(_rollouts(registry).pause(parse_alias(alias), reason=reason), registry, json_file)


@group.command("resume")
@click.argument("alias", metavar="NAME@ALIAS")
@_reason
@registry_options
@json_option
def resume(alias: str, reason: str, connect: Open, json_file: Path | None) -> None:
    """Go on with the step that was paused, from its beginning."""
    with connect() as registry:
        _show_change(_rollouts(registry).resume(parse_alias(alias), reason=reason), registry, json_file)


@group.command("abort")
@click.argument("alias", metavar="NAME@ALIAS")
@_reason
@registry_options
@json_option
def abort(alias: str, reason: str, connect: Open, json_file: Path | None) -> None:
    """End a rollout. The alias never moved, so it names what it named before."""
    with connect() as registry:
        _show_change(_rollouts(registry).abort(parse_alias(alias), reason=reason), registry, json_file)


def _rollouts(registry: "Registry") -> "Rollouts":
    try:
        from serving.release.rollouts import Rollouts  # noqa: PLC0415 - needs the registry's extra
    except ModuleNotFoundError as error:
        if error.name not in {"fsspec", "scipy"}:
            raise
        raise ConfigError(f"a rollout needs {error.name}: pip install 'penstock[registry]'") from None
    return Rollouts(registry)


def _seen(registry: "Registry", rollout: Rollout) -> dict[str, Any]:
    """Return what servers have written down of the step at hand."""
    from serving.release.sightings import Sightings, totals  # noqa: PLC0415 - needs the registry's extra

    return {} if rollout.state.is_over else totals(Sightings(registry.folder, rollout).all())


def _show_change(rollout: Rollout, registry: "Registry", json_file: Path | None) -> None:
    record = next(each for each in registry.history(rollout.alias.model) if each.position == rollout.last)
    show_change(_sentence(rollout), rollout.describe(), record, json_file)


def _sentence(rollout: Rollout) -> str:
    where = f", step {rollout.step + 1} of {len(rollout.steps)}: {rollout.now}"
    return (f"{rollout.candidate} for {rollout.alias}, instead of {rollout.control}: {rollout.state.value}"
            f"{where if not rollout.state.is_over else ''}")  # fmt: skip


def _row(rollout: Rollout, seen: dict[str, Any]) -> tuple[str, ...]:
    step = f"{rollout.step + 1}/{len(rollout.steps)} {rollout.now}" if rollout.state is not State.PROMOTED else "-"
    arms = [_arm(seen[name]) if seen else "-" for name in ("canary", "control")]
    head = (str(rollout.alias), str(rollout.candidate), str(rollout.control), rollout.state.value)
    return (*head, step, rollout.since, *arms, rollout.why or "-")


def _arm(totals: dict[str, int]) -> str:
    return f"{totals['requests']} requests, {totals['errors']} failed"
