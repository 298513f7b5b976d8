"""Running a graph on bound tensors: those that lie in a GPU's memory, and those of BF16, a type that numpy lacks.

What lies on the host is copied by onnxruntime, which was measured to be as fast as copying it here, from pinned memory.
Outputs are left on the GPU, for steps behind the model that run there too, or are given to the host. With numba's
simulator the GPU's memory is the CPU's, and the graph runs on the CPU.
"""

import ctypes
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from serving.types import Array, Datatype, Signature, TensorSpec

if TYPE_CHECKING:
    from serving.gpu.device import Gpu

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_HOST = ("cpu", 0)


def can_bind(signature: Signature) -> bool:
    """Say whether a GPU has room for all tensors of a signature: texts are Python objects, which stay on the host."""
    return all(spec.datatype is not Datatype.BYTES for spec in signature.inputs + signature.outputs)


def lies_on_gpu(array: Array) -> bool:
    """Say whether it is a `serving.gpu.memory.GpuArray`: a class that is imported only where a GPU is used."""
    return not isinstance(array, np.ndarray)


def run_bound(
    session: Any, signature: Signature, inputs: Sequence[Array], *, gpu: "Gpu | None", outputs_stay: bool
) -> list[Array]:
    """Compute the outputs, in the model's order, of inputs each of which lies on the host or on `gpu`.

    `outputs_stay` leaves outputs on `gpu`, as `GpuArray`s, but for those of no elements; otherwise they are arrays of
    the host. Without a `gpu` all lie on the host. Raises whatever onnxruntime raises.
    """
    stays_on = gpu if outputs_stay else None
    binding = session.io_binding()
    for spec, array in zip(signature.inputs, inputs, strict=True):
        _bind(binding, spec, array, gpu)
    for spec in signature.outputs:
        binding.bind_output(spec.name, *(_HOST if stays_on is None else stays_on.place))
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()  # else the GPU may still be writing them
    pairs = list(zip(signature.outputs, binding.get_outputs(), strict=True))
    if stays_on is None:
        return [_on_host(spec, value) for spec, value in pairs]
    return [_on_gpu(spec, value, stays_on) for spec, value in pairs]


def _bind(binding: Any, spec: TensorSpec, array: Array, gpu: "Gpu | None") -> None:
    is_bfloat16 = spec.datatype is Datatype.BF16
    if gpu is not None and lies_on_gpu(array) and array.nbytes:
        there: Any = array
        kind: Any = _BFLOAT16 if is_bfloat16 else spec.datatype.dtype.type
        binding.bind_input(spec.name, *gpu.place, kind, list(there.shape), there.address)
    elif is_bfloat16:
        value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.asarray(array, order="C"), _BFLOAT16)
        binding.bind_ortvalue_input(spec.name, value)
    else:
        binding.bind_cpu_input(spec.name, np.asarray(array, order="C"))


def _on_host(spec: TensorSpec, value: Any) -> Array:
    if spec.datatype is not Datatype.BF16:
        array: Array = value.numpy()
        return array
    shape = value.shape()
    count = math.prod(shape)
    if count == 0:
        return np.empty(shape, np.uint16)
    memory = (ctypes.c_uint16 * count).from_address(value.data_ptr())
    return np.ctypeslib.as_array(memory).reshape(shape).copy()  # the memory is freed with `value`


def _on_gpu(spec: TensorSpec, value: Any, gpu: "Gpu") -> Array:
    """Return an output where it lies, which keeps onnxruntime's value, the owner of its memory."""
    from serving.gpu.memory import foreign  # noqa: PLC0415 - brings numba.cuda

    shape, dtype = tuple(value.shape()), spec.datatype.dtype
    if 0 in shape:
        return np.empty(shape, dtype)
    output: Any = foreign(value.data_ptr(), shape, dtype, gpu=gpu, owner=value)
    return output  # type: ignore[no-any-return]
