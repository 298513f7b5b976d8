"""Half precision inside of the graph; what callers send and get keeps its datatype."""

from converters import graph as graphs
from converters.runner import quiet
from converters.sample import Tensors
from converters.target import Target
from serving.errors import ConfigError

_CLASSICAL = "ai.onnx.ml"


def apply(graph: bytes, _exact: Tensors, _target: Target, _seed: int) -> bytes:
    """Return a graph that computes in float16. Raises ConfigError for trees and the like, which only know float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # noqa: PLC0415 - slow to import

    model = graphs.load(graph)
    classical = sorted({node.op_type for node in model.graph.node if node.domain == _CLASSICAL})
    if classical:
        raise ConfigError(f"pass fp16 does nothing for {', '.join(classical)}, which compute in float32 only")
    with quiet():
        model = convert_float_to_float16(model, keep_io_types=True)
    graphs.sort_nodes(model)  # it puts casts at the end
    data: bytes = model.SerializeToString()
    return data
