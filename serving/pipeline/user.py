"""Steps of a model's own: a function in a Python file of the version, which numba compiles like ours.

The file is executed when its model is loaded, and only where the operator allows that: it is code like any other, with
the rights of the server. Nothing of it is kept in a cache. Mistakes in it are kept from doing harm as far as that goes:
indices are checked, what it does not fill is 0, and it runs on instance threads only.
"""

import inspect
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from serving.pipeline.parameters import Parameters
from serving.pipeline.step import Dims, Draft, Flow, Kernel, as_it_is
from serving.pipeline.tabular import NUMBERS

_MODULE = "penstock_user_steps"


def user(parameters: Parameters, reads: Sequence[Flow]) -> Draft:
    """Call `function` of the Python file `file` with the arrays of `inputs`, and one, `out`, that it fills.

    `out` has the `datatype` and, behind the rows, the `shape` of the first input unless they say otherwise.
    """
    for flow in reads:
        if flow.spec.datatype not in NUMBERS or flow.is_ragged:
            raise parameters.error(f"'{flow.spec.name}' is {flow.spec.datatype.wire_name}, expected numbers")
    datatype = reads[0].spec.datatype
    if parameters.has("datatype"):
        datatype = parameters.datatype("datatype", NUMBERS)
    dims = parameters.lengths("shape") if parameters.has("shape") else None
    name = parameters.text("function")
    if not parameters.allow_user_code:
        raise parameters.error(
            f"runs Python of the model's own ({parameters.text('file')}), which this server does not allow; "
            "start it with --user-code on if you trust who can write to the model repository"
        )
    function = _function(parameters, name)

    def follow(given: Sequence[Dims]) -> tuple[Dims, ...]:
        return (given[0] if dims is None else dims,)

    return Draft(Kernel(function, (as_it_is,) * (len(reads) + 1), is_trusted=False), (datatype,), follow)


def _function(parameters: Parameters, name: str) -> Callable[..., Any]:
    """Execute the file; return its function, of numba or not. Raises LoadError."""
    content, file = parameters.file("file"), parameters.text("file")
    module = ModuleType(_MODULE)
    try:
        exec(compile(content, file, "exec"), vars(module))  # noqa: S102 - what the operator has allowed
    except BaseException as error:  # what it raises must not end the thread that loads, or the server
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise parameters.error(f"{file} cannot be executed: {reason}") from error
    function: Any = getattr(module, name, None)
    function = getattr(function, "py_func", function)
    if not inspect.isfunction(function):
        raise parameters.error(f"{file} has no function '{name}'")
    if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
        raise parameters.error(f"{file}: '{name}' is a generator or asynchronous, expected a plain function")
    return function
