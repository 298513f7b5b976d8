"""Packages in a model repository: served when every byte is what it should be, and refused with a reason when not."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.errors import ConfigError, LoadFailed, RemoteError
from serving.package import read, write
from serving.package.signing import signer
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import Client
from serving.types import Datatype, Signature, TensorSpec
from tests.support import graphs
from tests.support.command_line import run
from tests.support.packages import blob_path, contents, manifest_of, write_key_pair
from tests.support.servers import server_thread


def index_of(client):
    answer = client.call("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
    return {f"{entry.name}/{entry.version}": (entry.state, entry.reason) for entry in answer.models}


def digest_shown(client, name):
    answer = client.call("ModelConfig", pb.ModelConfigRequest(name=name), pb.ModelConfigResponse)
    return answer.config.parameters["package_digest"].string_value


def ask(client, name="affine"):
    _, outputs = client.infer(name, {"x": (Datatype.FP32, np.ones((1, 4), np.float32))})
    return outputs["y"].tolist()


@pytest.mark.parametrize("place", ["affine/1", "affine/1.tar"])
def test_a_package_is_served_and_its_digest_is_shown(repository, transport, place):
    digest = write(contents(), repository / place)
    (repository / "affine/model.toml").write_text("[batching]\nbatch_rows_max = 2\n")
    with server_thread(repository, **transport) as server, Client(server.address) as client:
        assert ask(client) == [[3, 3, 3, 3]]
        assert digest_shown(client, "affine") == digest
        with pytest.raises(RemoteError, match="batch_rows_max = 2"):
            client.infer("affine", {"x": (Datatype.FP32, np.ones((3, 4), np.float32))})


def test_a_plain_folder_has_no_digest(repository):
    graphs.write_model(repository, "affine", graphs.affine())
    with server_thread(repository) as server, Client(server.address) as client:
        assert digest_shown(client, "affine") == ""


def graph_with_external_weights():
    """y = x + w, whose w lies in a file of its own."""
    weights = np.arange(4, dtype=np.float32).tobytes()
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "data/w.bin"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    node = helper.make_node("Add", ["x", "w"], ["y"])
    graph = graphs.build([node], [("x", "FP32", ("rows", 4))], [("y", "FP32", ("rows", 4))], [tensor])
    return graph, {"data/w.bin": weights}


def test_weights_beside_the_graph_come_from_the_package(repository):
    model, weights = graph_with_external_weights()
    write(contents(model=model, weights=weights), repository / "affine/1")
    with server_thread(repository) as server, Client(server.address) as client:
        assert ask(client) == [[1, 2, 3, 4]]


def damage(package, title):
    layer = next(item for item in manifest_of(package)["layers"] if title in item["annotations"].values())
    path = blob_path(package, layer["digest"])
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def with_link(package):
    path = package / "blobs"
    path.rename(package.parent.parent.parent / "elsewhere")
    path.symlink_to(package.parent.parent.parent / "elsewhere")


FAULTS = {
    "damaged graph": (lambda package: damage(package, "model.onnx"), "is damaged"),
    "damaged profile": (lambda package: damage(package, "profile.npz"), "is damaged"),
    "missing blob": (lambda package: next((package / "blobs/sha256").iterdir()).unlink(), "is missing"),
    "no layout": (lambda package: (package / "oci-layout").unlink(), "no model.onnx in version 1, and no package"),
    "no index": (lambda package: (package / "index.json").unlink(), "index.json is missing"),
    "link": (with_link, "cannot be opened as a plain file"),
    "graph beside": (lambda package: (package / "model.onnx").write_bytes(b""), "holds both model.onnx and a package"),
    "tar beside": (
        lambda package: (package.parent / "1.tar").write_bytes(b"x"),
        "there is a folder and a tar of this version",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_package_that_is_not_what_it_says_is_refused_and_the_version_before_serves(repository, fault):
    change, message = FAULTS[fault]
    graphs.write_model(repository, "affine", graphs.affine(), version=0)
    write(contents(), repository / "affine/1")
    change(repository / "affine/1")
    with server_thread(repository) as server, Client(server.address) as client:
        index = index_of(client)
        assert index["affine/0"] == ("READY", "")
        state, reason = index["affine/1"]
        assert state == "UNAVAILABLE"
        assert message in reason
        assert "\n" not in reason
        assert ask(client) == [[3, 3, 3, 3]]


def test_a_package_whose_signature_is_not_its_graphs_is_refused(repository):
    other = Signature((TensorSpec("z", Datatype.FP32, (-1, 4)),), contents().signature.outputs, batchable=True)
    write(contents(signature=other, columns={}), repository / "affine/1")
    with server_thread(repository) as server, Client(server.address) as client:
        assert "the package says inputs z FP32, the graph has x FP32" in index_of(client)["affine/1"][1]


def test_a_package_that_arrives_is_followed(repository):
    write(contents(), repository / "affine/1")
    with server_thread(repository, poll_interval_s=0.05) as server, Client(server.address) as client:
        first = digest_shown(client, "affine")
        write(contents(model=graphs.affine(scale=3.0)), repository / "affine/2.tar")
        server.wait_until(lambda: server.server._repository.ready_versions("affine") == [2])
        assert ask(client) == [[4, 4, 4, 4]]
        assert digest_shown(client, "affine") != first


# ---- signatures ----------------------------------------------------------------------------------------------------


def test_with_keys_only_packages_that_one_of_them_signed_are_loaded(repository, tmp_path):
    private, public = write_key_pair(tmp_path)
    (tmp_path / "other").mkdir()
    stranger, _ = write_key_pair(tmp_path / "other")
    write(contents(), repository / "good/1", sign=signer(private))
    write(contents(), repository / "packed/1.tar", sign=signer(private))
    write(contents(), repository / "unsigned/1")
    write(contents(), repository / "strange/1", sign=signer(stranger))
    graphs.write_model(repository, "plain", graphs.affine())
    with server_thread(repository, package_keys=str(public.parent)) as server, Client(server.address) as client:
        index = index_of(client)
        assert index["good/1"] == index["packed/1"] == ("READY", "")
        assert "the package is not signed" in index["unsigned/1"][1]
        assert "does not hold; add that key when you trust it" in index["strange/1"][1]
        assert "loads only signed ones (--package-keys); pack it with --sign-key" in index["plain/1"][1]
        assert ask(client, "good") == [[3, 3, 3, 3]]


def test_a_key_that_is_taken_away_counts_at_the_next_load(repository, tmp_path):
    private, public = write_key_pair(tmp_path)
    _, other = write_key_pair(tmp_path, "other")
    write(contents(), repository / "affine/1", sign=signer(private))
    with server_thread(repository, package_keys=str(other.parent)) as server:
        public.unlink()
        write(contents(name="b"), repository / "affine/2", sign=signer(private))
        with pytest.raises(LoadFailed, match=r"version 2: .*does not hold"):
            server.server._repository.load("affine")
        assert server.server._repository.ready_versions("affine") == [1]


def test_a_folder_without_keys_keeps_the_server_from_starting(repository, tmp_path):
    with pytest.raises(ConfigError, match=r"the folder of keys .*gone cannot be read"), \
            server_thread(repository, package_keys=str(tmp_path / "gone")):  # fmt: skip
        pass


def test_the_digest_in_the_repository_is_the_one_read(repository):
    assert write(contents(), repository / "affine/1") == read(repository / "affine/1").digest


def test_models_list_shows_which_package_serves(repository, capsys):
    digest = write(contents(), repository / "affine/1")
    write(contents(), repository / "damaged/1")
    damage(repository / "damaged/1", "model.onnx")
    graphs.write_model(repository, "plain", graphs.affine())
    with server_thread(repository) as server:
        assert run("models", "list", "--address", server.address) == 0
    lines = {line.split()[0]: line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()}
    assert lines["affine"][1:] == ["1", "READY", digest[:19]]
    assert lines["plain"][1:] == ["1", "READY", "-"]
    assert lines["damaged"][1:4] == ["1", "UNAVAILABLE", "-"]
    assert "is damaged" in lines["damaged"][4]
