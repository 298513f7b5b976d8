"""Features of whole rows: the compiled way says what numpy says, and a profile keeps what they are measured by."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import ConfigError
from serving.statistics.derived import (
    DIMENSIONS_MAX,
    PROJECTIONS,
    Derivation,
    Deriver,
    Transform,
    derivations,
    signs,
)
from serving.statistics.drift.counting import DERIVING, NUMPY, Block, count_batch
from serving.statistics.drift.kernels import KERNELS
from serving.statistics.drift.layout import Layout
from serving.statistics.profile import Feature, Kind, ReferenceProfile
from serving.types import DYNAMIC, Datatype, Signature, TensorSpec

WIDTH = 5
OF_INPUTS = [
    (Derivation.MAHALANOBIS, 0), (Derivation.RECONSTRUCTION, 0), (Derivation.NORM, 0), (Derivation.PROJECTION, 0),
    (Derivation.PROJECTION, 2),
]  # fmt: skip
OF_SCORES = [(one, 0) for one in (Derivation.CLASS, Derivation.CONFIDENCE, Derivation.MARGIN, Derivation.ENTROPY)]


def reference(rows=1_000, wide=WIDTH, dtype=np.float32):
    rng = np.random.default_rng(3)
    return (rng.normal(size=(rows, wide)) @ rng.normal(size=(wide, wide)) * 10).astype(dtype)


FLOATS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 3e38])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize(("start", "step"), [(0, 1), (2, 3)])
def test_rows_of_any_numbers_are_derived_as_in_numpy(dtype, start, step):
    deriver = Deriver(OF_INPUTS, np.arange(WIDTH), Transform.of(reference(dtype=dtype)))
    x = np.random.default_rng(5).normal(scale=30, size=(200, WIDTH)).astype(dtype)
    compiled = deriver(x, KERNELS[DERIVING, np.dtype(dtype)], start, step)
    np.testing.assert_allclose(compiled, deriver(x, None, start, step), rtol=1e-5, atol=1e-6)
    assert compiled.shape == (len(range(start, 200, step)), len(OF_INPUTS))


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(WIDTH)), elements=FLOATS))
def test_odd_numbers_are_derived_as_in_numpy_and_stay_finite(x):
    deriver = Deriver(OF_INPUTS, np.arange(WIDTH), Transform.of(reference()))
    plain = deriver(x)
    np.testing.assert_allclose(deriver(x, KERNELS[DERIVING, x.dtype]), plain, rtol=1e-4, atol=1e-3)
    assert np.isfinite(plain).all()


@given(arrays.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(-100, 100, width=32)
                     | st.just(np.nan)))  # fmt: skip
def test_scores_are_derived_as_in_numpy(x):
    deriver = Deriver(OF_SCORES, np.arange(3), None)
    np.testing.assert_allclose(deriver(x, KERNELS[DERIVING, x.dtype]), deriver(x), rtol=1e-5, atol=1e-5)


def test_scores_have_a_class_a_confidence_a_margin_and_an_entropy():
    scores = np.array([[0.7, 0.2, 0.1], [0.5, 0.0, 0.5], [np.nan, 0.5, 0.5]], np.float32)
    expected = [[0, 0.7, 0.5, 0.801819], [0, 0.5, 0.0, np.log(2)], [np.nan] * 4]
    np.testing.assert_allclose(Deriver(OF_SCORES, np.arange(3), None)(scores), expected, rtol=1e-5)


def test_the_mahalanobis_distance_is_the_textbooks_but_for_the_ridge():
    x = reference(20_000)
    deriver = Deriver([(Derivation.MAHALANOBIS, 0)], np.arange(WIDTH), Transform.of(x))
    z = (x - x.mean(0)) / x.std(0)
    ridged = 0.99 * np.cov(z.T, bias=True) + 0.01 * np.eye(WIDTH)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", z, np.linalg.inv(ridged), z))
    np.testing.assert_allclose(deriver(x)[:, 0], expected, rtol=0.01)


def test_a_row_made_of_the_principal_components_has_no_reconstruction_error():
    rng = np.random.default_rng(1)
    plane = rng.normal(size=(2, WIDTH))
    x = rng.normal(size=(5_000, 2)) @ plane + 0.01 * rng.normal(size=(5_000, WIDTH))
    deriver = Deriver([(Derivation.RECONSTRUCTION, 0)], np.arange(WIDTH), Transform.of(x))
    on, off = deriver(rng.normal(size=(100, 2)) @ plane), deriver(rng.normal(size=(100, WIDTH)))
    assert np.median(on) < 0.1 * np.median(off)


@pytest.mark.parametrize("wide", [2, 9, 256])
def test_projections_are_the_same_everywhere_and_of_length_one(wide):
    both = [signs(index, wide) for index in range(PROJECTIONS)]
    assert all(np.linalg.norm(one) == pytest.approx(1.0) for one in both)
    assert signs(0, 8).round(4).tolist() == [0.3536 * s for s in np.sign(signs(0, 8))]
    if wide > 2:
        assert not np.array_equal(both[0], both[1])


@pytest.mark.parametrize(
    ("x", "is_output", "expected"),
    [
        (reference(), False, {"mahalanobis", "reconstruction", "projection"}),
        (reference(90), False, {"projection"}),
        (np.zeros((500, DIMENSIONS_MAX + 1), np.float32), False, {"norm", "projection"}),
        (reference()[:, :1], False, set()),
        (np.array([["a", "bc"]] * 100, object), False, {"length"}),
        (reference(), True, {"class", "confidence", "margin"}),
        (np.full((50, 4), 0.25, np.float32), True, {"class", "confidence", "margin", "entropy"}),
        (np.zeros((50, 4), np.int64), True, set()),
    ],
)
def test_what_is_derived_follows_from_the_tensor(x, is_output, expected):
    assert {one.value for one, _ in derivations(x, is_output=is_output)} == expected


def profile(rows=4_000):
    scores = np.random.default_rng(2).dirichlet([1, 2, 3], size=rows).astype(np.float32)
    return ReferenceProfile.of_tensors({"x": reference(rows)}, {"s": scores})


def test_a_profile_with_derived_features_comes_back_as_it_was():
    data = profile().to_bytes()
    again = ReferenceProfile.from_bytes(data)
    assert again.to_bytes() == data
    for one, other in zip(profile().features, again.features, strict=True):
        assert (one.name, one.derivation, one.counts.tolist()) == (other.name, other.derivation, other.counts.tolist())
    np.testing.assert_array_equal(again.transforms["x"].inverse, profile().transforms["x"].inverse)


def test_what_is_fitted_is_counted_on_the_other_half_of_the_rows():
    counted = {feature.name: int(feature.counts.sum()) for feature in profile(4_000).features}
    assert counted["x: mahalanobis"] == 2_000
    assert counted["s: confidence"] == 4_000


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["transforms"]["x"].update(centre="AAAA"),
        lambda said: said["transforms"]["x"]["inverse"].update(half="AAAA"),
        lambda said: said["transforms"]["x"]["inverse"].update(unit=-1.0),
        lambda said: said["transforms"]["x"].update(spread="not base64!"),
        lambda said: said["transforms"].update(x=7),
        lambda said: said["derived"][0].update(derivation="magic"),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(change, monkeypatch):
    from serving.statistics import profile as module

    header, members = module._FILE.read(profile().to_bytes())
    said = json.loads(json.dumps(header))
    change(said)
    del said["format"]
    with pytest.raises(ConfigError, match="contradicts itself"):
        ReferenceProfile.from_bytes(module._FILE.write(said, **members))


SIGNATURE = Signature(
    (TensorSpec("x", Datatype.FP32, (DYNAMIC, WIDTH)),), (TensorSpec("s", Datatype.FP32, (DYNAMIC, 3)),), batchable=True
)


@pytest.mark.parametrize(
    "signature",
    [
        Signature((TensorSpec("x", Datatype.FP32, (DYNAMIC, 4)),), SIGNATURE.outputs, batchable=True),
        Signature(SIGNATURE.inputs, (TensorSpec("s", Datatype.FP32, (DYNAMIC, 1)),), batchable=True),
        Signature((TensorSpec("x", Datatype.BYTES, (DYNAMIC, WIDTH)),), SIGNATURE.outputs, batchable=True),
    ],
)
def test_derived_features_of_another_model_are_refused(signature):
    made = profile()
    derived = tuple(feature for feature in made.features if feature.derivation is not Derivation.ELEMENT)
    with pytest.raises(ConfigError, match="cannot have"):
        Layout(ReferenceProfile(derived, made.rows, "", transforms=made.transforms), signature)


@pytest.mark.parametrize(
    ("derivation", "column"),
    [(Derivation.PROJECTION, PROJECTIONS), (Derivation.PROJECTION, 1 << 39), (Derivation.CONFIDENCE, 1)],
)
def test_a_column_that_a_derivation_does_not_have_is_refused_before_a_kernel_looks_for_it(derivation, column):
    made = profile()
    feature = next(feature for feature in made.features if feature.derivation is derivation)
    with pytest.raises(ConfigError, match="cannot have"):
        Layout(replace(made, features=(replace(feature, column=column),)), SIGNATURE)


def test_both_ways_count_the_same_and_read_only_rows_too():
    made = profile()
    layout = Layout(made, SIGNATURE)
    x = reference(300)
    scores = np.random.default_rng(7).dirichlet([3, 2, 1], size=300).astype(np.float32)
    x.flags.writeable = False
    blocks = []
    for kernels in (KERNELS, NUMPY):
        block = Block(len(layout.features))
        count_batch(block, layout, [x, scores], rows=300, start=1, step=2, kernels=kernels, deriving=(3, 4))
        blocks.append(block)
    np.testing.assert_array_equal(blocks[0].counts, blocks[1].counts)
    rows = dict(zip((f.name for f in layout.features), blocks[0].counts.sum(1).tolist(), strict=True))
    assert (rows["x[0]"], rows["x: mahalanobis"], rows["s: class"]) == (150, 37, 37)


def test_lengths_of_texts_are_counted():
    texts = np.array([["a" * (k % 50)] for k in range(400)], object)
    made = ReferenceProfile.of_tensors({"t": texts}, {})
    layout = Layout(made, Signature((TensorSpec("t", Datatype.BYTES, (DYNAMIC, 1)),), (), batchable=True))
    block = Block(len(layout.features))
    count_batch(block, layout, [texts], rows=400, start=0, step=1, kernels=KERNELS)
    by_name = {feature.name: row for row, feature in enumerate(layout.features)}
    feature: Feature = layout.features[by_name["t: length"]]
    assert feature.kind is Kind.NUMBER
    np.testing.assert_array_equal(block.counts[by_name["t: length"], : feature.slots], feature.counts)
