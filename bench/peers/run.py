"""All peers on one model, one at a time, in rounds: what `penstock bench peers` measures.

Only one server runs at any moment, so that none takes time from another. A round measures each once, and every other
round goes backwards: a drift of the machine falls on all alike. A peer that is absent, does not start or answers
wrongly is left out, and said so; what was measured before stays.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.outcome import Outcome
from bench.peers import answers, kserve, mlserver, penstock, triton
from bench.peers.model import PeerModel
from bench.peers.peer import HOST, Installed, Peer, PeerAbsent, PeerFailed
from bench.peers.process import started
from bench.peers.rounds import pooled
from bench.report.views import PeersView, Run
from bench.slices import INTERRUPTED
from serving.errors import ConfigError, RemoteError

PEERS: tuple[Peer, ...] = (penstock.PEER, mlserver.PEER, kserve.PEER, triton.PEER)
"""All that are known, ours first."""
ROUNDS = 3

Measure = Callable[[str, int, str], Outcome]
"""Loads the model of a name on a host and gRPC port, and returns what that has shown. May raise RemoteError."""


def names(peers: Sequence[Peer] = PEERS) -> tuple[str, ...]:
    """Return what `--venv` may name."""
    return tuple(peer.name for peer in peers)


@dataclass(slots=True)
class _Entry:
    """A peer that was found, and its rounds so far; `failure` ends them."""

    installed: Installed
    rounds: list[Outcome] = field(default_factory=list)
    failure: str | None = None


def measure_peers(
    model: PeerModel,
    requests: Sequence[bytes],
    *,
    measure: Measure,
    environments: Mapping[str, Path],
    tell: Callable[[str], None],
    on_run: Callable[[Run], None],
    rounds: int = ROUNDS,
    peers: Sequence[Peer] = PEERS,
) -> PeersView:
    """Measure every peer that is there, in `rounds` rounds, and return one run for each: its rounds pooled.

    `requests` are encoded ModelInferRequests for the model; the first ones check each peer's answers before each
    measurement. `environments` are where the peers are, by name. `tell` gets lines for a person, `on_run` each round of
    a server as soon as it is measured. Ctrl-C ends the server that runs, and then the view holds what was measured.
    Raises ConfigError for what cannot be asked for.
    """
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}, expected at least 1")
    if not requests:
        raise ConfigError("no requests to send, expected at least one")
    entries, absent = _find(peers, environments, tell)
    expected = answers.expected(model, requests)

    def turn(entry: _Entry) -> Outcome:
        with started(entry.installed, model) as ports:
            answers.check(model, ports.grpc, requests, expected)
            return measure(HOST, ports.grpc, model.name)

    failure = None
    try:
        for number in range(rounds):
            for entry in entries if number % 2 == 0 else reversed(entries):
                if entry.failure is None:
                    tell(f"{entry.installed.label}, round {number + 1} of {rounds}")
                    _take_turn(entry, turn, tell, on_run)
    except KeyboardInterrupt:
        failure = INTERRUPTED
    return _view(entries, absent, failure)


def _find(
    peers: Sequence[Peer], environments: Mapping[str, Path], tell: Callable[[str], None]
) -> tuple[list[_Entry], dict[str, str]]:
    """Look for the peers; return those that are there, and why the others are not."""
    entries, absent = [], {}
    for peer in peers:
        try:
            entry = _Entry(peer.find(environments.get(peer.name)))
            entries.append(entry)
            tell(f"{entry.installed.label}: {entry.installed.settings}")
        except PeerAbsent as error:
            absent[peer.title] = str(error)
            tell(f"{peer.title} is skipped: {error}")
    return entries, absent


def _take_turn(
    entry: _Entry, turn: Callable[[_Entry], Outcome], tell: Callable[[str], None], on_run: Callable[[Run], None]
) -> None:
    """Start, check and measure one server once; note what goes wrong with it."""
    try:
        outcome = turn(entry)
    except (PeerFailed, RemoteError) as error:
        entry.failure = str(error)
        tell(f"{entry.installed.label} is left out: {error}")
        if isinstance(error, PeerFailed) and error.log:
            tell(f"the end of its log:\n{error.log}")
        return
    entry.rounds.append(outcome)
    entry.failure = outcome.failure
    on_run(Run(entry.installed.label, outcome))
    if outcome.failure == INTERRUPTED:
        raise KeyboardInterrupt


def _view(entries: Sequence[_Entry], absent: Mapping[str, str], failure: str | None) -> PeersView:
    runs = tuple(Run(entry.installed.label, pooled(entry.rounds)) for entry in entries if entry.rounds)
    unmeasured = {
        entry.installed.label: entry.failure or "not reached before the end" for entry in entries if not entry.rounds
    }
    # A failure of a measurement is in its outcome already.
    broken = [f"{entry.installed.label} after round {len(entry.rounds)}: {entry.failure}" for entry in entries
              if entry.rounds and entry.failure not in {None, entry.rounds[-1].failure}]  # fmt: skip
    settings = {entry.installed.label: entry.installed.settings for entry in entries if entry.rounds}
    why = "; ".join(filter(None, (failure, *broken))) or None
    return PeersView(runs, {**absent, **unmeasured}, why, settings)
