"""Keras 3 to ONNX, through PyTorch: Keras' layers on its torch backend are modules of PyTorch.

The backend is chosen when Keras is imported (KERAS_BACKEND=torch), so a model that was trained on another one is saved
as .keras and loaded again on this one; its file does not depend on the backend.
"""

from dataclasses import replace
from typing import Any

import keras
import torch

from converters.adapters import torch as through_torch
from converters.draft import Draft
from converters.sample import Sample
from converters.target import Target
from serving.errors import ConfigError


def draft(model: Any, sample: Sample, target: Target) -> Draft:
    """Convert a built model. Raises ConfigError when Keras runs on another backend, or the model has several inputs."""
    if keras.backend.backend() != "torch":
        raise ConfigError(
            f"Keras runs on {keras.backend.backend()}, and is converted on its torch backend: save the model as .keras "
            "and run KERAS_BACKEND=torch penstock convert MODEL.keras (pip install 'penstock[convert-keras]'), or on "
            "TensorFlow export it with model.export(FOLDER) and convert the SavedModel"
        )
    if not model.built or len(model.inputs) != 1:
        raise ConfigError("the model of Keras has several inputs or is not built; converted are models of one input")
    done = through_torch.draft(_Plain(model), sample, target)
    versions = {"keras": keras.__version__, **done.versions}
    return replace(done, framework="Keras", versions=versions, parameters={"model": type(model).__name__})


class _Plain(torch.nn.Module):  # type: ignore[misc]  # untyped where torch is not installed
    """A model of Keras behind a signature that the exporter reads; Keras' own takes any arguments."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, features: Any) -> Any:
        """Run the model."""
        return self.model(features)
