import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import ConfigError
from serving.statistics.profile import (
    COLUMNS_PER_TENSOR_MAX,
    FILE_BYTES_MAX,
    INF_SLOT,
    KEYS_MAX,
    NAN_SLOT,
    Kind,
    ReferenceProfile,
    Role,
    columns_watched,
)

RNG = np.random.default_rng(7)


def profile_of(values, **options):
    """The one feature of a profile of one column."""
    return ReferenceProfile.of_tensors({"x": np.asarray(values)}, {}, **options).features[0]


def thirty_features(rows=5_000):
    return ReferenceProfile.of_tensors(
        {"features": RNG.normal(size=(rows, 30)).astype(np.float32)},
        {"label": RNG.integers(0, 3, rows), "scores": RNG.random((rows, 3), np.float32)},
    )


def test_bins_hold_equal_parts_of_a_continuous_reference():
    feature = profile_of(RNG.normal(size=30_000))
    assert feature.counts[0] == 0
    assert feature.counts[31:].sum() == 0
    assert (feature.counts[1:31] == 1_000).all()


def test_values_beyond_the_reference_and_missing_ones_have_slots_of_their_own():
    feature = profile_of([1.0, 2.0, 3.0])
    slots = feature.slots_of(np.array([0.999, 1.0, 3.0, 3.0001, np.nan, np.inf, -np.inf]))
    assert slots.tolist() == [0, 1, 3, 31, NAN_SLOT, INF_SLOT, INF_SLOT]


