"""An ONNX graph in memory, for a model that does not lie in a file of its own."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Graph:
    """The bytes of a graph, of its external data by the names that the graph uses, and of files of its pipeline."""

    model: bytes
    weights: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def parts(self) -> Iterator[tuple[str, int, tuple[bytes, ...]]]:
        """What it consists of: a name, the length, and the bytes, in an order that is always the same."""
        for name, data in (("", self.model), *sorted(self.weights.items()), *sorted(self.files.items())):
            yield name, len(data), (data,)
