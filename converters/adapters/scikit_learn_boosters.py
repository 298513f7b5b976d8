"""XGBoost and LightGBM as steps of scikit-learn pipelines: skl2onnx is told about onnxmltools' converters."""

from typing import Any

from converters.adapters.scikit_learn_parts import parts
from serving.errors import ConfigError


def register(model: Any) -> None:
    """Register converters for the boosters inside of a model. Raises ConfigError when onnxmltools is absent."""
    kinds = {type(part) for part in parts(model)}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        top = kind.__module__.partition(".")[0]
        if top in {"xgboost", "lightgbm"}:
            try:
                _register(kind, top)
            except ImportError:
                raise ConfigError(
                    f"the pipeline has {kind.__name__}, which onnxmltools converts: "
                    f"pip install 'penstock[convert-{top}]'"
                ) from None


def _register(kind: Any, top: str) -> None:
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm  # noqa: PLC0415
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost  # noqa: PLC0415
    from skl2onnx import update_registered_converter  # noqa: PLC0415
    from skl2onnx.common.shape_calculator import (  # noqa: PLC0415
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    classifies = hasattr(kind, "predict_proba")
    update_registered_converter(
        kind, f"{top}{kind.__name__}",
        calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes,
        convert_xgboost if top == "xgboost" else convert_lightgbm,
        options={"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else {},
    )  # fmt: skip
