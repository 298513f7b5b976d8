"""Judge a model by three folds of its training rows, and on held-out rows, as a whole and digit by digit."""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.model_selection import cross_val_score


def main(model_file: str, train: str, held_out: str, facts: str) -> None:
    """Write what the ledger shall know of the model's quality."""
    model, rows, judged = joblib.load(model_file), np.load(train), np.load(held_out)
    folds = cross_val_score(clone(model), rows["features"], rows["label"], cv=3)
    right = model.predict(judged["features"]) == judged["label"]
    slices = {str(digit): float(right[judged["label"] == digit].mean()) for digit in np.unique(judged["label"])}
    known = {
        "metrics": {"accuracy": float(right.mean())},
        "folds": {"accuracy": folds.tolist()},
        "train_metrics": {"accuracy": float(model.score(rows["features"], rows["label"]))},
        "slices": slices,
        "rows": len(right),
    }
    Path(facts).write_text(json.dumps(known))
    print(f"accuracy {right.mean():.3f} on {len(right)} held-out rows, {folds.mean():.3f} over three folds")


if __name__ == "__main__":
    main(*sys.argv[1:])
