"""The commands for packages and scoring as a person types them: a real model, a real server, processes that are killed.

What does not need a process of its own runs `main` in this one.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

from converters.conversion import convert
from serving.package import verify
from serving.transport.client import Client
from serving.types import Datatype
from tests.support import graphs
from tests.support.command_line import run
from tests.support.packages import write_key_pair
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def penstock(capsys):
    """Runs the command line; returns its exit status and what it printed."""

    def penstock(*arguments: str) -> Result:
        capsys.readouterr()
        status = run(*arguments)
        return Result(status, *capsys.readouterr())

    return penstock


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A forest as a plain folder with a package.json that names its columns, and rows in a file in another order."""
    root = tmp_path_factory.mktemp("world")
    data = load_breast_cancer()
    rows = data.data.astype(np.float32)
    graph = convert(RandomForestClassifier(20, random_state=0).fit(rows, data.target), rows).graph
    graphs.write_model(root / "models", "forest", graph)
    names = [str(name) for name in data.feature_names]
    assert run("pack", str(root / "models/forest/1"), "--out", str(root / "nameless")) == 0
    assert run("unpack", str(root / "nameless"), "--out", str(root / "plain")) == 0
    config = json.loads((root / "plain/package.json").read_text())
    config["signature"]["inputs"][0]["columns"] = names
    config["signature"]["outputs"][1]["labels"] = ["malignant", "benign"]
    (root / "plain/package.json").write_text(json.dumps(config))
    with (root / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *reversed(names)])
        writer.writerows([number, *map(repr, map(float, reversed(row)))] for number, row in enumerate(rows))
    return root, rows


@pytest.fixture(scope="module")
def package(world):
    root, _ = world
    private, public = write_key_pair(root)
    assert run("pack", str(root / "plain"), "--out", str(root / "forest.tar"), "--sign-key", str(private)) == 0
    return root / "forest.tar", verify(root / "forest.tar").digest, public


def test_pack_makes_the_same_package_twice_and_unpack_undoes_it(penstock, world, package, tmp_path):
    path, digest, _ = package
    assert penstock("unpack", str(path), "--out", str(tmp_path / "plain")).returncode == 0
    again = penstock("pack", str(tmp_path / "plain"), "--out", str(tmp_path / "again"), "--json", "-")
    assert json.loads(again.stdout) == {"digest": digest, "path": str(tmp_path / "again")}


def test_a_package_may_lie_where_the_path_is_no_utf_8(penstock, package, tmp_path):
    copy = tmp_path / "copy\udcff.tar"
    result = penstock("pack", str(package[0]), "--out", str(copy), "--json", "-")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["path"] == str(copy)
    assert "copy\\udcff.tar" in penstock("pack", str(package[0]), "--out", str(copy)).stdout


def test_a_copy_of_a_package_keeps_digest_and_signature(penstock, package, tmp_path):
    path, digest, public = package
    assert penstock("pack", str(path), "--out", str(tmp_path / "copy")).stdout.splitlines()[0] == digest
    assert penstock("inspect", str(tmp_path / "copy"), "--verify-key", str(public)).returncode == 0


def test_inspect_tells_what_a_package_holds(penstock, package):
    path, digest, public = package
    result = penstock("inspect", str(path), "--verify-key", str(public))
    lines = result.stdout.splitlines()
    assert lines[0] == f"package    {digest}"
    assert "input      features FP32 [-1, 30] (mean radius, mean texture" in result.stdout
    assert "output     probabilities FP32 [-1, 2] (malignant, benign)" in lines
    assert next(line for line in lines if line.startswith("signed by")).endswith(", verified")
    value = json.loads(penstock("inspect", str(path), "--json", "-").stdout)
    assert [blob["title"] for blob in value["blobs"]] == ["package.json", "model.onnx"]
    assert value["verified_key"] is None


