"""What each kind of peer is given to serve a model, and where it is looked for."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest

import serving
from bench.peers import kserve, mlserver, penstock, triton
from bench.peers.model import read_model
from bench.peers.peer import PeerAbsent, PeerFailed, Ports
from serving.errors import ConfigError
from tests.support import graphs

PORTS = Ports(grpc=1, http=2, metrics=3)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def says(**versions):
    """A script that prints versions of distributions, as an environment's Python does."""
    return f"echo '{json.dumps({name.replace('_', '-'): version for name, version in versions.items()})}'"


def test_penstock_is_that_of_this_process_unless_another_is_named(environment):
    assert penstock.PEER.find(None).label == f"Penstock {serving.__version__}"
    assert penstock.PEER.find(None).python == Path(sys.executable)
    named = penstock.PEER.find(environment(says(penstock="9.9")))
    assert (named.label, named.root) == ("Penstock 9.9", None)


def test_penstock_runs_one_thread_unless_the_model_says_otherwise(affine, folder):
    launch = penstock.PEER.find(None).prepare(affine, folder, PORTS)
    model = folder / "models" / "affine"
    assert (model / "1" / "model.onnx").exists()
    assert (model / "model.toml").read_text() == "[session]\nintra_op_threads = 1\n"
    assert launch.arguments[1:4] == ("-m", "serving", "serve")
    assert "127.0.0.1" in launch.arguments
    assert launch.variables == {"PYTHONPATH": str(Path(serving.__file__).parents[1])}


def test_penstock_takes_the_model_s_own_configuration(affine, folder, tmp_path):
    (tmp_path / "model.toml").write_text("[instances]\ncount = 2\n")
    model = dataclasses.replace(affine, version=7, config=tmp_path / "model.toml")
    penstock.PEER.find(None).prepare(model, folder, PORTS)
    assert (folder / "models" / "affine" / "model.toml").read_text() == "[instances]\ncount = 2\n"
    assert (folder / "models" / "affine" / "7" / "model.onnx").exists()


@pytest.mark.parametrize("peer", [mlserver.PEER, kserve.PEER])
def test_a_peer_is_absent_without_an_environment_or_without_its_packages(peer, environment):
    with pytest.raises(PeerAbsent, match=f"--venv {peer.name}=PATH"):
        peer.find(None)
    with pytest.raises(PeerAbsent, match="no onnxruntime in its environment"):
        peer.find(environment(says(**{peer.name: "1.0"})))


