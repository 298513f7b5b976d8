"""A scenario: what to ask a model for and how, as a small file that says all that a measurement depends on.

    model = "fraud"
    rate = 2000              # requests per second; or: concurrency = 64
    arrivals = "poisson"
    slo_ms = 20

It names no server, so that the same scenario can be run against several. A field of `Scenario` is the one place where
an option exists, as in `serving.config`: its type, default, bounds and help, for files, flags and errors.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import tomli_w

from bench.arrivals import DURATION_S_MAX
from bench.payload import parse_shape
from bench.slices import ARRIVALS, ClosedLoop, OpenLoop, Slice
from serving.config import build, nearest, option, read_toml
from serving.errors import ConfigError

TRACE = "trace:"
"""What `arrivals` begins with when it names a file."""
CONCURRENCY_MAX = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What to ask of a model. 0 and empty stand for "not given"; `rate` and `concurrency` exclude each other."""

    model: str = option("", "The model.", metavar="NAME")
    version: str = option("", "The version; the server picks by its policy without one.", metavar="N")
    rows: int = option(1, "Rows per request.", minimum=1, maximum=1 << 24)
    rate: float = option(
        0.0, "Requests per second, whatever the server does (open loop).", minimum=0, maximum=1e8, metavar="R"
    )
    arrivals: str = option(
        "poisson", "When they are sent: constant, poisson, bursty or trace:FILE. A trace without a rate keeps its own."
    )
    concurrency: int = option(
        0, "Requests in flight at any time (closed loop).", minimum=0, maximum=CONCURRENCY_MAX, metavar="C"
    )
    duration_s: float = option(10.0, "How long to measure.", minimum=0.1, maximum=DURATION_S_MAX / 2)
    warm_up_s: float = option(2.0, "How long to send before, uncounted.", minimum=0, maximum=DURATION_S_MAX / 2)
    drain_s: float = option(10.0, "How long to wait for the last answers.", minimum=0, maximum=3600)
    slo_ms: float = option(
        0.0, "Goodput counts answers within this time; 0 counts all.", minimum=0, maximum=3.6e6, metavar="X"
    )
    timeout_ms: float = option(
        0.0, "The deadline that requests carry; 0 is none.", minimum=0, maximum=3.6e6, metavar="MS"
    )
    payload: str = option(
        "", "Rows to send: .npy, .npz or .json; random values of the model's datatypes without one.", metavar="FILE"
    )
    shapes: tuple[str, ...] = option(
        (), "Open dimensions of inputs for random values, as in tokens:128 or image:3,224,224."
    )
    connections: int = option(4, "Connections to the server.", minimum=1, maximum=1024)
    client: str = option(
        "native", "What sends: native (compiled) or grpcio (gRPC's own library, as a referee).",
        choices=("native", "grpcio"),
    )  # fmt: skip
    seed: int = option(0, "The same seed gives the same times and values.", minimum=0, maximum=(1 << 63) - 1)

    def __post_init__(self) -> None:
        if self.rate and self.concurrency:
            raise ConfigError(f"rate = {self.rate:g} and concurrency = {self.concurrency}; give one of them")
        if self.arrivals not in ARRIVALS[:-1] and not self.trace:
            raise ConfigError(f"arrivals = {self.arrivals!r}, expected constant, poisson, bursty or trace:FILE"
                              f"{nearest(self.arrivals, ARRIVALS)}")  # fmt: skip
        if self.concurrency and self.trace:
            raise ConfigError(f"arrivals = {self.arrivals!r} and concurrency = {self.concurrency}; a closed loop sends "
                              "when an answer comes, so give one of them")  # fmt: skip
        parse_shapes(self.shapes)

    @classmethod
    def of(cls, values: Mapping[str, Any], file: Path | None = None) -> Self:
        """Make a scenario of a file's values, and of `values`, which are stronger; None in them is "not given".

        Paths in a file are relative to its folder. Raises ConfigError.
        """
        given = {name: value for name, value in values.items() if value is not None}
        merged = _in_folder(_read(file), file.parent) if file else {}
        if given.get("rate") or given.get("concurrency"):  # the file's may be the other of the two
            merged = {name: value for name, value in merged.items() if name not in {"rate", "concurrency"}}
        scenario = build(cls, merged | given)
        if not scenario.model:
            raise ConfigError("no model is named; give --model NAME, or model in the scenario's file")
        return scenario

    def to_toml(self) -> str:
        """Return the file that says the same: every option that differs from its default."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        changed = {
            item.name: values[item.name] for item in dataclasses.fields(self) if values[item.name] != item.default
        }
        return tomli_w.dumps(changed)

    @property
    def trace(self) -> Path | None:
        """The file of `arrivals = "trace:FILE"`."""
        name = self.arrivals.removeprefix(TRACE)
        return Path(name) if name and name != self.arrivals else None

    @property
    def payload_file(self) -> Path | None:
        """The file of the payload; None for random values."""
        return Path(self.payload) if self.payload else None

    def shapes_by_input(self) -> dict[str, tuple[int, ...]]:
        """Return the dimensions that `shapes` gives, by input."""
        return parse_shapes(self.shapes)

    def to_slice(self, target: int = 0) -> Slice:
        """Return what to ask of a generator. Raises ConfigError when there is neither rate nor concurrency."""
        return Slice(
            load=self._load(),
            target=target,
            warm_up_s=self.warm_up_s,
            drain_s=self.drain_s,
            timeout_s=self.timeout_ms / 1e3 or None,
            slo_ms=self.slo_ms or None,
        )

    def with_rate(self, rate: float) -> Self:
        """Return the same in an open loop at a rate."""
        return dataclasses.replace(self, rate=rate, concurrency=0)

    def with_concurrency(self, concurrency: int) -> Self:
        """Return the same in a closed loop."""
        return dataclasses.replace(self, rate=0.0, concurrency=concurrency)

    def _load(self) -> OpenLoop | ClosedLoop:
        if self.concurrency:
            return ClosedLoop(concurrency=self.concurrency, duration_s=self.duration_s)
        if not self.rate and not self.trace:
            raise ConfigError("no load is given; give --rate R (requests per second) or --concurrency C")
        arrivals = "trace" if self.trace else self.arrivals
        return OpenLoop(rate_per_s=self.rate, duration_s=self.duration_s, arrivals=arrivals, trace=self.trace,
                        seed=self.seed)  # fmt: skip


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read `NAME:DIM,DIM` texts, one per input."""
    return dict(parse_shape(text) for text in texts)


def _read(file: Path) -> dict[str, Any]:
    """Read a file, and let its own mistakes name it."""
    values = read_toml(file)
    try:
        build(Scenario, values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return values


def _in_folder(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a file's values with paths as they are from the working directory."""
    moved = dict(values)
    if payload := values.get("payload"):
        moved["payload"] = str(folder / payload)
    arrivals = values.get("arrivals", "")
    if arrivals.startswith(TRACE):
        moved["arrivals"] = TRACE + str(folder / arrivals.removeprefix(TRACE))
    return moved


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualScenario:
    """What is simulated: `seeds` worlds of `requests` requests per workload, from `seed` on.

    `promise` says what the objective is: a deadline or a target.
    """

    seeds: int
    requests: int
    promise: str
    trace: str = ""
    seed: int = 0
