from pathlib import Path

import numpy as np
import pytest
from sklearn.utils import murmurhash3_32

from serving.config import ModelConfig, PipelineConfig, build
from serving.errors import ConfigError, LoadError
from serving.pipeline.composition import Surroundings, compose
from serving.pipeline.files import FolderFiles
from serving.pipeline.passes import passes_of
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec
from tests.support.pipelines import after, before, pipeline

MODEL = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, 3)),), (TensorSpec("scores", Datatype.FP32, (DYNAMIC, 4)),), True
)
RAW = {"name": "raw", "datatype": "FP64", "shape": [-1, 3]}
CAST = {"step": "cast", "input": "raw", "output": "x", "datatype": "FP32"}


def composed(model=MODEL, folder=Path(), **tables):
    return compose(
        PipelineConfig(**{key: tuple(value) for key, value in tables.items()}), model, Surroundings(FolderFiles(folder))
    )


def why_not(model=MODEL, folder=Path(), **tables):
    with pytest.raises(LoadError) as caught:
        composed(model, folder, **tables)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clients_see_what_the_first_steps_read_and_what_the_last_ones_write():
    signature = composed(
        inputs=[RAW],
        preprocess=[CAST],
        postprocess=[{"step": "softmax", "input": "scores", "output": "probabilities"}],
    ).signature
    assert signature.inputs == (TensorSpec("raw", Datatype.FP64, (DYNAMIC, 3)),)
    assert signature.outputs == (TensorSpec("probabilities", Datatype.FP32, (DYNAMIC, 4)),)
    assert signature.batchable


def test_what_no_step_touches_keeps_the_models_own_name_and_shape():
    signature = composed(postprocess=[{"step": "sigmoid", "input": "scores"}]).signature
    assert signature.inputs == MODEL.inputs
    assert signature.outputs == MODEL.outputs


def test_an_input_that_a_step_reads_under_the_models_name_needs_no_declaration():
    signature = composed(preprocess=[{"step": "clip", "input": "x", "min": 0.0, "max": 1.0}]).signature
    assert signature.inputs == MODEL.inputs


def test_outputs_choose_and_order_the_answer():
    steps = [
        {"step": "softmax", "input": "scores", "output": "p"},
        {"step": "argmax", "input": "p", "output": "label", "labels": ["a", "b", "c", "d"]},
    ]
    names = [spec.name for spec in composed(postprocess=steps).signature.outputs]
    assert names == ["label"]  # the probabilities were read, so they are no answer unless asked for
    chosen = composed(postprocess=steps, outputs=["p", "label", "scores"]).signature.outputs
    assert [(spec.name, spec.datatype) for spec in chosen] == [
        ("p", Datatype.FP32), ("label", Datatype.BYTES), ("scores", Datatype.FP32),
    ]  # fmt: skip


def test_labels_come_from_a_list_or_from_a_file_of_the_version(tmp_path):
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    step = {"step": "top_k", "input": "scores", "k": 2, "labels_file": "names.txt"}
    outputs = composed(folder=tmp_path, postprocess=[step]).signature.outputs
    assert [(spec.name, spec.datatype) for spec in outputs] == [("scores", Datatype.FP32), ("labels", Datatype.BYTES)]
    rows = np.array([[1, 4, 3, 2]], np.float32)
    named = after([{"step": "top_k", "input": "scores", "k": 2, "labels": list("abcd")}], {"scores": rows})
    assert named["labels"].tolist() == [["b", "c"]]


UNKNOWN = [
    ({"preprocess": [{"step": "scael", "input": "x"}]}, "unknown step 'scael'; did you mean 'scale'?"),
    ({"preprocess": [{"step": "softmax", "input": "x"}]}, "unknown step 'softmax'"),
    ({"postprocess": [{"step": "nms", "input": "scores"}]}, "unknown step 'nms'"),
    ({"preprocess": [{"input": "x"}]}, "has no step"),
    ({"preprocess": [{"step": "scale", "input": "x", "means": 1.0}]}, "unknown key 'means'; did you mean 'mean'?"),
    ({"preprocess": [{"step": "scale", "input": "y"}]}, "there is no tensor 'y'"),
    ({"preprocess": [{"step": "scale"}]}, "input is missing"),
    ({"preprocess": [{"step": "scale", "input": "x", "inputs": ["x"]}]}, "both input and inputs"),
    ({"preprocess": [{"step": "scale", "input": 3}]}, "input = 3"),
    ({"postprocess": [], "outputs": ["score"]}, "there is no tensor 'score'; did you mean 'scores'?"),
    ({"outputs": ["scores", "scores"]}, "a name is there twice"),
    ({"inputs": [RAW, RAW]}, "'raw' is there twice"),
    ({"inputs": [RAW]}, "'raw' is read by no step"),
    ({"inputs": [{**RAW, "shape": [2, 3]}]}, "expected -1 in front"),
    ({"inputs": [{**RAW, "shape": "x"}]}, "shape = 'x'"),
    ({"inputs": [{**RAW, "datatype": "FP23"}]}, "did you mean 'FP32'?"),
    ({"inputs": [{**RAW, "extra": 1}]}, "unknown key 'extra'"),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "message"), UNKNOWN)
