"""What is sent: encoded requests, of random values or of a file's rows, that fit what the model says of itself.

The messages differ from each other, so that a server that remembers answers gains nothing. Mistakes in a file are
found here, before anything is sent: a server that refuses every request would be measured as a fast one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.payload_file import read_arrays
from serving.config import nearest
from serving.errors import ConfigError, InvalidRequest
from serving.pb import open_inference_pb2 as pb
from serving.transport.client import as_datatype, infer_message
from serving.types import DATATYPES, DYNAMIC, Array, Datatype, Signature, TensorSpec

MESSAGES = 16
"""Distinct requests of random values."""
MESSAGES_MAX = 1024
"""Distinct requests of a file; rows beyond are not sent."""
TOTAL_BYTES_MAX = 1 << 30
"""Of all messages; fewer are made when they are long."""
MESSAGE_BYTES_MAX = (1 << 31) - 1
FLOATS = (Datatype.FP16, Datatype.BF16, Datatype.FP32, Datatype.FP64)
READABLE_KINDS = {"b": "biu", "i": "iuf", "u": "iuf", "f": "iuf", "O": "US"}
"""Kinds of arrays that a kind of datatype may be read from, where every value keeps its meaning."""

Shapes = Mapping[str, Sequence[int]]
Tensors = Mapping[str, tuple[Datatype, Array]]


@dataclass(frozen=True, slots=True)
class Request:
    """What every message of a slice has in common: the model, and how many rows a message carries."""

    model: str
    version: str
    rows: int


def read(
    path: Path | None,
    metadata: pb.ModelMetadataResponse,
    *,
    rows: int,
    seed: int = 0,
    version: str = "",
    shapes: Shapes | None = None,
) -> list[bytes]:
    """Return encoded ModelInferRequests of `rows` rows each, without gRPC's prefix.

    Without a file the values are random by `seed`. Message i of a file takes the `rows` rows after those of message
    i - 1, from the start again after the last, and there are as many messages as are different, up to `MESSAGES_MAX`.
    `shapes` gives the open dimensions of inputs, without the rows' (see `parse_shape`). When a model does not say what
    it takes, a file's arrays are sent as what they are, their first dimension as rows. Raises ConfigError.
    """
    request = Request(metadata.name, version, rows)
    if rows < 1:
        raise ConfigError(f"rows = {rows}, expected at least 1")
    if path is None:
        return _random(request, signature_of(metadata, shapes or {}), seed)
    values = read_arrays(path, metadata.inputs[0].name if len(metadata.inputs) == 1 else None)
    signature = signature_of(metadata, shapes or {}) if metadata.inputs else _signature_of_file(path, values)
    return _from_file(path, request, signature, values=values)


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Read `NAME:DIM,DIM`: an input and its dimensions, without the rows' where the model takes rows."""
    name, _, dimensions = text.rpartition(":")
    try:
        shape = tuple(int(dimension) for dimension in dimensions.split(","))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise ConfigError(f"shape {text!r}, expected an input and its dimensions, as in tokens:128 or image:3,224,224")
    return name, shape


def signature_of(metadata: pb.ModelMetadataResponse, shapes: Shapes) -> Signature:
    """Return what a model takes, its inner dimensions as `shapes` fixes them.

    It takes rows when the first dimension of all its tensors is open; the protocol has no other sign of it.
    """
    tensors = [*metadata.inputs, *metadata.outputs]
    if unknown := [tensor for tensor in tensors if tensor.datatype not in DATATYPES]:
        raise ConfigError(f"tensor '{unknown[0].name}' is {unknown[0].datatype}, which the protocol does not know"
                          f"{nearest(unknown[0].datatype, DATATYPES)}")  # fmt: skip
    if not metadata.inputs:
        raise ConfigError(f"model '{metadata.name}' does not say what it takes; send a .npz file by input name with "
                          "--payload, or add the inputs to the model's metadata")  # fmt: skip
    batchable = all(tensor.shape and tensor.shape[0] == DYNAMIC for tensor in tensors)
    names = [tensor.name for tensor in metadata.inputs]
    if strangers := sorted(set(shapes) - set(names)):
        raise ConfigError(f"shape of '{strangers[0]}', an input that the model does not have"
                          f"{nearest(strangers[0], names)}")  # fmt: skip
    specs = [_spec(tensor, batchable=batchable) for tensor in tensors]
    inputs = [_fixed(spec, shapes.get(spec.name), batchable=batchable) for spec in specs[: len(names)]]
    return Signature(tuple(inputs), tuple(specs[len(names) :]), batchable)


