"""An ONNX graph in memory, for a model that does not lie in a file of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Graph:
    """The bytes of a graph, and of its external data by the names that the graph uses."""

    model: bytes
    weights: Mapping[str, bytes] = field(default_factory=dict)
