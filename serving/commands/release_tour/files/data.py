"""Take the newest rows apart: for training, for the reference profile, and held out to judge on.

A row's own digest decides where it goes, so it stays there when rows are added.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np


def main(rows_file: str, window: str, train: str, reference: str, held_out: str, facts: str) -> None:
    """Write .npz of `features`, with `label` where it is needed, and what the ledger shall know of the data."""
    text = Path(rows_file).read_text()
    table = np.loadtxt(text.splitlines()[1:], delimiter=",", dtype=np.float32, ndmin=2)[-int(window) :]
    features, label = table[:, :-1], table[:, -1].astype(np.int64)
    buckets = np.array([hashlib.sha256(row.tobytes()).digest()[0] % 10 for row in table])
    for path, members in ((train, buckets < 6), (held_out, buckets > 7)):
        np.savez(path, features=features[members], label=label[members])
    np.savez(reference, features=features[(buckets == 6) | (buckets == 7)])
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    known = {"rows": len(table), "source": "rows.csv", "digests": {"rows.csv": digest},
             "schema": {"features": ["FP32", features.shape[1]], "label": "INT64"}}  # fmt: skip
    Path(facts).write_text(json.dumps(known))
    print(f"{int((buckets < 6).sum())} rows to train on, {int((buckets > 7).sum())} held out")


if __name__ == "__main__":
    main(*sys.argv[1:])
