"""`penstock registry`: packages, aliases, and the ledger of who released what."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from serving.commands import release, release_pipeline, rollout
from serving.commands.options import json_option, show
from serving.commands.registry_options import Open, check_known, registry_options, show_change
from serving.commands.table import table
from serving.errors import ConfigError, RegistryError
from serving.registry.evidence import KINDS
from serving.registry.names import Version, parse_alias, parse_reference, parse_version
from serving.registry.record import RECORD_BYTES_MAX, Record

_CHARACTERS_SHOWN_MAX = 100
_DIGEST_SHOWN = 15


@click.group("registry")
def group() -> None:
    """Keep packages, name them by aliases, and look back at who released what on which evidence.

    A package is NAME/SEQ, its model and its place in the order of pushes, or NAME@ALIAS.
    """


for _command in (release.check, release.waive, release.promote, rollout.group, release_pipeline.group):
    group.add_command(_command)


# ---- packages ------------------------------------------------------------------------------------------------------


@group.command("push")
@click.argument("package", type=click.Path(exists=True, path_type=Path))
@click.option("--model", metavar="NAME", help="The model.  [default: the name in the package]")
@registry_options
@json_option
def push(package: Path, model: str | None, connect: Open, json_file: Path | None) -> None:
    """Store PACKAGE, a folder or tar, as the next one of its model. Makes the registry when there is none."""
    with connect(create=True) as registry:
        result = registry.push(package, model)
    pushed = result.pushed
    text = f"{pushed.version} is {pushed.digest}{'' if result.is_new else ', pushed already'}"
    facts = {"model": pushed.model, "sequence": pushed.sequence, "package": pushed.digest, "is_new": result.is_new}
    show_change(text, facts, result.record if result.is_new else None, json_file)


@group.command("pull")
@click.argument("package", metavar="PACKAGE")
@click.option("--to", "folder", required=True, metavar="PATH", type=click.Path(path_type=Path),
              help="The folder to make, or a file that ends in .tar.")  # fmt: skip
@registry_options
@json_option
def pull(package: str, folder: Path, connect: Open, json_file: Path | None) -> None:
    """Write PACKAGE to a folder or a tar, every byte verified."""
    reference = parse_reference(package)
    with connect() as registry:
        pushed = registry.pull(reference, folder)
    facts = {"model": pushed.model, "sequence": pushed.sequence, "package": pushed.digest, "path": str(folder)}
    show(f"{pushed.version} is in {folder}", facts, json_file)


@group.command("list")
@click.argument("model", metavar="[NAME]", default=None, required=False)
@registry_options
@json_option
def list_packages(model: str | None, connect: Open, json_file: Path | None) -> None:
    """List the packages of all models, or of one, and the aliases that name them."""
    with connect() as registry:
        check_known(model, registry)
        pushed, aliases = registry.packages(model), registry.aliases(model)
    names = {each: [alias.name for alias, sequence in aliases.items() if Version(alias.model, sequence) == each.version]
             for each in pushed}  # fmt: skip
    entries = [
        {"model": each.model, "sequence": each.sequence, "package": each.digest, "aliases": names[each]}
        for each in pushed
    ]
    rows = [(str(each.version), each.digest, ", ".join(names[each]) or "-") for each in pushed]
    show(table(("PACKAGE", "DIGEST", "ALIASES"), rows), entries, json_file)


@group.command("diff")
@click.argument("before")
@click.argument("after")
@registry_options
@json_option
def diff(before: str, after: str, connect: Open, json_file: Path | None) -> None:
    """Show what differs between two packages: parts, signature, evaluation, lineage."""
    sides = parse_reference(before), parse_reference(after)
    with connect() as registry:
        found = registry.diff(*sides)
    rows = [(each.path, _short(each.before), _short(each.after)) for each in found]
    text = table(("WHAT", before, after), rows) if rows else "they are the same"
    show(text, [each.describe() for each in found], json_file)


# ---- aliases -------------------------------------------------------------------------------------------------------


@group.command("rollback")
@click.argument("alias", metavar="NAME@ALIAS")
@click.option("--to", "sequence", type=click.IntRange(min=1), metavar="SEQ",
              help="Another package that once held the alias.  [default: the one before]")  # fmt: skip
@click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")
@registry_options
@json_option
def rollback(alias: str, sequence: int | None, reason: str, connect: Open, json_file: Path | None) -> None:
    """Let an alias name the package again that it named before."""
    target = parse_alias(alias)
    with connect() as registry:
        record = registry.rollback(target, to=sequence, reason=reason)
    facts = {"model": target.model, "alias": target.name, "sequence": record.facts["sequence"]}
    show_change(f"{target} is {target.model}/{record.facts['sequence']} again", facts, record, json_file)


# ---- the ledger ----------------------------------------------------------------------------------------------------


@group.command("record")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("package", metavar="NAME[/SEQ]")
@click.option("--facts", "facts_file", metavar="FILE", type=click.File("rb"),
              help="A JSON object, - for standard input.")  # fmt: skip
@click.option("--file", "files", metavar="LABEL=FILE", multiple=True,
              help="Record this file's digest under a label. May be repeated.")  # fmt: skip
@click.option("--rows", "rows_file", metavar="FILE", type=click.Path(path_type=Path),
              help="Training rows as .npz, an array per input. A check looks for held-out rows among them. Of data.",
              )  # fmt: skip
@registry_options
@json_option
def record(
    kind: str, package: str, facts_file: Any, files: tuple[str, ...], rows_file: Path | None, connect: Open,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Add evidence of a stage to the ledger: data, train, evaluate, automl, note."""
    facts = _read_facts(facts_file)
    if files:
        known = facts.get("digests", {})
        if not isinstance(known, dict):
            raise RegistryError(f"'digests' of --facts is {known!r:.80}, expected an object")
        facts["digests"] = {**known, **dict(map(_file_digest, files))}
    version = parse_version(package) if "/" in package else None
    model = package if version is None else version.model
    with connect(create=True) as registry:
        digests = None if rows_file is None else release.training_digests(rows_file)
        written = registry.record(kind, model, facts, version=version, row_digests=digests)
    show_change(f"record {written.position}: {kind} of {package}", written.describe(), written, json_file)


