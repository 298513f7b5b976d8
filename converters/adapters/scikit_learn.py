"""scikit-learn to ONNX, by skl2onnx: estimators and pipelines, column transformers, strings and categories.

A model of numbers takes one tensor `features`; one that tells columns apart takes a tensor of shape (rows, 1) per
column. Outputs are `label` and `probabilities` (or `scores`), `prediction`, or `transformed`. ZipMap is off.
"""

import warnings
from typing import Any

import skl2onnx
import sklearn
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator

from converters.adapters import scikit_learn_boosters
from converters.adapters.answers import asking, fitted, margin_of, outputs_of
from converters.adapters.scikit_learn_answers import answers_of
from converters.adapters.scikit_learn_categories import known_categories
from converters.adapters.scikit_learn_inputs import Inputs, inputs_of
from converters.adapters.scikit_learn_labels import NOTE as LABEL_NOTE
from converters.adapters.scikit_learn_labels import read_from_decision
from converters.adapters.scikit_learn_missing import NOTE as MISSING_NOTE
from converters.adapters.scikit_learn_missing import set_missing
from converters.adapters.scikit_learn_parts import final_estimator, parts, plain_parameters
from converters.adapters.scikit_learn_scalers import NOTE as SCALING_NOTE
from converters.adapters.scikit_learn_scalers import scale_in_double
from converters.adapters.scikit_learn_thresholds import native_thresholds
from converters.adapters.scikit_learn_workarounds import plain_attributes, plain_votes
from converters.draft import Draft
from converters.parity.thresholds import has_trees
from converters.runner import one_line
from converters.sample import Array, Sample
from converters.target import Target
from serving.errors import ConfigError


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a fitted estimator or pipeline. Raises ConfigError that says what to do for what cannot be converted."""
    _refuse_code(model)
    inputs = inputs_of(model, sample)
    final = final_estimator(model)
    answers = answers_of(model, final, set(inputs.exact))
    converted, notes = _convert(model, final, inputs, target)
    if set_missing(converted, model):
        notes.append(MISSING_NOTE)
    if has_trees(converted) and scale_in_double(converted, model):
        notes.append(SCALING_NOTE)
    if read_from_decision(converted, final):
        notes.append(LABEL_NOTE)
    answers = fitted(converted, answers, inputs.exact, inputs.native)
    return Draft(
        model=converted,
        framework="scikit-learn",
        versions={"scikit-learn": sklearn.__version__, "skl2onnx": skl2onnx.__version__},
        exact=inputs.exact,
        outputs=outputs_of(answers),
        answer=asking(answers, inputs.native),
        kind="trees" if has_trees(converted) else "numeric",
        margin=margin_of(answers),
        labels=tuple(map(str, getattr(model, "classes_", ()))),
        feature_names=inputs.feature_names,
        parameters={"estimator": type(final).__name__, **plain_parameters(final)},
        thresholds=native_thresholds(model),
        categories=known_categories(model, inputs.exact),
        notes=tuple(notes),
    )


def _refuse_code(model: Any) -> None:
    """Refuse steps that run Python code of the user's own, which no graph can hold."""
    for part in parts(model):
        if type(part).__name__ == "FunctionTransformer" and part.func is not None:
            name = getattr(part.func, "__name__", "a function")
            raise ConfigError(
                f"the pipeline has FunctionTransformer({name}), which runs Python code, and a graph holds none; use a "
                "transformer that scikit-learn ships (such as PowerTransformer, KBinsDiscretizer, PolynomialFeatures), "
                "or take the step out of the pipeline and let the caller send rows on which it was done"
            )


def _convert(model: Any, final: Any, inputs: Inputs, target: Target) -> tuple[Any, list[str]]:
    """Run skl2onnx with the first options that the final estimator knows."""
    types = [(name, _type_of(item)) for name, item in inputs.exact.items()]
    wishes: list[dict[str, Any]] = [{"zipmap": False, "raw_scores": True}, {"zipmap": False}, {"raw_scores": True}, {}]
    if hasattr(model, "predict_proba"):
        wishes = [wish for wish in wishes if "raw_scores" not in wish]
    scikit_learn_boosters.register(model)
    for wish in wishes:
        options = {id(final): wish} if wish else None
        try:
            with warnings.catch_warnings(), plain_votes(model), plain_attributes() as notes:
                warnings.simplefilter("ignore")
                converted = skl2onnx.convert_sklearn(
                    model, type(final).__name__, types, target_opset=target.opsets, options=options
                )
        except NameError:  # an option that this estimator does not know
            continue
        except (MissingConverter, MissingShapeCalculator) as error:
            raise ConfigError(_unsupported(model, error)) from None
        except Exception as error:  # skl2onnx raises all kinds
            raise ConfigError(
                f"skl2onnx {skl2onnx.__version__} cannot convert {type(final).__name__}: {one_line(error, 200)}"
                f"{_words(inputs)}"
            ) from None
        return converted, notes
    raise AssertionError("bug: no options are refused")


def _words(inputs: Inputs) -> str:
    """Point at the first words of a sample: where they are a mistake, skl2onnx complains of something else."""
    for name, item in inputs.exact.items():
        if item.dtype == object:
            return f"; the sample has words in column '{name}', such as {item.reshape(-1)[0]!r:.40}"
    return ""


def _unsupported(model: Any, error: Exception) -> str:
    names = sorted({type(part).__name__ for part in parts(model) if f"'{type(part)}" in str(error)})
    names = names or sorted({type(part).__name__ for part in parts(model)})
    return (
        f"skl2onnx {skl2onnx.__version__} has no converter for {', '.join(names)}; replace it by an estimator that it "
        "supports (https://onnx.ai/sklearn-onnx/supported.html), or register a converter of your own with "
        "skl2onnx.update_registered_converter before"
    )


def _type_of(item: Array) -> Any:
    """Return skl2onnx's type of a tensor: its first dimension is open."""
    shape = [None, *item.shape[1:]]
    if item.dtype.kind == "f":
        return FloatTensorType(shape)
    return StringTensorType(shape) if item.dtype == object else Int64TensorType(shape)
