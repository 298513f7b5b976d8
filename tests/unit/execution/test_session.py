import gc
import os

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from serving.config import InstancesConfig, SessionConfig
from serving.errors import LoadError
from serving.execution.graph import Graph
from serving.execution.session import Session
from serving.types import DATATYPES, DYNAMIC, Datatype, Signature, TensorSpec
from tests.support import graphs


@pytest.fixture
def load(tmp_path):
    def load(graph, *, instances=None, **session):
        path = tmp_path / "model.onnx"
        path.write_bytes(graph)
        return Session(path, SessionConfig(**session), instances or InstancesConfig())

    return load


def values(datatype):
    """Three rows of four values that use the ends of the datatype's range."""
    if datatype is Datatype.BYTES:
        return np.array([["", "a", "é", "日本"], ["x\0y", " ", "\n", "z" * 100], ["1", "2", "3", "4"]], np.object_)
    if datatype is Datatype.BOOL:
        return np.array([[True, False, True, True]] * 3)
    if datatype is Datatype.BF16:
        return np.array([[0x3F80, 0xBF80, 0x7F80, 0x0001], [0xFFFF, 0x8000, 0x4049, 0x7FC0], [1, 2, 3, 4]], np.uint16)
    limits = np.iinfo(datatype.dtype) if datatype.dtype.kind in "iu" else np.finfo(datatype.dtype)
    return np.array([[limits.min, limits.max, 0, 1], [1, 2, 3, 4], [5, 6, 7, 8]], datatype.dtype)


def test_a_graph_of_bf16_and_texts_is_refused(load):
    nodes = [helper.make_node("Identity", [given], [taken]) for given, taken in (("x", "y"), ("s", "t"))]
    shape = ("rows", 4)
    graph = graphs.build(
        nodes, [("x", "BF16", shape), ("s", "BYTES", shape)], [("y", "BF16", shape), ("t", "BYTES", shape)]
    )
    with pytest.raises(LoadError, match="BF16 beside texts"):
        load(graph)


@pytest.mark.parametrize("datatype", Datatype)
def test_every_datatype_goes_through_a_graph_unchanged(load, datatype):
    session = load(graphs.identity(datatype.wire_name))
    assert session.signature == Signature(
        (TensorSpec("x", datatype, (DYNAMIC, 4)),), (TensorSpec("y", datatype, (DYNAMIC, 4)),), batchable=True
    )
    array = values(datatype)
    (output,) = session.run([array])
    assert output.dtype == datatype.dtype
    assert output.shape == array.shape
    assert output.tolist() == array.tolist() if datatype is Datatype.BYTES else output.tobytes() == array.tobytes()


@pytest.mark.parametrize("datatype", Datatype)
def test_zero_rows_go_through_every_graph(load, datatype):
    (output,) = load(graphs.identity(datatype.wire_name)).run([np.empty((0, 4), datatype.dtype)])
    assert output.shape == (0, 4)


def test_a_graph_in_memory_is_run_as_the_one_in_a_file(load):
    session = Session(Graph(graphs.affine()), SessionConfig(), InstancesConfig())
    assert session.signature == load(graphs.affine()).signature
    assert session.run([np.ones((1, 4), np.float32)])[0].tolist() == [[3, 3, 3, 3]]


def test_a_graph_in_memory_that_is_none_is_refused_by_what_it_is():
    with pytest.raises(LoadError, match="onnxruntime cannot load the graph of the package: "):
        Session(Graph(b"noise"), SessionConfig(), InstancesConfig())


def test_what_a_graph_says_of_itself_is_kept(load):
    model = onnx.load_from_string(graphs.affine())
    model.metadata_props.add(key="penstock.passes", value="slim")
    assert load(model.SerializeToString()).facts == {"penstock.passes": "slim"}


def test_outputs_outlive_their_session(load):
    session = load(graphs.identity("BF16"))
    plain = load(graphs.affine())
    outputs = session.run([values(Datatype.BF16)]) + plain.run([np.ones((2, 4), np.float32)])
    session.close()
    plain.close()
    gc.collect()
    assert outputs[0].tobytes() == values(Datatype.BF16).tobytes()
    np.testing.assert_array_equal(outputs[1], np.full((2, 4), 3, np.float32))


def test_inputs_and_outputs_keep_the_order_of_the_graph(load):
    session = load(graphs.add_and_subtract())
    assert [spec.name for spec in session.signature.inputs] == ["INPUT0", "INPUT1"]
    left, right = np.full((1, 16), 7, np.int64), np.full((1, 16), 5, np.int64)
    added, subtracted = session.run([left, right])
    assert (added[0, 0], subtracted[0, 0]) == (12, 2)


# ---- signatures ----------------------------------------------------------------------------------------------------


