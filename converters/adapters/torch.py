"""PyTorch to ONNX, by torch.onnx.export's dynamo path with an open batch dimension: modules and exported programs."""

import contextlib
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch

from converters import graph
from converters.draft import Draft, Output
from converters.runner import one_line, quiet, rows_of
from converters.sample import MATRIX, Array, Sample, Tensors
from converters.target import Target
from serving.errors import ConfigError

_EXPORT_ROWS = 2
"""Rows that the module is traced with; one row would be taken for a constant."""


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a module in evaluation mode, or an exported program. Raises ConfigError that says what to do."""
    program = model if isinstance(model, torch.export.ExportedProgram) else None
    module = model.module() if program is not None else model
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"a {type(model).__name__} of PyTorch is no torch.nn.Module; name the module")
    exact, names = _inputs(module, sample)
    with _evaluating(module), torch.no_grad():
        outputs = _named(_call(module, names, exact, _EXPORT_ROWS), names)
        converted = _export(program or module, module, names, exact, list(outputs), target)

    def answer(tensors: Tensors) -> Tensors:
        with _evaluating(module), torch.no_grad(), quiet():
            return {name: item.numpy() for name, item in _named(_call(module, names, tensors), names).items()}

    return Draft(
        model=converted,
        framework="PyTorch",
        versions={"torch": torch.__version__},
        exact=exact,
        outputs=tuple(Output(name, "values") for name in outputs),
        answer=answer,
        feature_names=tuple(sample.arrays) if sample.is_table else (),
        parameters={"module": type(model).__name__},
        notes=("the module was in training mode; it was converted in evaluation mode",) if _is_training(module) else (),
    )


def _inputs(module: Any, sample: Sample) -> tuple[Tensors, list[str]]:
    """Match the sample with the parameters of `forward`: by name, or the one matrix with the first of them."""
    parameters = inspect.signature(module.forward).parameters.values()
    plain = [item.name for item in parameters if item.kind in {item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY}]
    required = [item.name for item in parameters if item.name in plain and item.default is item.empty]
    if not sample.is_table and set(required) <= set(sample.arrays) <= set(plain):
        return sample.arrays, [name for name in plain if name in sample.arrays]
    if len(required) > 1:
        raise ConfigError(
            f"the module takes {', '.join(required)}, and the sample has {', '.join(sample.arrays)}; save them under "
            "these names in a .npz file"
        )
    name = MATRIX if sample.is_table or MATRIX in sample.arrays else next(iter(sample.arrays))
    return {name: sample.matrix()}, [name]


def _call(module: Any, names: list[str], tensors: Tensors, rows_max: int | None = None) -> Any:
    """Run the module on tensors; a single one goes to the first parameter, whatever that is called."""
    kind = next((item.dtype for item in module.parameters() if item.dtype.is_floating_point), torch.float32)
    arguments = {name: _tensor(tensors[name][:rows_max], kind) for name in names}
    return module(*arguments.values()) if len(names) == 1 else module(**arguments)


def _tensor(item: Array, kind: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(item))
    return tensor.to(kind) if tensor.dtype.is_floating_point else tensor


def _named(found: Any, taken: list[str]) -> dict[str, torch.Tensor]:
    """Give the outputs names that no input has. Raises ConfigError for other things than tensors."""
    if isinstance(found, torch.Tensor):
        return {"output": found}
    if isinstance(found, Mapping):
        named = {f"{name}_out" if name in taken else str(name): item for name, item in found.items()}
    elif isinstance(found, tuple | list):
        named = {f"output_{index}": item for index, item in enumerate(found)}
    else:
        named = {}
    if not named or not all(isinstance(item, torch.Tensor) for item in named.values()):
        raise ConfigError(
            f"the module returns a {type(found).__name__}, expected a tensor, or a tuple or dictionary of tensors; "
            "wrap it in a module that does"
        )
    return named


def _export(
    model: Any, module: Any, names: list[str], exact: Tensors, outputs: list[str], target: Target
) -> Any:  # fmt: skip
    kind = next((item.dtype for item in module.parameters() if item.dtype.is_floating_point), torch.float32)
    rows = rows_of(exact, slice(0, _EXPORT_ROWS))
    if len(next(iter(rows.values()))) < _EXPORT_ROWS:
        rows = {name: np.concatenate([item] * _EXPORT_ROWS) for name, item in rows.items()}
    tensors = [_tensor(rows[name], kind) for name in names]
    opened = torch.export.Dim("rows", min=1)
    given: dict[str, Any] = {}
    if model is module:
        given["dynamic_shapes"] = tuple({0: opened} for _ in names)
    arguments = tuple(tensors)
    keywords = None
    if len(names) > 1 and model is module:
        arguments, keywords = (), dict(zip(names, tensors, strict=True))
        given["dynamic_shapes"] = {name: {0: opened} for name in names}
    try:
        with warnings.catch_warnings(), _silence():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                model, arguments, kwargs=keywords, input_names=names, output_names=outputs, opset_version=target.opset,
                dynamo=True, external_data=False, verbose=False, **given,
            )  # fmt: skip
    except Exception as error:  # torch raises all kinds
        raise ConfigError(
            f"torch.onnx.export cannot take this module: {one_line(error, 200)}; avoid control flow that depends on "
            "data, and shapes that depend on the number of rows"
        ) from None
    stream = io.BytesIO(exported.model_proto.SerializeToString())
    converted = onnx.load(stream)
    current = [value.name for value in graph.graph_inputs(converted)]
    graph.rename(converted, dict(zip(current, names, strict=True)))
    graph.rename(converted, dict(zip([value.name for value in converted.graph.output], outputs, strict=True)))
    return converted


def _is_training(module: Any) -> bool:
    """An exported program has the mode in which it was exported, and no switch."""
    return bool(module.training) and not isinstance(module, torch.fx.GraphModule)


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a module into evaluation mode, and back."""
    was_training = _is_training(module)
    if was_training:
        module.eval()
    try:
        yield
    finally:
        if was_training:
            module.train()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's progress to itself: its errors are raised anyway."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
