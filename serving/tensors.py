"""Tensors between their form on the wire and numpy arrays. Pure; knows the rules of the protocol and no model.

Raw form: row-major little-endian elements without padding; a BYTES element is a 4-byte little-endian length and the
bytes. Typed form: one Python number (or bytes) per element. BYTES elements are `str` in memory, because onnxruntime's
strings are UTF-8, so other bytes are refused here; only what a pipeline takes as octets stays as it came.

Sources: Open Inference Protocol, "Tensor Contents" and the binary tensor data extension.
"""

import struct
import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from serving.errors import InvalidRequest
from serving.types import Array, Datatype, TensorSpec

assert sys.byteorder == "little", "raw tensors are little-endian and are used in place"

ELEMENTS_MAX = 2**59  # so that no array is longer than numpy can address, whatever its datatype
_LENGTH = struct.Struct("<I")


def element_count(name: str, shape: Sequence[int]) -> int:
    """Return the product of `shape`, refusing negative dimensions and products that no memory could hold.

    A shape with a zero holds no elements, and numpy still refuses it when its other dimensions are too large.
    """
    spanned = 1
    for dimension in shape:
        if dimension < 0:
            raise InvalidRequest(f"tensor '{name}': shape {list(shape)} has a negative dimension; send actual lengths")
        spanned *= max(1, dimension)
    if spanned > ELEMENTS_MAX:
        raise InvalidRequest(f"tensor '{name}': shape {list(shape)} has more elements than can be addressed")
    return 0 if 0 in shape else spanned


def from_raw(name: str, datatype: Datatype, shape: tuple[int, ...], raw: bytes | memoryview) -> Array:
    """Read the raw form; fixed-size elements are not copied, so the array keeps `raw` alive and may lie unaligned."""
    count = element_count(name, shape)
    if datatype is Datatype.BYTES:
        return texts(name, octets_from_raw(name, shape, raw))
    expected = count * datatype.item_bytes
    if len(raw) != expected:
        raise InvalidRequest(
            f"tensor '{name}': raw contents hold {len(raw)} bytes, expected {expected} "
            f"for {datatype.wire_name} of shape {list(shape)}"
        )
    if datatype is Datatype.BOOL and bytes(raw).strip(b"\x00\x01"):
        # Bytes other than 0 and 1 are true by C's rule; onnxruntime computes with the byte itself, so make it 1.
        return np.frombuffer(raw, np.uint8).astype(np.bool_).reshape(shape)
    return np.frombuffer(raw, datatype.dtype).reshape(shape)


def octets_from_raw(name: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Array:
    """Read the raw form of BYTES as `bytes` objects, whatever they hold."""
    return _octets(_split(name, bytes(raw), element_count(name, shape)), shape)


def octets_from_typed(name: str, shape: tuple[int, ...], elements: Sequence[Any]) -> Array:
    """Read the typed form of BYTES as `bytes` objects, whatever they hold."""
    if len(elements) != element_count(name, shape):
        raise _wrong_count(name, Datatype.BYTES, shape, len(elements))
    return _octets(elements, shape)


def texts(name: str, octets: Array) -> Array:
    """Read `bytes` objects as UTF-8, into `str` objects."""
    array = np.empty(octets.size, np.object_)
    for index, element in enumerate(octets.reshape(-1).tolist()):
        try:
            array[index] = element.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"tensor '{name}': element {index} is not valid UTF-8; ONNX strings are UTF-8, so encode binary data "
                "(for example as base64) or use UINT8"
            ) from None
    return array.reshape(octets.shape)


def from_typed(name: str, datatype: Datatype, shape: tuple[int, ...], elements: Sequence[Any]) -> Array:
    """Read the elements of the datatype's own typed field; narrow integers are range-checked."""
    count = element_count(name, shape)
    if len(elements) != count:
        raise _wrong_count(name, datatype, shape, len(elements))
    if datatype is Datatype.BYTES:
        return texts(name, _octets(elements, shape))
    try:
        return np.fromiter(elements, datatype.dtype, count).reshape(shape)
    except OverflowError:
        limits = np.iinfo(cast("Any", datatype.dtype))
        wrong = next(element for element in elements if not limits.min <= element <= limits.max)
        raise InvalidRequest(
            f"tensor '{name}': {wrong} does not fit {datatype.wire_name}, expected {limits.min} to {limits.max}"
        ) from None


def ragged(array: Array) -> Array:
    """Return the rows of a tensor as arrays of their own, views, in an array of objects [rows]."""
    rows = np.empty(len(array), np.object_)
    for index in range(len(array)):
        rows[index] = array[index]
    return rows


def whole(rows: Array, spec: TensorSpec) -> Array:
    """Return rows of one shape, which are arrays of their own, as a tensor; without rows, open dimensions are 0."""
    if not len(rows):
        return np.empty((0, *(max(0, length) for length in spec.shape[1:])), spec.datatype.dtype)
    return np.stack(rows.tolist())


def to_raw(datatype: Datatype, array: Array) -> bytes:
    """Write the raw form of an array of the datatype's `dtype`."""
    if datatype is Datatype.BYTES:
        return b"".join(_LENGTH.pack(len(element)) + element for element in to_typed(datatype, array))
    return array.tobytes()


def raw_view(datatype: Datatype, array: Array) -> bytes | memoryview:
    """Return the raw form of an array, without a copy where its memory has that form already.

    A small part of a large array is copied: the view would keep all of it alive for as long as a client takes to read.
    """
    if datatype is Datatype.BYTES:
        return to_raw(datatype, array)
    if isinstance(array.base, np.ndarray) and array.base.nbytes > 2 * array.nbytes:
        array = array.copy()
    view: memoryview = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return view


def to_typed(datatype: Datatype, array: Array) -> list[Any]:
    """Write the elements for the datatype's typed field, in row-major order."""
    assert datatype.typed_field is not None, f"bug: {datatype.wire_name} has no typed form"
    if datatype is Datatype.BYTES:
        return [_encode(element) for element in array.reshape(-1)]
    return array.reshape(-1).tolist()


def _encode(element: Any) -> bytes:
    """Encode a string; onnxruntime's are `str`, and a caller's own may be bytes already."""
    return element if isinstance(element, bytes) else str(element).encode()


def _wrong_count(name: str, datatype: Datatype, shape: tuple[int, ...], count: int) -> InvalidRequest:
    return InvalidRequest(
        f"tensor '{name}': {datatype.typed_field} holds {count} elements, expected {element_count(name, shape)} "
        f"for shape {list(shape)}"
    )


def _split(name: str, raw: bytes, count: int) -> list[bytes]:
    """Cut raw BYTES contents into their elements."""
    if count * _LENGTH.size > len(
        raw
    ):  # checked first, so that a huge shape cannot cost more than the bytes it came in
        raise InvalidRequest(f"tensor '{name}': raw contents of {len(raw)} bytes cannot hold {count} BYTES elements")
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if at + _LENGTH.size > len(raw):
            raise InvalidRequest(f"tensor '{name}': raw contents end inside the length of element {len(elements)}")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if at + length > len(raw):
            raise InvalidRequest(
                f"tensor '{name}': element {len(elements)} says {length} bytes, {len(raw) - at} are left"
            )
        elements.append(raw[at : at + length])
        at += length
    if len(elements) != count:
        raise InvalidRequest(f"tensor '{name}': raw contents hold {len(elements)} BYTES elements, expected {count}")
    return elements


def _octets(elements: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)
