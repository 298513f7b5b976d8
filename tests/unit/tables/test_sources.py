import io
import os
import zipfile

import numpy as np
import pytest

from serving.errors import ConfigError
from serving.tables.rows import UNNAMED
from serving.tables.sources import open_source
from serving.tables.whole import read_whole

ROWS = 23
A, B = np.arange(ROWS, dtype=np.float64) / 2, np.array([f"word {row}" for row in range(ROWS)], np.object_)


def write_csv(path):
    path.write_text("a,b\n" + "".join(f'{a},"{b}"\n' for a, b in zip(A, B, strict=True)))


def write_parquet(path):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": A, "b": B.tolist()}), path, row_group_size=7)


def write_npz(path):
    np.savez_compressed(path, a=A, b=B.astype(np.str_))


WRITERS = {".csv": write_csv, ".parquet": write_parquet, ".npz": write_npz}


@pytest.fixture(params=sorted(WRITERS))
def table(request, tmp_path):
    path = tmp_path / f"table{request.param}"
    WRITERS[request.param](path)
    return path


@pytest.mark.parametrize("rows", [1, 5, 7, 23, 100])
@pytest.mark.parametrize("skip", [0, 1, 7, 8, 22, 23, 50])
def test_chunks_hold_every_row_once_from_where_they_should_begin(table, rows, skip):
    source = open_source(table)
    assert source.names == ("a", "b")
    assert source.is_table
    assert source.rows_count in {None, ROWS}
    chunks = list(source.chunks(rows, skip=skip))
    assert [chunk.start for chunk in chunks] == list(range(skip, ROWS, rows))
    assert all(chunk.rows == rows for chunk in chunks[:-1])
    assert [float(a) for chunk in chunks for a in chunk.columns["a"]] == A[skip:].tolist()
    assert [str(b) for chunk in chunks for b in chunk.columns["b"]] == B[skip:].tolist()


def test_read_whole_guesses_and_is_bounded(table):
    columns = read_whole(table, rows_max=10)
    assert columns["a"].dtype == np.float64
    assert columns["a"].tolist() == A[:10].tolist()
    assert [str(cell) for cell in columns["b"]] == B[:10].tolist()


def test_an_array_without_a_name_is_read(tmp_path):
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.save(tmp_path / "m.npy", matrix)
    source = open_source(tmp_path / "m.npy")
    assert source.names == (UNNAMED,)
    assert source.rows_count == 4
    chunks = [chunk.columns[UNNAMED] for chunk in source.chunks(3, skip=1)]
    np.testing.assert_array_equal(np.concatenate(chunks), matrix[1:])
    np.testing.assert_array_equal(read_whole(tmp_path / "m.npy", rows_max=9), matrix)


def test_arrays_of_more_dimensions_are_no_table(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 2)), y=np.ones(3))
    assert not open_source(tmp_path / "a.npz").is_table


def test_frames_and_mappings_are_taken(tmp_path):
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    for values in (pandas.DataFrame({"a": A, "b": B}), {"a": A, "b": B}):
        source = open_source(values)
        assert (source.names, source.is_table, source.rows_count) == (("a", "b"), True, ROWS)
        assert [chunk.rows for chunk in source.chunks(10, skip=2)] == [10, 10, 1]
        assert read_whole(values, rows_max=5)["b"].tolist() == B[:5].tolist()


