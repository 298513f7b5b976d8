"""The matrix: models of every family are converted, served by the real server, and compared over gRPC.

The default run takes one model of each family of scikit-learn; `slow` takes all of them, and those of XGBoost,
LightGBM, CatBoost, PyTorch, Keras and TensorFlow in an environment of their own.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from converters.conversion import Conversion, convert
from converters.matrix import zoo
from converters.packaging import Label, write_package
from converters.parity.report import ParityError
from tests.support.environments import environment
from tests.support.served_models import compare_served
from tests.support.servers import server_thread

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.id: entry for entry in zoo.entries()}
FAST = [
    "linear-classifiers/LogisticRegression",
    "linear-regressors/Ridge",
    "trees/DecisionTreeClassifier",
    "forests/RandomForestRegressor",
    "boosting/HistGradientBoostingRegressor",
    "boosting/GradientBoostingClassifier",
    "support-vectors/SVC",
    "neighbours/KNeighborsClassifier",
    "naive-Bayes/GaussianNB",
    "neural-networks/MLPClassifier",
    "Gaussian-processes/GaussianProcessRegressor",
    "meta-estimators/VotingRegressor",
    "clusters,-mixtures,-outliers/KMeans",
    "transformers/PCA",
    "pipelines/ColumnTransformer-of-words-and-numbers",
]
REFUSED = {
    "clusters,-mixtures,-outliers/LocalOutlierFactor": "sample",  # doubled rows have neighbours at the same distance
    "transformers/PowerTransformer": "edge-nan",
    "transformers/KNNImputer": "edge-nan",
}
"""What skl2onnx converts to something else, by the check that says so."""
OTHERS = ["pandas>=2.2,<4", "xgboost>=3,<4", "lightgbm>=4.5,<5", "catboost>=1.2.8,<2", "onnxmltools>=1.14,<2",
          "torch>=2.7,<3", "onnxscript>=0.5,<1", "keras>=3.8,<4", "tensorflow-cpu>=2.20,<3", "tf2onnx>=1.17,<2",
          "hypothesis>=6.130,<7", "pytest>=9,<10", "pytest-xdist>=3.6,<4"]  # fmt: skip
UNITS = ["tests/unit/converters/adapters/test_tensorflow.py", "tests/unit/converters/parity/test_defects_of_xgboost.py"]


def served(entries, models: Path):
    """Write the packages of entries, serve them, and compare every answer over gRPC with the framework's own."""
    done: dict[str, Conversion] = {}
    for number, entry in enumerate(entries):
        name = f"model_{number}"
        done[name] = convert(*entry.make())
        write_package(done[name], Label(name), models / name / "1")
    with server_thread(models) as running:
        for (name, conversion), entry in zip(done.items(), entries, strict=True):
            compare_served(running.address, name, conversion)
            yield entry.id


def test_a_model_of_each_family_answers_over_grpc_as_scikit_learn_does(tmp_path):
    assert list(served([ENTRIES[name] for name in FAST], tmp_path)) == FAST


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted({entry.family for entry in ENTRIES.values()}))
def test_every_model_of_a_family_answers_over_grpc_as_scikit_learn_does(family, tmp_path):
    entries = [entry for entry in ENTRIES.values() if entry.family == family and entry.id not in REFUSED]
    assert len(list(served(entries, tmp_path))) == len(entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_answer_as_scikit_learn_does_is_refused(name):
    with pytest.raises(ParityError) as refused:
        convert(*ENTRIES[name].make())
    assert REFUSED[name] in {check.name for check in refused.value.report.failures}


def heavily(*arguments: str, backend: str) -> str:
    """Run Python in the environment of heavy frameworks, or that of PENSTOCK_CONVERT_PYTHON; return what it prints."""
    python = os.environ.get("PENSTOCK_CONVERT_PYTHON") or environment(f"{ROOT}[convert]", *OTHERS)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend}
    command = [str(python), "-m", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.mark.slow
def test_models_of_heavy_frameworks_answer_over_grpc_as_their_frameworks_do(tmp_path):
    told = heavily("tests.support.served_models", str(tmp_path), backend="torch")
    assert {line.partition("/")[0] for line in told.splitlines()} == {
        "XGBoost", "LightGBM", "CatBoost", "PyTorch", "Keras", "TensorFlow",
    }  # fmt: skip


@pytest.mark.slow
def test_what_needs_heavy_frameworks_is_tested_where_they_are():
    assert "skipped" not in heavily("pytest", "-n", "0", "-rs", *UNITS, backend="tensorflow")


def test_a_served_answer_that_differs_is_noticed(tmp_path):
    entry = ENTRIES["linear-regressors/Ridge"]
    model, rows = entry.make()
    write_package(convert(model, rows), Label("ridge"), tmp_path / "ridge" / "1")
    model.intercept_ += 1.0
    with server_thread(tmp_path) as running, pytest.raises(AssertionError, match="prediction"):
        compare_served(running.address, "ridge", convert(model, np.asarray(rows)))
