"""Tensors in the memory of a GPU."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda

from serving.gpu.device import IS_SIMULATED, Gpu
from serving.types import Array


class GpuArray:
    """A tensor in a GPU's memory, standing where an Array is expected: numpy copies it to the host when asked to.

    `data` is numba's array, row-major, in the memory of `gpu`. `owner` is what keeps memory alive that is not numba's.
    Any thread may copy it, also one that uses no GPU otherwise.
    """

    __slots__ = ("data", "gpu", "owner")

    def __init__(self, data: Any, gpu: Gpu, owner: object = None) -> None:
        self.data = data
        self.gpu = gpu
        self.owner = owner

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its dimensions."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The type of its elements."""
        dtype: np.dtype[np.generic] = self.data.dtype
        return dtype

    @property
    def ndim(self) -> int:
        """The number of its dimensions."""
        return len(self.data.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of its elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def address(self) -> int:
        """Where it begins in the GPU's memory."""
        if IS_SIMULATED:
            return int(self.data.ctypes.data)
        return int(self.data.__cuda_array_interface__["data"][0])

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        with self.gpu.active():  # else numba would begin to use the first GPU, whichever this one is
            array: Array = self.data.copy_to_host()
        return array if dtype is None else array.astype(dtype)


def empty(shape: Sequence[int], dtype: np.dtype[np.generic]) -> Any:
    """Return an uninitialised array of numba's, row-major, in the memory of the active GPU."""
    return cuda.device_array(tuple(shape), dtype)


def uploaded(array: Array) -> Any:
    """Return a copy in the memory of the active GPU, as numba's array, row-major."""
    return cuda.to_device(np.ascontiguousarray(array))


def foreign(address: int, shape: Sequence[int], dtype: np.dtype[np.generic], *, gpu: Gpu, owner: object) -> GpuArray:
    """Return the tensor that lies, row-major, at an address of a GPU's memory, which `owner` keeps alive."""
    if IS_SIMULATED:
        octets = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address)
        view = np.ctypeslib.as_array(octets).view(dtype).reshape(tuple(shape))
        data = cuda.device_array(0, np.uint8)
        data._ary = view  # the simulator's array is a shell around numpy's
        return GpuArray(data, gpu, owner)
    with gpu.active():
        return GpuArray(cuda.as_cuda_array(_Foreign(address, tuple(shape), dtype)), gpu, owner)


class _Foreign:
    """Memory as others describe it to numba. Source: numba's CUDA Array Interface, version 3."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self.__cuda_array_interface__ = {
            "shape": shape, "typestr": dtype.str, "data": (address, False), "strides": None, "version": 3,
        }  # fmt: skip
