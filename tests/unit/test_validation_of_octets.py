"""BYTES that a pipeline takes as octets, and BYTES that are text."""

import numpy as np
import pytest

from serving.errors import InvalidRequest
from serving.tensors import to_raw
from serving.types import DYNAMIC, Datatype, InferRequest, InputTensor, Signature, TensorSpec
from serving.validation import validate, with_arrays

OUTPUT = (TensorSpec("y", Datatype.FP32, (DYNAMIC,)),)
BINARY = Signature((TensorSpec("x", Datatype.BYTES, (DYNAMIC,), is_binary=True),), OUTPUT, batchable=True)
TEXT = Signature((TensorSpec("x", Datatype.BYTES, (DYNAMIC,)),), OUTPUT, batchable=True)
OCTETS = [b"\xff\xd8\xff", b"", b"plain"]
PLAIN = [b"plain", "ü".encode()]


def request(elements, *, is_raw):
    array = np.empty(len(elements), object)
    array[:] = elements
    if is_raw:
        tensor = InputTensor("x", "BYTES", (len(elements),), raw=to_raw(Datatype.BYTES, array))
    else:
        tensor = InputTensor("x", "BYTES", (len(elements),), typed={"bytes_contents": elements})
    return InferRequest("m", "", "", (tensor,), raw_count=int(is_raw))


def read(elements, signature, *, is_raw, is_early):
    given = request(elements, is_raw=is_raw)
    (array,) = validate(with_arrays(given) if is_early else given, signature, rows_max=8).inputs
    return array.tolist()


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("is_early", [True, False])
def test_octets_come_as_they_were_sent_whatever_they_hold(is_raw, is_early):
    for elements in (OCTETS, PLAIN, []):
        assert read(elements, BINARY, is_raw=is_raw, is_early=is_early) == elements


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("is_early", [True, False])
def test_text_comes_as_strings_and_what_is_no_text_is_refused(is_raw, is_early):
    assert read(PLAIN, TEXT, is_raw=is_raw, is_early=is_early) == ["plain", "ü"]
    assert read([], TEXT, is_raw=is_raw, is_early=is_early) == []
    with pytest.raises(InvalidRequest, match="element 0 is not valid UTF-8"):
        read(OCTETS, TEXT, is_raw=is_raw, is_early=is_early)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_wrong_number_of_octets_is_refused(is_early):
    tensor = InputTensor("x", "BYTES", (3,), typed={"bytes_contents": [b"a"]})
    given = InferRequest("m", "", "", (tensor,))
    with pytest.raises(InvalidRequest, match="bytes_contents holds 1 elements, expected 3"):
        validate(with_arrays(given) if is_early else given, BINARY, rows_max=8)
