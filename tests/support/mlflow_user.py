"""What an MLflow user does, with mlflow and onnx installed: `python mlflow_user.py SERVER`, then a word a line.

`models` registers `affine` twice, as ONNX, and `pickled`, which is Python; `alias MODEL ALIAS VERSION` moves an alias.
Each line is answered by one on standard output when it is done.
"""

import sys

import mlflow
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 64  # weights of this width go into a file of their own, as mlflow stores large models


class Pickled(mlflow.pyfunc.PythonModel):
    """A model that only unpickling can bring back."""

    def predict(self, model_input: list[str]) -> list[str]:
        return model_input


def affine(scale: float) -> onnx.ModelProto:
    """Return y = scale x + 1 over rows of `WIDTH` columns."""
    columns = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in "xy"]
    weights = [numpy_helper.from_array(scale * np.eye(WIDTH, dtype=np.float32), "weights"),
               numpy_helper.from_array(np.ones(WIDTH, np.float32), "offset")]  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "affine", columns[:1], columns[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def models() -> None:
    """Register everything."""
    with mlflow.start_run():
        for scale in (1.0, 2.0):
            mlflow.onnx.log_model(affine(scale), name="model", registered_model_name="affine", pip_requirements=[])
        mlflow.pyfunc.log_model(name="model", python_model=Pickled(), registered_model_name="pickled",
                                pip_requirements=[])  # fmt: skip


def main() -> None:
    """Do what each line says."""
    mlflow.set_tracking_uri(sys.argv[1])
    mlflow.set_registry_uri(sys.argv[1])
    for line in sys.stdin:
        word, *arguments = line.split()
        if word == "models":
            models()
        else:
            mlflow.MlflowClient().set_registered_model_alias(*arguments)
        print(f"done {word}", flush=True)


if __name__ == "__main__":
    main()