def test_mlserver_gets_a_folder_of_its_settings(affine, folder, environment):
    found = mlserver.PEER.find(environment(says(mlserver="1.7.1", onnxruntime="1.30")))
    launch = found.prepare(affine, folder, PORTS)
    served = Path(launch.arguments[-1])
    settings = json.loads((served / "settings.json").read_text())
    assert (settings["host"], settings["grpc_port"], settings["debug"]) == ("127.0.0.1", 1, False)
    model = json.loads((served / "model-settings.json").read_text())
    assert model["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert model["parameters"]["uri"] == str(affine.path)
    assert not {"max_batch_size", "max_batch_time"} & set(model), "its batching stays as shipped"
    assert (served / "mlserver_runtime.py").exists()
    assert (found.label, launch.arguments[0]) == ("MLServer 1.7.1", str(found.python))


def test_mlserver_refuses_a_datatype_that_it_does_not_know(folder, environment, tmp_path):
    (tmp_path / "identity.onnx").write_bytes(graphs.identity("BF16"))
    found = mlserver.PEER.find(environment(says(mlserver="1.7.1", onnxruntime="1.30")))
    with pytest.raises(PeerFailed, match="does not know datatype BF16"):
        found.prepare(read_model(tmp_path / "identity.onnx"), folder, PORTS)


def test_kserve_gets_a_script_and_a_description_of_the_model(affine, folder, environment):
    found = kserve.PEER.find(environment(says(kserve="0.21.0", onnxruntime="1.30")))
    launch = found.prepare(affine, folder, PORTS)
    description = json.loads(Path(launch.arguments[2]).read_text())
    assert description["name"] == "affine"
    assert description["path"] == str(affine.path)
    assert description["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]
    assert Path(launch.arguments[1]).read_text() == kserve.SERVER.read_text()
    assert found.label == "KServe 0.21.0"


def server_folder(root, *backends):
    """A folder as tritonserver's images have it."""
    for name in ("bin/tritonserver", *backends):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
        (root / name).chmod(0o755)
    (root / "TRITON_VERSION").write_text("2.51.0\n")
    return root


NATIVE = "backends/onnxruntime/libtriton_onnxruntime.so"
PYTHON = "backends/python/triton_python_backend_stub"


@pytest.mark.parametrize("name", ["", "bin/tritonserver"])
def test_triton_is_found_by_its_folder_or_its_binary(tmp_path, name):
    found = triton.PEER.find(server_folder(tmp_path / "triton", NATIVE, PYTHON) / name)
    assert (found.root, found.is_native) == (tmp_path / "triton", True)
    assert found.label == "Triton 2.51.0 (onnxruntime backend)"


def test_triton_is_found_in_the_path(tmp_path, monkeypatch):
    root = server_folder(tmp_path / "triton", PYTHON)
    monkeypatch.setenv("PATH", str(root / "bin"))
    found = triton.PEER.find(None)
    assert (found.root, found.label) == (root, "Triton 2.51.0 (Python backend)")


def test_triton_is_absent_where_it_is_not_or_has_no_backend(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton, "_USUAL_FOLDER", tmp_path / "gone")
    with pytest.raises(PeerAbsent, match="no tritonserver in PATH; add --venv triton=PATH"):
        triton.PEER.find(None)
    with pytest.raises(PeerAbsent, match="neither an onnxruntime backend nor a Python backend"):
        triton.PEER.find(server_folder(tmp_path / "triton"))


def test_a_file_that_is_no_program_is_no_triton(tmp_path):
    (tmp_path / "text").write_text("")
    with pytest.raises(ConfigError, match="cannot be run; name the tritonserver binary"):
        triton.PEER.find(tmp_path / "text")


def test_a_folder_that_holds_neither_triton_nor_an_environment_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no virtual environment"):
        triton.PEER.find(tmp_path)


def pytriton(environment, tmp_path):
    """An environment with nvidia-pytriton, as far as it is looked at."""
    packages = tmp_path / "packages"
    server_folder(packages / "pytriton" / "tritonserver", "backends/python/libtriton_python.so",
                  "python_backend_stubs/3.11/triton_python_backend_stub")  # fmt: skip
    folders = {"purelib": str(packages), "platlib": str(packages), "libraries": "/lib", "minor": "3.11"}
    versions = {"nvidia-pytriton": "0.7.0", "onnxruntime": "1.30"}
    return environment(
        f"case $* in *sysconfig*) echo '{json.dumps(folders)}';; *) echo '{json.dumps(versions)}';; esac"
    )


def test_triton_of_an_environment_gets_the_stub_of_its_python(affine, folder, environment, tmp_path):
    found = triton.PEER.find(pytriton(environment, tmp_path))
    launch = found.prepare(affine, folder, PORTS)
    python = folder / "backends" / "python"
    assert (python / "triton_python_backend_stub").resolve() == found.stub
    assert (python / "libtriton_python.so").exists()
    assert f"--backend-directory={python.parent}" in launch.arguments
    assert launch.variables["PATH"].startswith(f"{tmp_path / 'environment' / 'bin'}:")
    assert (folder / "models" / "affine" / "1" / "model.py").exists()
    assert found.label == "Triton of pytriton 0.7.0 (Python backend)"
    assert all(f"--{name}-address=127.0.0.1" in launch.arguments for name in ("grpc", "http", "metrics"))


def test_triton_of_an_environment_whose_python_has_no_stub_is_absent(environment, tmp_path):
    path = pytriton(environment, tmp_path)
    (tmp_path / "packages/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub").unlink()
    with pytest.raises(PeerAbsent, match=r"has no python_backend_stubs/3\.11"):
        triton.PEER.find(path)


def test_triton_with_its_own_backend_gets_the_graph(affine, folder, tmp_path):
    found = triton.PEER.find(server_folder(tmp_path / "triton", NATIVE))
    launch = found.prepare(affine, folder, PORTS)
    assert (folder / "models" / "affine" / "1" / "model.onnx").exists()
    assert f"--backend-directory={tmp_path / 'triton' / 'backends'}" in launch.arguments
    config = (folder / "models" / "affine" / "config.pbtxt").read_text()
    assert 'backend: "onnxruntime"' in config
    assert 'key: "intra_op_thread_count" value: { string_value: "1" }' in config


def test_a_model_that_takes_rows_is_batched_by_triton(affine):
    lines = triton.config_of(affine, is_native=False).splitlines()
    assert "max_batch_size: 256" in lines
    assert "dynamic_batching { }" in lines
    assert 'input { name: "x" data_type: TYPE_FP32 dims: [4] }' in lines


def test_a_model_that_takes_no_rows_is_not_batched_by_triton(tmp_path):
    (tmp_path / "fixed.onnx").write_bytes(graphs.identity("BYTES", (2, 3)))
    lines = triton.config_of(read_model(tmp_path / "fixed.onnx"), is_native=False).splitlines()
    assert "max_batch_size: 0" in lines
    assert "dynamic_batching { }" not in lines
    assert 'input { name: "x" data_type: TYPE_STRING dims: [2, 3] }' in lines


def test_one_number_per_row_is_a_list_of_one_to_triton(tmp_path):
    (tmp_path / "flat.onnx").write_bytes(graphs.identity("INT64", ("rows",)))
    config = triton.config_of(read_model(tmp_path / "flat.onnx"), is_native=False)
    assert 'output { name: "y" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }' in config
