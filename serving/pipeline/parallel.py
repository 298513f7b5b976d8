"""Work on the rows of a batch side by side, on the threads of this process and the caller's own.

Libraries give up the GIL while they decode, so rows use as many cores as there are. Bound: one thread for each core,
over all models, beside the instance threads.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

from serving.cores import usable_cores


def for_each(count: int, work: Callable[[int], None]) -> None:
    """Call `work` with 0 to count - 1, each once, and return when all have ended. What it raises is raised here."""
    taken = itertools.count()  # a step of it is one operation of the interpreter, so no number is taken twice

    def take() -> None:
        while (number := next(taken)) < count:
            work(number)

    helpers = [_pool().submit(take) for _ in range(min(count, _cores()) - 1)]
    try:
        take()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]  # the others are not needed any more
        wait(begun)
    for helper in begun:
        helper.result()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="pipeline rows")


@functools.cache
def _cores() -> int:
    return usable_cores()