def _spec(tensor: pb.ModelMetadataResponse.TensorMetadata, *, batchable: bool) -> TensorSpec:
    """Return a tensor's name, datatype and shape of one row."""
    return TensorSpec(tensor.name, DATATYPES[tensor.datatype], tuple(tensor.shape)[batchable:])


def _fixed(spec: TensorSpec, shape: Sequence[int] | None, *, batchable: bool) -> TensorSpec:
    if shape is None:
        return spec
    if not _fits(shape, spec.shape):
        of = "one row of " if batchable else ""
        raise ConfigError(f"shape {list(shape)} for {of}input '{spec.name}', expected {list(spec.shape)} "
                          f"({DYNAMIC} is any)")  # fmt: skip
    return TensorSpec(spec.name, spec.datatype, tuple(shape))


def _fits(shape: Sequence[int], expected: Sequence[int]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in {DYNAMIC, actual} for actual, wanted in zip(shape, expected, strict=True)
    )


def _signature_of_file(path: Path, values: Mapping[str, Any]) -> Signature:
    """Describe a file's arrays."""
    inputs = []
    for name, value in values.items():
        array = _array_of(name, value, path)
        datatype = next((item for item in DATATYPES.values() if item.dtype == array.dtype), Datatype.BYTES)
        if array.ndim == 0 or (datatype is Datatype.BYTES and array.dtype.kind not in "US"):
            raise ConfigError(f"payload {path}: input '{name}' is {array.dtype} of shape {list(array.shape)}, "
                              "expected rows of a datatype of the protocol")  # fmt: skip
        inputs.append(TensorSpec(name, datatype, array.shape[1:]))
    return Signature(tuple(inputs), (), batchable=True)


def _random(request: Request, signature: Signature, seed: int) -> list[bytes]:
    if seed < 0:
        raise ConfigError(f"seed = {seed}, expected 0 or more")
    for spec in signature.inputs:
        if DYNAMIC in spec.shape:
            example = ",".join("128" if length == DYNAMIC else str(length) for length in spec.shape)
            raise ConfigError(f"input '{spec.name}' has open dimensions in {list(spec.shape)}; fix them with --shape "
                              f"{spec.name}:{example}, or send a file with --payload")  # fmt: skip
    row_bytes = sum(max(spec.datatype.item_bytes, 1) * math.prod(spec.shape) for spec in signature.inputs)
    _check_bytes(request, signature, request.rows * row_bytes)
    random = np.random.default_rng(seed)
    lead = (request.rows,) if signature.batchable else ()

    def draw() -> Tensors:
        return {spec.name: (spec.datatype, _draw(random, spec, lead)) for spec in signature.inputs}

    return _encode(request, (draw() for _ in range(MESSAGES)))


def _check_bytes(request: Request, signature: Signature, request_bytes: int) -> None:
    """Refuse what the model does not take, or gRPC cannot carry, before memory is taken for it."""
    if request.rows > 1 and not signature.batchable:
        raise ConfigError(f"rows = {request.rows}, expected 1: model '{request.model}' has a tensor whose first "
                          "dimension is fixed, so a request is one row")  # fmt: skip
    if request_bytes > MESSAGE_BYTES_MAX:
        raise ConfigError(f"a request of {request.rows} rows is {request_bytes} bytes long, expected at most "
                          f"{MESSAGE_BYTES_MAX}; send fewer rows")  # fmt: skip


def _draw(random: np.random.Generator, spec: TensorSpec, lead: tuple[int, ...]) -> Array:
    """Draw values that most models take: small numbers, pixels for UINT8, short words."""
    shape, datatype = lead + spec.shape, spec.datatype
    if datatype is Datatype.BYTES:
        letters = random.integers(ord("a"), ord("z") + 1, (*shape, 8), np.uint8)
        words = np.ascontiguousarray(letters).view("S8").reshape(shape)
        return words.astype(np.object_)
    if datatype is Datatype.BOOL:
        return random.integers(0, 2, shape).astype(np.bool_)
    if datatype in FLOATS:
        return as_datatype(spec.name, random.standard_normal(shape, np.float32), datatype)
    return random.integers(0, 256 if datatype is Datatype.UINT8 else 100, shape, datatype.dtype.type)


