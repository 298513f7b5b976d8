import io
import zipfile

import numpy as np
import pytest

from serving.errors import PackageError
from serving.package import Golden, npz_bytes, read_npz

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/inner": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "scalar": np.array(3.5),
    "text": np.array(["x", "longer"]),
    "empty": np.empty((0, 3), np.int8),
}
BYTES_MAX = 1 << 20


def test_arrays_come_back_as_they_were():
    back = read_npz(npz_bytes(ARRAYS), bytes_max=BYTES_MAX)
    assert back.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


def test_the_same_arrays_give_the_same_bytes_in_any_order():
    assert npz_bytes(ARRAYS) == npz_bytes(dict(reversed(ARRAYS.items())))


def test_numpy_reads_them():
    with np.load(io.BytesIO(npz_bytes(ARRAYS)), allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["b"], ARRAYS["b"])


def test_what_numpy_wrote_compressed_is_read():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, b=ARRAYS["b"])
    np.testing.assert_array_equal(read_npz(buffer.getvalue(), bytes_max=BYTES_MAX)["b"], ARRAYS["b"])


def test_strings_may_be_python_objects():
    golden = Golden({"x": np.array([["a"], ["bc"]], np.object_)}, {"y": np.ones(2)})
    back = Golden.from_bytes(golden.to_bytes())
    assert back.inputs["x"].tolist() == [["a"], ["bc"]]
    assert back.outputs["y"].tolist() == [1, 1]


def test_other_objects_are_refused():
    with pytest.raises(PackageError, match="array 'x' holds Python objects"):
        npz_bytes({"x": np.array([object()], np.object_)})


def archive(*members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members:
            file.writestr(name, data)
    return buffer.getvalue()


def npy(shape, data, descr="<f8"):
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nothing", "not a .npz file"),
        (archive(("a.npy", b"nothing")), "not a .npz file"),
        (archive(("a.npy", npy("(1000000000000,)", b"12345678"))), "not as long as its header says"),
        (archive(("a.npy", npy("(1,)", b"12345678", "|O"))), "holds Python objects"),
        (archive(("a.npy", bytes(2 << 20)), compression=zipfile.ZIP_DEFLATED), "holds 2097152 bytes, expected at most"),
        (npz_bytes(ARRAYS)[:-30], "not a .npz file"),
    ],
    ids=["noise", "no npy", "lying header", "objects", "bomb", "cut"],
)
def test_what_is_no_archive_of_plain_arrays_is_refused(data, message):
    with pytest.raises(PackageError, match=message):
        read_npz(data, bytes_max=BYTES_MAX)


def test_golden_requests_hold_nothing_else():
    with pytest.raises(PackageError, match="golden requests hold 'b', expected input/NAME and output/NAME"):
        Golden.from_bytes(npz_bytes({"b": ARRAYS["b"]}))
