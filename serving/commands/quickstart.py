"""`penstock quickstart`: the whole way, from a training set to an answered request, in one command."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc.aio
import numpy as np
from numpy.typing import NDArray

from serving.commands.options import Number
from serving.commands.termination import ended_by_term
from serving.errors import ConfigError
from serving.pb import open_inference_pb2 as pb
from serving.transport.calls import SERVICE
from serving.transport.client import Client, infer_message
from serving.types import Datatype

MODEL = "breast_cancer"
VERSION = "1"
_TOLERANCE = 1e-5


@click.command("quickstart")
@click.option("--kind", type=click.Choice(["tabular", "image", "text", "release"]), default="tabular",
              show_default=True, help="What the model takes: numbers, JPEG images of digits, or sentences. Or release: "
              "a pipeline from data to production, drift, canaries; a few minutes.")  # fmt: skip
@click.option("--models", type=click.Path(file_okay=False, path_type=Path), default=Path("models"), show_default=True,
              metavar="DIR", help="The model repository to write; an existing one gets the model added.")  # fmt: skip
@click.option("--burst-s", type=Number(0.1, 60), default=3.0, show_default=True, help="Length of the burst.")
@click.option("--concurrency", type=click.IntRange(1, 1024), default=16, show_default=True,
              help="Requests in flight during the burst.")  # fmt: skip
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), default=Path("release"), show_default=True,
              metavar="DIR", help="Of release: the folder to fill, which must be empty.")  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context, kind: str, models: Path, burst_s: float, concurrency: int, folder: Path
) -> None:  # fmt: skip
    """Train a small real model, convert it to ONNX, serve it, check its answers, and measure a short burst.

    Models of images and texts are served with a pipeline: raw input goes in, a label and its probability come out.
    """
    _check_options(ctx, kind)
    if kind == "release":
        from serving.commands.release_tour.tour import go  # noqa: PLC0415 - what only this kind needs

        with ended_by_term():
            go(folder)
        return
    started = time.perf_counter()
    if kind != "tabular":
        _raw_tour(kind, models, burst_s, concurrency)
        click.echo(f"  done       in {time.perf_counter() - started:.1f} s")
        return
    classifier, features = _train()
    path = models / MODEL / VERSION
    _check_is_ours(path.parent)
    _convert(classifier, features, path)
    with _serve(models) as address:
        _compare(address, classifier, features)
        burst = asyncio.run(_burst(address, features, burst_s, concurrency))
        mean_batch = _mean_batch_rows(address)
    click.echo(
        f"  burst      {burst.requests_per_s:,.0f} requests/s of 1 row, {concurrency} in flight: "
        f"p50 {burst.p50_ms:.2f} ms, p99 {burst.p99_ms:.2f} ms, mean batch {mean_batch:.1f} rows"
    )
    click.echo(f"  done       in {time.perf_counter() - started:.1f} s\n")
    click.echo(_next_steps(models, features[0]))


def _check_options(ctx: click.Context, kind: str) -> None:
    """Refuse options that this kind does not know."""
    foreign = ("models", "burst_s", "concurrency") if kind == "release" else ("folder",)
    for name in foreign:
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} means nothing with --kind {kind}")


def _raw_tour(kind: str, models: Path, burst_s: float, concurrency: int) -> None:
    """Do the same with a model that is asked with raw input."""
    from serving.commands import quickstart_raw  # noqa: PLC0415 - what only these kinds need

    model = quickstart_raw.trained(kind)
    quickstart_raw.write(model, models)
    with _serve(models) as address:
        quickstart_raw.compare(model, address)
        message = infer_message(model.name, quickstart_raw.tensors(model, model.held_out_inputs()[:1]))
        burst = asyncio.run(_burst_of(address, [message.SerializeToString()], burst_s, concurrency))
        passes = quickstart_raw.passes(model, address)
    click.echo(
        f"  burst      {burst.requests_per_s:,.0f} requests/s of 1 row, {concurrency} in flight: "
        f"p50 {burst.p50_ms:.2f} ms, p99 {burst.p99_ms:.2f} ms\n{passes}\n"
        f"Go on with:\n  penstock serve --models {models}\n  penstock models pipeline --model {model.name}"
    )


def _train() -> tuple[Any, NDArray[np.float32]]:
    """Return a fitted classifier and the rows held out from it."""
    try:
        from sklearn.datasets import load_breast_cancer  # noqa: PLC0415 - behind the extra
        from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415
        from sklearn.model_selection import train_test_split  # noqa: PLC0415
    except ImportError:
        raise ConfigError("quickstart needs scikit-learn and skl2onnx: pip install 'penstock[convert]'") from None
    rows, labels = load_breast_cancer(return_X_y=True)
    train_rows, test_rows, train_labels, test_labels = train_test_split(
        rows.astype(np.float32), labels, test_size=0.3, random_state=0
    )
    classifier = RandomForestClassifier(100, random_state=0).fit(train_rows, train_labels)
    accuracy = classifier.score(test_rows, test_labels)
    click.echo(
        f"  train      random forest of 100 trees on scikit-learn's breast cancer data "
        f"({len(train_rows)} rows, {rows.shape[1]} features): accuracy {accuracy:.3f} on {len(test_rows)} held-out rows"
    )
    return classifier, test_rows


def _check_is_ours(folder: Path) -> None:
    """Refuse a folder that holds more than an earlier quickstart wrote: another version would answer in our place."""
    others = [entry.name for entry in folder.iterdir() if entry.name != VERSION] if folder.is_dir() else []
    if others:
        raise ConfigError(f"{folder} holds {', '.join(sorted(others))} already; name another folder with --models")


def _convert(classifier: Any, features: NDArray[np.float32], path: Path) -> None:
    """Prove the converted model on the held-out rows, and write its package; one of an earlier quickstart stays."""
    from converters.conversion import convert  # noqa: PLC0415 - behind the extra
    from converters.packaging import Label, write_package  # noqa: PLC0415

    converted = convert(classifier, features)
    digest = write_package(converted, Label(MODEL), path)
    error, _ = converted.report.largest()
    click.echo(
        f"  convert    {path} ({len(converted.graph) / 1024:.0f} KiB of ONNX, package {digest[:19]}): "
        f"{len(converted.report.checks)} checks of parity passed, largest error {error:.1e}"
    )


@contextlib.contextmanager
def _serve(models: Path) -> Iterator[str]:
    """Run the real server as a process of its own, on free ports; yield its gRPC address."""
    command_line = [sys.executable, "-m", "serving", "serve", "--models", str(models)]
    command_line += ["--grpc-port", "0", "--http-port", "0", "--host", "127.0.0.1", "--log-format", "text"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    with subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True, env=variables) as process:  # noqa: S603
        try:
            address = _wait_until_ready(process)
            click.echo(f"  serve      process {process.pid} on {address}")
            yield address
        finally:
            process.terminate()
            process.communicate()


def _wait_until_ready(process: "subprocess.Popen[str]") -> str:
    """Follow the server's log until its models are loaded; return its gRPC address."""
    assert process.stderr is not None, "bug: the server's log is not piped"
    address, lines = "", []
    for line in process.stderr:
        lines.append(line.rstrip())
        if match := re.search(r"listening: grpc (\S+)", line):
            address = match[1]
        if re.search(r"serving \d+ model versions", line):
            return address
    raise ConfigError("the server did not start: " + "; ".join(lines[-3:]))