def _from_file(path: Path, request: Request, signature: Signature, *, values: Mapping[str, Any]) -> list[bytes]:
    arrays = {spec.name: _array(path, values, spec=spec, batchable=signature.batchable) for spec in signature.inputs}
    names = [spec.name for spec in signature.inputs]
    if strangers := [name for name in values if name not in arrays]:
        raise ConfigError(f"payload {path}: '{strangers[0]}' is no input of the model{nearest(strangers[0], names)}")
    datatypes = {spec.name: spec.datatype for spec in signature.inputs}
    row_bytes = sum(array.nbytes / max(1, len(array)) for array in arrays.values() if array.ndim)
    _check_bytes(request, signature, int(row_bytes * request.rows))
    if not signature.batchable:
        return _encode(request, iter([{name: (datatypes[name], array) for name, array in arrays.items()}]))
    held = _rows_held(path, arrays, request.rows)
    rows = np.arange(request.rows)
    count = min(MESSAGES_MAX, held // math.gcd(held, request.rows))

    def cut(message: int) -> Tensors:
        taken = (message * request.rows + rows) % held
        return {name: (datatypes[name], array[taken]) for name, array in arrays.items()}

    return _encode(request, (cut(message) for message in range(count)))


def _rows_held(path: Path, arrays: Mapping[str, Array], rows: int) -> int:
    held = {name: len(array) for name, array in arrays.items()}
    if len(set(held.values())) > 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in held.items())
        raise ConfigError(f"payload {path}: inputs of different numbers of rows ({listed}), expected the same in all")
    count = next(iter(held.values()))
    if rows > count:
        raise ConfigError(f"payload {path}: {count} rows, expected at least the {rows} of one request; "
                          "put more rows into the file, or lower --rows")  # fmt: skip
    return count


def _array(path: Path, values: Mapping[str, Any], *, spec: TensorSpec, batchable: bool) -> Array:
    """Read and check the array of one input."""
    if spec.name not in values:
        raise ConfigError(f"payload {path}: input '{spec.name}' is missing; it holds {', '.join(values) or 'nothing'}")
    given = _array_of(spec.name, values[spec.name], path)
    expected = (DYNAMIC, *spec.shape) if batchable else spec.shape
    if not _fits(given.shape, expected):
        raise ConfigError(f"payload {path}: input '{spec.name}' has shape {list(given.shape)}, "
                          f"expected {list(expected)} ({DYNAMIC} is any)")  # fmt: skip
    try:
        return _convert(spec, values[spec.name], given)
    except InvalidRequest as error:
        raise ConfigError(f"payload {path}: {error.message}") from None


def _array_of(name: str, value: Any, path: Path) -> Array:
    try:
        return np.asarray(value)
    except ValueError:
        raise ConfigError(f"payload {path}: input '{name}' has lists of different lengths side by side") from None


def _convert(spec: TensorSpec, values: Any, given: Array) -> Array:
    """Convert to the input's datatype where no value loses its meaning. Raises InvalidRequest."""
    name, datatype = spec.name, spec.datatype
    kind = "f" if datatype is Datatype.BF16 else datatype.dtype.kind
    if given.dtype.kind not in READABLE_KINDS[kind]:
        what = "nulls or values of several kinds" if given.dtype.kind == "O" else str(given.dtype)
        raise InvalidRequest(f"input '{name}' holds {what}, expected {datatype.wire_name}; convert it")
    if given.dtype.kind == "f":
        _check_finite(name, given)
    # Strings as they were written: an array of them has turned numbers among them into strings.
    array = as_datatype(name, values if datatype is Datatype.BYTES else given, datatype)
    if datatype is Datatype.BYTES:
        _check_strings(name, array)
    elif datatype not in FLOATS and not np.array_equal(array, given):
        wrong = given[array != given].flat[0]
        raise InvalidRequest(f"input '{name}' holds {wrong}, which {datatype.wire_name} cannot")
    return array


def _check_finite(name: str, array: Array) -> None:
    finite = np.isfinite(array.astype(np.float64, copy=False))
    if finite.all():
        return
    place = tuple(int(index) for index in np.argwhere(~finite)[0])
    row, *column = place or (0,)
    at = f", column {column[0]}" if len(column) == 1 else f", element {column}" if column else ""
    raise InvalidRequest(f"input '{name}' is {array[place]} in row {row}{at} (counted from 0), expected a finite "
                         "number; models take NaN and infinity at another speed")  # fmt: skip


def _check_strings(name: str, array: Array) -> None:
    for element in array.flat:
        if not isinstance(element, str | bytes):
            raise InvalidRequest(f"input '{name}' holds a {type(element).__name__}, expected strings for BYTES")


def _encode(request: Request, requests: Iterator[Tensors]) -> list[bytes]:
    """Encode requests until they are as many bytes as may be kept."""
    messages: list[bytes] = []
    total_bytes = 0
    for tensors in requests:
        messages.append(infer_message(request.model, tensors, version=request.version).SerializeToString())
        total_bytes += len(messages[-1])
        if total_bytes > TOTAL_BYTES_MAX:
            break
    return messages
