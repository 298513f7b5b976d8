"""`penstock registry check`, `waive` and `promote`: what a release needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.commands.options import json_option
from serving.commands.registry_options import Open, registry_options, show_change
from serving.commands.table import table
from serving.errors import ConfigError, RegistryError
from serving.registry.names import Alias, check_word, parse_version
from serving.release.policy import CHECKS, Policy, policy_for
from serving.release.report import HEADER, WAIVER, Report

if TYPE_CHECKING:
    from serving.registry.client import Registry
    from serving.release.check import Tools

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("check")
@click.argument("package", metavar="NAME/SEQ")
@click.option("--against", default="production", show_default=True, metavar="ALIAS",
              help="Compare with the package that this alias names.")  # fmt: skip
@click.option("--held-out", "held_out", type=_FILE, metavar="FILE",
              help="Rows to judge quality on, as .npz: an array per input, `label`, and `slice/NAME` for slices.",
              )  # fmt: skip
@click.option("--html", "html_file", type=_FILE, metavar="FILE", help="Write the report as a page to FILE.")
@registry_options
@json_option
def check(
    package: str, against: str, held_out: Path | None, html_file: Path | None, connect: Open, json_file: Path | None
) -> None:
    """Ask everything about a package, and record the answers; exit status 1 unless it may be promoted."""
    version = parse_version(package)
    alias = Alias(version.model, check_word("an alias", against))
    tools = check_tools()
    with connect() as registry:
        from serving.release.check import check as ask  # noqa: PLC0415 - scipy is slow to load

        policy = policy_for(registry.folder, version.model)
        report, record = ask(registry, version, alias, policy, tools=tools, held_out_file=held_out)
        waived = _waivers(registry, report)
    passes = not report.blocking(policy, waived)
    if html_file is not None:
        _write_page(html_file, report, policy, waived)
    text = f"{table(HEADER, report.rows(policy, waived))}\n{version} {'may' if passes else 'may not'} be promoted"
    show_change(text, report.describe(policy, waived), record, json_file)
    if not passes:
        raise click.exceptions.Exit(1)


@click.command("waive")
@click.argument("package", metavar="NAME/SEQ")
@click.argument("name", metavar="CHECK", type=click.Choice(CHECKS))
@click.option("--reason", required=True, metavar="TEXT", help="Why it may be let through all the same.")
@registry_options
@json_option
def waive(package: str, name: str, reason: str, connect: Open, json_file: Path | None) -> None:
    """Let a package through although a check does not; the ledger keeps who and why."""
    version = parse_version(package)
    if not reason.strip() or not reason.isprintable():
        raise RegistryError("a waiver needs a reason, on one line")
    with connect() as registry:
        from serving.release.gate import check_approver  # noqa: PLC0415 - needs the registry's extra

        check_approver(policy_for(registry.folder, version.model), registry.who)
        record = registry.append(WAIVER, version.model, {"check": name, "reason": reason}, version=version)
    show_change(f"'{name}' is waived for {version}", record.describe(), record, json_file)


@click.command("promote")
@click.argument("package", metavar="NAME/SEQ")
@click.option("--to", "alias", required=True, metavar="ALIAS", help="The alias, such as staging or production.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")
@registry_options
@json_option
def promote(package: str, alias: str, reason: str, connect: Open, json_file: Path | None) -> None:
    """Let an alias name a package that a check lets through."""
    version = parse_version(package)
    with connect() as registry:
        from serving.release.gate import CheckedGate  # noqa: PLC0415 - needs the registry's extra

        gate = CheckedGate(policy_for(registry.folder, version.model))
        record = registry.promote(version, alias, gate=gate, reason=reason)
    facts = {"model": version.model, "alias": alias, "sequence": version.sequence}
    show_change(f"{version.model}@{alias} is {version}", facts, record, json_file)


def training_digests(path: Path) -> bytes:
    """Return the digests of training rows, for a record of data. Raises ConfigError for a file that has none."""
    from serving.release import held_out  # noqa: PLC0415 - as above

    return held_out.training_digests(path)


def check_tools() -> "Tools":
    """Return how to try packages on real servers. Raises ConfigError that says what to install."""
    try:
        from serving.release.check import Tools  # noqa: PLC0415 - scipy is slow to load, and of an extra
    except ModuleNotFoundError as error:
        if error.name not in {"scipy", "fsspec"}:
            raise
        raise ConfigError(f"a check needs {error.name}: pip install 'penstock[registry]'") from None
    from serving.commands import trial  # noqa: PLC0415

    return Tools(trial.serve, trial.latency_comparison())


def _waivers(registry: "Registry", report: Report) -> dict[str, str]:
    from serving.release.gate import waivers  # noqa: PLC0415 - needs the registry's extra

    return waivers(registry.history(report.version.model), report.package)


def _write_page(path: Path, report: Report, policy: Policy, waived: dict[str, Any]) -> None:
    from serving.release.page import page  # noqa: PLC0415 - only for --html

    try:
        path.write_text(page(report, policy, waived), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--html {path} cannot be written: {error.strerror}") from None