def test_a_polars_frame_is_taken():
    polars = pytest.importorskip("polars", reason="needs polars")
    assert read_whole(polars.DataFrame({"a": A, "b": B.tolist()}), rows_max=5)["b"].tolist() == B[:5].tolist()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", " 2"], np.array([1, 2], np.int64)),
        (["1", "2.5"], np.array([1, 2.5])),
        (["1", ""], np.array([1, np.nan])),
        (["NA", "1e3"], np.array([np.nan, 1000])),
        (["true", "False"], np.array([True, False])),
        (["1", "x"], np.array(["1", "x"], np.object_)),
        (["18_25", "26_35"], np.array(["18_25", "26_35"], np.object_)),
        (["9223372036854775808", "1"], np.array([2.0**63, 1])),
    ],
    ids=str,
)
def test_a_column_of_text_is_what_it_looks_like(tmp_path, cells, expected):
    (tmp_path / "t.csv").write_text("id,a\n" + "".join(f"0,{cell}\n" for cell in cells))
    column = read_whole(tmp_path / "t.csv", rows_max=10)["a"]
    assert column.dtype == expected.dtype
    np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize("name", ["t.csv", "t.npz", "t.npy", "t.parquet"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match="is no plain file"):
        open_source(tmp_path / name)


def test_quotes_line_ends_and_a_byte_order_mark_are_understood(tmp_path):
    (tmp_path / "t.csv").write_bytes('\ufeffa,b\r\n"1","two\r\nlines, ""quoted"""\r\n\r\n2,x\r\n'.encode())
    columns = read_whole(tmp_path / "t.csv", rows_max=10)
    assert columns["a"].tolist() == [1, 2]
    assert columns["b"].tolist() == ['two\r\nlines, "quoted"', "x"]


CSV = {
    "empty": ("", "has no header"),
    "doubled column": ("a,a\n1,2\n", "the header names column 'a' twice"),
    "short row": ("a,b\n1,2\n3\n", "row 1 has 1 cells, the header names 2 columns"),
    "long row": ("a,b\n1,2,3\n", "row 0 has 3 cells, the header names 2 columns"),
    "no rows": ("a,b\n", "has no rows"),
    "open quote": ('a,b\n1,"2\n', "cannot be read"),
    "long cell": ("a\n" + "x" * ((1 << 20) + 1), "field larger than field limit"),
}


@pytest.mark.parametrize("case", CSV)
def test_a_csv_that_is_broken_says_where(tmp_path, case):
    text, message = CSV[case]
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_whole(tmp_path / "t.csv", rows_max=10)


def test_integers_of_a_parquet_keep_their_digits_beside_a_null(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    table = pa.table({"id": pa.array([2**53 + 1, None], pa.int64()), "x": pa.array([1.5, None])})
    parquet.write_table(table, tmp_path / "t.parquet")
    (chunk,) = open_source(tmp_path / "t.parquet").chunks(10)
    assert chunk.columns["id"].tolist() == [2**53 + 1, None]
    assert chunk.columns["x"].dtype == np.float64


@pytest.mark.parametrize("name", ["t.csv", "t.npz", "t.npy", "t.parquet"])
@pytest.mark.parametrize("data", [b"\xff\xfe\x00bad\xff", b"PK\x03\x04", b"\x93NUMPY\x01\x00\xff\xff", b"PAR1"])
def test_noise_is_refused_with_the_files_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConfigError, match=name):
        read_whole(tmp_path / name, rows_max=10)


@pytest.mark.parametrize("name", ["gone.csv", "gone.npz", "gone.npy", "gone.parquet"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name} cannot be read: .*No such file"):
        open_source(tmp_path / name)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"kind '.xlsx' is not known, expected .csv, .parquet, .npz, .npy"):
        open_source(tmp_path / "t.xlsx")


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def header(shape, descr="<f8"):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


NPY = {
    "objects": (npy(np.array([None])), "holds Python objects"),
    "one value": (npy(np.array(1.0)), "is a single value"),
    "columns first": (npy(np.asfortranarray(np.ones((3, 2)))), "lies column by column"),
    "cut": (npy(np.ones((3, 2)))[:-1], "was cut off"),
    "lying": (header("(2, 1000000000000)"), "rows of 8000000000000 bytes"),
    "rows of nothing": (npy(np.ones((3, 0))), "rows of 0 bytes"),
}


@pytest.mark.parametrize("case", NPY)
def test_an_array_that_cannot_be_read_says_why(tmp_path, case):
    data, message = NPY[case]
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ConfigError, match=message):
        read_whole(tmp_path / "a.npy", rows_max=10)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(ConfigError, match=message):
        read_whole(tmp_path / "a.npz", rows_max=10)


def test_arrays_of_different_lengths_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.ones(4))
    with pytest.raises(ConfigError, match="the arrays differ in rows: 'x' 3, 'y' 4"):
        open_source(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="columns of different lengths"):
        open_source({"x": np.ones(3), "y": np.ones(4)})
    with pytest.raises(ConfigError, match="rows of int cannot be read"):
        open_source(3)
