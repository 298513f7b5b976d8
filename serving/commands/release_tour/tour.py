"""The tour itself: nine stations, each of which must be reached, and the ledger that tells of all of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.commands.registry_options import open_registry
from serving.commands.release import check_tools
from serving.commands.release_tour.evidence import check_history, expect
from serving.commands.release_tour.folder import check_is_new, fill
from serving.commands.release_tour.programs import Terminal
from serving.commands.release_tour.traffic import Traffic
from serving.commands.release_tour.world import Forms, append_rows, load
from serving.errors import ConfigError
from serving.registry.names import Alias
from serving.release.rollout import State

if TYPE_CHECKING:
    from serving.registry.record import Record
    from serving.release.rollout import Rollout

MODEL = "digits"
PRODUCTION = Alias(MODEL, "production")
BAD_TREES = 600
"""A forest that is hardly better, and many times as slow."""

STATION_TIMEOUT_S = 600.0
_LOOK_S = 0.5
_SHOW_S = 10.0
_QUIET_S = 8.0


@dataclass(frozen=True, slots=True)
class Tour:
    """One tour through a folder that it fills. `registry` lies in it."""

    folder: Path
    terminal: Terminal
    archive: Forms
    incoming: Forms
    began: float

    @property
    def registry(self) -> Path:
        """Where its registry lies."""
        return self.folder / "registry"

    def station(self, text: str) -> None:
        """Tell where it is."""
        click.echo(f"\n[{time.monotonic() - self.began:5.0f} s] {text}")


def go(folder: Path) -> None:
    """Go the whole way. Raises ConfigError at the first station that is not reached."""
    began = time.monotonic()
    archive, incoming = load()
    check_tools()  # or say what to install, before anything is written
    folder = folder.absolute()
    check_is_new(folder)
    tour = Tour(folder, Terminal(folder, folder / "registry"), archive, incoming, began)
    fill(folder, MODEL, archive)
    click.echo(f"{folder} has rows.csv, pipeline.toml, its steps, and registry/policy.toml; change what you like")
    tour.station("data to production: steps, push, check, promotion")
    tour.terminal.run("registry", "pipeline", "run", "--reason", "the first release")
    expect(_production(tour) == 1, "the first package is in production")
    tour.station("serve what the alias names, and send requests from now on")
    server_options = ["--registry-interval-s", "0.5", "--registry-cache", str(folder / "cache")]
    with tour.terminal.start(
        "serve", "--models", "models", "--model", str(PRODUCTION), *server_options, "--grpc-port", "0",
        "--http-port", "0", "--log-format", "text", quiet=True,
    ) as server:  # fmt: skip
        address = server.wait_for(r"listening: grpc (\S+)")[1]
        server.wait_for(r"serving package 1")
        with Traffic(address, MODEL, incoming) as traffic:
            _drift_and_retrain(tour, traffic, address)
            _force_a_bad_one(tour, traffic)
            expect(not traffic.counts.failed, f"no request failed ({traffic.counts.last_failure or 'none'})")
            answered = traffic.counts.answered
    _look_back(tour, answered)


def _drift_and_retrain(tour: Tour, traffic: Traffic, address: str) -> None:
    """Change the scanner; the watcher retrains, and servers move requests over step by step."""
    tour.station("wait for an alarm of drift; the rows look as in training, so there is none")
    options = ["--address", address, "--interval-s", "1", "--count", "1"]
    with tour.terminal.start("registry", "pipeline", "watch", *options) as watcher:
        watcher.wait_for("watching")
        _wait_until("answers come", lambda: len(traffic.counts.recent) == traffic.counts.recent.maxlen)
        time.sleep(_QUIET_S)
        expect(not any("have drifted" in line for line in watcher.lines), "there is no alarm without drift")
        _say_accuracy(traffic)
        tour.station("the office gets another scanner, and scans its archive again")
        append_rows(tour.folder / "rows.csv", tour.archive.rescanned())
        traffic.forms = tour.incoming.rescanned()
        traffic.forget_recent()
        watcher.wait_for("have drifted", STATION_TIMEOUT_S)
        _say_accuracy(traffic)
        expect(watcher.wait() == 0, "the watcher has retrained")
    tour.station("the retrained package as a canary")
    expect(_followed(tour, traffic).state is State.PROMOTED, "the canary was promoted")
    expect(_production(tour) == 2, "the retrained package is in production")
    traffic.forget_recent()
    _wait_until("answers come", lambda: len(traffic.counts.recent) == traffic.counts.recent.maxlen)
    _say_accuracy(traffic)


def _force_a_bad_one(tour: Tour, traffic: Traffic) -> None:
    """Build a package that is too large and slow; the check refuses it, waivers force it, the canary gives it away."""
    tour.station("somebody wants many more trees: the check refuses what takes so much")
    more = ["registry", "pipeline", "run", "--set", f"trees={BAD_TREES}", "--reason", "more trees are better"]
    tour.terminal.run(*more, status=1)
    blocking = _blocking(tour)
    expect("memory" in blocking, "its memory keeps it back")
    tour.station("somebody is in a hurry, and waives that")
    for name in blocking:
        tour.terminal.run("registry", "waive", f"{MODEL}/3", name, "--reason", "it has to go out today")
    tour.terminal.run(*more)
    expect(_followed(tour, traffic).state is State.ROLLED_BACK, "the bad canary was rolled back")
    expect(_production(tour) == 2, "the good package is still in production")


def _look_back(tour: Tour, answered: int) -> None:
    tour.station("all of it is in the ledger")
    tour.terminal.run("registry", "history", MODEL)
    tour.terminal.run("registry", "list", MODEL)
    tour.terminal.run("registry", "rollout", "status", MODEL, "--all")
    tour.terminal.run("registry", "verify")
    check_history(_history(tour))
    tour.station(f"done: {answered:,} requests were answered, and not one failed")
    click.echo(
        f"\nGo on in {tour.folder} with `export PENSTOCK_REGISTRY=$PWD/registry`:\n"
        "  penstock registry pipeline run                   # nothing has changed\n"
        "  penstock registry pipeline run --set trees=40    # train and all behind it again\n"
        "  penstock registry lineage digits@production      # where it comes from\n"
        f"  penstock serve --model {PRODUCTION}"
    )


# ---- what must have happened ---------------------------------------------------------------------------------------


def _wait_until(what: str, is_so: Callable[[], bool], timeout_s: float = STATION_TIMEOUT_S) -> None:
    """Wait for the world: what is waited for happens in other processes, which tell nobody."""
    end = time.monotonic() + timeout_s
    while not is_so():
        expect(time.monotonic() < end, f"{what} within {timeout_s:.0f} s")
        time.sleep(_LOOK_S)


def _followed(tour: Tour, traffic: Traffic) -> "Rollout":
    """Follow the rollout that has begun to its end, showing how it goes on."""
    shown, shown_at = "", 0.0

    def is_over() -> bool:
        nonlocal shown, shown_at
        rollout = _rollout(tour)
        line = (
            f"{rollout.candidate}: {rollout.state}, {rollout.now}" if not rollout.state.is_over else str(rollout.state)
        )
        if line != shown or time.monotonic() - shown_at > _SHOW_S:
            versions = ", ".join(f"{count:,} by {name}" for name, count in sorted(traffic.counts.versions.items()))
            click.echo(f"  {line}{f' ({rollout.why})' * bool(rollout.why)}; answered: {versions}")
            shown, shown_at = line, time.monotonic()
        return rollout.state.is_over

    _wait_until("the rollout is over", is_over)
    return _rollout(tour)


def _rollout(tour: Tour) -> "Rollout":
    from serving.release.rollouts import Rollouts  # noqa: PLC0415 - needs the registry's extra

    with open_registry(str(tour.registry)) as registry:
        found = Rollouts(registry).current(PRODUCTION)
    if found is None:
        raise ConfigError("the tour went wrong: no rollout has begun")
    return found


def _production(tour: Tour) -> int:
    with open_registry(str(tour.registry)) as registry:
        return registry.resolve(PRODUCTION).sequence


def _history(tour: Tour) -> "list[Record]":
    with open_registry(str(tour.registry)) as registry:
        return registry.history(MODEL)


def _blocking(tour: Tour) -> list[str]:
    """Return the checks that keep the last package back."""
    from serving.release.policy import policy_for  # noqa: PLC0415 - needs the registry's extra
    from serving.release.report import CHECK, Report  # noqa: PLC0415 - as above

    last = next(record for record in reversed(_history(tour)) if record.kind == CHECK)
    return [finding.check for finding in Report.from_record(last).blocking(policy_for(tour.registry, MODEL), {})]


def _say_accuracy(traffic: Traffic) -> None:
    counts = traffic.counts
    click.echo(
        f"  {counts.accuracy:.1%} of the last {len(counts.recent)} digits are right; {counts.failed} requests failed"
    )