@given(arrays.arrays(np.float64, st.integers(1, 80), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_every_value_is_counted_once_and_the_reference_never_lies_outside_its_own_range(values):
    feature = profile_of(values)
    assert feature.counts.sum() == len(values)
    assert feature.counts[NAN_SLOT] == np.isnan(values).sum()
    assert feature.counts[INF_SLOT] == np.isinf(values).sum()
    assert feature.counts[0] == 0
    if np.abs(values[np.isfinite(values)]).max(initial=0) < np.finfo(np.float64).max:
        assert feature.counts[31] == 0


def test_rounding_moves_no_value_of_the_reference_over_an_edge():
    values = RNG.choice(RNG.normal(size=300), 5_000)
    feature = profile_of(values)
    nudged = feature.slots_of(values * (1 + 1e-9))
    np.testing.assert_array_equal(np.bincount(nudged, minlength=feature.slots), feature.counts)


def test_few_distinct_values_get_a_bin_each():
    feature = profile_of(np.repeat([0.0, 0.5, 10.0], [5, 3, 2]))
    assert feature.counts[1:4].tolist() == [5, 3, 2]


def test_whole_numbers_of_a_small_range_are_a_category():
    feature = profile_of(np.array([3, 5, 3, 4], np.int64))
    assert feature.kind is Kind.CATEGORY
    assert feature.keys == (3, 4, 5)
    assert feature.slots_of(np.array([2, 3, 5, 6])).tolist() == [3, 0, 2, 3]
    assert profile_of(np.array([0, 62])).kind is Kind.NUMBER


def test_a_float_category_tells_unseen_from_missing():
    feature = profile_of(np.array([0.0, 1.0, 2.0]), kinds={"x": Kind.CATEGORY})
    assert feature.slots_of(np.array([1.5, np.nan, np.inf, -1.0, 2.0])).tolist() == [3, 4, 3, 3, 2]


def test_texts_keep_the_most_frequent_keys_and_the_rest_is_unseen():
    words = [f"w{k:03}" for k in range(100) for _ in range(1 + (k < KEYS_MAX))] + ["", "x" * 300]
    feature = profile_of(np.array(words, object))
    assert feature.keys == tuple(f"w{k:03}" for k in range(KEYS_MAX))
    assert feature.counts[KEYS_MAX] == 100 - KEYS_MAX + 1
    assert feature.counts[feature.missing_slot] == 1
    assert feature.slots_of(np.array([b"w000", "w099"], object)).tolist() == [0, KEYS_MAX]


def test_moments_stay_finite_for_numbers_at_the_end_of_the_range():
    largest = np.finfo(np.float64).max
    feature = profile_of(np.array([-largest, largest, 0.0]))
    assert np.isfinite([feature.centre, feature.spread, feature.total, feature.squares]).all()


def test_deviations_of_the_reference_itself_have_mean_zero_and_spread_one():
    feature = profile_of(RNG.normal(5.0, 3.0, 1_000))
    assert abs(feature.total) < 1e-9
    assert abs(feature.squares / 1_000 - 1.0) < 1e-9


def test_inputs_and_outputs_are_features_with_names():
    profile = ReferenceProfile.of_tensors(
        {"features": RNG.normal(size=(9, 2))}, {"label": np.arange(9)}, names={"features": ["age", "height"]}
    )
    assert [(f.name, f.tensor, f.column, f.role) for f in profile.features] == [
        ("age", "features", 0, Role.INPUT),
        ("height", "features", 1, Role.INPUT),
        ("label", "label", 0, Role.OUTPUT),
    ]


def test_of_a_wide_tensor_evenly_spaced_columns_are_watched():
    watched = columns_watched(10_000)
    assert len(set(watched.tolist())) == COLUMNS_PER_TENSOR_MAX
    assert (watched[0], watched[-1]) == (0, 9_999)


def test_a_profile_comes_back_from_its_file_as_it_was():
    profile = thirty_features()
    data = profile.to_bytes()
    assert ReferenceProfile.from_bytes(data).to_bytes() == data


def test_the_file_is_the_same_for_the_same_data_and_small():
    data = np.random.default_rng(1).normal(size=(500, 30))
    files = {ReferenceProfile.of_tensors({"x": data.copy()}, {}).to_bytes() for _ in range(2)}
    assert len(files) == 1
    assert len(thirty_features().to_bytes()) < 26_000


def test_the_digest_follows_the_data():
    one, two = np.zeros((3, 2)), np.zeros((3, 2))
    two[2, 1] = 1e-9
    digests = [ReferenceProfile.of_tensors({"x": array}, {}).data_digest for array in (one, one.copy(), two)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        ({}, {}),
        ({"x": np.zeros(3), "y": np.zeros(4)}, {}),
        ({"x": np.zeros((0, 2))}, {}),
        ({"x": np.zeros((3, 2))}, {"names": {"x": ["only one"]}}),
        ({"x": np.zeros((3, 2))}, {"names": {"x": ["same", "same"]}}),
        ({"x": np.array([0.0, 100.0])}, {"kinds": {"x": Kind.CATEGORY}}),
    ],
)
def test_what_cannot_be_a_profile_is_refused_with_a_reason(inputs, options):
    with pytest.raises(ConfigError):
        ReferenceProfile.of_tensors(inputs, {}, **options)


def changed(data, name, content):
    """The file with another content of one member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {item: archive.read(item) for item in archive.namelist()}
    members[name] = content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for item, body in members.items():
            archive.writestr(item, body)
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(array), (1, 0))
    return buffer.getvalue()


def huge_shape():
    body = npy(np.zeros(3))
    return body.replace(b"(3,), ", b"(9999999999,), ")[: len(body) + 9]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("edges.npy", npy(np.zeros(31, np.float32))),
        ("edges.npy", npy(np.full(31, np.nan))),
        ("edges.npy", npy(np.zeros(62))),
        ("edges.npy", huge_shape()),
        ("counts.npy", npy(np.zeros(5, np.uint32))),
        ("moments.npy", npy(np.array([[0.0, 0.0, 0.0, 0.0]]))),
        ("moments.npy", npy(np.array([[np.inf, 1.0, 0.0, 0.0]]))),
        ("header.npy", npy(np.frombuffer(b"[1]", np.uint8))),
        ("header.npy", npy(np.frombuffer(b'{"format": 1}', np.uint8))),
        ("header.npy", npy(np.frombuffer(b"[" * 100_000, np.uint8))),
        ("header.npy", b"not an array"),
        ("more.npy", b""),
    ],
)
def test_a_damaged_or_hostile_file_is_refused_in_one_line(name, content):
    data = changed(ReferenceProfile.of_tensors({"x": np.arange(100.0)}, {}).to_bytes(), name, content)
    with pytest.raises(ConfigError, match="reference profile") as caught:
        ReferenceProfile.from_bytes(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, 30, 100, 400, 700, -1])
def test_a_truncated_file_is_refused(cut):
    data = ReferenceProfile.of_tensors({"x": np.arange(100.0)}, {}).to_bytes()
    with pytest.raises(ConfigError):
        ReferenceProfile.from_bytes(data[:cut])


def test_a_file_beyond_the_bound_is_refused_before_it_is_opened():
    with pytest.raises(ConfigError, match="at most"):
        ReferenceProfile.from_bytes(bytes(FILE_BYTES_MAX + 1))


def test_an_object_array_is_never_unpickled():
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{}], object), (1, 0))
    data = changed(ReferenceProfile.of_tensors({"x": np.arange(9.0)}, {}).to_bytes(), "edges.npy", buffer.getvalue())
    with pytest.raises(ConfigError):
        ReferenceProfile.from_bytes(data)
