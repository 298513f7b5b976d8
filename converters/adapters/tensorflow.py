"""TensorFlow's SavedModels to ONNX, by tf2onnx: a signature of a loaded model, `serving_default` unless one is named.

tf2onnx leaves an operator that it does not know in the graph as TensorFlow calls it, and goes on; such a graph is
refused here, by name.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import tensorflow
import tf2onnx

from converters import graph
from converters.adapters.onnx_file import output_of
from converters.draft import Draft
from converters.runner import one_line, quiet
from converters.sample import Array, Sample, Tensors
from converters.target import Target, all_nodes
from serving.errors import ConfigError

DEFAULT_SIGNATURE = "serving_default"
_OPSET_MAX = 18
"""The newest that tf2onnx writes."""


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a loaded SavedModel, or one signature of it. Raises ConfigError that says what to do."""
    signature = _signature(model)
    specs = dict(sorted(signature.structured_input_signature[1].items()))
    _check_rows(specs)
    exact = _inputs(specs, sample)
    outputs = _outputs(signature, specs)

    def answer(tensors: Tensors) -> Tensors:
        given = {name: tensorflow.constant(tensors[name], specs[name].dtype) for name in specs}
        with quiet():
            found = signature(**given)
            return {name: _plain(found[theirs]) for name, theirs in outputs.items()}

    converted = _export(signature, specs, target)
    return Draft(
        model=converted,
        framework="TensorFlow",
        versions={"tensorflow": tensorflow.__version__, "tf2onnx": tf2onnx.__version__},
        exact=exact,
        outputs=tuple(output_of(value) for value in converted.graph.output),
        answer=answer,
        feature_names=tuple(sample.arrays) if sample.is_table and len(exact) == 1 else (),
    )


def _signature(model: Any) -> Any:
    """Return the signature to serve. Raises ConfigError when there is none, or several and none of the usual name."""
    if hasattr(model, "structured_input_signature"):
        return model
    found = getattr(model, "signatures", None)
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(
            "the model of TensorFlow has no signatures, so there is nothing to serve; save it with "
            "tf.saved_model.save(model, FOLDER, signatures=FUNCTION) or model.export(FOLDER) of Keras"
        )
    if DEFAULT_SIGNATURE in found:
        return found[DEFAULT_SIGNATURE]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ConfigError(
        f"the SavedModel has signatures {', '.join(sorted(found))} and none called {DEFAULT_SIGNATURE}; choose one in "
        "a module of yours, loaded = tf.saved_model.load(FOLDER) and model = loaded.signatures[NAME], which needs what "
        "was loaded, and give MODULE:model"
    )


def _check_rows(specs: Mapping[str, Any]) -> None:
    if not specs:
        raise ConfigError("the signature takes no tensors, so there is nothing to serve")
    for name, spec in specs.items():
        if spec.shape.rank is None or spec.shape.rank == 0 or spec.shape[0] is not None:
            raise ConfigError(
                f"input '{name}' has shape {spec.shape}, whose first dimension is not open; export the function with "
                "tf.TensorSpec([None, ...]), so that rows of several requests can share a batch"
            )


def _inputs(specs: Mapping[str, Any], sample: Sample) -> Tensors:
    """Match the sample with the inputs of the signature: by name, or the one matrix with the one input."""
    if set(specs) <= set(sample.arrays):
        given = {name: sample.arrays[name] for name in specs}
    elif len(specs) == 1:
        given = {next(iter(specs)): sample.matrix()}
    else:
        raise ConfigError(
            f"the signature takes {', '.join(specs)}, and the sample has {', '.join(sample.arrays)}; name its arrays "
            "or columns so"
        )
    return {name: _fitted(name, item, specs[name]) for name, item in given.items()}


def _fitted(name: str, item: Array, spec: Any) -> Array:
    """Give a column the dimensions of its input, and whole numbers where it takes such."""
    item = item[:, None] if item.ndim == 1 and spec.shape.rank == 2 else item
    wanted = spec.shape.as_list()[1:]
    if item.ndim != spec.shape.rank or any(b not in {None, a} for a, b in zip(item.shape[1:], wanted, strict=True)):
        raise ConfigError(f"input '{name}' takes {spec.shape}, and the sample has shape {list(item.shape)}")
    if (item.dtype == object) != (spec.dtype == tensorflow.string):
        raise ConfigError(f"input '{name}' takes {spec.dtype.name}, and the sample has {item.reshape(-1)[0]!r}")
    if item.dtype == object or item.dtype.kind == np.dtype(spec.dtype.as_numpy_dtype).kind:
        return item
    with quiet():
        cast = item.astype(spec.dtype.as_numpy_dtype)
    if cast.dtype.kind != "f" and not np.array_equal(cast, item):
        raise ConfigError(f"input '{name}' takes {spec.dtype.name}, and the sample has numbers there that are none")
    return cast


def _outputs(signature: Any, specs: Mapping[str, Any]) -> dict[str, str]:
    """Return TensorFlow's names of the outputs by the graph's, which no input has."""
    return {f"{name}_out" if name in specs else name: name for name in sorted(signature.structured_outputs)}


def _export(signature: Any, specs: Mapping[str, Any], target: Target) -> Any:
    outputs = _outputs(signature, specs)

    def function(*tensors: Any) -> list[Any]:
        found = signature(**dict(zip(specs, tensors, strict=True)))
        return [found[name] for name in outputs.values()]

    given = [
        tensorflow.TensorSpec(spec.shape, spec.dtype, name=f"given_{at}") for at, spec in enumerate(specs.values())
    ]
    try:
        with _silence():
            converted, _ = tf2onnx.convert.from_function(
                tensorflow.function(function), given, opset=min(target.opset, _OPSET_MAX)
            )
    except Exception as error:  # tf2onnx raises all kinds
        raise ConfigError(f"tf2onnx {tf2onnx.__version__} cannot convert this model: {one_line(error, 200)}") from None
    _refuse_unknown(converted)
    takes, gives = graph.graph_inputs(converted), converted.graph.output
    if len(takes) != len(specs) or len(gives) != len(outputs):
        raise ConfigError(f"the graph takes {len(takes)} of {len(specs)} tensors; leave out those that nothing reads")
    graph.rename(converted, {old.name: new for old, new in zip(takes, specs, strict=True)})
    graph.rename(converted, {old.name: new for old, new in zip(gives, outputs, strict=True)})
    return converted


def _refuse_unknown(converted: Any) -> None:
    known = {"": "ai.onnx", **{item.domain: item.domain for item in converted.opset_import}}
    unknown = {node.op_type for node in all_nodes(converted)
               if node.domain not in known or not onnx.defs.has(node.op_type, domain=node.domain)}  # fmt: skip
    if unknown:
        raise ConfigError(
            f"tf2onnx {tf2onnx.__version__} has no converter for {', '.join(sorted(unknown))} of TensorFlow; replace "
            "them by operators that it supports (support_status.md of tf2onnx), or do this step before the request"
        )


def _plain(item: Any) -> Array:
    """Return a tensor as numpy holds it; strings come as bytes."""
    found: Array = np.asarray(item.numpy())
    if found.dtype == object:
        return np.array([text.decode() for text in found.reshape(-1)], object).reshape(found.shape)
    return found


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep tf2onnx's log to itself: what it cannot convert is raised."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
