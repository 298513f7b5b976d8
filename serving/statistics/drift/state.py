"""What a watch knows, in a file, so that a restart does not forget the evidence of weeks.

The file is written anew and renamed into place, so a crash leaves the old one. A file that cannot be used, or that is
for another reference or other terms, is no error: the watch begins anew.
"""

import contextlib
import logging
from collections import deque
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError
from serving.statistics.array_file import ArrayFile
from serving.statistics.drift.counting import Block
from serving.statistics.drift.detector import Start
from serving.statistics.drift.panes import Pane, Panes

STATE_BYTES_MAX = 256 << 20
_FILE = ArrayFile(
    "a drift state",
    1,
    {
        "closed": np.dtype("<i8"),
        "closed_sums": np.dtype("<f8"),
        "calibrating": np.dtype("<i8"),
        "starts": np.dtype("<f8"),
        "effects": np.dtype("<f8"),
        "logs": np.dtype("<f8"),
        "profile": np.dtype("<u1"),
    },
    STATE_BYTES_MAX,
    compressed=True,
)
_log = logging.getLogger(__name__)


class StateFile:
    """The file of one servable. One thread at a time."""

    def __init__(self, folder: Path, model: str, version: int) -> None:
        self.path = folder / "drift" / quote(model, safe="") / f"{version}.npz"

    def save(self, panes: Panes, profile: bytes, *, rows_seen: int) -> None:
        """Write what is known beside this profile; a disk that is full is logged and costs nothing else."""
        partial = self.path.with_suffix(".partial")
        try:
            data = to_bytes(panes, profile, rows_seen=rows_seen)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(self.path)
        except (OSError, ConfigError) as error:
            _log.error("the drift state %s cannot be written: %s", self.path, error)
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def read(self) -> bytes | None:
        """Return the file's bytes, None when there is none that can be used."""
        try:
            with self.path.open("rb") as file:
                return file.read(STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.error("the drift state %s cannot be read: %s", self.path, error)
            return None


def to_bytes(panes: Panes, profile: bytes, *, rows_seen: int) -> bytes:
    """Return what panes know, of `rows_seen` rows since the first server.

    The open pane is part of it, as the last of the closed ones.
    """
    closed = [*panes.closed, Pane(0, panes.open)]
    features = panes.reference.shape
    header = {
        "config": _terms(panes),
        "rows": panes.rows,
        "rows_seen": rows_seen,
        "panes": panes.panes,
        "alarms": panes.alarms,
        "alarm_since": panes.alarm_since,
        "window": panes.window,
        "boundaries": [pane.boundary for pane in closed],
        "pane_rows": [pane.block.rows for pane in closed],
        "detector_panes": panes.detector.panes,
        "starts": [start.pane for start in panes.detector.starts],
        "evidence": [list(item) for item in panes.evidence],
    }
    starts = [start.counts for start in panes.detector.starts]
    return _FILE.write(
        header,
        closed=np.stack([pane.block.counts for pane in closed]),
        closed_sums=np.stack([pane.block.sums for pane in closed]),
        calibrating=np.stack(panes.calibrating) if panes.calibrating else np.zeros((0, *features)),
        starts=np.stack(starts) if starts else np.zeros((0, *features)),
        effects=panes.effects,
        logs=panes.logs,
        profile=np.frombuffer(profile, np.uint8),
    )


def profile_of(data: bytes) -> bytes:
    """Return the reference profile of a state. Raises ConfigError."""
    return _FILE.read(data)[1]["profile"].tobytes()


def restore(panes: Panes, data: bytes) -> None:
    """Take up what another server knew of the same reference under the same terms. Raises ConfigError."""
    header, arrays = _FILE.read(data)
    if header.get("config") != _terms(panes):
        raise ConfigError("the drift state was kept under other terms")
    shape = panes.reference.shape
    shapes_fit = all(arrays[name].shape[1:] == shape for name in ("closed", "calibrating", "starts"))
    vectors_fit = arrays["effects"].shape == arrays["logs"].shape == shape[:1]
    sums_fit = arrays["closed_sums"].shape == (len(arrays["closed"]), shape[0], 2)
    if not (shapes_fit and vectors_fit and sums_fit and len(arrays["closed"])):
        raise ConfigError("the drift state is of another model")
    try:
        counted = zip(arrays["closed"], arrays["closed_sums"], header["pane_rows"], strict=True)
        blocks = [_block(*parts) for parts in counted]
        closed = [Pane(int(number), block) for number, block in zip(header["boundaries"], blocks, strict=True)]
        pairs = zip(header["starts"], arrays["starts"], strict=True)
        starts = [Start(int(pane), counts.copy()) for pane, counts in pairs]
        evidence = [(int(boundary), float(log)) for boundary, log in header["evidence"]]
        numbers = [int(header[name]) for name in ("rows", "panes", "alarms", "window", "detector_panes")]
        seen = int(header.get("rows_seen", numbers[0]))  # older servers kept no such number
        since = None if header["alarm_since"] is None else int(header["alarm_since"])
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"the drift state contradicts itself: {error!r}") from None
    panes.rows, panes.panes, panes.alarms, panes.window, panes.detector.panes = numbers
    panes.alarm_since, panes.rows_seen_before = since, seen
    panes.detector.starts = starts
    panes.calibrating = [counts.copy() for counts in arrays["calibrating"]]
    panes.effects, panes.logs = arrays["effects"].copy(), arrays["logs"].copy()
    panes.closed.extend(closed[:-1])
    panes.open = closed[-1].block
    panes.evidence = deque(evidence, maxlen=panes.evidence.maxlen)


def _terms(panes: Panes) -> list[float]:
    config = panes.config
    return [config.pane_s, config.pane_rows_min, config.tolerance, config.alarm_panes, config.calibration_panes]


def _block(counts: NDArray[np.int64], sums: NDArray[np.float64], rows: int) -> Block:
    block = Block(len(counts))
    block.counts[:], block.sums[:], block.rows = counts, sums, int(rows)
    return block
