"""The nouns that every part shares: datatypes, signatures, requests and answers.

Nothing here knows protobuf, gRPC or onnxruntime. Requests are as the client sent them, names and bytes; only
`validation` turns them into arrays.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
"""A tensor on its way through the server: row-major, of its datatype's `dtype`."""

ParameterValue = bool | int | float | str

DYNAMIC = -1
"""A dimension that may differ from request to request."""


class Datatype(enum.Enum):
    """A datatype of the protocol; the value is its name on the wire.

    `dtype` is how the elements lie in memory: BF16 as its 16 bits in a uint16, BYTES as Python `str` objects.
    `item_bytes` is the length of one element, 0 for BYTES. `field` names the typed field of InferTensorContents that
    carries it, `None` for FP16 and BF16, which travel raw only.
    """

    def __init__(self, wire_name: str, dtype: type[np.generic], item_bytes: int, typed_field: str | None) -> None:
        self.wire_name = wire_name
        self.dtype: np.dtype[np.generic] = np.dtype(dtype)
        self.item_bytes = item_bytes
        self.typed_field = typed_field

    BOOL = ("BOOL", np.bool_, 1, "bool_contents")
    UINT8 = ("UINT8", np.uint8, 1, "uint_contents")
    UINT16 = ("UINT16", np.uint16, 2, "uint_contents")
    UINT32 = ("UINT32", np.uint32, 4, "uint_contents")
    UINT64 = ("UINT64", np.uint64, 8, "uint64_contents")
    INT8 = ("INT8", np.int8, 1, "int_contents")
    INT16 = ("INT16", np.int16, 2, "int_contents")
    INT32 = ("INT32", np.int32, 4, "int_contents")
    INT64 = ("INT64", np.int64, 8, "int64_contents")
    FP16 = ("FP16", np.float16, 2, None)
    FP32 = ("FP32", np.float32, 4, "fp32_contents")
    FP64 = ("FP64", np.float64, 8, "fp64_contents")
    BYTES = ("BYTES", np.object_, 0, "bytes_contents")
    BF16 = ("BF16", np.uint16, 2, None)


DATATYPES: Mapping[str, Datatype] = {datatype.wire_name: datatype for datatype in Datatype}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape of one input or output; `DYNAMIC` marks the open dimensions, the batch's included.

    `is_binary`: elements of BYTES are octets of any kind, `bytes` in memory, and not text. `is_ragged`: rows of several
    requests have open dimensions of their own, and are arrays of their own in an array of objects, [rows].
    """

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    is_binary: bool = False
    is_ragged: bool = False


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives, in the model's order.

    `batchable`: the first dimension of every input and output counts rows, so rows of several requests can run
    together. When it is false, a request is one row, whatever its shapes.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batchable: bool


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input as it came: `raw` bytes, or the elements of each typed field that was not empty.

    `array` holds the tensor when it has been read already.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    typed: Mapping[str, Sequence[object]] = field(default_factory=dict)
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    array: Array | None = None


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the client asked for by name."""

    name: str
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One ModelInfer request as it came.

    `raw_count` is the number of entries in raw_input_contents, `wire_bytes` the length of the whole message.
    """

    model_name: str
    model_version: str
    id: str
    inputs: tuple[InputTensor, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    raw_count: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output of an answer."""

    name: str
    datatype: Datatype
    array: Array


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The answer to one request, in the form in which it was asked: raw, or typed where every output allows it."""

    model_name: str
    model_version: int
    id: str
    outputs: tuple[OutputTensor, ...]
    raw: bool
