"""Running a graph on tensors that lie in a GPU's memory: inputs and outputs are bound to where they are.

Arrays of the host are brought there first, on two lanes that take turns. Outputs are left there, for steps behind the
model that run there too, or copied to the host. With numba's simulator the memory is the CPU's, and so are providers.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.gpu.device import Gpu
from serving.gpu.lanes import Lanes
from serving.gpu.memory import GpuArray, empty, foreign
from serving.types import Array, Datatype, Signature, TensorSpec

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_OCTETS = np.dtype(np.uint8)


def can_bind(signature: Signature) -> bool:
    """Say whether a GPU has room for all tensors of a signature: texts are Python objects, which stay on the host."""
    return all(spec.datatype is not Datatype.BYTES for spec in signature.inputs + signature.outputs)


class Binding:
    """A session's runs on a GPU.

    `run` may be called from several threads at once. Each run has lanes and input buffers of its own, which are kept
    for later ones: there are as many as runs at once, which the servable's instances bound.
    """

    def __init__(self, session: Any, signature: Signature, gpu: Gpu) -> None:
        self._session = session
        self._signature = signature
        self._gpu = gpu
        self._idle: deque[_Staging] = deque()

    def run(self, inputs: Sequence[Array], *, outputs_stay: bool) -> list[Array]:
        """Compute the outputs of inputs on the host, or on the GPU; `outputs_stay` leaves them there, as `GpuArray`s.

        Raises whatever onnxruntime raises.
        """
        with self._gpu.active():
            staging = self._taken()
            try:
                binding = self._session.io_binding()
                for index, (spec, array) in enumerate(zip(self._signature.inputs, inputs, strict=True)):
                    self._bind(binding, spec, array, staging.address(index, array))
                for spec in self._signature.outputs:
                    binding.bind_output(spec.name, *self._gpu.place)
                staging.lanes.join()
                self._session.run_with_iobinding(binding)
                binding.synchronize_outputs()  # what they are written by has ended
                values = binding.get_outputs()
                outputs = [_output(spec, value) for spec, value in zip(self._signature.outputs, values, strict=True)]
                return outputs if outputs_stay else [np.asarray(output) for output in outputs]
            finally:
                self._idle.append(staging)

    def _taken(self) -> "_Staging":
        """Take what no run uses, or what is new; asking first whether there is any would let two take the last one."""
        try:
            return self._idle.pop()
        except IndexError:
            return _Staging()

    def _bind(self, binding: Any, spec: TensorSpec, array: Array, address: int) -> None:
        kind: Any = _BFLOAT16 if spec.datatype is Datatype.BF16 else spec.datatype.dtype.type
        binding.bind_input(spec.name, *self._gpu.place, kind, list(array.shape), address)


class _Staging:
    """What one run at a time brings inputs to the GPU with: lanes, and memory that grows to the largest batch."""

    def __init__(self) -> None:
        self.lanes = Lanes()
        self._buffers: dict[int, Any] = {}

    def address(self, index: int, array: Array) -> int:
        """Return where an input lies on the GPU; one of the host is on its way there until the lanes have joined."""
        if isinstance(array, GpuArray):
            return array.address
        octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        buffer = self._buffers.get(index)
        if buffer is None or buffer.shape[0] < len(octets):
            buffer = self._buffers[index] = empty((max(1, len(octets)),), _OCTETS)
        for lane, begin, end in self.lanes.chunks(len(octets), [1]):
            lane.upload(octets[begin:end], buffer[begin:end])
        return GpuArray(buffer).address


def _output(spec: TensorSpec, value: Any) -> Array:
    """Return an output where it lies; onnxruntime's value owns its memory."""
    shape, dtype = tuple(value.shape()), spec.datatype.dtype
    if 0 in shape:
        return np.empty(shape, dtype)
    output: Any = foreign(value.data_ptr(), shape, dtype, value)
    return output  # type: ignore[no-any-return]
