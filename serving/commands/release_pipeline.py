"""`penstock registry pipeline`: from data to an alias in steps, by hand or when a server tells of drift."""

import contextlib
import functools
import ipaddress
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.commands.options import Connect, client_options, json_option, show
from serving.commands.registry_options import Open, registry_options
from serving.commands.release import check_tools
from serving.commands.termination import ended_by_term
from serving.errors import ConfigError, PackageError, RegistryError, RemoteError
from serving.pb import penstock_pb2 as pb
from serving.registry.names import Version
from serving.release.pipeline.alarms import Alarm, alarm_of, is_due
from serving.release.pipeline.definition import Definition, read_definition
from serving.release.pipeline.journal import DRIFT, Trigger
from serving.release.pipeline.workplace import Workplace
from serving.statistics.drift.report import alarm_facts
from serving.transport.alarm_listener import AlarmListener
from serving.transport.drift import decode
from serving.transport.monitor import MONITOR_SERVICE
from serving.transport.webhook import read_key

if TYPE_CHECKING:
    from serving.registry.client import Registry
    from serving.release.pipeline.run import Finished

WORK_FOLDER = ".penstock"
_ASK_TIMEOUT_S = 30.0
_FILE = click.Path(dir_okay=False, path_type=Path)
_Command = Callable[..., Any]


@click.group("pipeline")
def group() -> None:
    """Run the steps of a pipeline.toml, from data to an alias, and run them again when what is served drifts."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a pipeline is defined, with other values for some parameters, and where its results are kept."""

    file: Path
    parameters: dict[str, str]
    work: Path

    def read(self) -> Definition:
        """Read it as it is now. Raises ConfigError."""
        return read_definition(self.file).with_parameters(self.parameters)


def _pipeline_options(command: _Command) -> _Command:
    """Add FILE, `--set` and `--work`; the command gets them as `source`."""

    @functools.wraps(command)
    def sourced(*, file: Path, settings: Sequence[str], work: Path | None, **others: Any) -> Any:
        parameters = dict(map(_setting, settings))
        return command(source=Source(file, parameters, work or file.absolute().parent / WORK_FOLDER), **others)

    for decorate in (
        click.option("--work", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
                     help=f"Where the steps' results are kept.  [default: {WORK_FOLDER} beside FILE]"),
        click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
                     help="Another value for a parameter. May be repeated."),
        click.argument("file", default="pipeline.toml", type=_FILE, metavar="[FILE]"),
    ):  # fmt: skip
        sourced = decorate(sourced)
    return sourced


@group.command("run")
@_pipeline_options
@click.option("--reason", default="", metavar="TEXT", help="Why, for the ledger.")
@registry_options
@json_option
def run(source: Source, reason: str, connect: Open, json_file: Path | None) -> None:
    """Run the steps of FILE that something has changed for; push, check and promote what they make.

    Exit status 1 when a step fails or the package is refused. Without FILE it is pipeline.toml.
    """
    definition = source.read()
    quiet = json_file is not None and str(json_file) == "-"
    with ended_by_term(), connect(create=True) as registry:
        trigger = Trigger(reason=reason)
        finished = _run(definition, source, registry, trigger, wait=False, say=_silent if quiet else click.echo)
    show(_told(finished), _facts(finished), json_file)
    if not finished.outcome.is_well:
        raise click.exceptions.Exit(1)


def _registry_besides(command: _Command) -> _Command:
    """Add the options of the registry to a command that asks a server too, which gets it as `open_registry`."""

    @functools.wraps(command)
    def renamed(*, connect: Open, **others: Any) -> Any:
        return command(open_registry=connect, **others)

    return registry_options(renamed)


@group.command("watch")
@_pipeline_options
@click.option("--interval-s", default=30.0, show_default=True, type=click.FloatRange(0.1, 86_400),
              help="Ask the server this often.")  # fmt: skip
@click.option("--again-s", default=3600.0, show_default=True, type=click.FloatRange(0),
              help="While an alarm about a version lasts, run again after so long; 0: once for each version.",
              )  # fmt: skip
@click.option("--count", default=0, metavar="N", type=click.IntRange(0), help="End after N runs; 0 goes on for ever.")
@click.option("--listen", default="", metavar="HOST:PORT",
              help="Take alarms besides that servers post: serve --drift-webhook http://HOST:PORT/. Other machines' "
                   "only with --listen-key.")  # fmt: skip
@click.option("--listen-key", type=_FILE, metavar="FILE",
              help="The secret of --drift-webhook-key; what it has not signed is refused.")  # fmt: skip
@_registry_besides
@client_options
def watch(
    source: Source, interval_s: float, again_s: float, count: int, listen: str, listen_key: Path | None,
    connect: Connect, open_registry: Open,
) -> None:  # fmt: skip
    """Run the steps of FILE when a server tells that what it serves of the model has drifted.

    The server at --address is asked in turns. A run that fails is told, and the watch goes on.
    """
    for name, seconds in (("--interval-s", interval_s), ("--again-s", again_s)):
        if not math.isfinite(seconds):
            raise click.UsageError(f"{name} {seconds}: expected a number of seconds")
    model = source.read().model
    key = b"" if listen_key is None else read_key(listen_key, "--listen-key")
    place = _place(listen, is_signed=bool(key)) if listen else None
    with ended_by_term(), contextlib.ExitStack() as stack:
        listener = stack.enter_context(AlarmListener(*place, key=key)) if place is not None else None
        also = f", and alarms are taken at http://{listener.address}/" if listener else ""
        click.echo(f"watching {model} at {connect.address}{also}")
        watcher = _Watcher(source, model, connect, open_registry, listener, again_s)
        while not count or watcher.runs < count:
            watcher.turn(interval_s)
    if not watcher.is_well:
        raise click.exceptions.Exit(1)