def test_inspect_fails_in_one_line_for_a_damaged_and_for_an_unsigned_package(penstock, world, package, tmp_path):
    path, _, public = package
    data = bytearray(path.read_bytes())
    at = data.index(b"RandomForest") if b"RandomForest" in data else len(data) // 2
    data[at] ^= 1
    (tmp_path / "damaged.tar").write_bytes(data)
    for arguments, message in [
        ((str(tmp_path / "damaged.tar"),), "is damaged"),
        ((str(world[0] / "nameless"), "--verify-key", str(public)), "is not signed"),
        ((str(tmp_path / "gone"),), "no such file"),
    ]:
        result = penstock("inspect", *arguments)
        assert (result.returncode, result.stdout) == (1, "")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_a_file_that_is_no_part_is_named(penstock, world, tmp_path):
    root, _ = world
    (root / "models/forest/1/notes.md").write_text("x")
    result = penstock("pack", str(root / "models/forest/1"), "--out", str(tmp_path / "p"))
    (root / "models/forest/1/notes.md").unlink()
    assert result.returncode == 0
    assert "notes.md is no part of a package and is left out" in result.stderr
    assert verify(tmp_path / "p").name == "forest"


@pytest.mark.parametrize("file", ["profile.npz", "golden.npz"])
def test_a_file_of_arrays_that_nobody_can_read_is_not_packed(penstock, world, tmp_path, file):
    root, _ = world
    shutil.copytree(root / "plain", tmp_path / "plain")
    (tmp_path / "plain" / file).write_bytes(b"PK no arrays")
    result = penstock("pack", str(tmp_path / "plain"), "--out", str(tmp_path / "p.tar"))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert f"{tmp_path / 'plain' / file}: " in result.stderr
    assert not (tmp_path / "p.tar").exists()


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_place_without_a_name_is_refused_in_one_line(penstock, package, path):
    for command in ("pack", "unpack"):
        result = penstock(command, str(package[0]), "--out", path)
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert "names no file or folder to write" in result.stderr


# ---- score ---------------------------------------------------------------------------------------------------------


def served(world, package):
    """The answers of a real server to all rows, in requests of 256."""
    root, rows = world
    repository = root / "served"
    (repository / "forest").mkdir(parents=True, exist_ok=True)
    (repository / "forest/1.tar").write_bytes(package[0].read_bytes())
    with server_thread(repository) as server, Client(server.address) as client:
        parts = [client.infer("forest", {"features": (Datatype.FP32, rows[at : at + 256])})[1]
                 for at in range(0, len(rows), 256)]  # fmt: skip
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_scored_answers_are_the_served_ones_bit_by_bit(penstock, world, package, tmp_path):
    root, _ = world
    result = penstock("score", str(package[0]), "--input", str(root / "rows.csv"), "--out", str(tmp_path / "y.npz"))
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "y.npz", allow_pickle=False) as archive:
        for name, expected in served(world, package).items():
            assert archive[name].tobytes() == expected.tobytes(), name


def test_an_unpacked_package_is_scored_as_the_package_itself(penstock, world, package, tmp_path):
    root, _ = world
    for source, out in ((root / "plain", "a.csv"), (package[0], "b.csv")):
        result = penstock("score", str(source), "--input", str(root / "rows.csv"), "--out", str(tmp_path / out))
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_csv_of_answers_has_the_labels_and_reads_back_exactly(penstock, world, package, tmp_path):
    root, _ = world
    out = tmp_path / "y.csv"
    result = penstock("score", str(package[0]), "--input", str(root / "rows.csv"), "--out", str(out),
                      "--output", "probabilities")  # fmt: skip
    assert result.returncode == 0, result.stderr
    with out.open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["probabilities_malignant", "probabilities_benign"]
    np.testing.assert_array_equal(np.array(lines, np.float32), served(world, package)["probabilities"])
    again = penstock("score", str(package[0]), "--input", str(root / "rows.csv"), "--out", str(out))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "is there already; name another file, or give --overwrite" in again.stderr


