"""The compiled counting of features: one branch-free pass over the rows of a batch.

A folder of its own, because machine code is kept per folder of sources. It brings numba with it.
"""

from serving.statistics.drift.kernels.counting import KERNELS

__all__ = ["KERNELS"]
