"""Which onnxruntime a graph is made for: what it can load, and what we write for it.

onnx writes its newest opset and IR version by default, which older runtimes refuse to load. So a target is declared and
every graph is pinned to it. What a release loads was found by trying: graphs of each version, on that release.
"""

from dataclasses import dataclass
from typing import Any

from serving.errors import ConfigError

KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
"""Where operators may come from: ONNX itself, its classical models, and onnxruntime's own."""


@dataclass(frozen=True, slots=True)
class Target:
    """A release of onnxruntime. The first three are what we write, the `_max` ones what it loads."""

    onnxruntime: str
    opset: int
    ml_opset: int
    ir_version: int
    opset_max: int
    ml_opset_max: int
    ir_version_max: int

    @property
    def opsets(self) -> dict[str, int]:
        """What exporters are told to write."""
        return {"": self.opset, "ai.onnx.ml": self.ml_opset}


OLDEST = Target("1.23", opset=21, ml_opset=3, ir_version=10, opset_max=23, ml_opset_max=5, ir_version_max=11)
"""The oldest onnxruntime that Penstock runs on; later ones load what it loads."""


def pin(model: Any, target: Target) -> None:
    """Mark a graph as what `target` loads, dropping opsets that no node uses.

    The IR version says how the file is written, and what a newer one adds is not used by a graph of an older opset, so
    it is set; an opset says what operators mean and is not. Raises ConfigError when it is too new.
    """
    used = {node.domain for node in all_nodes(model)} | {""}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = {entry.domain: entry.version for entry in model.opset_import if entry.domain in used}
    kept.setdefault("", target.opset)
    del model.opset_import[:]
    for domain in sorted(kept):
        model.opset_import.add(domain=domain, version=kept[domain])
    own = {function.domain for function in model.functions}
    _check_opsets({domain: version for domain, version in kept.items() if domain not in own}, target)
    for function in model.functions:
        _check_opsets(
            {entry.domain: entry.version for entry in function.opset_import if entry.domain not in own}, target
        )
    model.ir_version = target.ir_version


def _check_opsets(opsets: dict[str, int], target: Target) -> None:
    loads = {"": target.opset_max, "ai.onnx": target.opset_max, "ai.onnx.ml": target.ml_opset_max}
    for domain, version in opsets.items():
        name = domain or "ai.onnx"
        if domain in loads and version > loads[domain]:
            raise ConfigError(
                f"the graph uses opset {version} of {name}, and onnxruntime {target.onnxruntime} loads up to "
                f"{loads[domain]}; export it with opset {target.opset if name == 'ai.onnx' else target.ml_opset}"
            )
        if domain not in KNOWN_DOMAINS:
            raise ConfigError(
                f"the graph uses operators of {domain!r}, which need a library of their own; Penstock runs those of "
                "ONNX and onnxruntime, so export the model without custom operators"
            )


def all_nodes(model: Any) -> list[Any]:
    """Return the nodes of a graph and of the graphs inside of its nodes."""
    found: list[Any] = []
    waiting = [model.graph]
    while waiting:
        for node in waiting.pop().node:
            found.append(node)
            waiting += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            waiting += [graph for attribute in node.attribute for graph in attribute.graphs]
    return found