def test_a_model_that_does_not_name_its_columns_wants_to_be_told(penstock, world, tmp_path):
    root, rows = world
    graph, out = root / "models/forest/1/model.onnx", tmp_path / "y.npz"
    (tmp_path / "bare.csv").write_text(
        ",".join(f"c{at}" for at in range(30)) + "\n" + ",".join(map(str, rows[0])) + "\n"
    )
    command = ("score", str(graph), "--input", str(tmp_path / "bare.csv"), "--out", str(out))
    refused = penstock(*command)
    assert refused.returncode == 1
    assert "does not name its columns" in refused.stderr
    assert penstock(*command, "--file-order").returncode == 0
    np.save(tmp_path / "rows.npy", rows[:1])
    again = penstock("score", str(graph), "--input", str(tmp_path / "rows.npy"), "--out", str(tmp_path / "z.npz"))
    assert again.returncode == 0
    assert out.read_bytes() == (tmp_path / "z.npz").read_bytes()


@pytest.mark.parametrize("name", ["m/1", "m/1/model.onnx"])
def test_a_version_with_steps_beside_its_graph_is_left_to_a_server(penstock, tmp_path, name):
    graphs.write_model(tmp_path, "m", graphs.affine(), config='[pipeline]\npreprocess = ["x"]\n')
    np.save(tmp_path / "x.npy", np.ones((1, 4), np.float32))
    result = penstock(
        "score", str(tmp_path / name), "--input", str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npy")
    )
    assert result.returncode == 1
    assert "model.toml has a [pipeline], which only a server runs; send the rows to one" in result.stderr
    (tmp_path / "m/model.toml").unlink()
    assert penstock("score", str(tmp_path / name), "--input", str(tmp_path / "x.npy"), "--out",
                    str(tmp_path / "y.npy")).returncode == 0  # fmt: skip


def test_the_input_is_never_replaced_by_its_answers(penstock, world, package, tmp_path):
    rows = tmp_path / "rows.csv"
    shutil.copy(world[0] / "rows.csv", rows)
    result = penstock("score", str(package[0]), "--input", str(rows), "--out", str(rows), "--overwrite")
    assert result.returncode == 1
    assert "is the input" in result.stderr
    assert rows.read_bytes() == (world[0] / "rows.csv").read_bytes()


def test_a_bad_cell_is_one_line_with_its_row_and_column(penstock, world, package, tmp_path):
    root, _ = world
    lines = (root / "rows.csv").read_text().splitlines()
    cells = lines[8].split(",")
    cells[1] = "oops"
    (tmp_path / "bad.csv").write_text("\n".join([*lines[:8], ",".join(cells), *lines[9:]]))
    out = tmp_path / "y.csv"
    result = penstock("score", str(package[0]), "--input", str(tmp_path / "bad.csv"), "--out", str(out))
    assert result.returncode == 1
    assert result.stderr == "penstock: row 7, column 'worst fractal dimension': 'oops', expected a number\n"
    assert not out.exists()


HELD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
from serving.__main__ import main
from serving.commands.score import _Progress

note = _Progress.__call__

def hold(self, rows, total):
    note(self, rows, total)
    if rows >= 512:
        sys.stdout.write("held\\n")
        sys.stdout.flush()
        sys.stdin.read()

_Progress.__call__ = hold
main()
"""
"""The command line, held up once two chunks are kept, so that a test decides when the process dies."""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_run_that_is_stopped_goes_on_and_ends_with_the_same_bytes(penstock, tmp_path, how):
    (tmp_path / "model.onnx").write_bytes(graphs.affine())
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2_000, 4)).astype(np.float32))
    command = ("score", str(tmp_path), "--input", str(tmp_path / "x.npy"), "--checkpoint-rows", "256", "--out")
    out, pipe = tmp_path / "y.npz", subprocess.PIPE
    program = [sys.executable, "-c", HELD, *command, str(out)]
    with subprocess.Popen(program, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.send_signal(how)
        said = process.stderr.read()
    assert process.returncode == (-how if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "stopped after 512 rows; the same command goes on from there" in said
    assert not out.exists()
    result = penstock(*command, str(out))
    assert "going on after 512 rows" in result.stderr
    assert penstock(*command, str(tmp_path / "whole.npz")).returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
