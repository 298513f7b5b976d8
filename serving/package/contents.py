"""What goes into a package, as its maker has it. Pure data, checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.errors import PackageError
from serving.types import DYNAMIC, Signature, TensorSpec

NAME_CHARACTERS_MAX = 255
TENSORS_MAX = 1_024
DIMENSIONS_MAX = 64
COLUMNS_MAX = 1_000_000
FILES_MAX = 256
TEXT_CHARACTERS_MAX = 4_096
"""The longest name of a tensor, column, label or pass, and the longest reason of a waiver."""

Source = bytes | Path
"""A blob's bytes, or the file that holds them."""


@dataclass(frozen=True, slots=True)
class Waiver:
    """A check that did not pass and was let through: its name (such as `parity`), and the reason a person gave."""

    check: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that a package holds. Raises PackageError when it contradicts itself or crosses a bound.

    `model` is the ONNX graph, `weights` its external data by the names that the graph uses (beside it or one folder
    below). `columns` names what lies along the last dimension of an input, by the input's name, in the model's order;
    an input that is one column of a table has one. `labels` does the same for outputs: the classes of a score.
    `profile` is the reference profile (.npz), `golden` the bytes of `Golden`. `parity`, `evaluation` and `lineage` are
    JSON without NaN, dates and facts of the host. `passes` are the optimisation passes applied, in order. `files` are
    what steps of a pipeline need, by the names that these use (beside the graph or one folder below).
    """

    name: str
    model: Source
    signature: Signature
    weights: Mapping[str, Source] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    profile: Source | None = None
    golden: Source | None = None
    parity: Mapping[str, Any] | None = None
    evaluation: Mapping[str, Any] | None = None
    lineage: Mapping[str, Any] | None = None
    licence: str | None = None
    passes: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    files: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_signature(self.signature)
        check_columns("columns", self.columns, self.signature.inputs)
        check_columns("labels", self.labels, self.signature.outputs)
        if len(self.files) > FILES_MAX:
            raise PackageError(f"{len(self.files)} files of a pipeline are given, expected at most {FILES_MAX}")
        if doubled := sorted(self.files.keys() & self.weights.keys()):
            raise PackageError(f"'{doubled[0]}' is given as weights and as a file of a pipeline, expected one of them")
        for text in (*self.passes, *(text for waiver in self.waivers for text in (waiver.check, waiver.reason))):
            check_text("a pass or waiver", text)


def check_name(name: str) -> None:
    """Refuse a model's name that could not be a folder's or would not fit a line."""
    fits = 0 < len(name) <= NAME_CHARACTERS_MAX and name.isprintable() and "/" not in name and "\\" not in name
    if not fits or name.startswith("."):
        raise PackageError(f"the model is called {name[:80]!r}, expected a visible folder's name without slashes")
    check_text("the model's name", name)


def check_text(what: str, text: str) -> None:
    """Refuse text that is empty, too long or not valid Unicode."""
    if not 0 < len(text) <= TEXT_CHARACTERS_MAX:
        raise PackageError(f"{what} has {len(text)} characters, expected 1 to {TEXT_CHARACTERS_MAX}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PackageError(f"{what} is {text[:80]!r}, which is not valid text") from None


def check_signature(signature: Signature) -> None:
    """Refuse a signature without outputs, with doubled names or beyond the bounds."""
    if not signature.outputs:
        raise PackageError("the signature has no outputs")
    for role, specs in (("input", signature.inputs), ("output", signature.outputs)):
        if len(specs) > TENSORS_MAX:
            raise PackageError(f"the signature has {len(specs)} {role}s, expected at most {TENSORS_MAX}")
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise PackageError(f"the signature names an {role} twice: {', '.join(sorted(names))[:200]}")
        for spec in specs:
            _check_spec(role, spec)


def _check_spec(role: str, spec: TensorSpec) -> None:
    check_text(f"the name of an {role}", spec.name)
    if len(spec.shape) > DIMENSIONS_MAX or any(not DYNAMIC <= dimension < 2**63 for dimension in spec.shape):
        raise PackageError(f"{role} '{spec.name}': shape {list(spec.shape)[:80]} cannot be a tensor's")


def check_columns(what: str, names: Mapping[str, tuple[str, ...]], specs: tuple[TensorSpec, ...]) -> None:
    """Refuse names of columns or labels for tensors that are not there, or in another number than they have."""
    known = {spec.name: spec for spec in specs}
    for tensor, columns in names.items():
        if tensor not in known:
            raise PackageError(f"{what} are given for '{tensor}', the signature has {', '.join(sorted(known))}")
        if not 0 < len(columns) <= COLUMNS_MAX:
            raise PackageError(f"{what} of '{tensor}' number {len(columns)}, expected 1 to {COLUMNS_MAX}")
        if len(set(columns)) != len(columns):
            raise PackageError(f"{what} of '{tensor}' name one twice, expected names that differ")
        for column in columns:
            check_text(f"one of the {what} of '{tensor}'", column)
        _check_width(what, columns, known[tensor])


def _check_width(what: str, columns: tuple[str, ...], spec: TensorSpec) -> None:
    """`labels` may also name the classes that a tensor of one label per row takes its values from."""
    width = spec.shape[-1] if len(spec.shape) >= 2 else DYNAMIC
    if width not in {DYNAMIC, len(columns)} and not (what == "labels" and width == 1):
        raise PackageError(f"{what} of '{spec.name}' number {len(columns)}, its last dimension is {width}")
