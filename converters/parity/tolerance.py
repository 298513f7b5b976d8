"""How far answers may be apart, by kind of model."""

from dataclasses import dataclass
from typing import Any

from converters.draft import Kind


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a check allows.

    A number is within tolerance when |graph - framework| <= `atol` + `rtol` |framework|, and a row when all of its
    numbers are. Of values `atol` is at most `spread_share_max` of the standard deviation of the output's answers to the
    sample, since it would hide an error in tiny ones; `in_spreads` it counts in these deviations instead. With
    `cosine_min`, when the cosine of its vectors is at least that. `rows_share_max` of the rows may be beyond. A label
    may differ from the framework's when the framework's own margin is at most `margin_max`, and among rows of the
    sample only for `flips_share_max` of them, since scores may be so close that they hide a label.
    """

    rtol: float
    atol: float
    rows_share_max: float = 0.0
    margin_max: float = 1e-3
    flips_share_max: float = 1e-2
    cosine_min: float | None = None
    spread_share_max: float = 1e-3
    in_spreads: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the tolerance as JSON holds it."""
        return {
            "rtol": self.rtol,
            "atol": self.atol,
            "rows_share_max": self.rows_share_max,
            "margin_max": self.margin_max,
            "flips_share_max": self.flips_share_max,
            "cosine_min": self.cosine_min,
            "spread_share_max": self.spread_share_max,
            "in_spreads": self.in_spreads,
        }

    def sentence(self) -> str:
        """Say it for people."""
        if self.cosine_min is not None:
            return f"cosine of each row's vectors at least {self.cosine_min:g}"
        unit = (
            " standard deviations" if self.in_spreads else f" (of values at most {self.spread_share_max:g} deviations)"
        )
        share = f", at most {self.rows_share_max:g} of rows beyond" if self.rows_share_max else ""
        return (
            f"within {self.atol:g}{unit} + {self.rtol:g} of the framework's value{share}; "
            f"no other label where the margin is above {self.margin_max:g}, nor in more than {self.flips_share_max:g} "
            "of the sample's rows"
        )


DEFAULTS: dict[Kind, Tolerance] = {
    "numeric": Tolerance(1e-4, 1e-5),
    "trees": Tolerance(1e-4, 1e-5, rows_share_max=1e-4),
    "embedding": Tolerance(1e-4, 1e-5, cosine_min=0.9999),
}

LOSSY: dict[str, Tolerance] = {
    "fp16": Tolerance(1e-2, 2e-3, rows_share_max=1e-3, margin_max=1e-2, flips_share_max=2e-2, in_spreads=True),
    "int8-static": Tolerance(5e-2, 5e-2, rows_share_max=5e-2, margin_max=1e-1, flips_share_max=1e-1, in_spreads=True),
}
"""What passes that round more coarsely are held to instead."""
