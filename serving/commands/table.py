"""Tables of text, for commands that print what they found."""

from collections.abc import Sequence


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return lines of columns, each as wide as its widest cell.

    What is not printable is shown by its escape: cells hold what strangers wrote, and a terminal obeys some of it.
    """
    cells = [tuple(map(_printable, row)) for row in (header, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
