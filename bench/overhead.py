"""What watching costs: a model whose rows are counted for drift or not, and with /metrics scraped every second or not.

Both sides are one model in one session, whose counting is paused for the slices of one of them: two equal models of one
process differ by some percent, by where their memory lies, for as long as it lives. Latency is compared on a model of
about 1 ms, one request at a time, so that each of them bears all that is done for its batch; throughput on about the
cheapest model there is, under saturation.
"""

import contextlib
import dataclasses
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import PAIRS_MAX, PAIRS_MIN, Comparison, Pair, Ratio, compare
from bench.generator.handle import Generator
from bench.interrupt import Interrupt
from bench.load import FEATURES, Target, penstock, write_increment
from bench.networks import write_deep_network
from bench.slices import ClosedLoop, Recording, Slice
from bench.slices import Target as Place
from serving.errors import ConfigError
from serving.pb import penstock_pb2 as pb
from serving.statistics.drift.governor import FREE_NS
from serving.transport.client import Client, infer_message
from serving.transport.monitor import MONITOR_SERVICE, PAUSE_S_MAX
from serving.types import Datatype

LAYERS = 180
"""Of the model of about 1 ms."""
IN_FLIGHT = 256
CONNECTIONS = 4
WARM_UP_S = 0.1
P50_MAX, THROUGHPUT_MIN, SHARE_MAX = 1.02, 0.9, 0.01
EXECUTORS = 2
"""Of each model: the I/O thread, and its one instance thread."""
_SLOW, _LIGHT = "slow", "light"
_REFERENCE_ROWS = 1_000
_ROWS_SENT = 256
SHARE = "share"
"""What is counted and no ratio of two sides."""
_CONFIG = f"[session]\nintra_op_threads = 1\n[drift]\nreference_rows = {_REFERENCE_ROWS}\n"
_SCRAPE_S, _SCRAPED_S_MIN = 1.0, 2.0
"""In the middle of each of a slice's seconds a page is asked for."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that is promised, the interval it is judged by, and whether it was kept."""

    promise: str
    ratio: Ratio
    is_kept: bool

    def __str__(self) -> str:
        ratio, verdict = self.ratio, "kept  " if self.is_kept else "BROKEN"
        if ratio.figure == SHARE:
            return f"{verdict}  {self.promise}: {ratio.estimate:.4f}"
        interval = f"{ratio.low:.4f} to {ratio.high:.4f}, width {ratio.high - ratio.low:.4f}"
        return f"{verdict}  {self.promise}: B / A {ratio.estimate:.4f}, 95 % interval {interval}"

    def to_json(self) -> dict[str, Any]:
        """Return it for machines."""
        ratio = self.ratio
        interval = [ratio.low, ratio.high]
        return {"promise": self.promise, "ratio": ratio.estimate, "interval": interval, "kept": self.is_kept}


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is compared: the load, the model, what B has that A has not, and what is promised of B / A.

    B is scraped, and A is not (`is_scraped`), or B is counted for drift, and A is not.
    """

    title: str
    load: ClosedLoop
    pairs: int
    model: str
    is_scraped: bool
    judge: Callable[[dict[str, Ratio], str], list[Line]]


def experiments(slice_s: float, pairs: int) -> tuple[Experiment, ...]:
    """Return the comparisons. What is scraped every second needs slices of seconds, and gets about as much time."""
    scraped_s = max(_SCRAPED_S_MIN, float(round(slice_s)))
    as_long = round(pairs * (slice_s + WARM_UP_S) / (scraped_s + WARM_UP_S))
    scraped_pairs = min(max(PAIRS_MIN, as_long), PAIRS_MAX)
    alone = ClosedLoop(concurrency=1, duration_s=slice_s)
    full = ClosedLoop(concurrency=IN_FLIGHT, duration_s=slice_s)
    longer = ClosedLoop(concurrency=IN_FLIGHT, duration_s=scraped_s)
    return (
        Experiment("drift on / off, 1 ms model", alone, pairs, _SLOW, False, _of_latency),
        Experiment("drift on / off, light model", full, pairs, _LIGHT, False, _of_throughput),
        Experiment("/metrics scraped / not, light model", longer, scraped_pairs, _LIGHT, True, _of_scraping),
    )


def measure_all(
    slice_s: float, pairs: int, interrupt: Interrupt, note: Callable[[str], None]
) -> Iterator[tuple[Experiment, Comparison, list[Line]]]:
    """Run all comparisons on servers of our own, until Ctrl-C; yield each. Raises ConfigError and RemoteError."""
    for experiment in experiments(slice_s, pairs):
        note(experiment.title)
        with tempfile.TemporaryDirectory(prefix="penstock-overhead-") as folder:
            _write_model(Path(folder), experiment.model)
            with penstock(Path(folder)) as server, Client(f"127.0.0.1:{server.port}") as client:
                found, lines = _measure(experiment, server, client, interrupt, note), []
                if not found.failure:
                    lines = experiment.judge({one.figure: one for one in found.ratios}, experiment.title)
                    if experiment.model == _SLOW:
                        lines.append(counted(_drift_of(client, experiment.model)))
        yield experiment, found, lines
        if interrupt.is_set:
            return


def counted(report: pb.ServableDrift) -> Line:
    """Hold the time that counting has taken, as it counts it itself, to a share of that of inference."""
    spent_ns = max(0.0, report.spent_ns - EXECUTORS * FREE_NS)
    share = spent_ns / report.infer_ns if report.infer_ns else 0.0
    title = f"counting takes at most {SHARE_MAX:.0%} of the time of inference, beyond {FREE_NS / 1e6:g} ms per executor"
    return Line(title, Ratio(SHARE, share, share, share), share <= SHARE_MAX)


def _write_model(models: Path, name: str) -> None:
    if name == _SLOW:
        write_deep_network(models, name, FEATURES, LAYERS, config=_CONFIG)
    else:
        write_increment(models, name, FEATURES)
        (models / name / "model.toml").write_text(_CONFIG)


def _measure(
    experiment: Experiment, server: Target, client: Client, interrupt: Interrupt, note: Callable[[str], None]
) -> Comparison:
    model = experiment.model
    _make_reference(client, model)
    place = Place("127.0.0.1", server.port)
    done = 0
    with (
        Generator([place], [_messages(model)], connections=CONNECTIONS) as generator,
        interrupt.ends(generator.interrupt),
    ):

        def measure(slice_: Slice) -> Recording:
            _pause(client, model, _pause_s(experiment, slice_.target))
            with _scraped(server) if experiment.is_scraped and slice_.target == 1 else contextlib.nullcontext():
                return generator.run(dataclasses.replace(slice_, target=0), lambda _: None)

        def count(_: Pair) -> None:
            nonlocal done
            done += 1
            note(f"{experiment.title}: {done} of {experiment.pairs} pairs")

        a, b = (Slice(load=experiment.load, target=side, warm_up_s=WARM_UP_S) for side in (0, 1))
        return compare(measure, a, b=b, pairs=experiment.pairs, on_pair=count)


def _messages(model: str) -> list[bytes]:
    rows = np.random.default_rng(0).normal(size=(_ROWS_SENT, 1, FEATURES)).astype(np.float32)
    return [infer_message(model, {"x": (Datatype.FP32, row)}).SerializeToString() for row in rows]


def _make_reference(client: Client, model: str) -> None:
    """Send rows until drift has its reference, so that rows are counted from the first slice on."""
    rng = np.random.default_rng(1)
    for _ in range(100):
        client.infer(model, {"x": (Datatype.FP32, rng.normal(size=(200, FEATURES)).astype(np.float32))})
        if _drift_of(client, model).phase == "watching":
            return
    raise ConfigError(f"{model}: no reference came of 20,000 rows")


def _drift_of(client: Client, model: str) -> pb.ServableDrift:
    request = pb.DriftReportRequest(name=model)
    return client.call("DriftReport", request, pb.DriftReportResponse, service=MONITOR_SERVICE).servables[0]


def _pause_s(experiment: Experiment, side: int) -> float:
    """Return for how long counting is paused for a slice: where nothing is scraped, all of A and nothing of B."""
    return 0.0 if experiment.is_scraped or side == 1 else PAUSE_S_MAX


def _pause(client: Client, model: str, pause_s: float) -> None:
    request = pb.DriftPauseRequest(name=model, pause_s=pause_s)
    client.call("DriftPause", request, pb.DriftPauseResponse, service=MONITOR_SERVICE)


@contextlib.contextmanager
def _scraped(server: Target) -> Iterator[None]:
    """Ask for /metrics in the middle of each second behind the warm-up. Raises ConfigError without an answer."""
    over = threading.Event()
    failures: list[Exception] = []
    due_s = time.monotonic() + WARM_UP_S + _SCRAPE_S / 2

    def scrape() -> None:
        nonlocal due_s
        while not failures and not over.wait(due_s - time.monotonic()):
            due_s += _SCRAPE_S
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=10) as page:
                    page.read()
            except (OSError, HTTPException) as error:
                failures.append(error)

    thread = threading.Thread(target=scrape, name="scraper")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if failures:  # scrapes that fail cost little, and would keep the promise
        raise ConfigError(f"/metrics was not answered: {failures[0]!r}; the cost of scraping it is not known")


def _of_latency(ratios: dict[str, Ratio], title: str) -> list[Line]:
    p50, p99 = ratios["latency p50"], ratios["latency p99"]
    return [
        Line(f"{title}: the interval of p50 lies below {P50_MAX}", p50, p50.high < P50_MAX),
        Line(f"{title}: the interval of p99 contains 1, or lies below", p99, p99.low <= 1),
    ]


def _of_throughput(ratios: dict[str, Ratio], title: str) -> list[Line]:
    ratio = ratios["throughput"]
    return [Line(f"{title}: at least {THROUGHPUT_MIN} of the throughput", ratio, ratio.low >= THROUGHPUT_MIN)]


def _of_scraping(ratios: dict[str, Ratio], title: str) -> list[Line]:
    ratio = ratios["throughput"]
    return [Line(f"{title}: the interval of throughput contains 1, or lies above", ratio, ratio.high >= 1)]
