import numpy as np
import onnx
import pytest

from bench.peers.model import read_model
from serving.errors import ConfigError
from serving.types import Datatype
from tests.support import graphs


def write(path, graph):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(graph)
    return path


def test_a_file_is_a_model_of_its_own_name(tmp_path):
    model = read_model(write(tmp_path / "scores.onnx", graphs.affine()))
    assert (model.name, model.version, model.data_files, model.config) == ("scores", 1, (), None)


def test_a_file_in_a_model_repository_has_the_name_of_its_model(tmp_path):
    assert read_model(write(tmp_path / "scores" / "3" / "model.onnx", graphs.affine())).name == "scores"


def test_a_name_can_be_given(tmp_path):
    assert read_model(write(tmp_path / "scores.onnx", graphs.affine()), "other").name == "other"


@pytest.mark.parametrize("name", [".hidden", "two\nlines", "a/b"])
def test_a_name_that_no_folder_can_have_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="model name"):
        read_model(write(tmp_path / "scores.onnx", graphs.affine()), name)


def test_the_newest_version_of_a_folder_is_taken(tmp_path):
    for version in (2, 10, 9):
        path = write(tmp_path / "scores" / str(version) / "model.onnx", graphs.affine(scale=version))
    model = read_model(path.parents[1])
    assert (model.name, model.version, model.path) == ("scores", 10, tmp_path / "scores" / "10" / "model.onnx")


def test_a_folder_s_version_policy_chooses(tmp_path):
    for version in (1, 2):
        write(tmp_path / "scores" / str(version) / "model.onnx", graphs.affine())
    config = tmp_path / "scores" / "model.toml"
    config.write_text('version_policy = "specific(1)"')
    model = read_model(tmp_path / "scores")
    assert (model.version, model.config) == (1, config)


def test_tensors_are_the_graph_s(tmp_path):
    model = read_model(write(tmp_path / "simple.onnx", graphs.add_and_subtract()))
    assert [spec.name for spec in model.signature.inputs] == ["INPUT0", "INPUT1"]
    assert {spec.datatype for spec in model.signature.outputs} == {Datatype.INT64}
    metadata = model.metadata()
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        (spec.name, "INT64", list(spec.shape)) for spec in model.signature.inputs
    ]
    assert [tensor.name for tensor in metadata.outputs] == [spec.name for spec in model.signature.outputs]


def with_weights(path):
    """A graph whose weights lie in a file beside it."""
    graph = onnx.load_from_string(graphs.affine())
    for tensor in graph.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=0)


def test_weights_beside_the_graph_go_with_it_and_other_files_do_not(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "unrelated.csv").write_text("1,2")
    with_weights(source / "affine.onnx")
    model = read_model(source / "affine.onnx")
    model.copy_to(tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["model.onnx", "weights.bin"]
    rows = np.ones((2, 4), np.float32)
    assert np.array_equal(read_model(tmp_path / "copy" / "model.onnx").open().run([rows])[0], 2 * rows + 1)


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"bad\.onnx: onnxruntime cannot load"):
        read_model(write(tmp_path / "bad.onnx", b"no graph"))


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"does not exist; name an \.onnx file"):
        read_model(tmp_path / "gone")


def test_a_folder_without_versions_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no version to serve"):
        read_model(tmp_path)