def test_a_fixed_first_dimension_is_not_batchable(load):
    signature = load(graphs.fixed_shape()).signature
    assert not signature.batchable
    assert signature.inputs[0].shape == (2, 3)


def test_open_dimensions_are_open(load):
    assert load(graphs.open_inner()).signature.inputs[0].shape == (DYNAMIC, DYNAMIC)


def test_a_graph_without_inputs_is_not_batchable(load):
    constant = helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0])
    graph = graphs.build([helper.make_node("Identity", ["c"], ["y"])], [], [("y", "FP32", (2,))], [constant])
    session = load(graph)
    assert session.signature.inputs == ()
    assert not session.signature.batchable
    assert session.run([])[0].tolist() == [1.0, 2.0]


def spec(name, *shape):
    return TensorSpec(name, Datatype.FP32, shape)


# ---- what does not load --------------------------------------------------------------------------------------------


def zipmap():
    """A classifier's probabilities as skl2onnx writes them by default: a list of dictionaries."""
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    output = helper.make_value_info("y", helper.make_sequence_type_proto(kind))
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])
    graph = helper.make_graph([node], "graph", [given], [output])
    opsets = [*graphs.OPSET, helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=graphs.IR_VERSION).SerializeToString()


def test_a_classifier_with_zipmap_is_refused_with_the_remedy(load):
    with pytest.raises(
        LoadError, match=r"output 'y' is a seq\(map.*cannot carry; convert the classifier with ZipMap off"
    ):
        load(zipmap())


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(LoadError, match=r"onnxruntime cannot load model\.onnx: ") as caught:
        Session(tmp_path / "model.onnx", SessionConfig(), InstancesConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\0" * 1000, b"\xff" * 1000])
def test_a_file_that_is_no_graph_is_one_line(load, content):
    with pytest.raises(LoadError, match=r"model\.onnx") as caught:
        load(content)
    assert "\n" not in str(caught.value)


def test_a_missing_provider_is_named_with_those_there_are(load):
    with pytest.raises(LoadError, match=r"MagicExecutionProvider is not available, there are .*CPUExecutionProvider"):
        load(graphs.affine(), providers=("MagicExecutionProvider", "CPUExecutionProvider"))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_a_gpu_without_onnxruntime_gpu_is_refused_with_the_remedy(load):
    with pytest.raises(LoadError, match=r"CUDAExecutionProvider is not available.*; install onnxruntime-gpu"):
        load(graphs.affine(), instances=InstancesConfig(kind="gpu"))


def test_onnxruntime_is_told_which_gpu_and_what_of_its_memory(load, monkeypatch):
    told = {}

    def refuse(_graph, _options, providers, provider_options):
        told.update(zip(providers, provider_options, strict=True))
        raise RuntimeError("there is none")

    providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    monkeypatch.setattr("serving.execution.session._find_libraries", lambda: None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(providers))
    monkeypatch.setattr(ort, "InferenceSession", refuse)
    for bound, limit in ((0, {}), (1 << 30, {"gpu_mem_limit": "1073741824"})):
        with pytest.raises(LoadError, match="there is none"):
            load(graphs.affine(), instances=InstancesConfig(gpus=(1,), gpu_memory_bytes_max=bound), providers=providers)
        assert told == {"CUDAExecutionProvider": {"device_id": "1", **limit}, "CPUExecutionProvider": {}}


def test_threads_follow_the_configuration(load):
    (output,) = load(graphs.affine(), intra_op_threads=2, inter_op_threads=2, spinning=True).run(
        [np.zeros((1, 4), np.float32)]
    )
    assert output.tolist() == [[1, 1, 1, 1]]


def test_every_datatype_of_the_protocol_has_a_type_of_onnx():
    assert set(graphs.ONNX_TYPES) == set(DATATYPES)


@pytest.mark.parametrize(
    ("config", "intra", "inter", "spinning"),
    [
        (SessionConfig(intra_op_threads=3, inter_op_threads=2, spinning=True), 3, 2, "1"),
        (SessionConfig(), 3, 1, "0"),  # the cores that this process may use, divided by two instances
    ],
)
def test_threads_and_spinning_reach_onnxruntime(tmp_path, monkeypatch, config, intra, inter, spinning):
    given = []
    load = ort.InferenceSession
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.setattr(
        ort, "InferenceSession", lambda path, options, **facts: given.append(options) or load(path, options, **facts)
    )
    (tmp_path / "model.onnx").write_bytes(graphs.affine())
    Session(tmp_path / "model.onnx", config, InstancesConfig(count=2)).close()
    (options,) = given
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (intra, inter)
    for pool in ("intra", "inter"):
        assert options.get_session_config_entry(f"session.{pool}_op.allow_spinning") == spinning
