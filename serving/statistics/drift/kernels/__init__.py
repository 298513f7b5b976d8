"""The compiled counting of features: one branch-free pass over a batch, and what is derived from its rows.

A folder of its own, because machine code is kept per folder of sources. It brings numba with it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from serving.statistics.drift.counting import DERIVING
from serving.statistics.drift.kernels.counting import COUNT
from serving.statistics.drift.kernels.deriving import DERIVE

KERNELS: Mapping[Any, Callable[..., None]] = {**COUNT, **{(DERIVING, dtype): one for dtype, one in DERIVE.items()}}

__all__ = ["KERNELS"]