@dataclass(slots=True)
class _Watcher:
    """Asks a server, listens for alarms, and runs the pipeline. `is_well` tells of the last run."""

    source: Source
    model: str
    server: Connect
    open_registry: Open
    listener: AlarmListener | None
    again_s: float
    runs: int = 0
    is_well: bool = True
    trouble: str = ""

    def turn(self, interval_s: float) -> None:
        """Look for an alarm, asked for or posted, and run when it is due; then wait."""
        asked = self._ask()
        if asked is not None and self._run(asked):
            return
        posted = self._posted(interval_s)  # one that was asked for lasts, and must not hide others, such as of labels
        if posted is not None and not self._run(posted):
            time.sleep(interval_s)

    def _ask(self) -> Alarm | None:
        """Return the server's alarm, None without one; that it does not answer is said once."""
        try:
            with self.server(timeout_s=_ASK_TIMEOUT_S) as client:
                request = pb.DriftReportRequest(name=self.model)
                answer = client.call("DriftReport", request, pb.DriftReportResponse, service=MONITOR_SERVICE)
            newest = max(answer.servables, key=lambda item: int(item.version), default=None)
            report = None if newest is None else decode(newest)
        except RemoteError as error:
            self._say_once(str(error))
            return None
        self._say_once("")
        if report is None or not report.is_alarm:
            return None
        return alarm_of(alarm_facts(report, "rows"), self.server.address)

    def _posted(self, interval_s: float) -> Alarm | None:
        """Wait, and return an alarm that was posted meanwhile, if it is about our model."""
        if self.listener is None:
            time.sleep(interval_s)
            return None
        facts = self.listener.wait(interval_s)
        if facts is None:
            return None
        try:
            alarm = alarm_of(facts, "webhook")
        except ConfigError as error:
            click.echo(f"posted: {error}", err=True)
            return None
        return alarm if alarm.model == self.model else None

    def _run(self, alarm: Alarm) -> bool:
        """Record the alarm and run, if it is due; say whether it was recorded, and so is due no more."""
        is_recorded = False
        try:
            with self.open_registry(create=True) as registry:
                if not is_due(alarm, registry.history(self.model), now_s=time.time(), again_s=self.again_s):
                    return False
                click.echo(str(alarm))
                record = registry.append(DRIFT, self.model, alarm.facts(), version=_version(registry, alarm))
                is_recorded = True
                self.runs += 1
                trigger = Trigger("drift", str(alarm), record.position)
                finished = _run(self.source.read(), self.source, registry, trigger, wait=True, say=click.echo)
            click.echo(_told(finished))
            self.is_well = finished.outcome.is_well
        except (ConfigError, PackageError, RegistryError) as error:
            self.is_well = False
            click.echo(f"penstock: {error}", err=True)
        return is_recorded

    def _say_once(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            click.echo(f"penstock: {trouble}; asked again", err=True)
        self.trouble = trouble


def _version(registry: "Registry", alarm: Alarm) -> Version | None:
    """Return the package that an alarm is about, if the registry knows it."""
    known = {str(pushed.sequence): pushed.version for pushed in registry.packages(alarm.model)}
    return known.get(alarm.version)


def _run(
    definition: Definition, source: Source, registry: "Registry", trigger: Trigger, *, wait: bool,
    say: Callable[[str], None],
) -> "Finished":  # fmt: skip
    tools = check_tools()  # before minutes of work, not after
    from serving.release.pipeline.run import run_pipeline  # noqa: PLC0415 - scipy is slow to load

    return run_pipeline(definition, registry, Workplace(source.work), trigger, tools=tools, say=say, wait=wait)


def _told(finished: "Finished") -> str:
    return f"run {finished.run}: {finished.outcome.word}, {finished.outcome.explanation}"


def _facts(finished: "Finished") -> dict[str, Any]:
    outcome = finished.outcome
    version = None if outcome.version is None else str(outcome.version)
    return {"run": finished.run, "outcome": outcome.word, "explanation": outcome.explanation, "package": version,
            "records": [record.describe() for record in finished.records], "head": finished.head}  # fmt: skip


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"--set {text!r}: expected NAME=VALUE such as trees=200")
    return name, value


def _place(text: str, *, is_signed: bool) -> tuple[str, int]:
    """Read where to listen. Other machines may begin runs only when they sign what they post."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise click.UsageError(f"--listen {text!r}: expected HOST:PORT such as 127.0.0.1:8003")
    host = host.strip("[]")
    if not is_signed and not _is_loopback(host):
        raise click.UsageError(f"--listen {text}: whoever reaches it from another machine could begin runs; name the "
                               "secret of --drift-webhook-key by --listen-key FILE, or use 127.0.0.1")  # fmt: skip
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _silent(_: str) -> None:
    """Say nothing: the JSON on standard output tells all."""
