"""From a request as it came to arrays that a model can take, or the reason why not.

Every rule of the protocol for ModelInfer is checked here, and the message names the tensor, what came and what was
expected. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.errors import InvalidRequest, NotOffered
from serving.tensors import from_raw, from_typed, octets_from_raw, octets_from_typed, ragged, texts
from serving.types import (
    DATATYPES,
    DYNAMIC,
    Array,
    Datatype,
    InferRequest,
    InputTensor,
    ParameterValue,
    Signature,
    TensorSpec,
)

_NOT_OFFERED = ("sequence_", "shared_memory_", "classification")
TIMEOUT_US_MAX = 2**62 // 1_000


@dataclass(frozen=True, slots=True)
class ValidRequest:
    """A request that the model can take.

    `inputs` are in the model's order. `rows` is 1 for a model that is not batchable. `lane` holds the inputs' shapes
    without the batch dimension. `outputs` are positions in the signature, in the asked order. `raw` is the answer's
    form. `timeout_us` is 0 without a `timeout` parameter, and so is `priority`.
    """

    inputs: list[Array]
    rows: int
    lane: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]
    raw: bool
    timeout_us: int
    priority: int


def validate(request: InferRequest, signature: Signature, *, rows_max: int) -> ValidRequest:
    """Check a request against a signature. Raises InvalidRequest or NotOffered."""
    _check_parameters(request)
    priority = _integer(request.parameters, "priority", 2**64 - 1)
    given = _by_name(request.inputs)
    _check_names(given, signature)
    _check_raw_count(request)
    for spec in signature.inputs:
        _check_shape(given[spec.name], spec)
    rows = _rows(given, signature, rows_max)
    outputs = _requested_outputs(request, signature)
    inputs = [_read(given[spec.name], spec) for spec in signature.inputs]
    skip = 1 if signature.batchable else 0
    return ValidRequest(
        inputs=inputs,
        rows=rows,
        lane=tuple(array.shape[skip:] for array in inputs),
        outputs=outputs,
        raw=_answers_raw(request, signature, outputs),
        timeout_us=_integer(request.parameters, "timeout", TIMEOUT_US_MAX),
        priority=priority,
    )


def with_arrays(request: InferRequest) -> InferRequest:
    """Read the tensors before `validate` does, as the request itself describes them. Raises InvalidRequest."""
    _check_raw_count(request)
    inputs = tuple(
        replace(tensor, array=_read_early(tensor, DATATYPES[tensor.datatype]))
        if tensor.datatype in DATATYPES
        else tensor
        for tensor in request.inputs
    )
    return replace(request, inputs=inputs)


def _read_early(tensor: InputTensor, datatype: Datatype) -> Array:
    """Read a tensor for a model that is not known yet, which alone may say whether BYTES must be text."""
    if datatype is not Datatype.BYTES:
        return _elements(tensor, datatype)
    octets = _octets(tensor)
    try:
        return texts(tensor.name, octets)
    except InvalidRequest:
        return octets


def _check_parameters(request: InferRequest) -> None:
    holders = [request.parameters, *(tensor.parameters for tensor in request.inputs)]
    holders += [output.parameters for output in request.outputs]
    for name in (name for parameters in holders for name in parameters):
        if name.startswith(_NOT_OFFERED):
            raise NotOffered(f"parameter '{name}' is not offered by this server; send the request without it")


def _integer(parameters: Mapping[str, ParameterValue], name: str, maximum: int) -> int:
    value = parameters.get(name, 0)
    if type(value) is not int or not 0 <= value <= maximum:
        raise InvalidRequest(f"parameter '{name}' is {value!r}, expected an integer from 0 to {maximum}")
    return value


def _by_name(inputs: Iterable[InputTensor]) -> dict[str, InputTensor]:
    given: dict[str, InputTensor] = {}
    for tensor in inputs:
        if tensor.name in given:
            raise InvalidRequest(f"input '{tensor.name}' came twice, expected once")
        given[tensor.name] = tensor
    return given


def _check_names(given: Mapping[str, InputTensor], signature: Signature) -> None:
    expected = [spec.name for spec in signature.inputs]
    for name in given:
        if name not in expected:
            raise InvalidRequest(f"unknown input '{name}', the model takes {_list(expected)}")
    for name in expected:
        if name not in given:
            raise InvalidRequest(
                f"input '{name}' is missing, the model takes {_list(expected)}, there came {_list(given)}"
            )


def _check_raw_count(request: InferRequest) -> None:
    if not request.raw_count:
        return
    if request.raw_count != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {request.raw_count} entries, expected one for each of {len(request.inputs)} inputs"
        )
    for tensor in request.inputs:
        if tensor.typed:
            raise InvalidRequest(
                f"input '{tensor.name}' has {_list(tensor.typed)} beside raw_input_contents, expected only one of them"
            )


def _check_shape(tensor: InputTensor, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype.wire_name:
        known = "" if tensor.datatype in {"", *DATATYPES} else " (which is no datatype of the protocol)"
        raise InvalidRequest(
            f"input '{spec.name}': datatype {tensor.datatype or 'missing'}{known}, expected {spec.datatype.wire_name}"
        )
    fits = len(tensor.shape) == len(spec.shape) and all(
        expected in {DYNAMIC, actual} and actual >= 0 for actual, expected in zip(tensor.shape, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"input '{spec.name}': shape {list(tensor.shape)}, expected {list(spec.shape)} where -1 is any length"
        )


def _rows(given: Mapping[str, InputTensor], signature: Signature, rows_max: int) -> int:
    if not signature.batchable:
        return 1
    first, *others = (given[spec.name] for spec in signature.inputs)
    rows = first.shape[0]
    for tensor in others:
        if tensor.shape[0] != rows:
            raise InvalidRequest(
                f"input '{tensor.name}' has {tensor.shape[0]} rows, expected {rows} as input '{first.name}' has"
            )
    if rows > rows_max:
        raise InvalidRequest(
            f"input '{first.name}' has {rows} rows, the model takes at most batch_rows_max = {rows_max} "
            "in one request; send several requests"
        )
    return rows


def _read(tensor: InputTensor, spec: TensorSpec) -> Array:
    if spec.datatype is not Datatype.BYTES:
        numbers = tensor.array if tensor.array is not None else _elements(tensor, spec.datatype)
        return ragged(numbers) if spec.is_ragged else numbers
    array = tensor.array if tensor.array is not None else _octets(tensor)
    first = array.reshape(-1)[0] if array.size else None
    if spec.is_binary:
        return array if not isinstance(first, str) else _encoded(array)
    return array if isinstance(first, str) else texts(tensor.name, array)


def _octets(tensor: InputTensor) -> Array:
    """Read BYTES as `bytes` objects."""
    if tensor.raw is not None:
        return octets_from_raw(tensor.name, tensor.shape, tensor.raw)
    return octets_from_typed(tensor.name, tensor.shape, _typed(tensor, Datatype.BYTES))


def _encoded(texts_read: Array) -> Array:
    octets = np.empty(texts_read.size, np.object_)
    octets[:] = [text.encode() for text in texts_read.reshape(-1).tolist()]
    return octets.reshape(texts_read.shape)


def _elements(tensor: InputTensor, datatype: Datatype) -> Array:
    if tensor.raw is not None:
        return from_raw(tensor.name, datatype, tensor.shape, tensor.raw)
    return from_typed(tensor.name, datatype, tensor.shape, _typed(tensor, datatype))


def _typed(tensor: InputTensor, datatype: Datatype) -> Sequence[Any]:
    """Return the elements of a tensor's own typed field."""
    if datatype.typed_field is None:
        raise InvalidRequest(f"input '{tensor.name}': {datatype.wire_name} travels in raw_input_contents only")
    for field in tensor.typed:
        if field != datatype.typed_field:
            raise InvalidRequest(
                f"input '{tensor.name}': contents came in {field}, "
                f"expected {datatype.typed_field} for {datatype.wire_name}"
            )
    return tensor.typed.get(datatype.typed_field, ())


def _requested_outputs(request: InferRequest, signature: Signature) -> tuple[int, ...]:
    positions = {spec.name: index for index, spec in enumerate(signature.outputs)}
    asked: dict[str, int] = {}
    for output in request.outputs:
        if output.name not in positions:
            raise InvalidRequest(f"unknown output '{output.name}', the model gives {_list(positions)}")
        if output.name in asked:
            raise InvalidRequest(f"output '{output.name}' is asked for twice, expected once")
        asked[output.name] = positions[output.name]
    return tuple(asked.values() or positions.values())


def _answers_raw(request: InferRequest, signature: Signature, outputs: Iterable[int]) -> bool:
    untyped = any(signature.outputs[index].datatype.typed_field is None for index in outputs)
    return request.raw_count > 0 or not request.inputs or untyped


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
