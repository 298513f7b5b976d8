import numpy as np
import pytest

from serving.config import PipelineConfig
from serving.errors import LoadError
from serving.pipeline import compiler
from tests.support.pipelines import after, before, pipeline, spec

SOURCE = """
import numba
import numpy as np
from pathlib import Path

Path({trace!r}).write_text("executed")

HALF = 0.5


def ratio(x, out):
    for row in range(x.shape[0]):
        out[row, 0] = x[row, 0] / (x[row, 1] + HALF)


def total(x, y, out):
    for row in range(x.shape[0]):
        out[row] = 0
        for column in range(x.shape[1]):
            out[row] += x[row, column] * y[row, column]


def allocates(x, out):
    out[:] = np.sort(x)


def mistyped(x, out):
    out[0] = x.no_such_thing


def outside(x, out):
    for row in range(x.shape[0]):
        out[row, x.shape[1]] = 1


def half(x, out):
    for row in range(x.shape[0]):
        out[row, 0] = x[row, 0]


def raises(x, out):
    if x[0, 0] == 0:
        raise ValueError("enough")


def generator(x, out):
    yield 1


async def asynchronous(x, out):
    pass


compiled_half = numba.njit(half)
nameless = lambda x, out: compiled_half(x, out)


not_a_function = 3
"""


@pytest.fixture
def folder(tmp_path):
    version = tmp_path / "1"
    version.mkdir()
    (version / "steps.py").write_text(SOURCE.format(trace=str(tmp_path / "trace")))
    (version / "broken.py").write_text("def f(:")
    (version / "leaves.py").write_text("raise SystemExit('enough')")
    (version / "interrupts.py").write_text("raise KeyboardInterrupt('enough')")
    return version


ROWS = np.arange(8, dtype=np.float32).reshape(4, 2)


def ran(folder, function, wanted, *, allow=True, file="steps.py", given=None, **options):
    given = given or {"x": ROWS}
    step = {"step": "user", "inputs": list(given), "output": "z", "file": file, "function": function, **options}
    return before([step], given, wanted, folder=folder, allow_user_code=allow)


def test_a_function_of_the_package_is_compiled_and_run_on_the_batch(folder):
    expected = (ROWS[:, 0] / (ROWS[:, 1] + 0.5))[:, None]
    np.testing.assert_allclose(ran(folder, "ratio", expected, shape=[1]), expected, rtol=1e-6)


def test_it_may_read_several_tensors_and_write_another_type(folder):
    expected = (ROWS.astype(np.float64) * ROWS * 2).sum(axis=1)
    result = ran(folder, "total", expected, given={"x": ROWS, "y": ROWS * 2}, shape=[], datatype="FP64")
    np.testing.assert_allclose(result, expected)
    assert result.dtype == np.float64


@pytest.mark.parametrize("rows", [0, 1])
def test_it_takes_no_rows_and_one_row(folder, rows):
    assert ran(folder, "ratio", np.zeros((1, 1), np.float32), given={"x": ROWS[:rows]}, shape=[1]).shape == (rows, 1)


@pytest.mark.parametrize("function", ["half", "nameless"])
def test_what_it_does_not_fill_is_0_and_not_the_rows_of_others(folder, function):
    for rows in (ROWS + 1, ROWS[::-1] + 1):
        result = ran(folder, function, ROWS, given={"x": np.ascontiguousarray(rows)})
        np.testing.assert_array_equal(result, np.stack([rows[:, 0], np.zeros(4)], axis=1))
        result[:] = 7  # what lies in the buffer when the next batch comes


def test_an_index_outside_of_an_array_is_an_error_and_writes_nothing(folder):
    with pytest.raises(IndexError, match="out of bounds"):
        ran(folder, "outside", ROWS)


def test_what_it_raises_comes_out(folder):
    with pytest.raises(ValueError, match="enough"):
        ran(folder, "raises", ROWS)


def test_a_pipeline_with_it_does_not_run_on_the_io_thread(folder):
    step = {"step": "user", "input": "x", "file": "steps.py", "function": "half"}
    quick = {"step": "sigmoid", "input": "y"}
    for steps, is_quick in (((step,), False), ((), True)):
        config = PipelineConfig(preprocess=steps, postprocess=(quick,))
        inputs, outputs = [spec("x", ROWS)], [spec("y", ROWS)]
        assert pipeline(config, inputs, outputs, folder=folder, allow_user_code=True).is_quick is is_quick


def test_nothing_is_executed_unless_the_operator_allows_it(folder, tmp_path):
    with pytest.raises(LoadError, match="this server does not allow; start it with --user-code on"):
        ran(folder, "ratio", np.zeros((1, 1), np.float32), allow=False, shape=[1])
    assert not (tmp_path / "trace").exists()


def test_nothing_is_written_beside_the_package_or_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "folder", lambda: tmp_path / "kept")  # of this test alone, others run beside it
    ran(folder, "ratio", np.zeros((1, 1), np.float32), shape=[1])
    assert (tmp_path / "trace").exists()
    assert sorted(path.name for path in folder.iterdir()) == ["broken.py", "interrupts.py", "leaves.py", "steps.py"]
    assert not (tmp_path / "kept").exists()


WRONG = [
    ("ratio", {"file": "../steps.py"}, "lies outside of the version's folder"),
    ("ratio", {"file": "none.py"}, "cannot be read"),
    ("ratio", {"file": "broken.py"}, "broken.py cannot be executed: SyntaxError"),
    ("ratio", {"file": "leaves.py"}, "leaves.py cannot be executed: SystemExit: enough"),
    ("ratio", {"file": "interrupts.py"}, "interrupts.py cannot be executed: KeyboardInterrupt: enough"),
    ("ratios", {}, "has no function 'ratios'"),
    ("generator", {}, "'generator' is a generator or asynchronous, expected a plain function"),
    ("asynchronous", {}, "'asynchronous' is a generator or asynchronous, expected a plain function"),
    ("ratio", {"shape": [1 << 24, 1 << 24]}, "a row takes 1125899906842624 bytes, expected at most 1073741824"),
    ("ratio", {"shape": [1] * 40}, "expected the lengths behind the rows"),
    ("not_a_function", {}, "has no function 'not_a_function'"),
    ("mistyped", {}, "does not compile: Unknown attribute 'no_such_thing'"),
    ("allocates", {}, "does not compile: "),
    ("total", {}, "does not compile: "),
    ("ratio", {"shape": [-1]}, "expected the lengths behind the rows"),
    ("ratio", {"datatype": "BYTES"}, "datatype = 'BYTES'"),
]


@pytest.mark.parametrize(("function", "options", "message"), WRONG)
def test_a_function_that_cannot_be_used_is_refused_when_the_model_is_loaded(folder, function, options, message):
    with pytest.raises(LoadError, match=message) as caught:
        ran(folder, function, ROWS, **options)
    assert "\n" not in str(caught.value)


def test_a_step_behind_the_model_may_be_the_users_too(folder):
    with pytest.raises(LoadError, match="does not allow"):
        after([{"step": "user", "input": "x", "file": "steps.py", "function": "ratio"}], {"x": ROWS})