def _compare(address: str, classifier: Any, rows: NDArray[np.float32]) -> None:
    """Ask for every held-out row and compare with scikit-learn. Raises ConfigError when the answers differ."""
    with Client(address) as client:
        _, outputs = client.infer(MODEL, {"features": (Datatype.FP32, rows)})
    difference = float(np.abs(outputs["probabilities"] - classifier.predict_proba(rows)).max())
    same_labels = bool(np.array_equal(outputs["label"], classifier.predict(rows)))
    if not same_labels or difference > _TOLERANCE:
        raise ConfigError(f"the served answers differ from scikit-learn's by {difference:.2g} in a probability")
    click.echo(
        f"  predict    {len(rows)} rows over gRPC: labels equal scikit-learn's, probabilities within {difference:.1e}"
    )


@dataclass(frozen=True, slots=True)
class Burst:
    """What a burst of requests measured."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


async def _burst(address: str, rows: NDArray[np.float32], duration_s: float, concurrency: int) -> Burst:
    """Keep `concurrency` 1-row requests in flight for a while."""
    messages = [infer_message(MODEL, {"features": (Datatype.FP32, row[None])}).SerializeToString() for row in rows]
    return await _burst_of(address, messages, duration_s, concurrency)


async def _burst_of(address: str, messages: Sequence[bytes], duration_s: float, concurrency: int) -> Burst:
    """Keep requests in flight for a while, message after message."""
    latencies: list[float] = []
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        invoke = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        end = time.perf_counter() + duration_s

        async def worker(first: int) -> None:
            index = first
            while (sent := time.perf_counter()) < end:
                answer = await invoke(messages[index % len(messages)])
                latencies.append(time.perf_counter() - sent)
                assert pb.ModelInferResponse.FromString(answer).model_name, "bug: an answer of no model"
                index += concurrency

        started = time.perf_counter()
        await asyncio.gather(*(worker(first) for first in range(concurrency)))
        elapsed = time.perf_counter() - started
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return Burst(len(latencies) / elapsed, float(p50), float(p99))


def _mean_batch_rows(address: str) -> float:
    with Client(address) as client:
        answer = client.call("ModelStatistics", pb.ModelStatisticsRequest(name=MODEL), pb.ModelStatisticsResponse)
    small = [entry for entry in answer.model_stats[0].batch_stats if entry.batch_size < 100]  # not the comparison's
    batches = sum(entry.compute_infer.count for entry in small)
    return sum(entry.batch_size * entry.compute_infer.count for entry in small) / max(1, batches)


def _next_steps(models: Path, row: NDArray[np.float32]) -> str:
    example = ", ".join(f"{value:.4g}" for value in row)
    return f"""Go on with, in one terminal:
  penstock serve --models {models}
and in another:
  penstock models list
  echo '{{"features": [[{example}]]}}' | penstock infer --model {MODEL} --input -
  penstock models stats
  curl http://127.0.0.1:8002/metrics"""
