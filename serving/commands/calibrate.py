"""`penstock drift calibrate`: learn from labelled rows how often a model is right at each confidence."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from serving.commands.options import json_option, show
from serving.errors import ConfigError
from serving.release.held_out import LABEL, read_rows
from serving.scoring.opened import OpenModel, check_graph_alone, is_package, open_model
from serving.statistics.derived import Derivation, Deriver
from serving.statistics.profile import FILE_BYTES_MAX, Feature, ReferenceProfile
from serving.types import Array

_BATCH_ROWS = 256
_PROFILE = "profile.npz"


@click.command("calibrate")
@click.argument("folder", metavar="FOLDER", type=click.Path(exists=True, path_type=Path))
@click.option("--held-out", required=True, metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="An .npz of rows that were not trained on: an array per input, and `label`.")  # fmt: skip
@json_option
def calibrate(folder: Path, held_out: Path, json_file: Path | None) -> None:
    """Write into the profile of a version's FOLDER how often the model is right at each confidence.

    Drift reports then say how often it is expected to be right on what it serves, before any labels come. Do it before
    the folder is packed and registered.
    """
    if is_package(folder) or not folder.is_dir():
        raise ConfigError(f"{folder} is no folder of plain files; unpack it, calibrate, and pack it again")
    check_graph_alone(folder)
    path = folder / _PROFILE
    profile, model = _read_profile(path), open_model(folder)
    feature = _confidence_of(profile)
    rows = read_rows(held_out, model.signature, more=(LABEL,))
    outputs = _answers(model, [rows[spec.name] for spec in model.signature.inputs])
    is_right = _predictions(model, outputs, feature.tensor) == _texts(rows[LABEL].reshape(-1))
    scores = outputs[feature.tensor]
    watched = np.arange(scores.shape[1])
    slots = feature.slots_of(Deriver([(Derivation.CONFIDENCE, 0)], watched, None)(scores)[:, 0])
    counts = np.bincount(slots, minlength=feature.slots)
    right = np.bincount(slots[is_right], minlength=feature.slots)
    known = replace(feature, held_out=counts, held_out_right=right)
    features = tuple(known if one is feature else one for one in profile.features)
    _write(path, replace(profile, features=features).to_bytes())
    accuracy = float(is_right.mean())
    facts = {"path": str(path), "rows": len(is_right), "accuracy": accuracy}
    show(f"{path}: right on {accuracy:.2%} of {len(is_right)} held-out rows", facts, json_file)


def _read_profile(path: Path) -> ReferenceProfile:
    try:
        with path.open("rb") as file:
            return ReferenceProfile.from_bytes(file.read(FILE_BYTES_MAX + 1))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _confidence_of(profile: ReferenceProfile) -> Feature:
    found = [feature for feature in profile.features if feature.derivation is Derivation.CONFIDENCE]
    if not found:
        raise ConfigError("the profile has no confidence: the model has no scores, or must be converted again")
    return found[0]


def _answers(model: OpenModel, inputs: Sequence[Array]) -> dict[str, Array]:
    """Run the model on all rows, some at a time."""
    rows = len(inputs[0])
    if not rows:
        raise ConfigError("the held-out rows are none")
    parts = []
    for begin in range(0, rows, _BATCH_ROWS):
        try:
            parts.append(model.session.run([array[begin : begin + _BATCH_ROWS] for array in inputs]))
        except Exception as error:  # noqa: BLE001 - whatever the graph raises
            last = min(rows, begin + _BATCH_ROWS) - 1
            raise ConfigError(f"the model cannot compute rows {begin} to {last}: {error}") from None
    names = [spec.name for spec in model.signature.outputs]
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)}


def _predictions(model: OpenModel, outputs: dict[str, Array], tensor: str) -> NDArray[np.object_]:
    """Return the predicted class of every row: the first output with one element per row, else by the scores."""
    for name, array in outputs.items():
        if name != tensor and array.size == len(array):
            return _texts(array.reshape(-1))
    scores = outputs[tensor]
    classes = model.labels.get(tensor) or [str(number) for number in range(scores.shape[1])]
    return np.asarray(np.array(classes, np.object_)[scores.argmax(axis=1)])


def _texts(values: Array) -> NDArray[np.object_]:
    """Return labels as texts, so that 1, 1.0 and "1" are the same."""
    is_whole = values.dtype.kind == "f" and bool((values == np.floor(values)).all())
    plain = values.astype(np.int64) if is_whole else values
    return np.array([text.decode() if isinstance(text, bytes) else str(text) for text in plain.tolist()], np.object_)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
