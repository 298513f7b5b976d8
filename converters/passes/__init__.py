"""Passes over a finished graph that may make it smaller or faster, each tried before it is recommended."""

from collections.abc import Callable, Sequence

from converters.draft import Kind
from converters.parity.gate import Settings
from converters.parity.tolerance import LOSSY, Tolerance
from converters.passes import half, optimised, quantised, slim
from converters.runner import one_line
from converters.sample import Tensors
from converters.target import Target
from serving.errors import ConfigError

Pass = Callable[[bytes, Tensors, Target, int], bytes]
"""Takes a graph, the sample as tensors, the target and a seed; returns another graph."""

PASSES: dict[str, Pass] = {
    "slim": slim.apply,
    "optimised": optimised.apply,
    "fp16": half.apply,
    "int8-static": quantised.apply,
}
ABOUT = {
    "slim": "fold constants and drop what does nothing (onnxslim)",
    "optimised": "onnxruntime's own graph optimisations, done ahead of loading",
    "fp16": "weights and arithmetic in 16 bits; inputs and outputs stay as they are",
    "int8-static": "8-bit weights and activations (QDQ), with scales fixed from the sample",
}


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the passes. Raises ConfigError for an unknown or a repeated one."""
    for name in names:
        if name not in PASSES:
            raise ConfigError(f"unknown pass '{name}'; known are {', '.join(PASSES)}")
    if len(set(names)) != len(names):
        raise ConfigError(f"a pass is named twice: {', '.join(names)}")
    return tuple(names)


def apply(name: str, graph: bytes, exact: Tensors, *, target: Target, seed: int) -> bytes:
    """Return the graph after a pass. Raises ConfigError when its library is absent or cannot take the graph."""
    (name,) = check_names([name])
    try:
        return PASSES[name](graph, exact, target, seed)
    except ImportError as error:
        missing = (error.name or str(error)).partition(".")[0]
        raise ConfigError(f"pass {name} needs {missing}: pip install 'penstock[convert-passes]'") from None
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"pass {name} cannot take this graph: {one_line(error)}") from None


def tolerance_after(names: Sequence[str], settings: Settings, kind: Kind) -> Tolerance | None:
    """Return what a graph is held to after passes: the widest tolerance among them, None for the kind's own."""
    if settings.tolerance is not None or kind == "embedding":
        return settings.tolerance
    lossy = [LOSSY[name] for name in names if name in LOSSY]
    return max(lossy, key=lambda tolerance: tolerance.rtol) if lossy else None
