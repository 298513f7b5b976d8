"""Every compiled step equals its slow twin, on any rows, also none or one, and however they lie in memory."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.config import PipelineConfig
from serving.pipeline.flaws import RefusedRowsError
from serving.types import DYNAMIC, Datatype, TensorSpec
from tests.support import pipelines as twin
from tests.support.pipelines import after, before, per_number

settings.register_profile("pipelines", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
law = settings(settings.get_profile("pipelines"))

FLOATS = [np.float32, np.float64]


def lay_out(draw, rows):
    """Return rows as they may come: side by side, or views of something larger; never to be written."""
    layout = draw(st.sampled_from(["plain", "every second", "unaligned", "columns first"]))
    if layout == "every second" and len(rows):
        rows = np.repeat(rows, 2, axis=0)[::2]
    elif layout == "unaligned":
        octets = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:]
        rows = octets.view(rows.dtype).reshape(rows.shape)
    elif layout == "columns first":
        rows = np.asfortranarray(rows)
    rows.flags.writeable = False
    return rows


@st.composite
def tables(draw, dtype=np.float32, columns=3, nan=False, limit=1e6, rows_max=70):
    rows = draw(st.sampled_from([0, 1, 2, 5, rows_max]))
    limit = float(np.dtype(dtype).type(limit))
    elements = st.floats(-limit, limit, width=np.dtype(dtype).itemsize * 8)
    elements = elements | st.just(math.nan) if nan else elements
    array = draw(arrays.arrays(dtype, (rows, columns), elements=elements, fill=st.just(1.5)))
    return lay_out(draw, array)


def check(steps, rows, expected, rtol=0.0, name="x"):
    result = before(steps, {name: rows}, expected)
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=rtol, atol=0)


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_impute(data, dtype):
    rows = data.draw(tables(dtype, nan=True))
    values = [1.0, -2.5, 0.0]
    check([{"step": "impute", "input": "x", "value": values}], rows,
          per_number(lambda x, c: values[c] if math.isnan(x) else x, rows))  # fmt: skip


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_scale(data, dtype):
    rows = data.draw(tables(dtype, nan=True))
    mean, divisor = np.array([1.5, -2.25, 1e5], dtype), np.array([0.3, 7.0, 1e-3], dtype)
    check([{"step": "scale", "input": "x", "mean": mean.tolist(), "scale": divisor.tolist()}], rows,
          per_number(lambda x, c: (x - mean[c]) / divisor[c], rows))  # fmt: skip


@law
@given(st.data())
def test_clip_leaves_what_is_no_number(data):
    rows = data.draw(tables(nan=True))
    check([{"step": "clip", "input": "x", "min": -3.5, "max": [1.0, 100.0, 0.0]}], rows,
          per_number(lambda x, c: twin.clip(x, -3.5, [1.0, 100.0, 0.0][c]), rows))  # fmt: skip


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_log1p_within_two_units_in_the_last_place(data, dtype):
    rows = data.draw(tables(dtype))
    assume((rows > -1).all())
    check([{"step": "log1p", "input": "x"}], rows, per_number(lambda x, _: math.log1p(x), rows),
          rtol=4 * np.finfo(dtype).eps)  # fmt: skip


@law
@given(st.data(), st.booleans())
def test_bucketise(data, right):
    rows = data.draw(tables(np.float64, limit=4) | tables(np.float64).map(np.round))
    boundaries = [-2.0, -0.5, 0.0, 1.0, 3.0]
    check([{"step": "bucketise", "input": "x", "boundaries": boundaries, "right": right}], rows,
          per_number(lambda x, _: twin.bucket(x, boundaries, right), rows, np.int64))  # fmt: skip


@law
@given(st.data(), st.sampled_from([np.int16, np.int64, np.uint8, np.bool_, np.float64]))
def test_cast(data, dtype):
    rows = data.draw(tables(np.float32, limit=200))
    if dtype == np.uint8:
        rows = np.abs(rows)
    expected = per_number(
        lambda x, _: bool(x) if dtype == np.bool_ else int(x) if dtype != np.float64 else x, rows, dtype
    )
    check([{"step": "cast", "input": "x", "datatype": twin.OF_DTYPE[np.dtype(dtype)].wire_name}], rows, expected)


@law
@given(st.data())
def test_one_hot_of_numbers(data):
    categories = [[1, 2, 3], [7], [0, -5]]
    rows = data.draw(arrays.arrays(np.int64, (data.draw(st.integers(0, 9)), 3), elements=st.integers(-6, 8)))
    flat = [(column, value) for column, values in enumerate(categories) for value in values]
    expected = np.array([[row[c] == v for c, v in flat] for row in rows], np.float32).reshape(-1, 6)
    check([{"step": "one_hot", "input": "x", "categories": categories, "unknown": "ignore"}], rows, expected)


@law
@given(st.data(), st.booleans())
def test_ordinal_of_numbers_and_strings(data, are_strings):
    categories = [["a", "ü", ""], ["b", "a"]] if are_strings else [[1.5, 2.0, -1.0], [0.0, 3.0]]
    values = [data.draw(st.lists(st.sampled_from([*kinds, categories[1 - c][0]]), min_size=4, max_size=4))
              for c, kinds in enumerate(categories)]  # fmt: skip
    rows = np.array(values, object if are_strings else np.float32).T
    expected = per_number(lambda x, c: categories[c].index(x) if x in categories[c] else -7, rows, np.int64)
    check([{"step": "ordinal", "input": "x", "categories": categories, "unknown": -7}], rows, expected)


@law
@given(st.lists(st.text(), max_size=6), st.integers(0, 2**32 - 1), st.integers(1, 2**31))
def test_hash_of_strings(texts, seed, buckets):
    rows = np.array([[text] for text in texts], object).reshape(-1, 1)
    check([{"step": "hash", "input": "x", "buckets": buckets, "seed": seed}], rows,
          per_number(lambda x, _: twin.murmur3(x.encode(), seed) % buckets, rows, np.int64))  # fmt: skip


@law
@given(arrays.arrays(np.int64, (5, 2)), st.integers(0, 2**32 - 1))
def test_hash_of_integers(rows, seed):
    check([{"step": "hash", "input": "x", "buckets": 1000, "seed": seed}], rows,
          per_number(lambda x, _: twin.murmur3(x.tobytes(), seed) % 1000, rows))  # fmt: skip


@law
@given(st.data())
def test_select_and_concat(data):
    one, two = data.draw(tables(columns=4)), None
    two = one[:, :1] * 2
    steps = [
        {"step": "select", "input": "x", "columns": [3, 0], "output": "some"},
        {"step": "concat", "inputs": ["some", "two", "x"], "output": "all"},
    ]
    expected = np.hstack([one[:, [3, 0]], two, one])
    np.testing.assert_array_equal(before(steps, {"x": one, "two": two}, expected), expected)


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_a_fused_chain_is_its_steps_one_by_one(data, dtype):
    rows = data.draw(tables(dtype, nan=True, limit=100))
    chain = [
        {"step": "impute", "input": "x", "value": 0.5},
        {"step": "clip", "input": "x", "min": -0.75, "max": 60.0},
        {"step": "log1p", "input": "x"},
        {"step": "scale", "input": "x", "mean": [0.1, 0.2, 0.3], "scale": 3.0},
    ]
    expected = rows
    for step in chain:
        expected = before([step], {"x": expected}, rows).copy()
    np.testing.assert_array_equal(before(chain, {"x": rows}, rows), expected)


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_sigmoid(data, dtype):
    rows = data.draw(tables(dtype, limit=1e4))
    # Below -709 it is less than the least normal number, and the twin's exp would overflow.
    expected = per_number(lambda x, _: twin.sigmoid(x) if x > -709 else 0.0, rows)
    result = after([{"step": "sigmoid", "input": "y"}], {"y": rows})["y"]
    np.testing.assert_allclose(result, expected, rtol=8 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)
    assert np.isfinite(result).all()


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_softmax_of_any_finite_scores_is_finite_and_sums_to_one(data, dtype):
    rows = data.draw(tables(dtype, columns=5, limit=np.finfo(dtype).max / 4))
    result = after([{"step": "softmax", "input": "y"}], {"y": rows})["y"]
    expected = np.array([twin.softmax(row) for row in rows], dtype).reshape(rows.shape)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-30)
    np.testing.assert_allclose(result.sum(axis=1), 1, rtol=1e-5)


@law
@given(st.data(), st.sampled_from(FLOATS))
def test_l2_normalise_of_any_finite_vectors(data, dtype):
    rows = data.draw(tables(dtype, limit=np.finfo(dtype).max) | tables(dtype))
    result = after([{"step": "l2_normalise", "input": "y"}], {"y": rows})["y"]
    assert np.isfinite(result).all()
    usual = np.array([max(map(abs, row)) < 1e30 for row in rows.astype(float)], bool).reshape(-1)
    expected = np.array([twin.unit(row) for row in rows[usual]], dtype).reshape(-1, 3)
    np.testing.assert_allclose(result[usual], expected, rtol=1e-5, atol=1e-30)


@law
@given(st.data(), st.integers(1, 5))
def test_top_k_and_argmax(data, count):
    rows = data.draw(
        arrays.arrays(np.float32, (data.draw(st.integers(0, 6)), 5), elements=st.integers(-3, 3).map(float))
    )
    answer = after([{"step": "top_k", "input": "y", "k": count, "outputs": ["values", "places"]}], {"y": rows})
    best = [twin.highest(row, count) for row in rows]
    np.testing.assert_array_equal(answer["values"], np.array([[v for v, _ in row] for row in best]).reshape(-1, count))
    np.testing.assert_array_equal(answer["places"], np.array([[p for _, p in row] for row in best]).reshape(-1, count))
    first = after([{"step": "argmax", "input": "y"}], {"y": rows})["y"]
    np.testing.assert_array_equal(first, [row[0][1] for row in best])


@pytest.mark.parametrize("row", [[math.nan, 1.0, 0.0], [1.0, math.nan, 2.0], [math.nan, 2.0, math.nan]])
@pytest.mark.parametrize("count", [1, 2])
def test_top_k_counts_what_is_no_number_as_highest_as_argmax_does(row, count):
    scores = np.array([row], np.float32)
    (places,) = after([{"step": "top_k", "input": "y", "k": count, "outputs": ["v", "p"]}], {"y": scores})["p"]
    assert places.tolist() == sorted(range(3), key=lambda place: (not math.isnan(row[place]), -row[place]))[:count]


@law
@given(st.data(), st.sampled_from(["mean", "max"]), st.integers(0, 4), st.integers(1, 5))
def test_pool(data, how, rows, places):
    limit = float(np.float32(3e38 / places))
    numbers = st.floats(-limit, limit, width=32)
    values = lay_out(data.draw, data.draw(arrays.arrays(np.float32, (rows, places, 2), elements=numbers)))
    result = after([{"step": "pool", "input": "y", "how": how}], {"y": values})["y"]
    columns = [[[float(x) for x in values[row, :, column]] for column in range(2)] for row in range(rows)]
    slowly = max if how == "max" else lambda column: math.fsum(column) / places
    expected = np.array([[slowly(column) for column in row] for row in columns], np.float32).reshape(rows, 2)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=np.abs(values).max(initial=0) * 1e-6)
    assert np.isfinite(result).all()


def test_pool_of_an_open_dimension_takes_what_a_batch_has():
    config = PipelineConfig(postprocess=({"step": "pool", "input": "y"},))
    built = twin.pipeline(config, outputs=[TensorSpec("y", Datatype.FP32, (DYNAMIC, DYNAMIC, 3))])
    assert built.signature.outputs == (TensorSpec("y", Datatype.FP32, (DYNAMIC, 3)),)
    for places in (1, 4, 0):
        values = np.random.default_rng(places).random((2, places, 3), np.float32)
        expected = values.mean(axis=1) if places else np.zeros((2, 3))
        np.testing.assert_allclose(built.postprocess([values], "test", ())[0], expected, rtol=1e-6)


@law
@given(st.data())
def test_threshold(data):
    rows = data.draw(tables(nan=True, limit=2))
    result = after([{"step": "threshold", "input": "y", "minimum": 0.5}], {"y": rows})["y"]
    np.testing.assert_array_equal(result, per_number(lambda x, _: x >= 0.5, rows, bool))


REFUSING = {
    "log1p": ({"step": "log1p", "input": "x"}, lambda x: x <= -1),
    "finite": ({"step": "finite", "input": "x"}, lambda x: not math.isfinite(x)),
    "bucketise": ({"step": "bucketise", "input": "x", "boundaries": [0.0]}, math.isnan),
    "cast": ({"step": "cast", "input": "x", "datatype": "INT8"}, lambda x: not -129 < x < 128),
    "scale": ({"step": "scale", "input": "x", "scale": 1e-30}, lambda x: 1.7e8 < 2.0**-1 * abs(x) < math.inf),
}


@pytest.mark.parametrize("name", REFUSING)
@law
@given(data=st.data())
def test_exactly_the_rows_that_a_step_cannot_take_are_refused(data, name):
    step, is_bad = REFUSING[name]
    number = st.sampled_from([0.0, 1.5, -0.5, -1.0, -2.0, 127.9, 128.0, -128.9, -129.0, 3e38, math.inf, math.nan])
    rows = data.draw(arrays.arrays(np.float32, (7, 2), elements=number.map(np.float32)))
    expected = np.zeros((1, 2), {"bucketise": np.int64, "cast": np.int8}.get(name, np.float32))
    bad = {place for place, row in enumerate(rows) if any(is_bad(float(x)) for x in row)}
    try:
        before([step], {"x": rows}, expected)
        refused = {}
    except RefusedRowsError as error:
        refused = error.reasons
    assert set(refused) == bad
    assert all(reason.startswith(f"{name} of 'x': ") and "expected" in reason for reason in refused.values())


@pytest.mark.parametrize("wanted", [np.float32, np.int8])
@given(st.sampled_from([(), (1,), (7,), (30,), (600,), (5, 3), (3, 300)]), st.integers(0, 200), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_refused_wherever_in_a_block_their_numbers_lie(wanted, dims, rows, data):
    shape = (rows, *dims)
    numbers = int(np.prod(dims))
    random = np.random.default_rng(0)
    values = random.standard_normal(shape)
    if wanted is np.float32:
        values[random.random(shape) < 0.1] = np.nan  # which stays what it is
    bad = data.draw(st.lists(st.integers(0, rows * numbers - 1), max_size=5)) if rows else []
    values.reshape(-1)[bad] = 1e39
    mean = [0.5] * dims[-1] if dims else 0.5
    steps = [
        {"step": "scale", "input": "x", "mean": mean, "scale": 2.0},
        {"step": "cast", "input": "x", "datatype": twin.OF_DTYPE[np.dtype(wanted)].wire_name},
    ]
    expected = {place // numbers for place in bad}
    if expected:
        with pytest.raises(RefusedRowsError) as caught:
            before(steps, {"x": values}, np.zeros((1, *dims), wanted))
        assert set(caught.value.reasons) == expected
    else:
        result = before(steps, {"x": values}, np.zeros((1, *dims), wanted))
        np.testing.assert_array_equal(result, ((values - 0.5) / 2).astype(wanted))
