"""What a step is: what it reads and writes, how shapes follow, and the work, which is one of four kinds.

`Element` works on one number at a time, and neighbours in a chain are fused into one pass. `Kernel` works on whole
arrays. Both are plain functions in a part of Python that numba compiles; they are compiled when a model uses them.
`Host` calls a library on whole arrays, `PerRow` on one row at a time, in parallel. Pure: nothing here runs anything.
"""

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.types import Array, Datatype, TensorSpec

ROW_BYTES_MAX = 1 << 30
"""The most bytes that a row of a tensor may take."""

Dims = tuple[int, ...]
"""The dimensions of a tensor behind its rows."""

Follow = Callable[[Sequence[Dims]], tuple[Dims, ...]]
"""From the dimensions of what a step reads to those of what it writes: of declared ones, and of actual ones."""


class Spread(enum.Enum):
    """How an argument goes with the numbers of a tensor."""

    ONE = enum.auto()
    """The same for every number: an array of one element."""
    COLUMN = enum.auto()
    """One for each column, which is the last dimension."""
    WHOLE = enum.auto()
    """The function takes the array itself."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter of a step as compiled code takes it."""

    array: Array
    spread: Spread = Spread.WHOLE


@dataclass(frozen=True, slots=True)
class Element:
    """Work on one number: `function(value, *arguments)` is the result.

    `refuses(value, result, *arguments)` says that a row with such a number cannot be taken. `computes` is the dtype
    that a number is turned into before. All run compiled, and as plain Python where a refusal is explained. `signals`
    says the same as `refuses` by an integer as wide as `computes` that is negative, for fast loops, and `smooth` gives
    what `function` gives, within a stated error, without branches and calls.
    """

    function: Callable[..., Any]
    computes: Datatype
    arguments: tuple[Argument, ...] = ()
    refuses: Callable[..., Any] | None = None
    signals: Callable[..., Any] | None = None
    smooth: Callable[..., Any] | None = None


@dataclass(frozen=True, slots=True)
class Kernel:
    """Work on arrays: `function(*reads, *writes, *arguments)`.

    With `marks`, two more arguments follow, flaws, INT64 [rows], and the number to put where a row has none yet, and it
    returns how many it has put. The last `scratch` of what it writes are for itself alone.
    `views` says how each of reads and writes is laid out for it. `explain` says what was wrong in one row that it read.
    `is_trusted` is false for a function that is not of this package: its indices are checked, what it writes is zeros
    before it runs, it is kept in no cache, and does not run on the I/O thread.
    """

    function: Callable[..., Any]
    views: tuple[Callable[[Array], Array], ...]
    arguments: tuple[Argument, ...] = ()
    marks: bool = False
    scratch: int = 0
    explain: Callable[[Array], str] | None = None
    is_trusted: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """Work of a library on whole arrays, with the GIL as the library likes: returns what it writes.

    It puts the reason why a row cannot be taken into `reasons`; what it writes there is not looked at. `is_quick` says
    that its time is known by the rows alone and short, so that it may run on the I/O thread.
    """

    function: Callable[[Sequence[Array], dict[int, str]], Sequence[Array]]
    is_quick: bool = True


@dataclass(frozen=True, slots=True)
class PerRow:
    """Work of a library on one row, which may have a shape of its own. Raises ValueError for what it cannot take."""

    function: Callable[[Any], Any]


Work = Element | Kernel | Host | PerRow


@dataclass(frozen=True, slots=True)
class Flow:
    """A tensor on its way: written once, by one step, or given. `is_ragged`: rows have shapes of their own."""

    spec: TensorSpec
    number: int
    is_ragged: bool = False

    @property
    def dims(self) -> Dims:
        """The dimensions behind the rows."""
        return self.spec.shape[1:]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a pipeline, with everything checked.

    `complaint` ends the message about a number that it cannot take: what was expected.
    """

    name: str
    reads: tuple[Flow, ...]
    writes: tuple[Flow, ...]
    work: Work
    follow: Follow
    complaint: str = ""


@dataclass(frozen=True, slots=True)
class Half:
    """What runs before the model, or behind it: from `given` to `results`, through steps in order."""

    given: tuple[Flow, ...]
    steps: tuple[Step, ...]
    results: tuple[Flow, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """What a builder makes of a declaration; the composition gives its tensors numbers.

    `datatypes` are those of what it writes. `is_ragged` says that these have rows of their own shapes. A step may be
    built of several: then `then` reads what this one writes, and behind it its own `reads`. The first one's `reads` are
    what was declared unless it says otherwise.
    """

    work: Work
    datatypes: tuple[Datatype, ...]
    follow: Follow
    complaint: str = ""
    is_ragged: bool = False
    reads: tuple[Flow, ...] | None = None
    then: "Draft | None" = None

    @property
    def scratch(self) -> int:
        """How many of the last tensors that it writes nobody else reads."""
        return self.work.scratch if isinstance(self.work, Kernel) else 0


def one(value: float, dtype: Datatype) -> Argument:
    """Return an argument that is the same for every number."""
    return Argument(np.array([value], dtype.dtype), Spread.ONE)


def same(dims: Sequence[Dims]) -> tuple[Dims, ...]:
    """Say that what is written has the shape of what is read."""
    return (dims[0],)


def as_it_is(array: Array) -> Array:
    """Lay an array out as it is."""
    return array


def vectors(array: Array) -> Array:
    """Lay an array out as [vectors, columns]; one number per row is a vector of one column."""
    columns = array.shape[array.ndim - 1] if array.ndim > 1 else 1
    count = array.size // columns if columns else math.prod(array.shape[:-1])
    return array.reshape(count, columns)


def per_vector(array: Array) -> Array:
    """Lay an array out that has one number per vector of another."""
    return array.reshape(array.size)


def rows_of(array: Array) -> Array:
    """Lay an array out as [rows, numbers]."""
    return array.reshape(len(array), math.prod(array.shape[1:]))


def places(array: Array) -> Array:
    """Lay an array out as [rows, places, numbers], places being the first dimension behind the rows."""
    return array.reshape(array.shape[0], array.shape[1], math.prod(array.shape[2:]))
