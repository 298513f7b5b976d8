import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import ConfigError
from serving.release.held_out import digests_to_bytes, read_held_out, read_rows, row_digests, shared_rows
from tests.support.packages import AFFINE

X = np.arange(12, dtype=np.float64).reshape(3, 4)


def write(tmp_path, **arrays):
    np.savez(tmp_path / "rows.npz", **arrays)
    return tmp_path / "rows.npz"


def test_rows_are_read_as_the_model_takes_them(tmp_path):
    file = write(tmp_path, x=X, label=[1, 2, 3], **{"slice/country": ["a", "b", "a"]})
    found = read_held_out(file, AFFINE)
    assert (found.rows, found.inputs["x"].dtype) == (3, np.float32)
    assert found.slices["country"].tolist() == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": [1, 2, 3]}, "holds no 'x'; it has: label"),
        ({"x": X}, "holds no 'label'"),
        ({"x": X, "label": [1]}, "different numbers of rows"),
        ({"x": X[:, :2], "label": [1, 2, 3]}, r"shape \[3, 2\], expected \[-1, 4\]"),
        ({"x": X[:0], "label": []}, "no rows"),
        ({"x": X, "label": [1, 2, 3], "slice/a": [[1], [2], [3]]}, "slice/a has shape"),
        ({"x": X, "label": [1, 2, 3], "more": 7}, "of none"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, arrays, message):
    with pytest.raises(ConfigError, match=message):
        read_held_out(write(tmp_path, **arrays), AFFINE)


@pytest.mark.parametrize("content", [b"", b"PK", b"x" * 100])
def test_what_is_no_archive_is_named(tmp_path, content):
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"rows\.npz"):
        read_rows(tmp_path / "rows.npz")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rows(tmp_path / "none.npz")


@given(st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=20), st.data())
def test_the_rows_that_two_sets_share_are_found_whatever_their_datatype(rows, data):
    array = np.array(rows, np.float32)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    training = digests_to_bytes(row_digests({"x": array.astype(np.float64)}))
    assert shared_rows(row_digests({"x": array[chosen]}), training) == len(chosen)


def test_other_rows_are_not_found_and_texts_have_digests_too():
    training = digests_to_bytes(row_digests({"x": X, "t": np.array(["a", "b", "c"])}))
    assert shared_rows(row_digests({"x": X, "t": np.array(["a", "b", "d"], object)}), training) == 2
    assert shared_rows(row_digests({"x": -X, "t": np.array(["a", "b", "c"])}), training) == 0
    with pytest.raises(ConfigError, match="multiple of 8"):
        shared_rows(row_digests({"x": X}), training[:-1])
