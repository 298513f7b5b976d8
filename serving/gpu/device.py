"""Finding a GPU, compiling functions for it, and running these.

A function is written for one thread among many. `EACH` ones share their items out among all threads; `BLOCK` ones give
each item, a vector for instance, to a block of threads, which work on it together in shared memory.
"""

import contextlib
import enum
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numba import cuda
from numba.core import config, types

from serving.errors import LoadError
from serving.types import Array

IS_SIMULATED = bool(config.ENABLE_CUDASIM)
"""Whether numba simulates a GPU on the CPU."""
BLOCK_THREADS = 4 if IS_SIMULATED else 128
"""So many threads work on one item of a BLOCK function; a power of two."""

_EACH_THREADS = 4 if IS_SIMULATED else 256
_BLOCKS_MAX = 2 if IS_SIMULATED else 16_384
"""Threads go on with further items, so more blocks than keep a GPU busy gain nothing."""

# Small batches keep a GPU half idle, which numba would say at each launch; they are answered soon all the same.
vars(config)["CUDA_LOW_OCCUPANCY_WARNINGS"] = 0

_one_at_a_time = threading.RLock()  # the simulator runs one function at a time


class Share(enum.Enum):
    """What of the items of a function one thread takes."""

    EACH = enum.auto()
    BLOCK = enum.auto()


@dataclass(frozen=True, slots=True)
class Compiled:
    """A function, compiled for a GPU. Thread-safe."""

    dispatcher: Any
    share: Share

    def launch(self, stream: Any, items: int, *arguments: Any) -> None:
        """Start it on a stream for so many items; it has ended when the stream has been synchronised."""
        if not items:
            return
        threads = BLOCK_THREADS if self.share is Share.BLOCK else _EACH_THREADS
        blocks = items if self.share is Share.BLOCK else -(-items // threads)
        with _one_at_a_time if IS_SIMULATED else contextlib.nullcontext():
            self.dispatcher[min(blocks, _BLOCKS_MAX), threads, stream](*arguments)


class Gpu:
    """The GPU of this number, as CUDA counts them. Thread-safe; raises LoadError where there is none."""

    def __init__(self, number: int) -> None:
        if not IS_SIMULATED and cuda.implementation == "Built-in":  # which is not developed any more
            raise LoadError("[instances] kind = \"gpu\" needs numba-cuda; pip install 'penstock[gpu]'")
        if not cuda.is_available():
            raise LoadError('[instances] kind = "gpu" found no GPU that it can use; is NVIDIA\'s driver installed?')
        count = len(cuda.gpus)
        if number >= count:
            raise LoadError(
                f"[instances] gpus = [{number}], expected a number from 0 to {count - 1}: there are {count}"
            )
        self.number = number

    @property
    def place(self) -> tuple[str, int]:
        """What onnxruntime calls the memory that this GPU works on, and its number there."""
        return ("cpu", 0) if IS_SIMULATED else ("cuda", self.number)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make it the one that the calling thread uses."""
        with cuda.gpus[self.number]:
            yield

    def pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an uninitialised, row-major array in pinned memory of the host, which the GPU copies by itself."""
        if 0 in shape:  # there is no pinned memory of no bytes
            return np.empty(shape, dtype)
        with self.active():
            array: Array = cuda.pinned_array(shape, dtype)
        return array

    def used_bytes(self) -> int:
        """Return how many bytes of its memory are in use, by anybody; 0 where it is simulated."""
        if IS_SIMULATED:
            return 0
        with self.active():
            free, total = cuda.current_context().get_memory_info()
        return int(total - free)

    def compiled(self, function: Callable[..., None], arguments: Sequence[Any], share: Share) -> Compiled:
        """Compile a function for arguments of these numba types. Raises what numba raises."""
        signature = types.void(*arguments)
        with self.active():
            return Compiled(cuda.jit(signature)(function), share)


@functools.lru_cache(1_024)
def device_function(function: Callable[..., Any]) -> Any:
    """Make a function one that others, compiled for GPUs, call there; it is compiled once for the same types."""
    return cuda.jit(device=True)(function)


def array_type(dtype: np.dtype[Any], dimensions: int) -> Any:
    """Return numba's type of a row-major array in a GPU's memory."""
    return types.Array(numba.from_dtype(dtype), dimensions, "C")
