import numpy as np
import pytest

from serving.errors import ConfigError
from serving.scoring.opened import open_model
from serving.scoring.run import Settings, score
from serving.tables.sources import open_source
from tests.support import graphs

ROWS = 23


def model_of(tmp_path, graph):
    (tmp_path / "model.onnx").write_bytes(graph)
    return open_model(tmp_path)


def run(model, values, out, *, progress=lambda rows, total: None, identity=1, **settings):
    source = open_source(values)
    settings = Settings(**{"checkpoint_rows": 5, "batch_rows": 2, **settings})
    return score(model, source, out, settings=settings, identity={"it": identity}, progress=progress)


def rows_of(count=ROWS):
    return {"x": np.arange(4 * count, dtype=np.float32).reshape(count, 4)}


def answers(path):
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def test_every_row_is_scored(tmp_path):
    seen = []
    count = run(
        model_of(tmp_path, graphs.affine()), rows_of(), tmp_path / "y.npz", progress=lambda *at: seen.append(at)
    )
    assert count == ROWS
    assert seen == [(rows, ROWS) for rows in (0, 5, 10, 15, 20, 23)]
    np.testing.assert_array_equal(answers(tmp_path / "y.npz")["y"], 2 * rows_of()["x"] + 1)
    assert not (tmp_path / "y.npz.part").exists()


class Killed(BaseException):
    """Ends a run as a signal would, at a place that the test chooses."""


def killed_after(rows):
    def progress(done, total):
        if done >= rows:
            raise Killed

    return progress


@pytest.mark.parametrize("kind", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("rows", [0, 5, 15, 23])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path, kind, rows):
    model = model_of(tmp_path, graphs.affine())
    run(model, rows_of(), tmp_path / f"whole.{kind}")
    out = tmp_path / f"y.{kind}"
    with pytest.raises(Killed):
        run(model, rows_of(), out, progress=killed_after(rows))
    assert not out.exists()
    seen = []
    run(model, rows_of(), out, progress=lambda *at: seen.append(at))
    assert seen[0] == (rows, ROWS)
    assert out.read_bytes() == (tmp_path / f"whole.{kind}").read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"identity": 2}, {"batch_rows": 3}, {"checkpoint_rows": 6}, {"outputs": ("OUTPUT1",)}],
    ids=lambda change: next(iter(change)),
)
def test_another_job_begins_anew(tmp_path, change):
    model = model_of(tmp_path, graphs.add_and_subtract())
    values = {name: np.arange(16 * ROWS).reshape(ROWS, 16) for name in ("INPUT0", "INPUT1")}
    with pytest.raises(Killed):
        run(model, values, tmp_path / "y.npz", progress=killed_after(10))
    seen = []
    run(model, values, tmp_path / "y.npz", progress=lambda *at: seen.append(at), **change)
    assert seen[0] == (0, ROWS)


def test_another_model_begins_anew(tmp_path):
    with pytest.raises(Killed):
        run(model_of(tmp_path, graphs.affine()), rows_of(), tmp_path / "y.npz", progress=killed_after(10))
    run(model_of(tmp_path, graphs.affine(scale=5.0)), rows_of(), tmp_path / "y.npz")
    np.testing.assert_array_equal(answers(tmp_path / "y.npz")["y"], 5 * rows_of()["x"] + 1)


