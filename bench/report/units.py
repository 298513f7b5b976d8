"""Figures as people read them: three digits and a unit. What is not known, None or NaN, is a dash."""

import math

UNKNOWN = "-"
LABEL_MAX = 60
"""Characters of a name in a table or plot."""


def is_known(value: float | None) -> bool:
    """Tell whether there is a figure: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def time_us(value: float | None) -> str:
    """Write a time given in us: `812 us`, `1.23 ms`, `2.50 s`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit, scale in (("us", 1.0), ("ms", 1e3)):
        if abs(value) < 999.5 * scale:
            return f"{_three_digits(value / scale)} {unit}"
    return f"{_three_digits(value / 1e6)} s"


def tick_us(value: float) -> str:
    """Write a round time given in us, for an axis: `500 us`, `2 ms`."""
    if value == 0:
        return "0"
    for unit, scale in (("us", 1.0), ("ms", 1e3)):
        if abs(value) < 1e3 * scale:
            return f"{value / scale:g} {unit}"
    return f"{value / 1e6:g} s"


def rate(value: float | None) -> str:
    """Write events per second, without the unit: `12,345`, `98.7`."""
    return _three_digits(value) if value is not None and math.isfinite(value) else UNKNOWN


def number(value: float | None) -> str:
    """Write a plain number: `4.21`, `1,024`."""
    return rate(value)


def count(value: int) -> str:
    """Write a whole number: `12,345`."""
    return f"{value:,}"


def percent(share: float | None) -> str:
    """Write a share of 1: `99.1 %`, `0.012 %`."""
    if share is None or not math.isfinite(share):
        return UNKNOWN
    value = share * 100
    return f"{value:.1f} %" if value == 0 or abs(value) >= 0.1 else f"{value:.2g} %"


def change(ratio: float | None) -> str:
    """Write a ratio as a change: 1.08 is `+8.0 %`."""
    if ratio is None or not math.isfinite(ratio):
        return UNKNOWN
    value = (ratio - 1) * 100
    return f"{value:+.1f} %" if round(value, 1) else "0.0 %"


def seconds(value: float) -> str:
    """Write a duration: `0.5 s`, `30 s`."""
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def plain(text: str, length_max: int = LABEL_MAX) -> str:
    """Make a text from elsewhere fit for one line: no control characters, no lone surrogates, not too long."""
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return clean if len(clean) <= length_max else clean[: length_max - 3] + "..."


def _three_digits(value: float) -> str:
    """Round to three digits, but never left of the point."""
    magnitude = math.floor(math.log10(abs(value))) if value else 2
    return f"{value:,.{min(2, max(0, 2 - magnitude))}f}"
