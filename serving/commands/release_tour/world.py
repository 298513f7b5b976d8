"""The world of the tour: handwritten digits that scikit-learn ships, and an office that gets another scanner.

Half of the forms lie in the archive, which is `rows.csv`, with the digit that a person read. The others come in as
requests. The new scanner is fainter and puts every digit one pixel to the right; the archive is then scanned again.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

ARCHIVE_ROWS = 1_200
SIDE = 8
FAINT = 0.6
_SEED = 0

Rows = NDArray[np.float32]
Digits = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Forms:
    """Scans of digits, shape (rows, 64) with ink from 0 to 16, and what they show, shape (rows,)."""

    scans: Rows
    digits: Digits

    def rows(self, which: slice) -> "Forms":
        """Some of the forms."""
        return Forms(self.scans[which], self.digits[which])

    def rescanned(self) -> "Forms":
        """The same forms by the new scanner."""
        pages = self.scans.reshape(-1, SIDE, SIDE)
        moved = np.zeros_like(pages)
        moved[:, :, 1:] = pages[:, :, :-1]
        return Forms(np.round(moved.reshape(-1, SIDE * SIDE) * np.float32(FAINT)), self.digits)


def load() -> tuple[Forms, Forms]:
    """Return the archive and the forms that come in. Raises ConfigError without scikit-learn."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - behind the extra
    except ImportError:
        raise ConfigError(
            "quickstart --kind release needs scikit-learn and skl2onnx: pip install 'penstock[convert,registry]'"
        ) from None
    scans, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(_SEED).permutation(len(digits))
    shuffled = Forms(scans[order].astype(np.float32), digits[order].astype(np.int64))
    return shuffled.rows(slice(ARCHIVE_ROWS)), shuffled.rows(slice(ARCHIVE_ROWS, None))


def write_rows(path: Path, forms: Forms) -> None:
    """Write an archive, its header first."""
    header = ",".join([*(f"pixel_{row}_{column}" for row in range(SIDE) for column in range(SIDE)), "digit"])
    path.write_text(header + "\n" + _lines(forms))


def append_rows(path: Path, forms: Forms) -> None:
    """Add rows to an archive, all at once for whoever reads it."""
    draft = path.with_name(f"{path.name}.part")
    draft.write_text(path.read_text() + _lines(forms))
    draft.replace(path)


def _lines(forms: Forms) -> str:
    table = np.column_stack([forms.scans, forms.digits])
    return "".join(",".join(f"{value:g}" for value in row) + "\n" for row in table)
