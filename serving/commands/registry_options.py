"""The options of every registry command, and what all of them do: open a registry, show a change."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.commands.options import environment_name, show
from serving.config import nearest
from serving.errors import ConfigError, RegistryError
from serving.registry.place import default_folder
from serving.registry.record import Record

if TYPE_CHECKING:
    from serving.registry.client import Registry

_Command = Callable[..., Any]
Open = Callable[..., "Registry"]
"""Opens the registry that a command was told to use; `create` makes it when there is none."""


def registry_options(command: _Command) -> _Command:
    """Add `--registry` and `--who`; the command gets a function that opens the registry as `connect`."""

    @functools.wraps(command)
    def connected(*, registry: str | None, who: str | None, **others: Any) -> Any:
        return command(connect=functools.partial(open_registry, registry or str(default_folder()), who=who), **others)

    who_option = click.option("--who", metavar="NAME", envvar=environment_name("who"),
                              help="Who does it, for the ledger.  [default: USER@HOST]")  # fmt: skip
    place_option = click.option("--registry", metavar="URI", envvar=environment_name("registry"), show_envvar=True,
                                help="The registry's folder.  [default: penstock/registry in the user's data folder]",
                                )  # fmt: skip
    return place_option(who_option(connected))


def open_registry(uri: str, *, who: str | None = None, create: bool = False) -> "Registry":
    """Open a registry, or say what to install."""
    try:
        from serving.registry.client import Registry  # noqa: PLC0415 - of an extra
    except ModuleNotFoundError as error:
        if error.name != "fsspec":
            raise
        raise ConfigError("the registry needs fsspec: pip install 'penstock[registry]'") from None
    return Registry.open(uri, who=who, create=create)


def check_known(model: str | None, registry: "Registry") -> None:
    """Refuse a name that no record is about: an empty table would hide a slip of the pen. Raises RegistryError."""
    if model is not None and not registry.history(model):
        known = dict.fromkeys(record.model for record in registry.history())
        raise RegistryError(f"no record is about a model '{model}'{nearest(model, known)}")


def show_change(text: str, facts: Mapping[str, Any], written: Record | None, json_file: Path | None) -> None:
    """Show what was done, and the new head of the ledger."""
    head = {} if written is None else {"record": written.position, "head": written.digest}
    show(text + ("" if written is None else f"\nhead {written.digest}"), {**facts, **head}, json_file)
