"""A registry and a server for benches that move an alias: packages of one forest, served by `penstock serve`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.load import FEATURES, Target, penstock
from bench.slices import ClosedLoop, Interval, Recording, Slice
from serving.registry.client import Promotion, Registry
from serving.transport.client import infer_message
from serving.types import Datatype

MODEL, ALIAS = "forest", "production"


def open_gate(_: Promotion) -> dict[str, bool]:
    """Let everything through: what is measured is what a server does, not whether a package is good."""
    return {}


def fill(folder: Path, count: int = 2) -> Path:
    """Make a registry of so many packages of a forest of 100 trees, of different seeds; the first is in production."""
    from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - behind the extra
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415

    from converters.conversion import convert  # noqa: PLC0415
    from converters.packaging import Label, write_package  # noqa: PLC0415

    rows, labels = load_breast_cancer(return_X_y=True)
    rows = rows.astype(np.float32)
    place = folder / "registry"
    with Registry.open(str(place), create=True) as registry:
        for seed in range(count):
            forest = RandomForestClassifier(100, random_state=seed).fit(rows, labels)
            write_package(convert(forest, rows), Label(MODEL), folder / f"{seed}")
            pushed = registry.push(folder / f"{seed}").pushed
            if seed == 0:
                registry.promote(pushed.version, ALIAS, gate=open_gate)
    return place


@contextlib.contextmanager
def served(place: Path, folder: Path, *, interval_s: float, transport: str) -> Iterator[Target]:
    """Serve the alias."""
    arguments = ["--registry", str(place), "--model", f"{MODEL}@{ALIAS}", "--registry-cache", str(folder / "cache")]
    arguments += ["--registry-interval-s", str(interval_s), "--transport", transport]
    (folder / "models").mkdir(exist_ok=True)
    with penstock(folder / "models", *arguments) as target:
        yield target


def messages(count: int, *, ids: bool) -> list[bytes]:
    """Return requests of one row, each with an id of its own or without one."""
    rows = np.random.default_rng(0).random((count, 1, FEATURES), np.float32)
    found = []
    for number, row in enumerate(rows):
        message = infer_message(MODEL, {"features": (Datatype.FP32, row)})
        if ids:
            message.id = f"request-{number}"
        found.append(message.SerializeToString())
    return found


def ignore(_: Interval) -> None:
    """Take an interval of a slice; the slice as a whole counts."""


def closed(concurrency: int, seconds: float) -> Slice:
    """Return a slice under full load: so many requests in flight at any time."""
    return Slice(load=ClosedLoop(concurrency=concurrency, duration_s=seconds), warm_up_s=0.5)


def failed(recording: Recording) -> int:
    """Return how many requests had no answer with outputs."""
    return recording.total.errors.total() + recording.unanswered + recording.unsent


def p99_ms(recording: Recording) -> float:
    """Return the 99th percentile of latency."""
    return float(recording.total.latency.quantile_ns(0.99)) / 1e6
