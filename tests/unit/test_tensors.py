import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.errors import InvalidRequest
from serving.tensors import ELEMENTS_MAX, element_count, from_raw, from_typed, to_raw, to_typed
from serving.types import DATATYPES, Datatype

SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
FIXED = [datatype for datatype in Datatype if datatype is not Datatype.BYTES]
TYPED = [datatype for datatype in Datatype if datatype.typed_field]


def arrays(datatype):
    if datatype is Datatype.BYTES:
        text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
        return SHAPES.flatmap(lambda shape: hnp.arrays(np.object_, shape, elements=text, fill=st.nothing()))
    return SHAPES.flatmap(lambda shape: hnp.arrays(datatype.dtype, shape))


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and to_bits(left) == to_bits(right)


def to_bits(array):
    return array.tolist() if array.dtype == np.object_ else array.tobytes()


@pytest.mark.parametrize("datatype", Datatype)
def test_the_raw_form_survives_a_round_trip(datatype):
    @given(arrays(datatype))
    def check(array):
        assert same(from_raw("x", datatype, array.shape, to_raw(datatype, array)), array)

    check()


@pytest.mark.parametrize("datatype", TYPED)
def test_the_typed_form_survives_a_round_trip(datatype):
    @given(arrays(datatype))
    def check(array):
        back = from_typed("x", datatype, array.shape, to_typed(datatype, array))
        assert back.shape == array.shape
        np.testing.assert_array_equal(back, array)

    check()


def test_every_datatype_is_known_by_its_name_on_the_wire():
    names = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 BYTES BF16"
    assert set(DATATYPES) == set(names.split())


@pytest.mark.parametrize("datatype", FIXED)
def test_an_item_is_as_long_in_memory_as_on_the_wire(datatype):
    assert datatype.dtype.itemsize == datatype.item_bytes


@pytest.mark.parametrize("datatype", FIXED)
@pytest.mark.parametrize("extra", [-1, 1])
def test_raw_contents_of_another_length_are_refused_with_both_lengths(datatype, extra):
    expected = 6 * datatype.item_bytes
    with pytest.raises(
        InvalidRequest, match=f"'x'.* {expected + extra} bytes, expected {expected} .*{datatype.wire_name}"
    ):
        from_raw("x", datatype, (2, 3), bytes(expected + extra))


def test_raw_contents_are_used_in_place():
    raw = np.arange(4, dtype=np.float32).tobytes()
    array = from_raw("x", Datatype.FP32, (4,), raw)
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_raw_contents_are_little_endian():
    assert from_raw("x", Datatype.UINT32, (1,), b"\x01\x00\x00\x00").tolist() == [1]
    assert to_raw(Datatype.INT16, np.array([-2], np.int16)) == b"\xfe\xff"


@pytest.mark.parametrize("raw", [b"\x02", b"\x01\x7f\x00", b"\xff\x00\x01\x00"])
def test_any_byte_but_zero_is_true(raw):
    array = from_raw("x", Datatype.BOOL, (len(raw),), raw)
    assert array.tolist() == [byte != 0 for byte in raw]
    assert set(array.tobytes()) <= {0, 1}


@pytest.mark.parametrize(
    ("raw", "count", "problem"),
    [
        (b"\x01\x00\x00\x00a\x00", 1, "end inside the length of element 1"),
        (b"\x05\x00\x00\x00abcd", 1, "element 0 says 5 bytes, 4 are left"),
        (b"\xff\xff\xff\xff", 1, "element 0 says 4294967295 bytes, 0 are left"),
        (b"\x01\x00\x00\x00a" * 2, 1, "hold 2 BYTES elements, expected 1"),
        (b"\x08\x00\x00\x00abcdefgh", 2, "hold 1 BYTES elements, expected 2"),
        (b"", 1, "raw contents of 0 bytes cannot hold 1 BYTES elements"),
        (b"", 2**40, "cannot hold 1099511627776 BYTES elements"),
        (b"\x01\x00\x00\x00\xff", 1, "element 0 is not valid UTF-8"),
    ],
)
def test_broken_strings_are_refused_by_element(raw, count, problem):
    with pytest.raises(InvalidRequest, match=problem) as caught:
        from_raw("x", Datatype.BYTES, (count,), raw)
    assert "'x'" in str(caught.value)


@given(st.lists(st.binary(max_size=4), max_size=5).map(b"".join), st.integers(0, 5))
def test_any_bytes_are_strings_or_refused(raw, count):
    try:
        array = from_raw("x", Datatype.BYTES, (count,), raw)
    except InvalidRequest:
        return
    assert to_raw(Datatype.BYTES, array) == raw


def test_strings_of_models_and_of_clients_are_written_alike():
    array = np.array(["é", b"\xc3\xa9"], np.object_)
    assert to_raw(Datatype.BYTES, array) == 2 * (struct.pack("<I", 2) + "é".encode())


@pytest.mark.parametrize("datatype", [d for d in TYPED if d is not Datatype.BYTES])
def test_typed_contents_of_another_length_are_refused_with_both(datatype):
    with pytest.raises(InvalidRequest, match=f"'x': {datatype.typed_field} holds 3 elements, expected 4"):
        from_typed("x", datatype, (2, 2), [0, 0, 0])


@pytest.mark.parametrize(
    "datatype", [Datatype.UINT8, Datatype.UINT16, Datatype.INT8, Datatype.INT16, Datatype.INT32, Datatype.UINT32]
)
def test_a_narrow_integer_is_checked_against_its_range(datatype):
    limits = np.iinfo(datatype.dtype)
    ends = [int(limits.min), int(limits.max)]
    assert from_typed("x", datatype, (2,), ends).tolist() == ends
    for wrong in (limits.min - 1, limits.max + 1):
        with pytest.raises(InvalidRequest, match=rf"'x': {wrong} does not fit {datatype.wire_name}.*{limits.max}"):
            from_typed("x", datatype, (2,), [0, wrong])


def test_a_negative_dimension_is_refused():
    with pytest.raises(InvalidRequest, match=r"'x': shape \[2, -1\] has a negative dimension"):
        element_count("x", (2, -1))


@pytest.mark.parametrize("shape", [(2**62, 2), (2**32, 2**32), (0, 2**62), (2**40, 0, 2**40), (2**63 - 1,)])
def test_a_shape_beyond_any_memory_is_refused_even_without_elements(shape):
    with pytest.raises(InvalidRequest, match="more elements than can be addressed"):
        element_count("x", shape)


@pytest.mark.parametrize("datatype", Datatype)
def test_the_largest_empty_shape_can_be_made_of_every_datatype(datatype):
    assert from_raw("x", datatype, (0, ELEMENTS_MAX), b"").shape == (0, ELEMENTS_MAX)
    if datatype.typed_field:
        assert from_typed("x", datatype, (0, ELEMENTS_MAX), []).shape == (0, ELEMENTS_MAX)


def test_a_scalar_has_one_element():
    assert element_count("x", ()) == 1
    assert from_typed("x", Datatype.INT64, (), [7]).shape == ()
