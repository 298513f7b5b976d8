"""Command-line options made of the fields of `ServerConfig`; how flags, environment and file are merged."""

import dataclasses
import difflib
import functools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

import click

from serving.config import ENVIRONMENT_PREFIX, ServerConfig, build, nearest, read_toml
from serving.errors import ConfigError
from serving.transport.client import Client, ClientTls

_Command = Callable[..., Any]


class Number(click.FloatRange):
    """A number of a range, which NaN is not: click compares it with the ends, and so lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See click.ParamType."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class Connect:
    """The server that a client command was told to ask; a call opens a client for it."""

    address: str
    tls: ClientTls | None

    def __call__(self, *, timeout_s: float = 60.0) -> Client:
        """Open a client. Raises ConfigError for a TLS file that cannot be used."""
        return Client(self.address, timeout_s=timeout_s, tls=self.tls)


def server_options(command: _Command) -> _Command:
    """Add a flag for every field of `ServerConfig`, in their order."""
    for item in reversed(dataclasses.fields(ServerConfig)):
        command = _flag(item)(command)
    return command


_TLS_FILE = click.Path(dir_okay=False, path_type=Path)
_CLIENT_OPTIONS = (
    click.option("--address", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT",
                 envvar=f"{ENVIRONMENT_PREFIX}ADDRESS", help="The server's gRPC address."),
    click.option("--tls", is_flag=True, help="Speak TLS, and trust the CAs that this machine trusts."),
    click.option("--tls-ca", type=_TLS_FILE, metavar="FILE", envvar=f"{ENVIRONMENT_PREFIX}TLS_CA",
                 help="Speak TLS, and trust the CAs in this PEM file, which may be the server's own certificate."),
    click.option("--tls-cert", type=_TLS_FILE, metavar="FILE",
                 help="PEM file of the certificate to show to a server that asks for one (mTLS)."),
    click.option("--tls-key", type=_TLS_FILE, metavar="FILE", help="PEM file of that certificate's private key."),
)  # fmt: skip


def client_options(command: _Command) -> _Command:
    """Add the options that every client command takes; the command gets them as `connect`."""

    @functools.wraps(command)
    def connected(
        *, address: str, tls: bool, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None, **others: Any
    ) -> Any:
        if (tls_cert is None) != (tls_key is None):
            raise click.UsageError("--tls-cert and --tls-key go together; one of them is missing")
        speaks_tls = tls or tls_ca is not None or tls_cert is not None
        connect = Connect(address, ClientTls(tls_ca, tls_cert, tls_key) if speaks_tls else None)
        return command(connect=connect, **others)

    for option in reversed(_CLIENT_OPTIONS):
        connected = option(connected)
    return connected


def model_option(*, required: bool) -> Callable[[_Command], _Command]:
    """Add `--model NAME`."""
    if required:  # without a default: one of None would be there, and so not missing
        return click.option("--model", metavar="NAME", required=True, help="The model.")
    return click.option("--model", metavar="NAME", default="", help="Only this model.")


def json_option(command: _Command) -> _Command:
    """Add `--json FILE`."""
    return click.option(
        "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True), metavar="FILE",
        help="Write the result as JSON to FILE, - for standard output.",
    )(command)  # fmt: skip


def show(text: str, value: Any, json_file: Path | None) -> None:
    """Print a result for people, and write it for machines where `--json` says; `--json -` prints only the JSON."""
    if json_file is None or str(json_file) != "-":
        click.echo(text)
    if json_file is not None:
        try:
            with click.open_file(str(json_file), "w", encoding="utf-8", errors="backslashreplace") as stream:
                stream.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ConfigError(f"--json {json_file} cannot be written: {error.strerror}") from None


def resolve(flags: Mapping[str, Any], file: Path | None) -> ServerConfig:
    """Merge what was given: a flag beats the environment, which beats the file. Raises ConfigError."""
    values: dict[str, Any] = read_toml(file) if file else {}
    values.update({name: value for name, value in flags.items() if value is not None})
    return build(ServerConfig, values)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Describe variables that look like a misspelt option.

    Only near misses are named, and never what Kubernetes sets for a service of this name: PENSTOCK_SERVICE_HOST,
    PENSTOCK_PORT, PENSTOCK_PORT_8001_TCP and the like.
    """
    known = {environment_name(item.name) for item in dataclasses.fields(ServerConfig)}
    known |= {environment_name(name) for name in ("address", "config", "tls_ca", "registry", "who")}
    orchestrators = tuple(ENVIRONMENT_PREFIX + word for word in ("SERVICE_", "PORT"))
    strangers = sorted(
        name
        for name in environment
        if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(orchestrators) and name not in known
    )
    return [f"unknown variable {name}{nearest(name, known)}" for name in strangers if _is_near(name, known)]


def environment_name(option: str) -> str:
    """Return the variable of an option."""
    return ENVIRONMENT_PREFIX + option.upper()


def environment() -> Mapping[str, str]:
    """Return the process's variables."""
    return os.environ


def _is_near(name: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name, list(known), n=1, cutoff=0.8))


def _flag(item: dataclasses.Field[Any]) -> Callable[[_Command], _Command]:
    rules = item.metadata
    kind: Any = str  # `build` converts and checks, so that flags, variables and files get the same errors
    if get_origin(item.type) is tuple:
        kind = _comma_separated
    elif rules.get("choices"):
        kind = click.Choice(rules["choices"])
    return click.option(
        f"--{item.name.replace('_', '-')}",
        item.name,
        type=kind,
        metavar=None if rules.get("choices") else _metavar(item),
        envvar=environment_name(item.name),
        show_envvar=True,
        default=None,
        help=f"{rules['help']}  [default: {shown_default(item)}]",
    )


def shown_default(item: dataclasses.Field[Any]) -> str:
    """Return an option's default as `--help` and the README show it."""
    return "none" if item.default in {"", ()} else str(item.default)


def _comma_separated(text: str) -> list[str]:
    """Read a list as it is written in one flag or variable; a file has lists of its own."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _metavar(item: dataclasses.Field[Any]) -> str:
    if get_origin(item.type) is tuple:
        return "NAME,..."
    return item.metadata.get("metavar") or {int: "N", float: "SECONDS", Path: "DIR", str: "TEXT"}[item.type]  # type: ignore[index]