def test_a_name_that_stands_for_nothing_is_refused(tables, message):
    assert message in why_not(**tables)


WRONG = [
    ([{"step": "cast", "input": "raw", "output": "x", "datatype": "FP64"}], "makes 'x' FP64, the model takes FP32"),
    ([{"step": "select", "input": "x", "columns": [0]}], "makes 'x' [-1, 1], the model takes [-1, 3]"),
    ([{"step": "select", "input": "x", "columns": [3]}], "there is no column 3"),
    ([{"step": "scale", "input": "x", "mean": [1.0, 2.0]}], "mean has 2 numbers, expected 3"),
    ([{"step": "scale", "input": "x", "scale": [1.0, 0.0, 1.0]}], "scale holds a 0"),
    ([{"step": "scale", "input": "x", "mean": 1e300}], "does not fit FP32"),
    ([{"step": "scale", "input": "x", "mean": "much"}], "mean = 'much', expected finite numbers"),
    ([{"step": "scale", "input": "x", "mean": float("nan")}], "expected finite numbers"),
    ([{"step": "impute", "input": "x"}], "value is missing"),
    ([{"step": "clip", "input": "x", "min": 2, "max": 1}], "min is above max"),
    ([{"step": "bucketise", "input": "x", "boundaries": [1, 1]}], "must be larger"),
    ([{"step": "cast", "input": "x", "datatype": "FP42"}], "datatype = 'FP42'"),
    ([{"step": "one_hot", "input": "x", "categories": [["a"]]}], "lists for 1 columns, the tensor has 3"),
    ([{"step": "one_hot", "input": "x", "categories": [["a"], [1], [2]]}], "expected values that fit FP32"),
    ([{"step": "one_hot", "input": "x", "categories": [[1, 1], [1], [2]]}], "a value is there twice"),
    ([{"step": "one_hot", "input": "x", "categories": [[1], [1], [2]], "unknown": "refsue"}], "did you mean 'refuse'?"),
    ([{"step": "hash", "input": "x", "buckets": 5}], "expected BYTES or integers"),
    ([{"step": "concat", "inputs": ["x"]}], "expected two or more"),
    ([{"step": "concat", "inputs": ["x", "raw"]}], "'x' is FP32 and 'raw' is FP64"),
    ([{"step": "scale", "input": "x", "outputs": ["a", "b"]}], "expected 1 names"),
    ([{"step": "scale", "input": "x", "output": "a", "outputs": ["a"]}], "both output and outputs"),
    ([{"step": "scale", "inputs": ["x", "x"]}], "2 inputs are named, expected one"),
    ([{"step": "one_hot", "input": "x", "categories": [[{}], [1], [2]]}], "expected a list of values"),
    ([{"step": "one_hot", "input": "x", "categories": [[[1]], [1], [2]]}], "expected a list of values"),
    ([{"step": "one_hot", "input": "x", "categories": [[1 << 24, (1 << 24) + 1], [1], [2]]}], "the same in FP32"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "message"), WRONG)
def test_types_shapes_and_parameters_are_checked_when_a_model_is_loaded(steps, message):
    inputs = [RAW] if any("raw" in str(step) for step in steps) else []
    assert message in why_not(inputs=inputs, preprocess=steps)


def test_a_model_whose_rows_are_not_counted_by_its_first_dimension_has_no_pipeline():
    model = Signature(MODEL.inputs, MODEL.outputs, batchable=False)
    assert "first dimension" in why_not(model, postprocess=[{"step": "sigmoid", "input": "scores"}])


@pytest.mark.parametrize("name", ["../secret.txt", "/etc/passwd", "link.txt"])
def test_a_file_outside_of_the_version_is_not_read(tmp_path, name):
    folder = tmp_path / "1"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("a\nb\nc\nd\n")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    step = {"step": "argmax", "input": "scores", "labels_file": name}
    assert "lies outside of the version's folder" in why_not(folder=folder, postprocess=[step])


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ("a\nb\nc\nd\n", ["a", "b", "c", "d"]),
        ("a\r\nb\r\nc\r\nd", ["a", "b", "c", "d"]),
        ("\ufeffa\nb\nc\nd\n", ["a", "b", "c", "d"]),
        ("a\u2028\x0c\nb c\n\nÅ\n", ["a\u2028\x0c", "b c", "", "Å"]),
    ],
)
def test_the_lines_of_a_file_are_labels(tmp_path, content, labels):
    (tmp_path / "labels.txt").write_bytes(content.encode())
    step = {"step": "argmax", "input": "scores", "labels_file": "labels.txt"}
    built = pipeline(PipelineConfig(postprocess=(step,)), MODEL.inputs, MODEL.outputs, folder=tmp_path)
    assert built.postprocess([np.eye(4, dtype=np.float32)], "test", ())[0].tolist() == labels


