"""Where the trees of scikit-learn's forests send missing numbers.

They take NaN since 1.4, also when there was none in training, and skl2onnx writes that NaN always goes to the right.
So each tree of the graph is found among the model's, and told where the model sends NaN.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from converters.adapters.scikit_learn_parts import parts

NOTE = "skl2onnx left out where trees send missing numbers; it was taken from the model"
_TREES_MAX = 100_000


def set_missing(converted: Any, model: Any) -> bool:
    """Write where NaN goes into the trees of a graph; tell whether anything changed."""
    known: dict[tuple[int, ...], list[Any]] = defaultdict(list)
    for tree in _trees(model):
        if hasattr(tree, "missing_go_to_left"):
            known[tuple(map(int, tree.children_left))].append(tree)
    changed = False
    for node in converted.graph.node:
        if known and node.op_type in {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}:
            changed |= _set_in_ensemble(node, known)
    return changed


def _set_in_ensemble(node: Any, known: dict[tuple[int, ...], list[Any]]) -> bool:
    attributes = {item.name: item for item in node.attribute}
    tracks = attributes.get("nodes_missing_value_tracks_true")
    if tracks is None or "nodes_values" not in attributes:
        return False
    trees = np.array(attributes["nodes_treeids"].ints)
    ids, true_ids = (np.array(attributes[name].ints) for name in ("nodes_nodeids", "nodes_truenodeids"))
    features, values = np.array(attributes["nodes_featureids"].ints), np.array(attributes["nodes_values"].floats)
    leaf = np.array([mode == b"LEAF" for mode in attributes["nodes_modes"].strings])
    found = np.array(tracks.ints)
    for tree in np.unique(trees):
        places = np.flatnonzero(trees == tree)
        places = places[np.argsort(ids[places])]
        shape = tuple(map(int, np.where(leaf[places], -1, true_ids[places])))
        inner = ~leaf[places]
        if match := _closest(known.get(shape, []), features[places][inner], values[places][inner], inner):
            found[places[inner]] = match.missing_go_to_left[inner]
    changed = not np.array_equal(found, tracks.ints)
    tracks.ints[:] = found.tolist()
    return changed


def _closest(candidates: list[Any], features: Any, values: Any, inner: Any) -> Any:
    """Return the tree of these features and thresholds, which the graph holds rounded."""
    for tree in candidates:
        if np.array_equal(tree.feature[inner], features) and np.allclose(tree.threshold[inner], values, rtol=1e-6):
            return tree
    return None


def _trees(model: Any) -> Iterator[Any]:
    """Yield every tree of the model, those of its forests included."""
    count = 0
    for part in parts(model):
        members = np.asarray(getattr(part, "estimators_", ()), object).reshape(-1)
        for tree in (part, *members):
            if hasattr(tree, "tree_") and count < _TREES_MAX:
                count += 1
                yield tree.tree_
