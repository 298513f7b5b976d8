"""The compiled counting says what its numpy twin says, and counts add up however the rows are divided."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import ConfigError
from serving.statistics.derived import Derivation
from serving.statistics.drift.counting import NUMPY, Block, count_batch
from serving.statistics.drift.kernels import KERNELS
from serving.statistics.drift.layout import Layout
from serving.statistics.profile import INF_SLOT, NAN_SLOT, Kind, ReferenceProfile
from serving.types import DATATYPES, DYNAMIC, Signature, TensorSpec

KINDS = {"compiled": KERNELS, "numpy": NUMPY}
WIDTH = 5


def spec(name, array):
    """The input of a model that takes such arrays."""
    datatype = next(datatype for datatype in DATATYPES.values() if datatype.dtype == array.dtype)
    return TensorSpec(name, datatype, (DYNAMIC, *array.shape[1:]))


def elements_of(profile):
    """The profile without what is derived from whole rows, which tests of its own are about."""
    return replace(profile, features=tuple(f for f in profile.features if f.derivation is Derivation.ELEMENT))


def layout_of(inputs, outputs=None, *, derived=False, **options):
    outputs = outputs or {}
    signature = Signature(
        tuple(spec(*item) for item in inputs.items()), tuple(spec(*item) for item in outputs.items()), batchable=True
    )
    profile = ReferenceProfile.of_tensors(inputs, outputs, **options)
    return Layout(profile if derived else elements_of(profile), signature)


def counted(layout, *arrays, kernels=KERNELS, start=0, step=1):
    block = Block(len(layout.features))
    count_batch(block, layout, arrays, rows=len(arrays[0]), start=start, step=step, kernels=kernels)
    return block


def assert_twins(layout, *arrays, **sampling):
    compiled, plain = (counted(layout, *arrays, kernels=kernels, **sampling) for kernels in (KERNELS, NUMPY))
    np.testing.assert_array_equal(compiled.counts, plain.counts)
    np.testing.assert_allclose(compiled.sums, plain.sums, rtol=1e-9, atol=1e-6)
    assert compiled.rows == plain.rows
    return compiled


def reference(dtype=np.float32, rows=1_000):
    return np.random.default_rng(3).normal(size=(rows, WIDTH)).astype(dtype)


FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, float("nan")])


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 40), st.just(WIDTH)), elements=FLOATS))
def test_any_float32_is_counted_as_in_numpy(x):
    assert_twins(layout_of({"x": reference()}), x)


@given(arrays.arrays(np.float64, st.tuples(st.integers(0, 40), st.just(WIDTH)), elements=st.floats(allow_nan=True)))
def test_any_float64_is_counted_as_in_numpy(x):
    assert_twins(layout_of({"x": reference(np.float64)}), x)


@given(
    arrays.arrays(np.int64, st.tuples(st.integers(0, 40), st.just(2)), elements=st.integers(-(2**53), 2**53)),
    st.sampled_from([0, 100]),
)
def test_any_integer_is_counted_as_in_numpy_as_a_number_and_as_a_category(x, largest):
    base = np.array([[0, 5], [largest, 7], [1, 6]])
    assert_twins(layout_of({"x": base}), x)


@pytest.mark.parametrize("rows", [0, 1, 2, 63, 64, 1_000, 100_000])
def test_any_number_of_rows_is_counted_as_in_numpy(rows):
    x = np.random.default_rng(rows).normal(size=(rows, WIDTH)).astype(np.float32)
    assert assert_twins(layout_of({"x": reference()}), x).counts.sum() == rows * WIDTH


def test_ties_with_edges_fall_where_numpy_puts_them():
    layout = layout_of({"x": reference()})
    edges = np.stack([feature.edges[:30] for feature in layout.features], axis=1)
    layout = layout_of({"x": reference().astype(np.float64)})
    block = assert_twins(layout, edges)
    assert (block.counts[:, 1:31] == 1).all()


def test_nan_and_infinities_leave_the_sums_alone():
    layout = layout_of({"x": reference()})
    x = np.full((3, WIDTH), np.nan, np.float32)
    x[1], x[2] = np.inf, -np.inf
    block = assert_twins(layout, x)
    assert block.counts[:, NAN_SLOT].tolist() == [1] * WIDTH
    assert block.counts[:, INF_SLOT].tolist() == [2] * WIDTH
    assert not block.sums.any()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "uint64"])
def test_other_datatypes_are_converted(dtype):
    rng = np.random.default_rng(5)
    base = rng.integers(0, 2 if dtype == "bool" else 200, (500, 3)).astype(dtype)
    block = assert_twins(layout_of({"x": base}), base)
    assert block.counts.sum() == base.size


@pytest.mark.parametrize("kernels", KINDS.values(), ids=KINDS)
def test_arrays_that_are_read_only_or_unaligned_are_counted(kernels):
    layout = layout_of({"x": reference()})
    octets = b"\0" + reference().tobytes()
    odd = np.frombuffer(memoryview(octets)[1:], np.float32).reshape(-1, WIDTH)
    assert not odd.flags.writeable
    block = counted(layout, odd, kernels=kernels)
    np.testing.assert_array_equal(block.counts, layout.reference)


def test_a_float_category_with_nan_infinity_and_fractions_is_counted_as_in_numpy():
    base = np.array([[0.0], [1.0], [2.0], [np.nan]], np.float32)
    layout = layout_of({"x": base}, kinds={"x[0]": Kind.CATEGORY})
    x = np.array([[0.0], [2.0], [3.0], [0.5], [np.nan], [np.inf], [-np.inf], [1e38], [-1.0]], np.float32)
    block = assert_twins(layout, x)
    assert block.counts[0, :5].tolist() == [1, 0, 1, 6, 1]


@pytest.mark.parametrize("kernels", KINDS.values(), ids=KINDS)
def test_texts_are_counted_by_their_keys(kernels):
    base = np.array([["red"], ["green"], ["red"]], object)
    layout = layout_of({"x": base})
    block = counted(layout, np.array([["red"], ["blue"], [""], ["green"], ["red"]], object), kernels=kernels)
    assert layout.features[0].keys == ("green", "red")
    assert block.counts[0, :4].tolist() == [1, 2, 1, 1]


def test_the_reference_counted_again_is_the_reference():
    x, label = reference(), np.random.default_rng(0).integers(0, 3, 1_000)
    layout = layout_of({"x": x}, {"label": label})
    block = assert_twins(layout, x, label)
    np.testing.assert_array_equal(block.counts, layout.reference)
    np.testing.assert_allclose(block.sums[:WIDTH, 1], 1_000, rtol=1e-6)


@given(st.integers(0, 7), st.integers(1, 9))
def test_sampled_rows_are_the_rows_that_were_asked_for(start, step):
    x = reference(rows=50)
    layout = layout_of({"x": x})
    sampled, alone = assert_twins(layout, x, start=start, step=step), counted(layout, x[start::step].copy())
    np.testing.assert_array_equal(sampled.counts, alone.counts)
    assert sampled.rows == alone.rows == len(x[start::step])


def test_a_tensor_of_another_shape_than_promised_is_passed_over():
    layout = layout_of({"x": reference()})
    assert not counted(layout, np.zeros((4, WIDTH + 1), np.float32)).counts.any()


def test_four_threads_count_what_one_counts():
    layout = layout_of({"x": reference()})
    x = np.random.default_rng(9).normal(size=(40_000, WIDTH)).astype(np.float32)
    blocks = [Block(WIDTH) for _ in range(4)]

    def work(block, part):
        for piece in np.array_split(part, 50):
            count_batch(block, layout, [piece], rows=len(piece), start=0, step=1, kernels=KERNELS)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(blocks, np.array_split(x, 4), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for block in blocks[1:]:
        blocks[0].add(block)
    alone = counted(layout, x)
    np.testing.assert_array_equal(blocks[0].counts, alone.counts)
    np.testing.assert_allclose(blocks[0].sums, alone.sums, rtol=1e-9)
    assert blocks[0].rows == alone.rows == 40_000


@pytest.mark.parametrize(
    ("name", "width"),
    [("other", WIDTH), ("x", WIDTH - 1)],
)
def test_a_profile_of_another_model_is_refused(name, width):
    profile = elements_of(ReferenceProfile.of_tensors({"x": reference()}, {}))
    signature = Signature((spec(name, np.zeros((1, width), np.float32)),), (), batchable=True)
    with pytest.raises(ConfigError, match="reference profile has"):
        Layout(profile, signature)


@pytest.mark.parametrize(
    "damage",
    [
        lambda table, reals, counts, sums: (table + np.array([2, 0, 0]), reals, counts, sums),
        lambda table, reals, counts, sums: (table + np.array([-1, 0, 0]), reals, counts, sums),
        lambda table, reals, counts, sums: (np.concatenate([table, table]), reals, counts, sums),
        lambda table, reals, counts, sums: (table, np.ascontiguousarray(reals[:, :20]), counts, sums),
        lambda table, reals, counts, sums: (table, reals, np.ascontiguousarray(counts[:, :63]), sums),
        lambda table, reals, counts, sums: (table, reals, counts, np.ascontiguousarray(sums[:, :1])),
    ],
    ids=["column behind", "column before", "features", "edges", "slots", "sums"],
)
def test_the_kernel_reads_and_writes_nothing_outside_of_its_arrays(damage):
    x = reference(rows=4).reshape(-1, 1)[:2].copy()
    (table,) = layout_of({"x": x}).tables
    arrays = damage(table.table, table.reals, np.zeros((1, 64), np.int64), np.zeros((1, 2)))
    with pytest.raises(AssertionError, match="bug: "):
        KERNELS[np.dtype("float32")](x, 0, 1, *arrays)


def test_open_dimensions_are_not_watched():
    profile = elements_of(ReferenceProfile.of_tensors({"x": reference()}, {}))
    signature = Signature((TensorSpec("x", DATATYPES["FP32"], (DYNAMIC, DYNAMIC)),), (), batchable=True)
    with pytest.raises(ConfigError):
        Layout(profile, signature)