@pytest.mark.parametrize(
    ("content", "message"), [(b"a\n\xff\nc\nd", "'labels.txt' is not valid UTF-8 (byte 2)"), (b"", "0 labels")]
)
def test_a_file_that_holds_no_labels_is_refused(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    step = {"step": "argmax", "input": "scores", "labels_file": "labels.txt"}
    assert message in why_not(folder=tmp_path, postprocess=[step])


@pytest.mark.parametrize("shape", [[-1, 1 << 60], [-1, *[1] * 40], [-1, 1 << 31, 1 << 31], [], [-2]])
def test_a_shape_that_no_request_could_have_is_refused(shape):
    words = why_not(inputs=[{"name": "raw", "datatype": "FP32", "shape": shape}])
    assert "expected a list of lengths" in words or "bytes, expected at most" in words


def test_a_file_that_is_missing_is_named(tmp_path):
    step = {"step": "argmax", "input": "scores", "labels_file": "labels.txt"}
    assert "'labels.txt' in the version's folder cannot be read: No such file" in why_not(
        folder=tmp_path, postprocess=[step]
    )


def test_neighbours_that_work_on_one_number_are_one_pass():
    steps = [
        {"step": "impute", "input": "raw", "value": 0.0},
        {"step": "scale", "input": "raw", "mean": 1.0},
        CAST,
    ]
    chain = passes_of(composed(inputs=[RAW], preprocess=steps).before)
    assert [[step.name for step in each.steps] for each in chain] == [["impute", "scale", "cast"]]


def test_a_tensor_that_somebody_else_reads_too_ends_a_pass():
    steps = [
        {"step": "sigmoid", "input": "scores"},
        {"step": "threshold", "input": "scores", "minimum": 0.5, "output": "is_it"},
    ]
    kept = passes_of(composed(postprocess=steps, outputs=["scores", "is_it"]).after)
    assert [len(each.steps) for each in kept] == [1, 1]
    consumed = passes_of(composed(postprocess=steps).after)
    assert [len(each.steps) for each in consumed] == [2]


def test_the_tables_of_model_toml_become_a_pipeline():
    table = {"inputs": [RAW], "preprocess": [CAST], "outputs": ["scores"]}
    config = build(ModelConfig, {"pipeline": table}).pipeline
    assert config.preprocess == (CAST,)
    assert not config.is_empty
    assert ModelConfig().pipeline.is_empty
    with pytest.raises(ConfigError, match="expected a list of tables"):
        build(ModelConfig, {"pipeline": {"preprocess": "scale"}})


def test_what_a_model_gives_is_checked_before_compiled_code_indexes_it():
    built = pipeline(PipelineConfig(postprocess=({"step": "softmax", "input": "scores"},)), outputs=MODEL.outputs)
    for wrong in (np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float64), np.zeros(2, np.float32)):
        with pytest.raises(ValueError, match="tensor 'scores' is"):
            built.postprocess([wrong], "test", ())


def test_answers_outlive_the_next_run_and_buffers_of_preprocessing_are_used_again():
    config = PipelineConfig(
        preprocess=({"step": "clip", "input": "x", "min": 0.0, "max": 9.0},),
        postprocess=({"step": "sigmoid", "input": "scores"},),
    )
    built = pipeline(config, MODEL.inputs, MODEL.outputs)
    first, second = (built.preprocess([np.full((2, 3), value, np.float32)], "test")[0] for value in (1, 2))
    assert np.shares_memory(first, second)
    other = built.preprocess([np.zeros((2, 3), np.float32)], "another runner")[0]
    assert not np.shares_memory(first, other)
    answers = [built.postprocess([np.full((2, 4), value, np.float32)], "test", ())[0] for value in (0, 50)]
    np.testing.assert_allclose(answers, [np.full((2, 4), 0.5), np.ones((2, 4))])


def test_the_report_counts_rows_and_time_of_every_pass():
    built = pipeline(
        PipelineConfig(preprocess=({"step": "clip", "input": "x", "min": 0.0, "max": 8.5},)),
        MODEL.inputs,
        MODEL.outputs,
    )
    assert built.report()[0]["ns_per_row"] is None
    built.preprocess([np.zeros((5, 3), np.float32)], "test")
    (line,) = built.report()
    assert line["steps"] == ["clip"]
    assert (line["rows"], line["compiled"]) == (5, True)
    assert line["ns_per_row"] > 0
    assert line["reads"] == ["x FP32 [-1, 3]"]


def test_strings_are_hashed_as_scikit_learn_hashes_them():
    texts = ["", "a", "ab", "abc", "Ångström", "a longer text, of several blocks"]
    rows = np.array([[text] for text in texts], object)
    expected = np.array([[murmurhash3_32(text, seed=7, positive=True) % 1_000_003] for text in texts], np.int64)
    step = {"step": "hash", "input": "x", "buckets": 1_000_003, "seed": 7}
    np.testing.assert_array_equal(before([step], {"x": rows}, expected), expected)
