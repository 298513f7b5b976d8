"""What is broken in released versions of skl2onnx, and how conversion goes around it.

Each has a test that fails when the released version no longer needs it.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from skl2onnx.common._container import ModelComponentContainer

from converters.adapters.scikit_learn_parts import parts

_VOTING = ("VotingClassifier", "VotingRegressor")
_REFUSED = (bool, np.bool_, np.unsignedinteger)
HISTOGRAM_NOTE = "skl2onnx wrote numpy scalars into attributes, which protobuf 7 refuses; they were made plain numbers"


@contextlib.contextmanager
def plain_attributes() -> Iterator[list[str]]:
    """Let skl2onnx write attributes as plain numbers; the list gets a note when it was needed.

    skl2onnx 1.20 fills integer attributes of HistGradientBoosting with numpy's bool and uint32, and protobuf 7 takes
    only Python's numbers. The method is put back at the end; one conversion runs at a time.
    """
    original = ModelComponentContainer.add_node
    notes: list[str] = []

    def add_node(self: Any, op_type: str, inputs: Any, outputs: Any, *positional: Any, **attributes: Any) -> Any:
        plain = {name: _plain(value) for name, value in attributes.items()}
        if not notes and any(plain[name] is not attributes[name] for name in plain):
            notes.append(HISTOGRAM_NOTE)
        return original(self, op_type, inputs, outputs, *positional, **plain)

    ModelComponentContainer.add_node = add_node
    try:
        yield notes
    finally:
        ModelComponentContainer.add_node = original


@contextlib.contextmanager
def plain_votes(model: Any) -> Iterator[None]:
    """Let skl2onnx read VotingClassifier and VotingRegressor: weights as arrays, and nothing flattened.

    skl2onnx 1.20 refuses `flatten_transform`, scikit-learn's default, which has no say in what is predicted, and takes
    weights for an array, which scikit-learn does not ask for. The model is as it was at the end.
    """
    wanted: dict[str, Callable[[Any], Any]] = {
        "flatten_transform": lambda _: False,
        "weights": lambda given: np.asarray(given, np.float64),
    }
    changed = [(part, name, getattr(part, name)) for part in parts(model) if type(part).__name__ in _VOTING
               for name in wanted if getattr(part, name, None) is not None]  # fmt: skip
    for part, name, value in changed:
        setattr(part, name, wanted[name](value))
    try:
        yield
    finally:
        for part, name, value in changed:
            setattr(part, name, value)


def _plain(value: Any) -> Any:
    """Return a list with Python's integers in place of what protobuf 7 refuses; other values as they are."""
    if not isinstance(value, list) or not any(isinstance(item, _REFUSED) for item in value):
        return value
    return [int(item) if isinstance(item, _REFUSED) else item for item in value]
