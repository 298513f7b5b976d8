"""`penstock bench` as a person types it, against a real server."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support import graphs
from tests.support.servers import server_process, server_thread

ROOT = Path(__file__).parents[2]
SHORT = ("--duration-s", "0.5", "--warm-up-s", "0.1", "--connections", "2")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "serving", "bench", *arguments]


def bench(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "affine", graphs.affine())
    graphs.write_model(models, "other", graphs.affine())
    with server_thread(models) as running:
        yield running


def test_a_run_holds_all_that_scripts_read_and_writes_a_page(server, tmp_path):
    page = tmp_path / "report.html"
    load = ("--model", "affine", "--rate", "100", "--slo-ms", "5000", "--seed", "7", *SHORT)
    result = bench("run", "--address", server.address, *load, "--json", "-", "--html", str(page))
    outcome = json.loads(result.stdout)
    names = {"throughput_rps", "throughput_rows_per_s", "goodput_rps", "sent", "answered", "errors", "latency_us",
             "client_limited", "server", "machine", "commit", "seed"}  # fmt: skip
    assert names <= outcome.keys()
    assert {"mean", "p50", "p90", "p99", "p999", "max"} == outcome["latency_us"].keys()
    assert outcome["answered"] == outcome["sent"] > 0
    assert (outcome["errors"], outcome["seed"], outcome["scenario"]["model"]) == ({}, 7, "affine")
    assert outcome["server"]["mean_batch_rows"] >= 1
    assert outcome["server"]["cpu_us_per_request"] > 0
    assert "requests/s at p99" in result.stderr
    assert page.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("client", ["native", "grpcio"])
def test_a_closed_loop_keeps_the_server_busy_with_rows(server, tmp_path, client):
    rows, file = tmp_path / "rows.npy", tmp_path / "run.json"
    np.save(rows, np.arange(40, dtype=np.float32).reshape(10, 4))
    result = bench("run", "--address", server.address, "--model", "affine", "--concurrency", "4", "--rows", "3",
                   "--payload", str(rows), "--client", client, *SHORT, "--json", str(file))  # fmt: skip
    outcome = json.loads(file.read_text())
    assert outcome["answered"] > 0, result.stderr
    assert outcome["throughput_rows_per_s"] == pytest.approx(3 * outcome["throughput_rps"])


def test_a_scenario_file_says_what_flags_do_not(server, tmp_path):
    scenario, file = tmp_path / "scenario.toml", tmp_path / "run.json"
    scenario.write_text('model = "affine"\nrate = 50\nduration_s = 0.5\nwarm_up_s = 0\narrivals = "constant"\n')
    result = bench("run", "--address", server.address, "--scenario", str(scenario), "--rate", "60", "--json", str(file))
    assert result.returncode == 0, result.stderr
    assert json.loads(file.read_text())["sent"] == 30


def test_two_models_of_one_server_are_compared(server, tmp_path):
    file = tmp_path / "compare.json"
    result = bench("compare", server.address, f"{server.address}/other", "--model", "affine", "--rate", "100",
                   "--duration-s", "0.2", "--warm-up-s", "0.05", "--json", str(file))  # fmt: skip
    *runs, verdict = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(runs) == 40, result.stderr
    assert all(run["server"]["mean_batch_rows"] >= 1 for run in runs)
    assert all(run["server"]["stages_us"]["compute_infer"] > 0 for run in runs)
    assert verdict["result"]
    assert "latency p99" in verdict["metrics"]
    assert "95 % intervals" in result.stdout


def test_a_sweep_has_a_run_for_each_level(server, tmp_path):
    file, page = tmp_path / "sweep.json", tmp_path / "sweep.html"
    result = bench("sweep", "--address", server.address, "--model", "affine", "--concurrencies", "1..4..x2",
                   "--duration-s", "0.3", "--warm-up-s", "0.1", "--json", str(file), "--html", str(page))  # fmt: skip
    runs = [json.loads(line) for line in file.read_text().splitlines()]
    assert [run["concurrency"] for run in runs] == [1, 2, 4], result.stderr
    assert all(run["answered"] > 0 for run in runs)
    assert "Most throughput" in page.read_text()


@pytest.mark.slow
def test_a_knee_is_found_in_two_minutes(server, tmp_path):
    file = tmp_path / "knee.json"
    result = bench("knee", "--address", server.address, "--model", "affine", "--p99-ms", "50", "--json", str(file))
    *probes, knee = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(probes) > 5, result.stderr
    assert knee["objective_ms"] == 50
    assert knee["ended"]


@pytest.mark.slow
def test_tuning_recommends_a_model_toml_and_leaves_the_models_folder_alone(tmp_path):
    graphs.write_model(tmp_path, "affine", graphs.affine())
    before = sorted(tmp_path.rglob("*"))
    result = bench("tune", "--models", str(tmp_path), "--model", "affine", "--concurrency", "4", "--duration-s", "0.3",
                   "--warm-up-s", "0.1")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "Recommended: " in result.stdout
    assert "batch_rows_max = " in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_peers_that_are_absent_are_skipped_and_said_so(tmp_path):
    graphs.write_model(tmp_path, "affine", graphs.affine())
    file = tmp_path / "peers.json"
    result = bench("peers", str(tmp_path / "affine"), "--concurrency", "2", "--rounds", "1", *SHORT,
                   "--json", str(file))  # fmt: skip
    *runs, verdict = [json.loads(line) for line in file.read_text().splitlines()]
    assert [run["label"].split()[0] for run in runs] == ["Penstock"], result.stderr
    assert {"MLServer", "KServe", "Triton"} == {name.split()[0] for name in verdict["absent"]}
    assert "Skipped MLServer" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "affin", "--rate", "10"), "did you mean 'affine'?"),
        (("--model", "affine"), "give --rate R (requests per second) or --concurrency C"),
        (("--model", "affine", "--rate", "ten"), "rate"),
        (("--model", "affine", "--rate", "10", "--json", "/nowhere/run.json"), "/nowhere/run.json"),
        (("--model", "affine", "--rate", "10", "--html", "/nowhere/run.html"), "/nowhere/run.html"),
        (("--model", "affine", "--rate", "10", "--address", "127.0.0.1:1"), "no server answers at 127.0.0.1:1"),
        (("--model", "affine", "--rate", "10", "--address", "nowhere"), "--address nowhere is no HOST:PORT"),
    ],
    ids=["model", "load", "number", "json", "html", "server", "address"],
)
def test_a_mistake_is_one_line_before_anything_is_measured(server, arguments, words):
    address = () if "--address" in arguments else ("--address", server.address)
    result = bench("run", *address, *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("penstock: ")
    assert words in line


def test_a_payload_that_is_no_number_is_named_by_its_place(server, tmp_path):
    rows = tmp_path / "rows.npy"
    values = np.zeros((10, 4), np.float32)
    values[7, 2] = np.nan
    np.save(rows, values)
    result = bench("run", "--address", server.address, "--model", "affine", "--rate", "10", "--payload", str(rows))
    assert result.returncode == 1
    assert all(word in result.stderr for word in ("nan", "row 7", "column 2", "'x'"))


def test_a_server_that_dies_leaves_what_was_measured_and_a_failure(tmp_path):
    graphs.write_model(tmp_path, "affine", graphs.affine())
    file = tmp_path / "run.json"
    with server_process(tmp_path) as server:
        arguments = ("--address", server.address, "--model", "affine", "--rate", "200", "--duration-s", "60")
        running = subprocess.Popen(
            command("run", *arguments, "--warm-up-s", "0", "--json", str(file)),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        answered = threading.Event()
        reader = threading.Thread(target=lambda: [answered.set() for line in running.stderr if "answered" in line])
        reader.start()
        assert answered.wait(60)
        server.process.kill()
        assert running.wait(60) == 1
        reader.join()
        output = running.stdout.read()
        running.stdout.close()
        running.stderr.close()
    outcome = json.loads(file.read_text())
    assert outcome["answered"] > 0
    assert "closed" in outcome["failure"] or "connection" in outcome["failure"]
    assert "Ended before its time" in output or outcome["failure"][:40] in output


TYPED = """\
import signal
from serving.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""The command line as a terminal starts it, also where pytest runs in the background of a shell and ignores Ctrl-C."""


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_ctrl_c_ends_a_run_and_keeps_what_it_has_shown(server, tmp_path, kind):
    file, page = tmp_path / "run.json", tmp_path / "run.html"
    load = ("--rate", "200") if kind == "run" else ("--rates", "200..400..x2")
    arguments = ("bench", kind, "--address", server.address, "--model", "affine", *load, "--duration-s", "60")
    running = subprocess.Popen(
        [sys.executable, "-c", TYPED, *arguments, "--warm-up-s", "0", "--json", str(file), "--html", str(page)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert any("answered" in line for line in running.stderr)
    running.send_signal(signal.SIGINT)
    output, rest = running.communicate(timeout=60)
    assert running.returncode == 130, rest
    assert "Traceback" not in rest
    outcome, *verdict = [json.loads(line) for line in file.read_text().splitlines()]
    assert outcome["failure"] == "interrupted"
    assert 0 < outcome["answered"] <= outcome["sent"]
    assert outcome["duration_s"] < 60
    assert outcome["server"]["mean_batch_rows"] >= 1
    assert [line["failure"] for line in verdict] == (["interrupted"] if kind == "sweep" else [])
    for report in (output, page.read_text()):
        assert "before its time: interrupted" in report


def test_help_teaches_each_command():
    result = bench("--help")
    assert result.returncode == 0
    for name in ("run", "sweep", "knee", "compare", "tune", "peers"):
        assert name in result.stdout
