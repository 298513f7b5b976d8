"""Fit a random forest, and say how."""

import json
import sys
from pathlib import Path

import joblib
import numpy as np
from sklearn.ensemble import RandomForestClassifier


def main(train: str, trees: str, seed: str, model_file: str, facts: str) -> None:
    """Write the model, and what the ledger shall know of the training."""
    rows = np.load(train)
    model = RandomForestClassifier(int(trees), random_state=int(seed), n_jobs=1)
    model.fit(rows["features"], rows["label"])
    joblib.dump(model, model_file)
    known = {"parameters": {"trees": int(trees), "rows": len(rows["label"])}, "seeds": {"model": int(seed)}}
    Path(facts).write_text(json.dumps(known))
    print(f"a random forest of {trees} trees")


if __name__ == "__main__":
    main(*sys.argv[1:])
