"""The commands as a person types them, against a real server."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.statistics import KERNEL_MODULES
from serving.wire import compiler, kernels
from tests.support import graphs
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]


def penstock(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-W", "error", "-m", "serving", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    graphs.write_model(models, "affine", graphs.affine())
    graphs.write_model(models, "words", graphs.identity("BYTES", ("rows", 2)))
    graphs.write_model(models, "halves", graphs.identity("BF16", ("rows", 2)))
    graphs.write_model(models, "broken", graphs.affine())
    (models / "broken" / "1" / "model.onnx").write_bytes(b"not a model")
    with server_thread(models) as running:
        yield running


def test_list_shows_every_version_and_why_one_is_unavailable(server):
    result = penstock("models", "list", "--address", server.address)
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert lines["affine"].split()[1:3] == ["1", "READY"]
    assert lines["broken"].split()[1:3] == ["1", "UNAVAILABLE"]
    assert "onnxruntime cannot load model.onnx" in lines["broken"]


def test_json_on_standard_output_is_nothing_but_json(server):
    result = penstock("models", "list", "--model", "affine", "--address", server.address, "--json", "-")
    assert json.loads(result.stdout) == [
        {"name": "affine", "version": "1", "state": "READY", "package": "", "reason": ""}
    ]


def test_an_unloaded_model_is_loaded_again(server):
    assert penstock("models", "unload", "--model", "words", "--address", server.address).returncode == 0
    not_ready = penstock("models", "ready", "--model", "words", "--address", server.address)
    assert (not_ready.returncode, not_ready.stdout) == (1, "words is not ready\n")
    assert penstock("models", "load", "--model", "words", "--address", server.address).returncode == 0
    assert penstock("models", "ready", "--model", "words", "--address", server.address).returncode == 0


def test_infer_reads_json_from_standard_input_and_stats_count_it(server, tmp_path):
    result = penstock(
        "infer", "--model", "affine", "--input", "-", "--address", server.address, stdin='{"x": [[0, 1, 2, 3]]}'
    )
    assert json.loads(result.stdout) == {"y": [[1.0, 3.0, 5.0, 7.0]]}
    file = tmp_path / "stats.json"
    stats = penstock("models", "stats", "--model", "affine", "--address", server.address, "--json", str(file))
    assert "affine" in stats.stdout
    (entry,) = json.loads(file.read_text())
    assert entry["inference_count"] >= 1
    assert entry["inference_stats"]["queue"]["count"] >= 1
    batching = penstock("models", "batching", "--model", "affine", "--address", server.address, "--json", str(file))
    assert "adaptive, no objective, 1 instances, up to 256 rows" in batching.stdout
    (entry,) = json.loads(file.read_text())
    assert (entry["mode"], len(entry["service_times"])) == ("adaptive", 9)
    assert "decision" not in entry


def test_infer_reads_the_protocols_own_json(server):
    source = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": ["a", "b", "ü", ""]}]}
    result = penstock(
        "infer", "--model", "words", "--input", "-", "--address", server.address, stdin=json.dumps(source)
    )
    assert json.loads(result.stdout) == {"y": [["a", "b"], ["ü", ""]]}


def test_infer_reads_arrays_and_rounds_to_bfloat16(server, tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.array([[1.0, 1.00390625]], np.float32))  # the second lies between two BF16
    result = penstock("infer", "--model", "halves", "--input", str(tmp_path / "rows.npz"), "--address", server.address)
    assert json.loads(result.stdout) == {"y": [[1.0, 1.0]]}


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["infer", "--model", "affine", "--input", "-"], "[1, 2]", "expected an object by input name"),
        (["infer", "--model", "affine", "--input", "-"], "{", "cannot be read"),
        (["infer", "--model", "affine", "--input", "-"], '{"x": [["a"]]}', "input 'x' cannot be read as FP32"),
        (["infer", "--model", "affine", "--input", "-"], '{"z": [[1]]}', "unknown input 'z'"),
        (["infer", "--model", "nobody", "--input", "-"], '{"x": [[1]]}', "NOT_FOUND: unknown model 'nobody'"),
        (["infer", "--model", "affine", "--input", "missing.npz"], "", "missing.npz cannot be read"),
        (["infer", "--model", "affine", "--input", "pyproject.toml"], "", "pyproject.toml cannot be read"),
        (["models", "load", "--model", "nobody"], "", "NOT_FOUND: unknown model 'nobody'"),
        (["models", "batching", "--model", "nobody"], "", "NOT_FOUND: unknown model 'nobody'"),
        (["models", "load", "--model", "broken"], "", "INTERNAL: model 'broken': version 1: onnxruntime cannot load"),
    ],
)
def test_a_mistake_is_one_clear_line_and_a_non_zero_exit(server, arguments, stdin, message):
    result = penstock(*arguments, "--address", server.address, stdin=stdin)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("content", [b"PK not an archive", b"", b"\x93NUMPY\x01\x00"], ids=["zip", "empty", "npy"])
def test_a_broken_archive_is_one_clear_line(server, tmp_path, content):
    (tmp_path / "rows.npz").write_bytes(content)
    result = penstock("infer", "--model", "affine", "--input", str(tmp_path / "rows.npz"), "--address", server.address)
    assert result.returncode != 0
    assert "rows.npz cannot be read" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_is_not_there_is_named():
    result = penstock("models", "list", "--address", "127.0.0.1:1")
    assert result.returncode == 1
    assert "no server answers at 127.0.0.1:1" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["serve"],
        ["infer"],
        ["quickstart"],
        ["convert"],
        ["registry"],
        ["kernels"],
        ["models"],
        ["models", "load"],
        ["drift"],
        ["drift", "report"],
    ],
)
def test_every_command_has_help(command):
    result = penstock(*command, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout
    assert "\\b" not in result.stdout
    assert "\b" not in result.stdout


@pytest.mark.parametrize("command", ["serve", "infer"])
def test_examples_in_help_keep_their_lines(command):
    lines = [line.strip() for line in penstock(command, "--help").stdout.splitlines()]
    first, second = lines[lines.index("Examples:") + 1 :][:2]
    assert f"penstock {command} --" in first
    assert second.startswith(f"penstock {command} --")


def test_kernels_loads_what_this_process_has_compiled_and_says_where_it_is():
    expected = kernels.load(others=KERNEL_MODULES)
    modules = [kernel.py_func.__module__ for kernel in compiler.KERNELS]
    ours = [name for name in modules if name.rpartition(".")[0] == "serving.wire" or name in KERNEL_MODULES]
    result = penstock("kernels", "--json", "-")
    facts = json.loads(result.stdout)
    assert facts.pop("cpu_s") > 0
    assert facts == {"cache": str(expected.cache), "compiled": 0, "loaded": len(ours)}
    assert not result.stderr


@pytest.mark.slow
def test_kernels_compiles_into_an_empty_cache_and_shows_how_far_it_is(tmp_path):
    result = penstock("kernels", XDG_CACHE_HOME=str(tmp_path))
    assert result.returncode == 0, result.stderr
    summary, cache = result.stdout.splitlines()
    assert Path(cache).parent == tmp_path / "penstock" / "kernels"
    compiled = re.findall(r"^compiling (\S+) \.\.\. [\d.]+ s$", result.stderr, re.MULTILINE)
    assert "http2.decode" in compiled
    assert summary.startswith(f"{len(compiled)} kernels compiled, 0 loaded, ")


def test_quickstart_trains_serves_checks_and_measures(tmp_path):
    result = penstock("quickstart", "--models", str(tmp_path / "models"), "--burst-s", "0.3")
    assert result.returncode == 0, result.stderr
    assert "labels equal scikit-learn's" in result.stdout
    assert "requests/s of 1 row" in result.stdout
    assert (tmp_path / "models" / "breast_cancer" / "1" / "oci-layout").exists()


@pytest.mark.parametrize("kind", [pytest.param("image", marks=pytest.mark.slow), "text"])
def test_quickstart_of_raw_input_holds_the_served_answers_to_a_reference(tmp_path, kind):
    pytest.importorskip({"image": "PIL", "text": "tokenizers"}[kind], reason=f"needs 'penstock[{kind}]'")
    models = tmp_path / "models"
    result = penstock("quickstart", "--kind", kind, "--models", str(models), "--burst-s", "0.2")
    assert result.returncode == 0, result.stderr
    count, same = re.search(r"(\d+) raw inputs over gRPC: (\d+) labels are the reference's", result.stdout).groups()
    assert int(same) >= 0.99 * int(count) > 0
    again = penstock("quickstart", "--kind", kind, "--models", str(models), "--burst-s", "0.1")
    assert again.returncode == 0, again.stderr


def test_quickstart_runs_again_in_its_own_folder_and_leaves_a_strangers_alone(tmp_path):
    models = tmp_path / "models"
    graphs.write_model(models, "other", graphs.affine())
    for _ in range(2):
        assert penstock("quickstart", "--models", str(models), "--burst-s", "0.1").returncode == 0
    graphs.write_model(models, "breast_cancer", graphs.affine(), version=7)
    refused = penstock("quickstart", "--models", str(models), "--burst-s", "0.1")
    assert refused.returncode == 1
    assert "breast_cancer holds 7 already" in refused.stderr


def test_latency_shows_quantiles_of_every_stage(server):
    infer = ("infer", "--model", "affine", "--address", server.address, "--input", "-")
    penstock(*infer, stdin='{"x": [[1, 2, 3, 4]]}')
    ask = ("models", "latency", "--model", "affine", "--address", server.address)
    result = penstock(*ask, "--quantile", "0.5", "--quantile", "0.999")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.splitlines()[0].split("  ")[-2:] == ["p50 us", "p99.9 us"]
    assert [line[2] for line in lines[1:]] == ["request", "queue", "compute_input", "compute_infer", "compute_output"]
    since = penstock(*ask, "--for-s", "0.1", "--json", "-")
    (report,) = json.loads(since.stdout)
    assert [stage["count"] for stage in report["stages"]] == [0] * 5, "what came before does not count"
    assert all(stage["quantiles"] == [] for stage in report["stages"])
