"""Pipelines on a GPU: batches in chunks, batches of all sizes one after the other, and what is left to the CPU."""

import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.gpu import streams
from serving.gpu.memory import GpuArray, foreign
from serving.pipeline.flaws import RefusedRowsError
from serving.types import DYNAMIC, Datatype, TensorSpec

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the simulator computes with numpy
FP32_OF_3 = TensorSpec("x", Datatype.FP32, (DYNAMIC, 3))
SCALE = {"step": "scale", "input": "x", "mean": 1.0, "scale": 2.0}


def numbers(rows, columns=3):
    return np.random.default_rng(rows).normal(size=(rows, columns)).astype(np.float32)


@pytest.fixture(params=[1, 50, 10_000], ids="chunks of {} bytes".format)
def chunked(request, monkeypatch):
    monkeypatch.setattr(streams, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("chunked")
def test_chunks_of_a_batch_are_the_batch(both):
    cpu, gpu = both(PipelineConfig(preprocess=(SCALE,)), [FP32_OF_3])
    for rows in (7, 1, 0, 12, 3):
        given = numbers(rows)
        (result,) = gpu.preprocess([given], "test")
        assert isinstance(result, GpuArray)
        np.testing.assert_allclose(np.asarray(result), cpu.preprocess([given], "test")[0], rtol=2e-6)


@pytest.mark.usefixtures("chunked")
def test_a_refused_row_has_its_place_in_the_batch(both):
    _, gpu = both(PipelineConfig(preprocess=({"step": "finite", "input": "x"},)), [FP32_OF_3])
    given = numbers(9)
    given[5, 2] = np.nan
    given[8, 0] = np.inf
    with pytest.raises(RefusedRowsError) as caught:
        gpu.preprocess([given], "test")
    assert caught.value.reasons == {
        5: "finite of 'x': nan came in column 2, expected finite numbers",
        8: "finite of 'x': inf came in column 0, expected finite numbers",
    }
    given = numbers(9)  # marks of the run before are gone
    assert np.asarray(gpu.preprocess([given], "test")[0]).tolist() == given.tolist()


def test_refused_rows_are_some_numbers_when_nobody_asks(both):
    _, gpu = both(PipelineConfig(preprocess=({"step": "finite", "input": "x"},)), [FP32_OF_3])
    given = np.full((2, 3), np.nan, np.float32)
    assert np.isnan(np.asarray(gpu.preprocess([given], "test", is_strict=False)[0])).all()


def test_two_runners_do_not_share_buffers(both):
    _, gpu = both(PipelineConfig(preprocess=(SCALE,)), [FP32_OF_3])
    first, second = (gpu.preprocess([numbers(4) + shift], shift)[0] for shift in (0, 100))
    np.testing.assert_allclose(np.asarray(first) + 50, np.asarray(second), rtol=1e-5)


def test_an_input_that_no_step_changes_is_brought_to_the_gpu(both):
    other = TensorSpec("other", Datatype.INT64, (DYNAMIC, DYNAMIC))
    _, gpu = both(PipelineConfig(preprocess=(SCALE,)), [FP32_OF_3, other])
    for width in (2, 5):  # an open dimension may differ from run to run
        wanted = np.arange(3 * width).reshape(3, width)
        given = {"x": numbers(3), "other": wanted}
        results = gpu.preprocess([given[spec.name] for spec in gpu.signature.inputs], "test")
        assert all(isinstance(result, GpuArray) for result in results)
        assert np.asarray(results[1]).tolist() == wanted.tolist()


def test_what_the_cpu_alone_can_do_comes_first_and_last(both):
    one_hot = {"step": "one_hot", "input": "x", "categories": [[0, 1], [0, 1, 2]]}
    config = PipelineConfig(
        inputs=({"name": "x", "datatype": "INT64", "shape": [-1, 2]},),
        preprocess=(one_hot, {"step": "scale", "input": "x", "scale": 0.5}),
        postprocess=({"step": "softmax", "input": "y"}, {"step": "argmax", "input": "y", "labels": ["a", "b", "c"]}),
    )
    specs = [TensorSpec("x", Datatype.FP32, (DYNAMIC, 5))], [TensorSpec("y", Datatype.FP32, (DYNAMIC, 3))]
    cpu, gpu = both(config, *specs)
    places = [(line["when"], line["steps"], line["runs_on"]) for line in gpu.report()]
    assert places == [
        ("before", ["one_hot"], "cpu"), ("before", ["scale"], "gpu"),
        ("after", ["softmax", "argmax"], "gpu"), ("after", ["argmax"], "cpu"),
    ]  # fmt: skip
    given, outputs = np.array([[1, 2], [0, 0]]), numbers(2)
    results = [np.asarray(each.preprocess([given], "test")[0]).tolist() for each in (cpu, gpu)]
    assert results[0] == results[1] == [[0, 2, 0, 0, 2], [2, 0, 2, 0, 0]]
    answers = [each.postprocess([outputs], "test", [given])[0].tolist() for each in (cpu, gpu)]
    assert answers[0] == answers[1]
    assert all(line["rows"] >= 2 and line["ns_per_row"] > 0 for line in gpu.report())


def test_what_lies_on_the_gpu_is_not_copied(both):
    _, gpu = both(PipelineConfig(postprocess=({"step": "sigmoid", "input": "x"},)), outputs=[FP32_OF_3])
    (there,) = both(PipelineConfig(preprocess=(SCALE,)), [FP32_OF_3])[1].preprocess([numbers(4)], "test")
    again = foreign(there.address, there.shape, there.dtype, gpu=there.gpu, owner=there)
    assert np.asarray(again).tolist() == np.asarray(there).tolist()
    answers = [gpu.postprocess([given], "test", ())[0].tolist() for given in (there, again, np.asarray(there))]
    assert answers[0] == answers[1] == answers[2]


def test_an_output_of_another_shape_than_promised_is_refused(both):
    _, gpu = both(PipelineConfig(postprocess=({"step": "sigmoid", "input": "x"},)), outputs=[FP32_OF_3])
    with pytest.raises(ValueError, match=r"tensor 'x' is float32 \[4, 2\], expected float32 \[4, 3\]"):
        gpu.postprocess([numbers(4, columns=2)], "test", ())


def test_answers_outlive_the_next_run(both):
    _, gpu = both(PipelineConfig(postprocess=({"step": "sigmoid", "input": "x"},)), outputs=[FP32_OF_3])
    first = gpu.postprocess([numbers(4)], "test", ())[0]
    kept = first.copy()
    gpu.postprocess([numbers(4) + 5], "test", ())
    assert first.tolist() == kept.tolist()