def test_only_the_outputs_that_were_asked_for_are_written(tmp_path):
    model = model_of(tmp_path, graphs.add_and_subtract())
    values = {name: np.ones((3, 16), np.int64) for name in ("INPUT0", "INPUT1")}
    run(model, values, tmp_path / "y.npz", outputs=("OUTPUT1",))
    assert list(answers(tmp_path / "y.npz")) == ["OUTPUT1"]
    with pytest.raises(ConfigError, match="the model has no output 'z', it has OUTPUT0, OUTPUT1"):
        run(model, values, tmp_path / "z.npz", outputs=("z",))


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
def test_columns_that_are_kept_stand_before_the_answers(tmp_path, kind):
    values = {
        "index": np.arange(ROWS) % 10,
        "id": np.array([f"id{row}" for row in range(ROWS)], np.object_),
        "weight": np.arange(ROWS) / 2,
    }
    out = tmp_path / f"y.{kind}"
    run(model_of(tmp_path, graphs.lookup()), values, out, keep=("id", "weight"))
    source = open_source(out)
    names = ("id", "weight", "y") if kind == "npz" else ("id", "weight", "y_0", "y_1", "y_2", "y_3")
    assert source.names == names
    chunk = next(source.chunks(100))
    assert [str(cell) for cell in chunk.columns["id"]] == values["id"].tolist()
    assert [float(cell) for cell in chunk.columns["weight"]] == values["weight"].tolist()


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (("gone",), "has no column 'gone' to keep"),
        (("y",), "'y' would be there twice"),
        (("id", "id"), "'id' would be there twice"),
        (("long",), "row 3, column 'long': a cell to keep is a number, or text of at most 1000 characters"),
        (("none",), "row 0, column 'none': a cell to keep is"),
    ],
    ids=["gone", "output", "doubled", "long", "missing"],
)
def test_a_column_that_cannot_be_kept_is_named(tmp_path, keep, message):
    words = np.array(["a"] * ROWS, np.object_)
    long = words.copy()
    long[3] = "x" * 1001
    none = np.array([None] * ROWS, np.object_)
    values = {"index": np.arange(ROWS) % 10, "y": words, "id": words, "long": long, "none": none}
    with pytest.raises(ConfigError, match=message):
        run(model_of(tmp_path, graphs.lookup()), values, tmp_path / "y.csv", keep=keep)


def test_text_of_any_length_and_bfloat16_come_out_as_files_hold_them(tmp_path):
    words = np.array([["a", "b" * row] for row in range(ROWS)], np.object_)
    run(model_of(tmp_path, graphs.identity("BYTES", ("rows", 2))), {"x": words}, tmp_path / "w.npz")
    assert answers(tmp_path / "w.npz")["y"].tolist() == words.tolist()
    run(model_of(tmp_path, graphs.identity("BF16", ("rows", 4))), {"x": np.full((3, 4), 1.5)}, tmp_path / "b.npz")
    assert answers(tmp_path / "b.npz")["y"].tolist() == [[1.5] * 4] * 3


def test_a_row_that_the_model_cannot_compute_is_named(tmp_path):
    index = np.arange(ROWS) % 10
    index[17] = 99
    with pytest.raises(ConfigError, match=r"^row 17: the model cannot compute this: .*[Gg]ather"):
        run(model_of(tmp_path, graphs.lookup()), {"index": index}, tmp_path / "y.npz", batch_rows=4)


def test_a_wrong_cell_is_named_by_its_row_in_the_whole_file(tmp_path):
    cells = np.array([str(row) for row in range(ROWS)], np.object_)
    cells[17] = "x"
    with pytest.raises(ConfigError, match="row 17, column 'index': 'x', expected a whole number"):
        run(model_of(tmp_path, graphs.lookup(table_rows=99)), {"index": cells}, tmp_path / "y.npz")


def test_a_source_without_rows_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="has no rows"):
        run(model_of(tmp_path, graphs.affine()), rows_of(0), tmp_path / "y.npz")


def test_rows_of_different_shapes_are_refused(tmp_path):
    """The length of y's rows follows the values, which differ between chunks."""
    from onnx import helper

    nodes = [
        helper.make_node("NonZero", ["x"], ["where"]),
        helper.make_node("Shape", ["where"], ["count"], start=1),
        helper.make_node("Shape", ["x"], ["rows"], end=1),
        helper.make_node("Concat", ["rows", "count"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    graph = graphs.build(nodes, [("x", "FP32", ("rows", 1))], [("y", "FP32", ("rows", "length"))])
    values = {"x": (np.arange(ROWS) > 5).astype(np.float32)[:, None]}
    with pytest.raises(ConfigError, match="has rows of different shapes, which no file can hold together"):
        run(model_of(tmp_path, graph), values, tmp_path / "y.npz", batch_rows=1)


@pytest.mark.parametrize("content", [None, b"no graph"], ids=["nothing", "noise"])
def test_what_is_no_model_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no model: expected an \.onnx file|onnxruntime cannot load model\.onnx"):
        open_model(tmp_path)