@group.command("history")
@click.argument("model", metavar="[NAME]", default=None, required=False)
@registry_options
@json_option
def history(model: str | None, connect: Open, json_file: Path | None) -> None:
    """Show every record of all models, or of one: when, who, what."""
    with connect() as registry:
        check_known(model, registry)
        records = registry.history(model)
    show(_records_table(records), [each.describe() for each in records], json_file)


@group.command("lineage")
@click.argument("package")
@registry_options
@json_option
def lineage(package: str, connect: Open, json_file: Path | None) -> None:
    """Show where a package comes from, the evidence, and what happened to it since."""
    reference = parse_reference(package)
    with connect() as registry:
        found = registry.lineage(reference)
    value = found.describe()
    package_text = json.dumps(value["package"], indent=2, ensure_ascii=False)
    records = _records_table((*found.before, *found.after))
    show(f"{found.pushed.version}\n{package_text}\n{records}", value, json_file)


@group.command("verify")
@click.option("--head", metavar="DIGEST", help="The digest that a write has printed; finds a ledger whose end was cut.")
@registry_options
@json_option
def verify(head: str | None, connect: Open, json_file: Path | None) -> None:
    """Look at every record, view and blob; exit status 1 when something is wrong, with each place."""
    with connect() as registry:
        result = registry.verify(head=head)
    lines = [str(finding) for finding in result.findings]
    if not result.index_is_current:
        lines.append("note: the store's index.json lags, which only other tools read; the next push writes it")
    if not result.findings:
        lines.append(f"{result.records} records and {result.blobs} blobs are intact")
    lines.append(f"head {result.head}")
    show("\n".join(lines), result.describe(), json_file)
    if result.findings:
        raise click.exceptions.Exit(1)


# ---- within --------------------------------------------------------------------------------------------------------


def _records_table(records: Iterable[Record]) -> str:
    rows = [(str(each.position), each.at, each.who, each.kind, each.model, _facts_line(each.facts)) for each in records]
    return table(("RECORD", "AT", "WHO", "KIND", "MODEL", "FACTS"), rows)


def _facts_line(facts: Mapping[str, Any]) -> str:
    """Return facts on one line, what matters to people first, and digests in short."""
    first = ("alias", "sequence", "step", "event", "outcome", "reason", "explanation")
    last = [name for name in facts if name not in {*first, "manifests", "files", "outputs"}]
    shown = {name: _brief(facts[name]) for name in (*(name for name in first if name in facts), *last)}
    text = " ".join(f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in shown.items())
    return _cut(text)


def _brief(value: Any) -> Any:
    return value[:_DIGEST_SHOWN] if isinstance(value, str) and value.startswith("sha256:") else value


def _short(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # the side that lacks it
        text = repr(value)
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS_SHOWN_MAX else text[: _CHARACTERS_SHOWN_MAX - 3] + "..."


def _read_facts(file: Any) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        value = json.loads(file.read(RECORD_BYTES_MAX))
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"--facts: not valid JSON of up to {RECORD_BYTES_MAX} bytes: {error}") from None
    if not isinstance(value, dict):
        raise RegistryError(f"--facts holds a JSON {type(value).__name__}, expected an object")
    return value


def _file_digest(text: str) -> tuple[str, str]:
    label, separator, path = text.partition("=")
    if not label or not separator:
        raise click.UsageError(f"--file {text!r}: expected LABEL=FILE such as train=data/train.csv")
    try:
        with Path(path).open("rb") as file:
            return label, "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"--file {path} cannot be read: {error.strerror}") from None
