"""What the GPUs that run servables are doing, as metrics: under our names, and under Triton's.

They are asked at a scrape, on the thread that renders it. Of a GPU that does not tell a number there is no sample.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric

from serving.statistics.servable_view import ServableView

if TYPE_CHECKING:
    from serving.gpu.gauges import GpuReading

_OURS = (
    ("penstock_gpu_memory_used_bytes", "GPU memory in use, by anybody.", "used_bytes"),
    ("penstock_gpu_memory_bytes", "GPU memory, in use or not.", "total_bytes"),
    ("penstock_gpu_utilisation_ratio", "Share of the last second or less in which the GPU was busy.", "utilisation"),
    ("penstock_gpu_power_watts", "Power that the GPU draws.", "power_w"),
)
_TRITONS = (  # names and meanings are those of its user guide ("Metrics")
    ("nv_gpu_memory_used_bytes", "GPU used memory, in bytes.", "used_bytes"),
    ("nv_gpu_memory_total_bytes", "GPU total memory, in bytes.", "total_bytes"),
    ("nv_gpu_utilization", "GPU utilization rate, from 0 to 1.", "utilisation"),
    ("nv_gpu_power_usage", "GPU power usage, in watts.", "power_w"),
)


def readings(servables: Iterable[ServableView]) -> list["GpuReading"]:
    """Return what the GPUs that run servables are doing, by number; takes about a millisecond for each."""
    numbers = sorted({one.gpu for one in servables if one.gpu is not None})
    if not numbers:
        return []
    from serving.gpu.gauges import read  # noqa: PLC0415 - brings numba.cuda and NVIDIA's management library

    return [reading for number in numbers if (reading := read(number)) is not None]


def families(gpus: Sequence["GpuReading"]) -> Iterator[Metric]:
    """Yield a gauge of each kind of number that some GPU tells."""
    for name, text, attribute in _OURS:
        family = GaugeMetricFamily(name, text, labels=("gpu", "gpu_uuid"))
        for gpu, value in _told(gpus, attribute):
            family.add_metric((str(gpu.number), gpu.uuid), value)
        if family.samples:
            yield family


def triton_families(gpus: Sequence["GpuReading"]) -> Iterator[Metric]:
    """Yield the same under Triton's names."""
    for name, text, attribute in _TRITONS:
        family = GaugeMetricFamily(name, text, labels=("gpu_uuid",))
        for gpu, value in _told(gpus, attribute):
            family.add_metric((gpu.uuid,), value)
        if family.samples:
            yield family


def _told(gpus: Sequence["GpuReading"], attribute: str) -> Iterator[tuple["GpuReading", float]]:
    for gpu in gpus:
        value: float = getattr(gpu, attribute)
        if not math.isnan(value):
            yield gpu, value
