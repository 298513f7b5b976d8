"""What a GPU is doing, as NVIDIA's management library (NVML) tells."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml
from numba import cuda

from serving.gpu.device import IS_SIMULATED


@dataclass(frozen=True, slots=True)
class GpuReading:
    """A GPU at one moment; what it does not tell is NaN.

    `number` is CUDA's, `uuid` is what NVIDIA's tools call it. `utilisation` (0 to 1) is the share of the last second or
    less in which something ran on it, `power_w` what it draws. Source: NVML API Reference, "Device Queries".
    """

    number: int
    uuid: str
    used_bytes: float
    total_bytes: float
    utilisation: float
    power_w: float


def read(number: int) -> GpuReading | None:
    """Return what the GPU of this number tells; None where NVML knows no such GPU. Takes about a millisecond."""
    if IS_SIMULATED:
        return None
    uuid = str(cuda.gpus[number].uuid)
    try:
        pynvml.nvmlInit()  # calls after the first one only count
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return None
    return GpuReading(
        number,
        uuid,
        used_bytes=_told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used),
        total_bytes=_told(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        utilisation=_told(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100,
        power_w=_told(lambda: pynvml.nvmlDeviceGetPowerUsage(handle)) / 1000,
    )


def _told(ask: Callable[[], Any]) -> float:
    try:
        return float(ask())
    except pynvml.NVMLError:  # a MIG instance, for example, does not tell how busy it is
        return math.nan
