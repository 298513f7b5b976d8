"""A conversion as the contents of a package. Its digest depends on the model, the sample and the options alone."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from converters.conversion import Conversion
from serving.errors import ConfigError
from serving.package import Contents, Golden, Waiver, write
from serving.statistics.profile import ReferenceProfile

GOLDEN_ROWS = 16
PROFILE_ROWS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Label:
    """What a person says about a model: its name, licence, and evidence of its quality."""

    name: str
    licence: str | None = None
    evaluation: dict[str, Any] | None = None
    lineage: dict[str, Any] = field(default_factory=dict)


def write_package(conversion: Conversion, label: Label, path: Path) -> str:
    """Write the package of a conversion; return its digest. Raises PackageError when something else is there."""
    return write(contents_of(conversion, label), path)


def contents_of(conversion: Conversion, label: Label) -> Contents:
    """Return everything that the package holds."""
    inputs, outputs = conversion.cast_sample(GOLDEN_ROWS)
    return Contents(
        name=label.name,
        model=conversion.graph,
        signature=conversion.signature,
        columns=_columns(conversion),
        labels=_labels(conversion),
        profile=_profile(conversion),
        golden=Golden(inputs, outputs).to_bytes(),
        parity=conversion.report.to_json(),
        evaluation=label.evaluation,
        lineage=label.lineage or None,
        licence=label.licence,
        passes=conversion.passes,
        waivers=tuple(Waiver(f"parity.{name}", reason) for name, reason in sorted(conversion.report.waivers.items())),
    )


def _columns(conversion: Conversion) -> dict[str, tuple[str, ...]]:
    """Name the columns of the one matrix, whatever it is called, or each tensor that is one column."""
    names, exact = conversion.draft.feature_names, conversion.draft.exact
    if len(exact) == 1 and names:
        ((name, rows),) = exact.items()
        if rows.shape[1:] == (len(names),):
            return {name: names}
    return {name: (name,) for name in names if name in exact}


def _labels(conversion: Conversion) -> dict[str, tuple[str, ...]]:
    """Name the classes of every output of scores that has as many columns."""
    labels = conversion.draft.labels
    wide = {spec.name: spec.shape[-1] for spec in conversion.signature.outputs if len(spec.shape) == 2}
    return {
        output.name: labels
        for output in conversion.draft.outputs
        if output.role == "scores" and labels and wide.get(output.name) in {len(labels), -1}
    }


def _profile(conversion: Conversion) -> bytes | None:
    """Count the sample and the graph's answers; a model of too many tensors has no profile."""
    inputs, outputs = conversion.cast_sample(PROFILE_ROWS_MAX)
    digest = f"sha256:{conversion.sample_digest}"
    try:
        profile = ReferenceProfile.of_tensors(
            inputs, {name: np.asarray(item) for name, item in outputs.items()}, names=_columns(conversion),
            data_digest=digest,
        )  # fmt: skip
    except ConfigError:
        return None
    return profile.to_bytes()
