"""What a scikit-learn model consists of."""

from collections.abc import Iterator
from typing import Any

PARTS_MAX = 10_000


def parts(model: Any) -> Iterator[Any]:
    """Yield the model and every estimator inside of it, fitted ones rather than their templates."""
    waiting, seen = [model], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if part is None or isinstance(part, str) or seen > PARTS_MAX:
            continue
        yield part
        held = ("best_estimator_", "estimator_", "final_estimator_", "regressor_")
        waiting += [getattr(part, name) for name in held if hasattr(part, name)]
        waiting += [step[1] for step in getattr(part, "steps", ())]
        fitted = getattr(part, "transformers_", None) or getattr(part, "transformer_list", None) or ()
        waiting += [step[1] for step in fitted]
        members = getattr(part, "estimators_", ())
        if isinstance(members, list) and members and not hasattr(members[0], "tree_"):
            waiting += members


def final_estimator(model: Any) -> Any:
    """Return what gives the answers: the last step of pipelines, the best of a search."""
    while True:
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
        elif hasattr(model, "steps"):
            model = model.steps[-1][1]
        else:
            return model


def plain_parameters(model: Any) -> dict[str, str]:
    """Return the parameters that are plain values, as text; others would carry addresses."""
    if not hasattr(model, "get_params"):
        return {}
    values = model.get_params(deep=False)
    return {name: str(value) for name, value in sorted(values.items()) if isinstance(value, str | bool | int | float)}
